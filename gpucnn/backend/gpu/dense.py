"""The fully connected layer; its gradients are those of the reference, by cuBLAS."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import Array

__all__ = ["dense"]


def dense(self, x: Array, w: Array, b: Array | None, *, relu: bool = False, out: Array = None) -> Array:
    """As the reference, with bias and ReLU in place."""
    out = self.result(out, (len(x), w.shape[1]), x.dtype)
    self.matmul(x, w, out=out)
    return self.finish(out, b, relu)
