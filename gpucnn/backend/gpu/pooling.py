"""Pooling, one kernel each."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.convolution import GpuConvolution
from gpucnn.backend.kernels import pooling as kernels
from gpucnn.geometry import Window

__all__ = ["GpuPooling"]


class GpuPooling(GpuConvolution):
    """Part of `GpuBackend`."""

    def __init__(self, float_dtype: Any = "float32", **options: Any):
        super().__init__(float_dtype, **options)
        self._counts: dict[tuple, Array] = {}

    def max_pool2d(
        self, x: Array, window: Window, *, relu: bool = False, out: Array = None, argmax: Array = None
    ) -> tuple[Array, Array]:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        argmax = self._result(argmax, out.shape, self.argmax_dtype(window))
        arguments = *self._window_arguments(x.shape, window), relu
        self._run(kernels.MAX_POOL2D, self._contiguous(x), *arguments, out, argmax)
        return out, argmax

    def max_pool2d_dx(
        self, dy: Array, argmax: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
    ) -> Array:
        """As the reference, in gather form: each pixel finds the windows it won."""
        out = self._result(out, x_shape, dy.dtype)
        arrays = self._contiguous(dy), self._contiguous(argmax)
        self._run(kernels.MAX_POOL2D_DX, *arrays, *self._window_arguments(x_shape, window), out)
        return out

    def pool_counts(self, x_shape: tuple[int, ...], window: Window, count_include_pad: bool, dtype: Any) -> Array:
        """As the reference, computed once for each shape."""
        key = (x_shape[1:3], window, count_include_pad, dtype)
        if key not in self._counts:
            self._counts[key] = super().pool_counts(x_shape, window, count_include_pad, dtype)
        return self._counts[key]

    def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        arrays = self._contiguous(x), self.pool_counts(x.shape, window, count_include_pad, x.dtype)
        self._run(kernels.AVERAGE_POOL2D, *arrays, *self._window_arguments(x.shape, window), out)
        return out

    def average_pool2d_dx(
        self,
        dy: Array,
        x_shape: tuple[int, ...],
        window: Window,
        *,
        count_include_pad: bool = False,
        out: Array = None,
    ) -> Array:
        """As the reference, in gather form."""
        out = self._result(out, x_shape, dy.dtype)
        arrays = self._contiguous(dy), self.pool_counts(x_shape, window, count_include_pad, dy.dtype)
        self._run(kernels.AVERAGE_POOL2D_DX, *arrays, *self._window_arguments(x_shape, window), out)
        return out

    def lp_pool2d(self, x: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        self._run(kernels.LP_POOL2D, self._contiguous(x), *self._window_arguments(x.shape, window), p, out)
        return out

    def lp_pool2d_dx(self, dy: Array, x: Array, y: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """As the reference, in gather form."""
        out = self._result(out, x.shape, dy.dtype)
        arrays = map(self._contiguous, (dy, x, y))
        self._run(kernels.LP_POOL2D_DX, *arrays, *self._window_arguments(x.shape, window), p, out)
        return out

    def _pooled(self, out: Array | None, x: Array, window: Window) -> Array:
        N, H, W, C = x.shape
        return self._result(out, (N, *window.output_size(H, W), C), x.dtype)
