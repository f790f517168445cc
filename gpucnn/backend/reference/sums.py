"""Sums of arrays, and matrix products with the precision of their factors."""

from __future__ import annotations

from gpucnn.backend.assembly import in_place
from gpucnn.backend.reference.arrays import SIGNIFICANT_BITS, Array

__all__ = ["add", "add_bias", "finish", "matmul", "sum_rows"]


def matmul(self, a: Array, b: Array, *, out: Array = None) -> Array:
    """Matrix product `a @ b` of two matrices or stacks of them; a transposed view is welcome as an operand.

    Factors of float32 are first rounded to `matmul_precision`, where that is a lower one.
    """
    return self.store(self.xp.matmul(_factor(self, a), _factor(self, b)), out)


def _factor(self, x: Array) -> Array:
    """Round a factor of a product to the p significant bits of `matmul_precision`: to the nearest, ties to even.

    Beside 2^(53-p) |x| a sum in float64 has room for no more than p bits of |x|, and is rounded as every sum is.
    Below 2^-126, the smallest normal number of float32, the spacing stays; the upper limit spares infinity.
    """
    if self.matmul_precision not in SIGNIFICANT_BITS or x.dtype != self.xp.float32:
        return x
    size = self.xp.abs(self.cast(x, self.xp.float64))
    large = 2.0 ** (53 - SIGNIFICANT_BITS[self.matmul_precision]) * self.xp.clip(size, 2.0**-126, 2.0**128)
    return self.cast(self.xp.copysign((size + large) - large, x), self.xp.float32)


@in_place("a", "b")
def add(self, a: Array, b: Array, *, out: Array = None) -> Array:
    """`a + b`, of one shape."""
    return self.store(a + b, out)


@in_place("x")
def add_bias(self, x: Array, b: Array, *, out: Array = None) -> Array:
    """`x + b`, the same number for all elements of a channel. x (N, ..., C), b (C,) -> (N, ..., C)."""
    return self.store(x + b, out)


def finish(self, y: Array, b: Array | None, relu: bool) -> Array:
    """Return what a sum of products becomes by a bias (OC,), if there is one, and by a ReLU, if it is asked for."""
    y = y if b is None else self.add_bias(y, b)
    return self.relu(y) if relu else y


def sum_rows(self, rows: Array, *, out: Array = None) -> Array:
    """Sum over the first axis: the gradient of a bias. (M, C) -> (C,)."""
    return self.store(self.xp.sum(rows, axis=0), out)
