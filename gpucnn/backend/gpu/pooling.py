"""Pooling, one kernel each."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.convolution import GpuConvolution
from gpucnn.backend.kernels import pooling as kernels
from gpucnn.geometry import Window

__all__ = ["GpuPooling"]


class GpuPooling(GpuConvolution):
    """Part of `GpuBackend`."""

    def max_pool2d(self, x: Array, window: Window, *, out: Array = None, winners: Array = None) -> tuple[Array, Array]:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        winners = self._result(winners, out.shape, self.winner_dtype(window))
        self._run(kernels.MAX_POOL2D, self._contiguous(x), *self._window_arguments(x.shape, window), out, winners)
        return out, winners

    def max_pool2d_dx(
        self, dy: Array, winners: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
    ) -> Array:
        """As the reference, in gather form: each pixel finds the windows it won."""
        out = self._result(out, x_shape, dy.dtype)
        arrays = self._contiguous(dy), self._contiguous(winners)
        self._run(kernels.MAX_POOL2D_DX, *arrays, *self._window_arguments(x_shape, window), out)
        return out

    def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        scalars = *self._window_arguments(x.shape, window), count_include_pad
        self._run(kernels.AVERAGE_POOL2D, self._contiguous(x), *scalars, out)
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
        scalars = *self._window_arguments(x_shape, window), count_include_pad
        self._run(kernels.AVERAGE_POOL2D_DX, self._contiguous(dy), *scalars, out)
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
