"""The fully connected layer."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import sums

__all__ = ["GpuDense"]


class GpuDense(GpuArrays):
    """Part of `GpuBackend`."""

    def dense(self, x: Array, w: Array, b: Array | None, *, out: Array = None) -> Array:
        """As the reference, with the bias added in place."""
        out = self._result(out, (len(x), w.shape[1]), x.dtype)
        self.matmul(x, w, out=out)
        if b is not None:
            self._run(sums.ADD_BIAS, self._contiguous(b), w.shape[1], out)
        return out

    def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return self.matmul(dy, w.T, out=out)

    def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
        """As the reference, in place."""
        self.matmul(x.T, dy, out=dw)
        if db is not None:
            self.sum_rows(dy, out=db)
