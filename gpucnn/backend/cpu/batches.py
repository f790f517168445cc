"""Batches in place."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.cpu.arrays import Array, CpuArrays

__all__ = ["CpuBatches"]


class CpuBatches(CpuArrays):
    """Part of `CpuBackend`."""

    def gather_batch(
        self,
        images: Array,
        labels: Array,
        order: Array,
        cursor: Array,
        scale: Array,
        shift: Array,
        *,
        x: Array,
        y: Array,
    ) -> None:
        """As the reference, in place; the position is read directly, which costs nothing on the host."""
        start = int(cursor[0])
        samples = order[start : start + len(x)]
        pixels = np.take(images, samples, axis=0, out=self.scratch("pixels", x.shape, np.uint8), mode="clip")
        np.add(np.multiply(pixels, scale, out=x), shift, out=x)
        np.take(labels, samples, out=y, mode="clip")
        cursor += len(x)

    def one_hot(self, labels: Array, *, out: Array) -> Array:
        """As the reference, in place."""
        out.fill(0)
        np.put(out, self._label_positions(labels, out.shape[1]), 1, mode="clip")
        return out
