"""Convolution a few images at a time, which are lowered and multiplied while they are in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from gpucnn.backend.cpu.arrays import Array
from gpucnn.backend.cpu.lowering import Bands, Columns, Planes, by_group
from gpucnn.backend.cpu.polyphase import polyphase
from gpucnn.backend.cpu.windows import SMALL_PRODUCT, chunks, copy_contiguous_runs, images_at_a_time
from gpucnn.backend.cpu.winograd import CpuWinograd
from gpucnn.geometry import Window

__all__ = ["CpuConvolution"]

MIN_ROW = 10  # pixels of an output row from which on a matrix product for each row is faster than columns
FEW_MAPS = 8  # half of what the longest vectors of a processor hold


class CpuConvolution(CpuWinograd):
    """Part of `CpuBackend`."""

    def conv2d(
        self, x: Array, w: Array, b: Array | None, window: Window, *, relu: bool = False, out: Array = None
    ) -> Array:
        """As the reference, by the cheapest of five ways.

        Kernels with a group for each channel are no matrix product (`CpuDepthwise`); those of usual widths on many
        channels need fewer multiplications (`CpuWinograd`); few maps are computed for two pixels at once; others read
        the pixels in bands where rows are long enough (see `Bands`), else in columns. The matrix products then take all
        but a tenth of the time. Bias and ReLU follow on each part while it is in the cache.
        """
        OC, groups = w.shape[-1], x.shape[-1] // w.shape[2]
        out = self._result(out, (len(x), *window.output_size(*x.shape[1:3]), OC), x.dtype)
        if 1 < groups == OC == x.shape[-1]:
            return self._depthwise(x, w, b, window, relu, out)
        if groups == 1 and self._is_filtered(x, out, window):
            return self._filter(x, w, b, window, relu, out)
        OW = out.shape[2]
        if groups == 1 and window.dilation == (1, 1) and OC <= FEW_MAPS and OW % 2 == 0 and OW >= 2 * MIN_ROW:
            return self._convolve_pairs(x, w, b, window, relu, out)
        for y in self._multiply(x, w.reshape(-1, OC), window, groups, out):
            self._finish(y, b, relu)
        return out

    def _convolve_pairs(self, x: Array, w: Array, b: Array | None, window: Window, relu: bool, out: Array) -> Array:
        """Take two pixels of a row as one with twice the maps: BLAS computes them in the time of one.

        Its vectors are longer than a few maps. The second pixel has the kernels of the first, a stride further, beside
        zeros; so an infinity or NaN that one of the two sees reaches both.
        """
        KH, KW, C, OC = w.shape
        SH, SW = window.stride
        kernels = self.scratch("pairs", (KH, KW + SW, C, 2, OC), w.dtype)
        kernels.fill(0)
        kernels[:, :KW, :, 0] = kernels[:, SW:, :, 1] = w
        window = replace(window, kernel=(KH, KW + SW), stride=(SH, 2 * SW))
        for y in self._multiply(x, kernels.reshape(-1, 2 * OC), window, 1, out.reshape(*out.shape[:2], -1, 2 * OC)):
            self._finish(y.reshape(*y.shape[:2], -1, OC), b, relu)
        return out

    def _multiply(self, x: Array, kernels: Array, window: Window, groups: int, out: Array) -> Iterator[Array]:
        """Multiply a few images at a time; yield the part of `out` that they fill while it is in the cache."""
        if groups == 1 and window.dilation[0] == 1 and out.shape[2] >= MIN_ROW:
            bands = self._lowering(Bands, x, window)
            for images in chunks(len(x), bands.images):
                yield np.matmul(bands.lower(x[images]), kernels, out=out[images])
            return
        columns, kernels = self._lowering(Columns, x, window, groups), by_group(kernels, groups)
        for images in chunks(len(x), columns.images):
            rows = out[images].reshape(-1, out.shape[-1])
            np.matmul(columns.lower(x[images]), kernels, out=by_group(rows, groups))
            yield out[images]

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference; where it can be by forward convolutions of dy with rotated kernels, without a scatter."""
        out = self._result(out, x_shape, dy.dtype)
        OC, groups = w.shape[-1], x_shape[-1] // w.shape[2]
        if 1 < groups == OC == x_shape[-1]:
            return self._depthwise_dx(dy, w, window, out)
        if (window.stride == (1, 1) or window.dilation == (1, 1)) and w.shape[2] > 1:  # not for matrices of one column
            return self._conv2d_dx_by_phase(dy, w, groups, window, out)
        columns = self._lowering(Columns, out, window, groups)
        kernels = by_group(w.reshape(-1, OC), groups).swapaxes(1, 2)  # (groups, OC/groups, KH*KW*C/groups)
        for images in chunks(len(dy), columns.images):
            rows, dx = dy[images].reshape(-1, OC), out[images]
            dcolumns = columns.rows(len(dx))
            np.matmul(by_group(rows, groups), kernels, out=by_group(dcolumns, groups))
            taps = dcolumns.reshape(*dy[images].shape[:3], groups, window.taps, -1)
            dx = dx.reshape(*dx.shape[:3], groups, -1)
            self._sum_taps((taps[..., tap, :] for tap in range(window.taps)), window, dx)
        return out

    def _conv2d_dx_by_phase(self, dy: Array, w: Array, groups: int, window: Window, out: Array) -> Array:
        """At stride 1 this is one convolution; else those pixels are one that meet the same taps (see `phases`)."""
        across, down = (list(polyphase(window, axis, out.shape[1 + axis], dy.shape[1 + axis])) for axis in (1, 0))
        if len(down) * len(across) < window.stride[0] * window.stride[1]:
            out.fill(0)  # there are pixels that no window meets
        for rows, columns in product(down, across):
            pixels, taps = out[:, rows.pixels, columns.pixels], w[rows.taps, columns.taps]
            seen = dy[:, rows.outputs, columns.outputs]
            KH, KW, C, OC = taps.shape
            rotated = self.scratch("rotated", (KH, KW, OC // groups, groups, C), w.dtype)
            np.copyto(rotated, taps.reshape(KH, KW, C, groups, -1)[::-1, ::-1].swapaxes(2, 4))
            rotated = rotated.reshape(KH, KW, OC // groups, groups * C)
            narrow = Window((KH, KW), (1, 1), (rows.padding, columns.padding), window.dilation)
            if window.stride == (1, 1):
                return CpuConvolution.conv2d(self, seen, rotated, None, narrow, out=out)
            for images in chunks(len(dy), images_at_a_time(out[0].nbytes)):
                phase = self.scratch("phase", pixels[images].shape, out.dtype)
                copy_contiguous_runs(
                    pixels[images], CpuConvolution.conv2d(self, seen[images], rotated, None, narrow, out=phase)
                )
        return out

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As the reference, a few images at a time; the parts are added in their order, so the result repeats."""
        OC, groups = dy.shape[-1], x.shape[-1] // dw.shape[2]
        if db is not None:
            self.sum_rows(dy.reshape(-1, OC), out=db)
        if 1 < groups == OC == x.shape[-1]:
            self._depthwise_dw(x, dy, window, dw)
            return
        if groups == 1 and self._is_filtered(x, dy, window):
            self._filter_dw(x, dy, window, dw)
            return
        kind, arguments = (Planes, ()) if x.shape[-1] == 1 else (Columns, (groups,))
        lowering = self._lowering(kind, x, window, *arguments)
        total = by_group(dw.reshape(-1, OC), groups)
        part = by_group(self.scratch("dw", (dw.size // OC, OC), dw.dtype), groups)
        for images in chunks(len(x), lowering.images):
            rows = by_group(dy[images].reshape(-1, OC), groups)
            self._sum_products(lowering.transposed(x[images]), rows, dy[images], part if images.start else total)
            if images.start:
                np.add(total, part, out=total)

    def _sum_products(self, columns: Array, rows: Array, dy: Array, out: Array) -> None:
        """Multiply (groups, K, M) and (groups, M, OC/groups) of the images dy, image by image where that is faster."""
        groups, K, M = columns.shape
        pixels = dy.shape[1] * dy.shape[2]
        if K * pixels * rows.shape[-1] > SMALL_PRODUCT:
            np.matmul(columns, rows, out=out)
            return
        columns = columns.reshape(groups, K, -1, pixels).transpose(2, 0, 1, 3)
        rows = rows.reshape(groups, -1, pixels, rows.shape[-1]).swapaxes(0, 1)
        parts = self.scratch("parts", (len(dy), *out.shape), out.dtype)
        np.sum(np.matmul(columns, rows, out=parts), axis=0, out=out)
