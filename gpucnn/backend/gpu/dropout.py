"""Dropout, one kernel each way."""

from __future__ import annotations

from gpucnn.backend import philox
from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import dropout as kernels
from gpucnn.backend.kernels import sums

__all__ = ["GpuDropout"]


class GpuDropout(GpuArrays):
    """Part of `GpuBackend`."""

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
    ) -> tuple[Array, Array]:
        """As the reference, one Philox block for each four elements."""
        out = self._result(out, x.shape, x.dtype)
        mask = self._result(mask, x.shape, self.xp.uint8)
        scalars = *key, philox.threshold(rate), 1.0 / (1.0 - rate), x.size
        self._run(kernels.DROPOUT, self._contiguous(x), counter, *scalars, out, mask, size=-(-x.size // 4))
        self._run(sums.INCREMENT, 1, counter)
        return out, mask

    def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
        out = self._result(out, dy.shape, dy.dtype)
        self._run(kernels.DROPOUT_DX, dy, mask, 1.0 / (1.0 - rate), out)
        return out
