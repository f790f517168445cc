"""Convolution a few images at a time, whose columns stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backend.cpu.arrays import Array, CpuArrays
from gpucnn.backend.cpu.depthwise import CpuDepthwise
from gpucnn.backend.cpu.windows import chunks, images_at_a_time
from gpucnn.geometry import Window

__all__ = ["CpuConvolution"]


class Lowering:
    """Lowers images to columns a few at a time, into one buffer that stays in the cache.

    The columns of a group lie side by side, (M, groups, KH*KW*C/groups): so each group is a matrix for BLAS. The
    border of the padded copy is filled once, here; each use overwrites only its interior.
    """

    def __init__(self, backend: CpuArrays, image_shape: tuple[int, ...], window: Window, groups: int, dtype: np.dtype):
        H, W, C = image_shape
        self.window, self.groups = window, groups
        self.output = window.output_size(H, W)
        self.pixels = self.output[0] * self.output[1]
        self.width = window.taps * C
        padded_shape = (*window.padded_size(H, W), C)
        largest = max(self.pixels * self.width, math.prod(padded_shape))
        self.images = images_at_a_time(largest * dtype.itemsize)
        self.dtype = dtype
        if window.is_padded:
            self.padded = np.zeros((self.images, *padded_shape), dtype)
            rows, columns = window.interior(H, W)
            self.interior = self.padded[:, rows, columns]
        self._backend = backend

    def columns(self, count: int) -> Array:
        """Return the column buffer for `count` images, (count*OH*OW, groups*KH*KW*C/groups)."""
        return self._backend.scratch("columns", (count * self.pixels, self.width), self.dtype)

    def chunks(self, N: int) -> Iterator[slice]:
        """Split a batch into slices that are lowered together."""
        return chunks(N, self.images)

    def lower(self, x: Array) -> Array:
        """Return the columns of at most `images` images by group, (groups, count*OH*OW, KH*KW*C/groups)."""
        count, C = len(x), x.shape[3] // self.groups
        if self.window.is_padded:
            np.copyto(self.interior[:count], x)
            x = self.padded[:count]
        columns = self.columns(count)
        (KH, KW), (SH, SW), (DH, DW) = self.window.kernel, self.window.stride, self.window.dilation
        n, h, w, c = x.strides
        shape = count, *self.output, self.groups, KH, KW, C
        taps = as_strided(x, shape, (n, SH * h, SW * w, C * c, DH * h, DW * w, c))
        np.copyto(columns.reshape(shape), taps)
        return by_group(columns, self.groups)


def by_group(rows: Array, groups: int) -> Array:
    """Return (M, groups*K) as a view (groups, M, K)."""
    return rows.reshape(len(rows), groups, -1).swapaxes(0, 1)


class CpuConvolution(CpuDepthwise):
    """Part of `CpuBackend`."""

    def __init__(self, float_dtype: Any = "float32"):
        super().__init__(float_dtype)
        self._lowerings: dict[tuple, Lowering] = {}

    def _lowering(self, x_shape: tuple[int, ...], window: Window, groups: int, dtype: np.dtype) -> Lowering:
        key = (x_shape[1:], window, groups, dtype)
        if key not in self._lowerings:
            self._lowerings[key] = Lowering(self, x_shape[1:], window, groups, dtype)
        return self._lowerings[key]

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, *, out: Array = None) -> Array:
        """As the reference, a few images at a time: their columns are multiplied while still in the cache."""
        OC, groups = w.shape[-1], x.shape[-1] // w.shape[2]
        out = self._result(out, (len(x), *window.output_size(*x.shape[1:3]), OC), x.dtype)
        if 1 < groups == OC == x.shape[-1]:
            return self._depthwise(x, w, b, window, out)
        lowering = self._lowering(x.shape, window, groups, x.dtype)
        kernels = by_group(w.reshape(-1, OC), groups)
        for images in lowering.chunks(len(x)):
            y = out[images].reshape(-1, OC)  # (n*OH*OW, OC)
            np.matmul(lowering.lower(x[images]), kernels, out=by_group(y, groups))
            if b is not None:
                np.add(y, b, out=y)
        return out

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference; at stride 1 as a forward convolution of dy with rotated kernels, which scatters nothing."""
        out = self._result(out, x_shape, dy.dtype)
        OC, groups = w.shape[-1], x_shape[-1] // w.shape[2]
        if 1 < groups == OC == x_shape[-1]:
            return self._depthwise_dx(dy, w, window, out)
        inside = all(max(border) < extent for border, extent in zip(window.border, window.extent, strict=True))
        if window.stride == (1, 1) and inside and w.shape[2] > 1:  # matrices of one column would be slower
            return self._conv2d_dx_rotated(dy, w, groups, window, out)
        lowering = self._lowering(x_shape, window, groups, dy.dtype)
        kernels = by_group(w.reshape(-1, OC), groups).swapaxes(1, 2)  # (groups, OC/groups, KH*KW*C/groups)
        for images in lowering.chunks(len(dy)):
            rows, dx = dy[images].reshape(-1, OC), out[images]
            dcolumns = lowering.columns(len(dx))
            np.matmul(by_group(rows, groups), kernels, out=by_group(dcolumns, groups))
            taps = dcolumns.reshape(len(dx), *lowering.output, groups, window.taps, -1)
            dx = dx.reshape(*dx.shape[:3], groups, -1)
            self._sum_taps((taps[..., tap, :] for tap in range(window.taps)), window, dx)
        return out

    def _conv2d_dx_rotated(self, dy: Array, w: Array, groups: int, window: Window, out: Array) -> Array:
        KH, KW, C, OC = w.shape
        rotated = self.scratch("rotated", (KH, KW, OC // groups, groups, C), w.dtype)
        np.copyto(rotated, w.reshape(KH, KW, C, groups, -1)[::-1, ::-1].swapaxes(2, 4))
        rotated = rotated.reshape(KH, KW, OC // groups, groups * C)
        (EH, EW), ((top, bottom), (left, right)) = window.extent, window.border
        padding = (EH - 1 - top, EH - 1 - bottom), (EW - 1 - left, EW - 1 - right)
        return self.conv2d(dy, rotated, None, Window((KH, KW), (1, 1), padding, window.dilation), out=out)

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As the reference, a few images at a time; the parts are added in their order, so the result repeats."""
        OC, groups = dy.shape[-1], x.shape[-1] // dw.shape[2]
        if db is not None:
            self.sum_rows(dy.reshape(-1, OC), out=db)
        if 1 < groups == OC == x.shape[-1]:
            self._depthwise_dw(x, dy, window, dw)
            return
        lowering = self._lowering(x.shape, window, groups, x.dtype)
        total = dw.reshape(-1, OC)
        part = self.scratch("dw", total.shape, dw.dtype)
        for images in lowering.chunks(len(x)):
            rows = by_group(dy[images].reshape(-1, OC), groups)
            first = images.start == 0
            result = by_group(total if first else part, groups)
            np.matmul(lowering.lower(x[images]).swapaxes(1, 2), rows, out=result)
            if not first:
                np.add(total, part, out=total)
