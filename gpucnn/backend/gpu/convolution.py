"""Convolution: kernels lower the images, cuBLAS multiplies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import convolution as kernels
from gpucnn.backend.kernels import sums
from gpucnn.errors import InputError
from gpucnn.geometry import Window

__all__ = ["GpuConvolution"]

INDEX_LIMIT = 2**31 - 1  # of elements that a kernel addresses
COLUMN_BYTES = 1 << 28  # of columns lowered at a time: bounds their memory, and keeps their indices below 2^31


class GpuConvolution(GpuArrays):
    """Part of `GpuBackend`."""

    def _window_arguments(self, x_shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
        """Return the scalars that `kernels.WINDOW` names, for arrays that 32-bit indices can reach."""
        N, H, W, C = x_shape
        OH, OW = window.output_size(H, W)
        if N * C * max(H * W, OH * OW) > INDEX_LIMIT:
            raise InputError(f"a batch of {N} images of {H}x{W}x{C} is too large for one kernel; use a smaller batch")
        (top, _), (left, _) = window.padding
        return H, W, C, OH, OW, *window.kernel, *window.stride, top, left, *window.dilation

    def im2col(self, x: Array, window: Window, *, out: Array = None) -> Array:
        """As the reference, in one kernel: each column element finds its pixel."""
        N, H, W, C = x.shape
        OH, OW = window.output_size(H, W)
        out = self._result(out, (N * OH * OW, window.taps * C), x.dtype)
        self._run(kernels.IM2COL, self._contiguous(x), *self._window_arguments(x.shape, window), out)
        return out

    def col2im(self, columns: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference, in gather form: each pixel finds its copies."""
        out = self._result(out, x_shape, columns.dtype)
        self._run(kernels.COL2IM, self._contiguous(columns), *self._window_arguments(x_shape, window), out)
        return out

    def _chunks(self, x_shape: tuple[int, ...], window: Window, dtype: Any) -> Iterator[tuple[slice, Array]]:
        """Split a batch into slices that are lowered together; yield each with its column buffer."""
        N, H, W, C = x_shape
        OH, OW = window.output_size(H, W)
        rows, width = OH * OW, window.taps * C
        images = max(1, COLUMN_BYTES // (rows * width * np.dtype(dtype).itemsize))
        for start in range(0, N, images):
            stop = min(start + images, N)
            yield slice(start, stop), self.scratch("columns", ((stop - start) * rows, width), dtype)

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, *, out: Array = None) -> Array:
        """As the reference, with the columns in one buffer and the bias added in place."""
        N, H, W, _ = x.shape
        OC = w.shape[-1]
        out = self._result(out, (N, *window.output_size(H, W), OC), x.dtype)
        for images, columns in self._chunks(x.shape, window, x.dtype):
            y = out[images].reshape(-1, OC)
            self.im2col(x[images], window, out=columns)
            self.matmul(columns, self._contiguous(w).reshape(-1, OC), out=y)
            if b is not None:
                self._run(sums.ADD_BIAS, self._contiguous(b), OC, y)
        return out

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference, with the columns in one buffer."""
        OC = w.shape[-1]
        kernels_transposed = self._contiguous(w).reshape(-1, OC).T
        out = self._result(out, x_shape, dy.dtype)
        for images, dcolumns in self._chunks(x_shape, window, dy.dtype):
            self.matmul(self._contiguous(dy[images]).reshape(-1, OC), kernels_transposed, out=dcolumns)
            self.col2im(dcolumns, out[images].shape, window, out=out[images])
        return out

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As the reference, with the columns in one buffer; parts of a large batch are added in their order."""
        OC = dy.shape[-1]
        rows = self._contiguous(dy).reshape(-1, OC)  # (N*OH*OW, OC)
        total = dw.reshape(-1, OC)
        done = 0
        for images, columns in self._chunks(x.shape, window, x.dtype):
            self.im2col(x[images], window, out=columns)
            part = self.scratch("dw", total.shape, dw.dtype) if done else total
            self.matmul(columns.T, rows[done : done + len(columns)], out=part)
            if done:
                self.xp.add(total, part, out=total)
            done += len(columns)
        if db is not None:
            self.sum_rows(rows, out=db)
