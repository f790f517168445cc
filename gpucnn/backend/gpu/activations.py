"""Activations: one element each, or one block of threads for each row."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.records import Block, Elementwise, kernel

__all__ = ["gelu", "gelu_dx", "relu", "relu_dx", "sigmoid", "sigmoid_dx", "softmax", "softmax_dx", "tanh", "tanh_dx"]

# A GPU compares a denormal number as if it were 0. What is not above 0 becomes 0, so that nothing negative stays and
# RELU_DX agrees about what is positive; a NaN stays. It is so wherever an operation applies a ReLU.
RELU = Elementwise("relu", "T x", "T y", "y = x <= T(0) ? T(0) : x")


def relu(self, x: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(RELU, x, out=out)


RELU_DX = Elementwise("relu_dx", "T dy, T y", "T dx", "dx = y > T(0) ? dy : T(0)")


def relu_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(RELU_DX, dy, y, out=out)


SIGMOID = Elementwise(
    "sigmoid", "T x", "T y", "const T e = exp(x < T(0) ? x : -x); y = (x < T(0) ? e : T(1)) / (T(1) + e)"
)


def sigmoid(self, x: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(SIGMOID, x, out=out)


SIGMOID_DX = Elementwise("sigmoid_dx", "T dy, T y", "T dx", "dx = dy * y * (T(1) - y)")


def sigmoid_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(SIGMOID_DX, dy, y, out=out)


TANH = Elementwise("tanh_forward", "T x", "T y", "y = tanh(x)")


def tanh(self, x: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(TANH, x, out=out)


TANH_DX = Elementwise("tanh_dx", "T dy, T y", "T dx", "dx = dy * (T(1) - y * y)")


def tanh_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(TANH_DX, dy, y, out=out)


BOUNDED = "const T bounded = x < T(-40) ? T(-40) : x > T(40) ? T(40) : x;  // there Phi is 0 and 1, and a NaN stays"
GELU_SIGMOID = """
    template <class T> __device__ T gelu_sigmoid(T x) {  // (1 + tanh(u))/2, without overflow for |x| <= 40
        return T(1) / (T(1) + exp(T(-1.5957691216057308) * x * (T(1) + T(0.044715) * x * x)));
    }
"""
GELU = Elementwise(
    "gelu",
    "T x, bool approximate",
    "T y",
    f"{BOUNDED}\ny = (x > T(0) ? x : bounded) * (approximate ? gelu_sigmoid<T>(bounded) : normcdf(bounded))",
    GELU_SIGMOID,
)


def gelu(self, x: Array, approximate: bool, *, out: Array = None) -> Array:
    """As the reference, with CUDA's normal distribution."""
    return self.map_elementwise(GELU, x, approximate, out=out)


GELU_DX = Elementwise(
    "gelu_dx",
    "T dy, T x, bool approximate",
    "T dx",
    f"""{BOUNDED}
    const T Phi = approximate ? gelu_sigmoid<T>(bounded) : normcdf(bounded);
    const T phi = approximate
        ? T(1.5957691216057308) * (T(1) + T(3 * 0.044715) * bounded * bounded) * Phi * (T(1) - Phi)
        : T(0.3989422804014327) * exp(T(-0.5) * bounded * bounded);
    dx = dy * (Phi + bounded * phi);
    """,
    GELU_SIGMOID,
)


def gelu_dx(self, dy: Array, x: Array, approximate: bool, *, out: Array = None) -> Array:
    """As the reference, with CUDA's normal distribution."""
    return self.map_elementwise(GELU_DX, dy, x, approximate, out=out)


SOFTMAX = kernel("softmax", "reductions.cuh", "activations.cu", threads=128)


def softmax(self, x: Array, *, out: Array = None) -> Array:
    """As the reference, one block of threads for each row."""
    return _rows(self, SOFTMAX, x, out=out)


SOFTMAX_DX = kernel("softmax_dx", "reductions.cuh", "activations.cu", threads=128)


def softmax_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """As the reference, one block of threads for each row."""
    return _rows(self, SOFTMAX_DX, dy, y, out=out)


def _rows(self, record: Block, *arrays: Array, out: Array | None) -> Array:
    out = self.result(out, arrays[0].shape, arrays[0].dtype)
    K = out.shape[-1]
    self.launch(record, (out.size // max(1, K),), *map(self.contiguous, arrays), out, np.int32(K))
    return out
