"""The fully connected layer."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array

__all__ = ["dense", "dense_dw_db", "dense_dx"]


def dense(self, x: Array, w: Array, b: Array | None, *, relu: bool = False, out: Array = None) -> Array:
    """Weighted sums and bias: `z[j] = sum_i w[i,j] a[i] + b[j]`.

    Paper: section 3.1, fully connected. x (N, I), w (I, O), b (O,) or None -> (N, O).

    With `relu` of `max(z, 0)`: the ReLU that follows it, too.
    """
    return self.store(self.finish(self.matmul(x, w), b, relu), out)


def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
    """Gradient of `dense` in its input: `W^T delta`. Paper: section 3, backward, fully connected, delta."""
    return self.matmul(dy, w.T, out=out)


def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
    """Gradients of `dense`: `dL/dW = delta a^T`, `dL/db = delta`, summed over the batch.

    Paper: section 3, backward, fully connected, dL/dW and dL/db.
    """
    self.matmul(x.T, dy, out=dw)
    if db is not None:
        self.sum_rows(dy, out=db)
