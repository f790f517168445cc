"""Activations, one kernel each."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import Block
from gpucnn.backend.kernels import activations as kernels

__all__ = ["GpuActivations"]


class GpuActivations(GpuArrays):
    """Part of `GpuBackend`."""

    def relu(self, x: Array, *, out: Array = None) -> Array:
        return self._map(kernels.RELU, x, out=out)

    def relu_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        return self._map(kernels.RELU_DX, dy, y, out=out)

    def sigmoid(self, x: Array, *, out: Array = None) -> Array:
        return self._map(kernels.SIGMOID, x, out=out)

    def sigmoid_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        return self._map(kernels.SIGMOID_DX, dy, y, out=out)

    def tanh(self, x: Array, *, out: Array = None) -> Array:
        return self._map(kernels.TANH, x, out=out)

    def tanh_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        return self._map(kernels.TANH_DX, dy, y, out=out)

    def gelu(self, x: Array, approximate: bool, *, out: Array = None) -> Array:
        """As the reference, with CUDA's normal distribution."""
        return self._map(kernels.GELU, x, approximate, out=out)

    def gelu_dx(self, dy: Array, x: Array, approximate: bool, *, out: Array = None) -> Array:
        """As the reference, with CUDA's normal distribution."""
        return self._map(kernels.GELU_DX, dy, x, approximate, out=out)

    def softmax(self, x: Array, *, out: Array = None) -> Array:
        """As the reference, one block of threads for each row."""
        return self._rows(kernels.SOFTMAX, x, out=out)

    def softmax_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        """As the reference, one block of threads for each row."""
        return self._rows(kernels.SOFTMAX_DX, dy, y, out=out)

    def _rows(self, record: Block, *arrays: Array, out: Array | None) -> Array:
        out = self._result(out, arrays[0].shape, arrays[0].dtype)
        K = out.shape[-1]
        self._launch(record, (out.size // max(1, K),), *map(self._contiguous, arrays), out, np.int32(K))
        return out
