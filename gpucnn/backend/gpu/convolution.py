"""Convolution: kernels lower the images, cuBLAS multiplies; or kernels do all of it, as they do with groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, check_indices
from gpucnn.backend.gpu.grouped import gradient_parts, grouped_conv2d, grouped_conv2d_dw, grouped_conv2d_dx
from gpucnn.backend.gpu.implicit import (
    dw_parts,
    implicit_conv2d,
    implicit_conv2d_dw,
    implicit_conv2d_dx,
    implicit_sizes,
    lowest_capability,
)
from gpucnn.backend.gpu.records import Elementwise
from gpucnn.backend.gpu.windows import EACH_WINDOW, INPUT_INDEX, INPUT_PIXEL, WINDOW, images_of, window_arguments
from gpucnn.errors import DeviceError
from gpucnn.geometry import Window

__all__ = ["col2im", "conv2d", "conv2d_dw_db", "conv2d_dx", "conv2d_workspace", "im2col"]

COLUMN_BYTES = 1 << 28  # of columns lowered at a time, or those of one image: bounds their memory
ALGORITHMS = ("columns", "implicit")


def choose_algorithm(self, asked: str | None) -> str:
    """Return how to convolve without groups: as asked for, or else by what is predicted to be faster.

    That is "implicit" where products are rounded for tensor cores, and "columns" in float32 and float64.
    """
    capability, lowest = int(self.xp.cuda.Device(self.device).compute_capability), lowest_capability(self)
    is_faster = self.matmul_precision != self.precision and capability >= lowest
    algorithm = asked or ("implicit" if is_faster else "columns")
    if algorithm == "implicit" and capability < lowest:
        raise DeviceError(
            f"{self.name} has compute capability {capability / 10}: implicit convolution in "
            f"{self.matmul_precision} needs {lowest / 10}; use convolution columns, or float32"
        )
    return algorithm


def _check_columns(x_shape: tuple[int, ...], window: Window) -> None:
    """Refuse columns that 32-bit indices cannot reach; those of one image may be as many."""
    N, H, W, C = x_shape
    cure = f"use convolution implicit, or {'smaller images' if N == 1 else 'a smaller batch'}"
    elements = N * math.prod(window.output_size(H, W)) * window.taps * C
    check_indices(elements, f"{images_of(x_shape)} with its columns of {window.taps * C}", cure)


IM2COL = Elementwise(
    "im2col",
    f"raw T x, {WINDOW}",
    "T columns",
    f"""
    const int e = i;  // so that divisions are of 32 bits
    const int c = e % C, v = e / C % KW, u = e / C / KW % KH;
    const int row = e / C / KW / KH, ow = row % OW, oh = row / OW % OH, image = row / OW / OH;
    const int h = oh * SH - top + u * DH, w = ow * SW - left + v * DW;
    columns = h >= 0 && h < H && w >= 0 && w < W ? x[{INPUT_INDEX}] : T(0);
    """,
)


def im2col(self, x: Array, window: Window, *, out: Array = None) -> Array:
    """As the reference, in one kernel: each column element finds its pixel."""
    _check_columns(x.shape, window)
    N, H, W, C = x.shape
    OH, OW = window.output_size(H, W)
    out = self.result(out, (N * OH * OW, window.taps * C), x.dtype)
    self.run_elementwise(IM2COL, self.contiguous(x), *window_arguments(x.shape, window), out)
    return out


COL2IM = Elementwise(
    "col2im",
    f"raw T columns, {WINDOW}",
    "T x",
    f"""{INPUT_PIXEL}
    T sum = 0;
    {EACH_WINDOW}
            sum += columns[(((image * OH + oh) * OW + ow) * KH * KW + u * KW + v) * C + c];
        }}
    }}
    x = sum;
    """,
)


def col2im(self, columns: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
    """As the reference, in gather form: each pixel finds its copies."""
    _check_columns(x_shape, window)
    out = self.result(out, x_shape, columns.dtype)
    self.run_elementwise(COL2IM, self.contiguous(columns), *window_arguments(x_shape, window), out)
    return out


def _chunks(self, x_shape: tuple[int, ...], window: Window, dtype: Any) -> Iterator[tuple[slice, Array]]:
    """Split a batch into slices that are lowered together; yield each with its column buffer."""
    N, H, W, C = x_shape
    OH, OW = window.output_size(H, W)
    rows, width = OH * OW, window.taps * C
    images = max(1, COLUMN_BYTES // (rows * width * np.dtype(dtype).itemsize))
    _check_columns((min(images, N), H, W, C), window)
    for start in range(0, N, images):
        stop = min(start + images, N)
        yield slice(start, stop), self.scratch("columns", ((stop - start) * rows, width), dtype)


def conv2d_workspace(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], window: Window, *, train: bool) -> int:
    """Return the bytes of one buffer of columns, and in training of partial gradients."""
    (N, H, W, C), itemsize = x_shape, np.dtype(self.precision).itemsize
    pixels = math.prod(window.output_size(H, W))
    if w_shape[2] < C:
        return math.prod(w_shape) * gradient_parts(N, math.prod(w_shape)) * itemsize if train else 0
    if self.convolution == "implicit":
        parts, _ = dw_parts(w_shape, N * pixels)
        return math.prod(w_shape) * parts * itemsize if train and parts > 1 else 0
    image = pixels * window.taps * C * itemsize
    images = min(N, max(1, COLUMN_BYTES // image))
    return images * image + (math.prod(w_shape) * itemsize if train and images < N else 0)


def conv2d(
    self, x: Array, w: Array, b: Array | None, window: Window, *, relu: bool = False, out: Array = None
) -> Array:
    """As the reference, with the columns in one buffer, and bias and ReLU in place."""
    N, H, W, C = x.shape
    OC = w.shape[-1]
    out = self.result(out, (N, *window.output_size(H, W), OC), x.dtype)
    if w.shape[2] < C:
        return grouped_conv2d(self, x, w, b, window, relu, out)
    if self.convolution == "implicit":
        return implicit_conv2d(self, x, w, b, implicit_sizes(x.shape, OC, window), out, relu=relu)
    for images, columns in _chunks(self, x.shape, window, x.dtype):
        y = out[images].reshape(-1, OC)
        self.im2col(x[images], window, out=columns)
        self.matmul(columns, self.contiguous(w).reshape(-1, OC), out=y)
        self.finish(y, b, relu)
    return out


def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
    """As the reference, with the columns in one buffer."""
    OC = w.shape[-1]
    out = self.result(out, x_shape, dy.dtype)
    if w.shape[2] < x_shape[3]:
        return grouped_conv2d_dx(self, dy, w, window, out)
    if self.convolution == "implicit":
        return implicit_conv2d_dx(self, dy, w, implicit_sizes(x_shape, OC, window), out)
    kernels_transposed = self.contiguous(w).reshape(-1, OC).T
    for images, dcolumns in _chunks(self, x_shape, window, dy.dtype):
        self.matmul(self.contiguous(dy[images]).reshape(-1, OC), kernels_transposed, out=dcolumns)
        self.col2im(dcolumns, out[images].shape, window, out=out[images])
    return out


def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
    """As the reference, with the columns in one buffer; parts of a large batch are added in their order."""
    OC = dy.shape[-1]
    rows = self.contiguous(dy).reshape(-1, OC)  # (N*OH*OW, OC)
    if db is not None:
        self.sum_rows(rows, out=db)
    if len(x) == 0:
        dw[...] = 0
        return
    if dw.shape[2] < x.shape[3]:
        grouped_conv2d_dw(self, x, dy, window, dw)
        return
    if self.convolution == "implicit":
        implicit_conv2d_dw(self, x, dy, implicit_sizes(x.shape, OC, window), dw)
        return
    total = dw.reshape(-1, OC)
    done = 0
    for images, columns in _chunks(self, x.shape, window, x.dtype):
        self.im2col(x[images], window, out=columns)
        part = self.scratch("dw", total.shape, dw.dtype) if done else total
        self.matmul(columns.T, rows[done : done + len(columns)], out=part)
        if done:
            self.xp.add(total, part, out=total)
        done += len(columns)
