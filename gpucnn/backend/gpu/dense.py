"""Matrix products by cuBLAS, and the fully connected layer."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.gemm import is_readable, multiplies

__all__ = ["dense", "matmul"]


def matmul(self, a: Array, b: Array, *, out: Array = None) -> Array:
    """As the reference, by cuBLAS; what is not for it by CuPy, and the factors of a stack are not rounded."""
    if not multiplies(a, b):
        return self.xp.matmul(a, b, out=out)
    a, b = (x if is_readable(x) else self.xp.ascontiguousarray(x) for x in (a, b))
    out = self.output(out, (len(a), b.shape[1]), a.dtype)
    self.keep(a, b, out, self.gemm.workspace)
    self.gemm.multiply(a, b, out, self.matmul_precision)
    return out


def dense(self, x: Array, w: Array, b: Array | None, *, relu: bool = False, out: Array = None) -> Array:
    """As the reference, with bias and ReLU in place."""
    out = self.output(out, (len(x), w.shape[1]), x.dtype)
    self.matmul(x, w, out=out)
    return self.finish(out, b, relu)
