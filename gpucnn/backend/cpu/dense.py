"""The fully connected layer, in place: threads share its matrix instead of the batch, so that none reads all of it."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpucnn.backend.cpu.blocks import Array

__all__ = ["dense", "dense_dw_db", "dense_dx"]


def dense(self, x: Array, w: Array, b: Array | None, *, relu: bool = False, out: Array = None) -> Array:
    """As the reference, in place."""
    return self.finish(_product(self, x, w, out), b, relu)


def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
    """As the reference, in place."""
    return _product(self, dy, w.T, out)


def _product(self, rows: Array, matrix: Array, out: Array | None) -> Array:
    """Multiply a few rows and a large matrix, each thread some of its columns."""
    if not self.splits(matrix):
        return np.matmul(rows, matrix, out=out)
    out = self.result(out, (len(rows), matrix.shape[1]), rows.dtype)
    columns = self.parts(matrix.shape[1])
    self.run([partial(np.matmul, rows, matrix[:, part], out=out[:, part]) for part in columns])
    return out


def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
    """As the reference, in place, each thread some rows of dw."""
    if self.splits(dw):
        self.run([partial(np.matmul, x[:, rows].T, dy, out=dw[rows]) for rows in self.parts(len(dw))])
    else:
        np.matmul(x.T, dy, out=dw)
    if db is not None:
        self.sum_rows(dy, out=db)
