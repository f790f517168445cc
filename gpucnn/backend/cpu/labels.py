"""Where the labels of a batch lie in arrays of a number for each class."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.cpu.blocks import Array, count_to

__all__ = ["label_positions"]


def label_positions(self, labels: Array, K: int) -> tuple[Array, Array]:
    """Flat positions in a C-contiguous (N, K) array of labels, or of the nearest class; and which have none."""
    nearest = np.clip(labels, 0, K - 1, out=self.scratch("nearest", labels.shape, labels.dtype))
    is_wrong = np.not_equal(nearest, labels, out=self.scratch("is_wrong", labels.shape, np.bool_))
    positions = self.scratch("positions", labels.shape, np.intp)
    np.multiply(count_to(self, len(labels)), K, out=positions, casting="unsafe")
    return np.add(positions, nearest, out=positions), is_wrong
