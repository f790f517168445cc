"""Batches."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import batches as kernels
from gpucnn.backend.kernels import sums

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
    ) -> None:
        """As the reference; the position is read on the device."""
        _, H, W, C = images.shape
        self._run(kernels.GATHER_IMAGES, images, order, cursor, scale, shift, H * W * C, C, x)
        self._run(kernels.GATHER_LABELS, labels, order, cursor, y)
        self._run(sums.INCREMENT, len(x), cursor)

    def one_hot(self, labels: Array, *, out: Array) -> Array:
        """As the reference, in one kernel."""
        self._run(kernels.ONE_HOT, labels, out.shape[1], out)
        return out
