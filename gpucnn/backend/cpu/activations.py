"""Activations in place."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.cpu.blocks import Array, blocks, clip_negative, keep_where
from gpucnn.backend.cpu.sharing import POOLING, shared
from gpucnn.backend.reference import activations as reference

__all__ = ["gelu", "gelu_dx", "relu", "relu_dx", "sigmoid", "sigmoid_dx", "softmax", "softmax_dx", "tanh", "tanh_dx"]


@shared("x", "out")
def relu(self, x: Array, *, out: Array = None) -> Array:
    """As the reference, in one pass."""
    return clip_negative(self, x, self.result(out, x.shape, x.dtype))


@shared("dy", "y", "out")
def relu_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, by bits."""
    mask = self.scratch("mask", y.shape, np.bool_)
    return keep_where(dy, np.greater(y, 0, out=mask), self.result(out, dy.shape, dy.dtype))


@shared("x", "out", min_bytes=POOLING)
def sigmoid(self, x: Array, *, out: Array = None) -> Array:
    """`1/(1 + e^-x)` as it stands, in place: where e^-x overflows, the result is 1/inf = 0, and not subnormal."""
    out = self.result(out, x.shape, x.dtype)
    with np.errstate(over="ignore"):
        np.exp(np.negative(x, out=out), out=out)
    return np.divide(1, np.add(out, 1, out=out), out=out)


@shared("dy", "y", "out")
def sigmoid_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, in place."""
    slope = self.scratch("slope", y.shape, y.dtype)
    np.multiply(np.subtract(1, y, out=slope), y, out=slope)
    return np.multiply(dy, slope, out=out)


@shared("x", "out", min_bytes=POOLING)
def tanh(self, x: Array, *, out: Array = None) -> Array:
    """As the reference, in place."""
    return np.tanh(x, out=out)


@shared("dy", "y", "out")
def tanh_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, in place."""
    slope = self.scratch("slope", y.shape, y.dtype)
    np.subtract(1, np.square(y, out=slope), out=slope)
    return np.multiply(dy, slope, out=out)


@shared("x", "out", min_bytes=POOLING)
def gelu(self, x: Array, approximate: bool, *, out: Array = None) -> Array:
    """As the reference, one block after another, so that its intermediate arrays are small and in the cache."""
    out = self.result(out, x.shape, x.dtype)
    x, y = x.reshape(-1), out.reshape(-1)
    for block in blocks(x.size):
        reference.gelu(self, x[block], approximate, out=y[block])
    return out


@shared("dy", "x", "out", min_bytes=POOLING)
def gelu_dx(self, dy: Array, x: Array, approximate: bool, *, out: Array = None) -> Array:
    """As the reference, one block after another, so that its intermediate arrays are small and in the cache."""
    out = self.result(out, x.shape, x.dtype)
    dy, x, dx = dy.reshape(-1), x.reshape(-1), out.reshape(-1)
    for block in blocks(x.size):
        reference.gelu_dx(self, dy[block], x[block], approximate, out=dx[block])
    return out


def softmax(self, x: Array, *, out: Array = None) -> Array:
    """As the reference, in place."""
    row = self.scratch("row", (*x.shape[:-1], 1), x.dtype)
    out = np.subtract(x, np.max(x, axis=-1, keepdims=True, out=row), out=out)
    np.exp(out, out=out)
    return np.divide(out, np.sum(out, axis=-1, keepdims=True, out=row), out=out)


def softmax_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, in place."""
    row = self.scratch("row", (*y.shape[:-1], 1), y.dtype)
    out = np.multiply(dy, y, out=out)
    np.sum(out, axis=-1, keepdims=True, out=row)
    return np.multiply(np.subtract(dy, row, out=out), y, out=out)
