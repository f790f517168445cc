"""The fully connected layer, in place."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.cpu.arrays import Array, CpuArrays

__all__ = ["CpuDense"]


class CpuDense(CpuArrays):
    """Part of `CpuBackend`."""

    def dense(self, x: Array, w: Array, b: Array | None, *, relu: bool = False, out: Array = None) -> Array:
        """As the reference, in place."""
        return self._finish(self._product(x, w, out), b, relu)

    def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return self._product(dy, w.T, out)

    def _product(self, rows: Array, matrix: Array, out: Array | None) -> Array:
        """Matrix product of a few rows and a large matrix."""
        return np.matmul(rows, matrix, out=out)

    def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
        """As the reference, in place."""
        np.matmul(x.T, dy, out=dw)
        if db is not None:
            self.sum_rows(dy, out=db)
