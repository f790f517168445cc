"""Batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import batches as kernels

__all__ = ["GpuBatches"]


class GpuBatches(GpuArrays):
    """Part of `GpuBackend`."""

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
        augmentation: Any = None,
        key: tuple[int, int] = (0, 0),
        epoch: Array = None,
    ) -> None:
        """As the reference, in one kernel for the images and one for the labels, which then moves the cursor on."""
        _, H, W, C = images.shape
        if augmentation:
            random = epoch, *key, augmentation.shift, int(augmentation.flip)
            self._run(kernels.AUGMENT_IMAGES, images, order, cursor, scale, shift, H, W, C, *random, x)
        else:
            self._run(kernels.GATHER_IMAGES, images, order, cursor, scale, shift, H * W * C, C, x)
        self._launch(kernels.GATHER_LABELS, (1,), labels, order, cursor, y, np.int32(len(x)), dtype=x.dtype)

    def one_hot(self, labels: Array, *, out: Array) -> Array:
        """As the reference, in one kernel."""
        self._run(kernels.ONE_HOT, labels, out.shape[1], out)
        return out
