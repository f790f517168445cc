"""Convolution a few images at a time, whose columns stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backend.cpu.arrays import Array, CpuArrays
from gpucnn.geometry import Window

__all__ = ["CpuConvolution"]

CACHE_BYTES = 1 << 19  # of columns lowered at a time: half of a common second-level cache


class Lowering:
    """Lowers images to columns a few at a time, into one buffer that stays in the cache.

    The padded copy's border is filled once, here; each use overwrites only its interior.
    """

    def __init__(self, backend: CpuArrays, image_shape: tuple[int, ...], window: Window, dtype: np.dtype):
        H, W, C = image_shape
        self.window = window
        self.output = window.output_size(H, W)
        self.pixels = self.output[0] * self.output[1]
        self.width = window.taps * C
        padded_shape = (*window.padded_size(H, W), C)
        largest = max(self.pixels * self.width, math.prod(padded_shape))
        self.images = max(1, CACHE_BYTES // (largest * dtype.itemsize))
        self.dtype = dtype
        if window.is_padded:
            self.padded = np.zeros((self.images, *padded_shape), dtype)
            rows, columns = window.interior(H, W)
            self.interior = self.padded[:, rows, columns]
        self._backend = backend

    def columns(self, count: int) -> Array:
        """Return the column buffer for `count` images, (count*OH*OW, KH*KW*C)."""
        return self._backend.scratch("columns", (count * self.pixels, self.width), self.dtype)

    def chunks(self, N: int) -> Iterator[slice]:
        """Split a batch into slices that are lowered together."""
        return (slice(start, min(start + self.images, N)) for start in range(0, N, self.images))

    def lower(self, x: Array) -> Array:
        """Write the columns of at most `images` images, as `im2col` does."""
        count, C = len(x), x.shape[3]
        if self.window.is_padded:
            np.copyto(self.interior[:count], x)
            x = self.padded[:count]
        columns = self.columns(count)
        (KH, KW), (SH, SW), (DH, DW) = self.window.kernel, self.window.stride, self.window.dilation
        n, h, w, c = x.strides
        taps = as_strided(x, (count, *self.output, KH, KW, C), (n, SH * h, SW * w, DH * h, DW * w, c))
        np.copyto(columns.reshape(taps.shape), taps)
        return columns


class CpuConvolution(CpuArrays):
    """Part of `CpuBackend`."""

    def __init__(self, float_dtype: Any = "float32"):
        super().__init__(float_dtype)
        self._lowerings: dict[tuple, Lowering] = {}
        self._padded: dict[tuple, Array] = {}

    def taps(self, x: Array, window: Window, value: float) -> list[Array]:
        """As the reference: views of x itself where there is no padding, else of a padded copy kept for its shape."""
        N, H, W, C = x.shape
        if window.is_padded:
            key = (x.shape[1:], window, x.dtype, value)
            padded = self._padded.get(key)
            if padded is None or len(padded) < N:
                padded = self._padded[key] = np.full((N, *window.padded_size(H, W), C), value, x.dtype)
            rows, columns = window.interior(H, W)
            padded[:N, rows, columns] = x
            x = padded[:N]
        return [x[:, rows, columns] for rows, columns in window.tap_slices(H, W)]

    def _sum_taps(self, taps: Iterator[Array], window: Window, out: Array) -> Array:
        """As `sum_taps`, into `out` (N, H, W, C), from taps that may share one buffer."""
        N, H, W, C = out.shape
        padded = out
        if window.is_padded:
            padded = self.scratch("padded", (N, *window.padded_size(H, W), C), out.dtype)
        padded.fill(0)
        for (rows, columns), tap in zip(window.tap_slices(H, W), taps, strict=True):
            pixels = padded[:, rows, columns]
            np.add(pixels, tap, out=pixels)
        if padded is not out:
            np.copyto(out, padded[(slice(None), *window.interior(H, W))])
        return out

    def _lowering(self, x_shape: tuple[int, ...], window: Window, dtype: np.dtype) -> Lowering:
        key = (x_shape[1:], window, dtype)
        if key not in self._lowerings:
            self._lowerings[key] = Lowering(self, x_shape[1:], window, dtype)
        return self._lowerings[key]

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, *, out: Array = None) -> Array:
        """As the reference, a few images at a time: their columns are multiplied while still in the cache."""
        lowering = self._lowering(x.shape, window, x.dtype)
        OC = w.shape[-1]
        out = self._result(out, (len(x), *lowering.output, OC), x.dtype)
        kernels = w.reshape(-1, OC)
        for images in lowering.chunks(len(x)):
            y = out[images].reshape(-1, OC)  # (n*OH*OW, OC)
            np.matmul(lowering.lower(x[images]), kernels, out=y)
            if b is not None:
                np.add(y, b, out=y)
        return out

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference; at stride 1 as a forward convolution of dy with rotated kernels, which scatters nothing."""
        out = self._result(out, x_shape, dy.dtype)
        if window.stride == (1, 1) and all(max(p) < e for p, e in zip(window.padding, window.extent, strict=True)):
            return self._conv2d_dx_rotated(dy, w, window, out)
        lowering = self._lowering(x_shape, window, dy.dtype)
        OC = w.shape[-1]
        kernels = w.reshape(-1, OC).T  # (OC, KH*KW*C)
        _, H, W, C = x_shape
        for images in lowering.chunks(len(dy)):
            dcolumns = lowering.columns(len(dy[images]))
            np.matmul(dy[images].reshape(-1, OC), kernels, out=dcolumns)
            taps = dcolumns.reshape(-1, *lowering.output, window.taps, C)
            self._sum_taps((taps[:, :, :, tap] for tap in range(window.taps)), window, out[images])
        return out

    def _conv2d_dx_rotated(self, dy: Array, w: Array, window: Window, out: Array) -> Array:
        KH, KW, C, OC = w.shape
        rotated = self.scratch("rotated", (KH, KW, OC, C), w.dtype)
        np.copyto(rotated, w[::-1, ::-1].swapaxes(2, 3))
        (EH, EW), ((top, bottom), (left, right)) = window.extent, window.padding
        padding = (EH - 1 - top, EH - 1 - bottom), (EW - 1 - left, EW - 1 - right)
        return self.conv2d(dy, rotated, None, Window((KH, KW), (1, 1), padding, window.dilation), out=out)

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As the reference, a few images at a time; the parts are added in their order, so the result repeats."""
        lowering = self._lowering(x.shape, window, x.dtype)
        OC = dy.shape[-1]
        total = dw.reshape(-1, OC)
        part = self.scratch("dw", total.shape, dw.dtype)
        for images in lowering.chunks(len(x)):
            rows = dy[images].reshape(-1, OC)
            first = images.start == 0
            np.matmul(lowering.lower(x[images]).T, rows, out=total if first else part)
            if not first:
                np.add(total, part, out=total)
        if db is not None:
            self.sum_rows(dy.reshape(-1, OC), out=db)
