"""The fully connected layer."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import Array, GpuArrays

__all__ = ["GpuDense"]


class GpuDense(GpuArrays):
    """Part of `GpuBackend`."""

    def dense(self, x: Array, w: Array, b: Array | None, *, relu: bool = False, out: Array = None) -> Array:
        """As the reference, with bias and ReLU in place."""
        out = self._result(out, (len(x), w.shape[1]), x.dtype)
        self.matmul(x, w, out=out)
        return self._finish(out, b, relu)

    def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return self.matmul(dy, w.T, out=out)

    def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
        """As the reference, in place."""
        self.matmul(x.T, dy, out=dw)
        if db is not None:
            self.sum_rows(dy, out=db)
