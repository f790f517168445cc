"""Convolution a few images at a time, which are lowered and multiplied while they are in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from gpucnn.backend.cpu.blocks import Array
from gpucnn.backend.cpu.depthwise import depthwise, depthwise_dw, depthwise_dx
from gpucnn.backend.cpu.lowering import Bands, Columns, Planes, by_group, lowering_of
from gpucnn.backend.cpu.polyphase import polyphase
from gpucnn.backend.cpu.sharing import CONVOLUTION, shared
from gpucnn.backend.cpu.windows import SMALL_PRODUCT, add_taps, chunks, copy_contiguous_runs, images_at_a_time
from gpucnn.backend.cpu.winograd import is_filtered, winograd, winograd_dw
from gpucnn.geometry import Window

__all__ = ["conv2d", "conv2d_dw_db", "conv2d_dx"]

MIN_ROW = 10  # pixels of an output row from which on a matrix product for each row is faster than columns
FEW_MAPS = 8  # half of what the longest vectors of a processor hold


@shared("x", "out", min_bytes=CONVOLUTION)
def conv2d(
    self, x: Array, w: Array, b: Array | None, window: Window, *, relu: bool = False, out: Array = None
) -> Array:
    """As the reference, by the cheapest of five ways.

    Kernels with a group for each channel are no matrix product (`depthwise`); those of usual widths on many
    channels need fewer multiplications (`winograd`); few maps are computed for two pixels at once; others read
    the pixels in bands where rows are long enough (see `Bands`), else in columns. The matrix products then take all
    but a tenth of the time. Bias and ReLU follow on each part while it is in the cache.
    """
    out = self.result(out, (len(x), *window.output_size(*x.shape[1:3]), w.shape[-1]), x.dtype)
    return _convolve(self, x, w, b, window, relu, out)


def _convolve(self, x: Array, w: Array, b: Array | None, window: Window, relu: bool, out: Array) -> Array:
    """Do as `conv2d`, in this thread alone."""
    OC, groups = w.shape[-1], x.shape[-1] // w.shape[2]
    if 1 < groups == OC == x.shape[-1]:
        return depthwise(self, x, w, b, window, relu, out)
    if groups == 1 and is_filtered(x, out, window):
        return winograd(self, x, w, b, window, relu, out)
    OW = out.shape[2]
    if groups == 1 and window.dilation == (1, 1) and OC <= FEW_MAPS and OW % 2 == 0 and OW >= 2 * MIN_ROW:
        return _convolve_pairs(self, x, w, b, window, relu, out)
    for y in _multiply(self, x, w.reshape(-1, OC), window, groups, out):
        self.finish(y, b, relu)
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
    for y in _multiply(self, x, kernels.reshape(-1, 2 * OC), window, 1, out.reshape(*out.shape[:2], -1, 2 * OC)):
        self.finish(y.reshape(*y.shape[:2], -1, OC), b, relu)
    return out


def _multiply(self, x: Array, kernels: Array, window: Window, groups: int, out: Array) -> Iterator[Array]:
    """Multiply a few images at a time; yield the part of `out` that they fill while it is in the cache."""
    if groups == 1 and window.dilation[0] == 1 and out.shape[2] >= MIN_ROW:
        bands = lowering_of(self, Bands, x, window)
        for images in chunks(len(x), bands.images):
            yield np.matmul(bands.lower(x[images]), kernels, out=out[images])
        return
    columns, kernels = lowering_of(self, Columns, x, window, groups), by_group(kernels, groups)
    for images in chunks(len(x), columns.images):
        rows = out[images].reshape(-1, out.shape[-1])
        np.matmul(columns.lower(x[images]), kernels, out=by_group(rows, groups))
        yield out[images]


@shared("dy", "out", min_bytes=CONVOLUTION)
def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
    """As the reference; where it can be by forward convolutions of dy with rotated kernels, without a scatter."""
    out = self.result(out, x_shape, dy.dtype)
    OC, groups = w.shape[-1], x_shape[-1] // w.shape[2]
    if 1 < groups == OC == x_shape[-1]:
        return depthwise_dx(self, dy, w, window, out)
    if (window.stride == (1, 1) or window.dilation == (1, 1)) and w.shape[2] > 1:  # not for matrices of one column
        return _conv2d_dx_polyphase(self, dy, w, groups, window, out)
    columns = lowering_of(self, Columns, out, window, groups)
    kernels = by_group(w.reshape(-1, OC), groups).swapaxes(1, 2)  # (groups, OC/groups, KH*KW*C/groups)
    for images in chunks(len(dy), columns.images):
        rows, dx = dy[images].reshape(-1, OC), out[images]
        dcolumns = columns.rows(len(dx))
        np.matmul(by_group(rows, groups), kernels, out=by_group(dcolumns, groups))
        taps = dcolumns.reshape(*dy[images].shape[:3], groups, window.taps, -1)
        dx = dx.reshape(*dx.shape[:3], groups, -1)
        add_taps(self, (taps[..., tap, :] for tap in range(window.taps)), window, dx)
    return out


def _conv2d_dx_polyphase(self, dy: Array, w: Array, groups: int, window: Window, out: Array) -> Array:
    """Convolve the polyphase decomposition: at stride 1 it is whole, else one part for the pixels of equal taps."""
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
            return _convolve(self, seen, rotated, None, narrow, False, out)
        for images in chunks(len(dy), images_at_a_time(out[0].nbytes)):
            phase = self.scratch("phase", pixels[images].shape, out.dtype)
            copy_contiguous_runs(pixels[images], _convolve(self, seen[images], rotated, None, narrow, False, phase))
    return out


def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
    """As the reference, each thread some of the images; the threads' sums are added in the order of the batch."""
    if not self.shares(dy, CONVOLUTION):
        _add_up_gradients(self, x, dy, window, dw, db)
        return
    images = self.parts(len(x))
    gradients = [(dw, db)]
    for number in range(1, len(images)):
        own_db = None if db is None else self.scratch(f"db{number}", db.shape, db.dtype)
        gradients.append((self.scratch(f"dw{number}", dw.shape, dw.dtype), own_db))
    self.run(
        [
            partial(_add_up_gradients, worker, x[part], dy[part], window, *own)
            for worker, part, own in zip(self.workers, images, gradients, strict=False)
        ]
    )
    for more_dw, more_db in gradients[1:]:
        np.add(dw, more_dw, out=dw)
        if db is not None:
            np.add(db, more_db, out=db)


def _add_up_gradients(self, x: Array, dy: Array, window: Window, dw: Array, db: Array | None) -> None:
    """Do as `conv2d_dw_db` in this thread alone, a few images at a time, whose sums are added in their order."""
    OC, groups = dy.shape[-1], x.shape[-1] // dw.shape[2]
    if db is not None:
        self.sum_rows(dy.reshape(-1, OC), out=db)
    if 1 < groups == OC == x.shape[-1]:
        depthwise_dw(self, x, dy, window, dw)
        return
    if groups == 1 and is_filtered(x, dy, window):
        winograd_dw(self, x, dy, window, dw)
        return
    kind, arguments = (Planes, ()) if x.shape[-1] == 1 else (Columns, (groups,))
    lowering = lowering_of(self, kind, x, window, *arguments)
    total = by_group(dw.reshape(-1, OC), groups)
    part = by_group(self.scratch("dw", (dw.size // OC, OC), dw.dtype), groups)
    for images in chunks(len(x), lowering.images):
        rows = by_group(dy[images].reshape(-1, OC), groups)
        _sum_products(self, lowering.transposed(x[images]), rows, dy[images], part if images.start else total)
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
