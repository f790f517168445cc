"""Convolution with fewer multiplications: Winograd's minimal filtering along the rows of images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backend.cpu.arrays import Array
from gpucnn.backend.cpu.depthwise import CpuDepthwise
from gpucnn.backend.cpu.windows import chunks
from gpucnn.geometry import Window

__all__ = ["CpuWinograd", "filtering"]

OUTPUTS = 4  # pixels of a row computed together
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, -0.5, 2.0)  # and infinity; in this order the rounding errors are small
TAPS = range(3, len(POINTS) - OUTPUTS + 3)  # kernel widths that the points suffice for
CACHE_BYTES = 1 << 20  # of products at a time: what a common second-level cache holds
SMALL_PRODUCT = 10**6  # multiplications of a matrix product up to which OpenBLAS reads its factors in place
LEAST_WORK = 28  # kernel width times channels, of x or y, from which on the transforms cost less than they save
LEAST_ROWS, GOOD_ROWS = 16, 64  # of a matrix product: with fewer, reading the kernels takes longer than multiplying


@functools.cache
def filtering(taps: int, dtype: np.dtype) -> tuple[Array, Array, Array]:
    """Return A (4, P), G (P, taps) and B (P, P), for P = taps + 3 points, such that for a row d and a filter g

        A @ ((G @ g) * (B @ d)) = [sum_v d[j + v] g[v] for j = 0..3]

    with P products instead of 4*taps: polynomials multiply value by value. The columns of A evaluate at the points and
    at infinity, and B is the transpose of the interpolation.
    Source: Winograd, Arithmetic complexity of computations, SIAM 1980; Lavin and Gray, CVPR 2016. The points are after
    Barabasz et al., Error analysis and improving the accuracy of Winograd convolution, ACM TOMS 2020.
    """
    P = OUTPUTS + taps - 1
    points = np.array(POINTS[: P - 1])
    A, G, B = np.zeros((OUTPUTS, P)), np.zeros((P, taps)), np.zeros((P, P))
    A[:, :-1] = points ** np.arange(OUTPUTS)[:, None]
    for number, point in enumerate(points):
        others = np.delete(points, number)
        G[number] = point ** np.arange(taps) / np.prod(point - others)
        B[number, :-1] = np.poly(others)[::-1]
    A[-1, -1] = G[-1, -1] = 1
    B[-1] = np.poly(points)[::-1]
    return A.astype(dtype), G.astype(dtype), B.astype(dtype)


class Rows:
    """Sizes, and a padded copy of a few images with the axes in the order in which their tiles are rows of matrices.

    A tile is what four pixels of an output row see: P columns of the padded image, four columns from one to the next.
    """

    def __init__(self, image_shape: tuple[int, ...], window: Window, images: int, order: str, dtype: np.dtype):
        H, W, self.C = image_shape
        self.images, (self.KH, self.KW) = images, window.kernel
        self.OH, self.OW = window.output_size(H, W)
        self.T, self.P = -(-self.OW // OUTPUTS), OUTPUTS + self.KW - 1
        self.H = window.padded_size(H, W)[0]
        rows, columns = window.interior(H, W)
        sizes = {"n": images, "h": self.H, "w": OUTPUTS * self.T + self.KW - 1, "c": self.C}
        self.padded = np.zeros([sizes[axis] for axis in order], dtype)
        in_order = self.padded.transpose([order.index(axis) for axis in "nhwc"])
        self.interior = in_order[:, rows, columns]

    @property
    def rest(self) -> int:
        """Pixels of an output row in its last tile."""
        return self.OW - OUTPUTS * (self.T - 1)


class CpuWinograd(CpuDepthwise):
    """Part of `CpuBackend`: convolutions of stride 1 with kernels three to five pixels wide, and many channels.

    Along the height nothing changes: KH rows of a tile lie one behind another, as in `Bands`. So a kernel of 3 x 3 costs
    half of the multiplications and one of 5 x 5 two fifths, and the transforms are matrix products too. Rounding errors
    are six to eight times those of the plain sum, of the order of 1e-6 of the result in float32.
    """

    def _is_filtered(self, x: Array, y: Array, window: Window) -> bool:
        return (
            window.stride == window.dilation == (1, 1)
            and window.kernel[1] in TAPS
            and window.kernel[1] * min(x.shape[-1], y.shape[-1]) >= LEAST_WORK
            and y.shape[2] >= OUTPUTS
        )

    def _filter(self, x: Array, w: Array, b: Array | None, window: Window, out: Array) -> Array:
        """As `conv2d`."""
        KH, KW, C, OC = w.shape
        A, G, B = filtering(KW, x.dtype)
        P, T = len(G), -(-out.shape[2] // OUTPUTS)
        kernels = self.scratch("kernels", (P, KH * C, OC), w.dtype)
        np.matmul(G, w.reshape(KH, KW, -1), out=kernels.reshape(P, KH, -1).swapaxes(0, 1))
        count = images_at_once(out[0].nbytes * P // OUTPUTS, T, KH * C * OC)
        for images in chunks(len(x), count):
            y = out[images]
            rows = self._lowering(Rows, x, window, len(y), "nwhc")
            np.copyto(rows.interior, x[images])
            tiles = self._tiles(rows, B)
            products = self.scratch("products", (P, rows.OH, len(y), T, OC), x.dtype)
            np.matmul(tiles, kernels[:, None], out=products.reshape(P, rows.OH, -1, OC))
            if b is not None:  # the values at 1 count once in each of the four outputs
                np.add(products[1], b, out=products[1])
            four = self.scratch("four", (OUTPUTS, *products.shape[1:]), x.dtype)
            np.matmul(A, products.reshape(P, -1), out=four.reshape(OUTPUTS, -1))
            for pixels, tile in in_tiles(y, rows):
                np.copyto(pixels, four[: pixels.shape[3], :, :, tile].transpose(2, 1, 3, 0, 4))
        return out

    def _tiles(self, rows: Rows, B: Array) -> Array:
        """Return the transformed tiles under the rows of the kernels, (P, OH, n*T, KH*C), for the order nwhc."""
        n, T, P, width = rows.images, rows.T, rows.P, rows.H * rows.C
        dtype, size = rows.padded.dtype, rows.padded.itemsize
        _, step, *_ = rows.padded.strides
        pixels = as_strided(rows.padded, (n, T, P, width), (rows.padded.strides[0], OUTPUTS * step, step, size))
        tiles = self.scratch("tiles", (P, n, T, width), dtype)
        np.matmul(B, pixels, out=tiles.transpose(1, 2, 0, 3))
        strides = tiles.strides[0], rows.C * size, width * size, size
        return as_strided(tiles, (P, rows.OH, n * T, rows.KH * rows.C), strides)

    def _filter_dw(self, x: Array, dy: Array, window: Window, dw: Array) -> None:
        """As `conv2d_dw_db` without the bias: the derivative of `_filter` in the kernels, one transform after another."""
        KH, KW, C, OC = dw.shape
        A, G, B = filtering(KW, x.dtype)
        P, T = len(G), -(-dy.shape[2] // OUTPUTS)
        total = self.scratch("kernels", (P, KH, C, OC), dw.dtype)
        part = self.scratch("part", total.shape, dw.dtype)
        count = images_at_once(dy[0].nbytes * P // OUTPUTS, dy.shape[1] * T, C * OC)
        for images in chunks(len(x), count):
            rows = self._lowering(Rows, x, window, len(x[images]), "whnc")
            np.copyto(rows.interior, x[images])
            products = self._spread(dy[images], rows, A)
            np.matmul(self._tiles_of_rows(rows, B), products[:, None], out=part if images.start else total)
            if images.start:
                np.add(total, part, out=total)
        np.matmul(G.T, total.reshape(P, KH, -1).swapaxes(0, 1), out=dw.reshape(KH, KW, -1))

    def _tiles_of_rows(self, rows: Rows, B: Array) -> Array:
        """Return the transformed tiles for each row of the kernels, (P, KH, C, OH*T*n), for the order whnc."""
        n, T, P, C = rows.images, rows.T, rows.P, rows.C
        width, height, *_ = rows.padded.strides
        size = rows.padded.itemsize
        pixels = as_strided(rows.padded, (T, rows.H, P, n * C), (OUTPUTS * width, height, width, size))
        tiles = self.scratch("tiles", (P, rows.H, T, n * C), rows.padded.dtype)
        np.matmul(B, pixels, out=tiles.transpose(2, 1, 0, 3))
        point, row, *_ = tiles.strides
        return as_strided(tiles, (P, rows.KH, C, rows.OH * T * n), (point, row, size, C * size))

    def _spread(self, dy: Array, rows: Rows, A: Array) -> Array:
        """Return the gradients of the products, (P, OH*T*n, OC)."""
        OC = dy.shape[-1]
        four = self.scratch("four", (OUTPUTS, rows.OH, rows.T, rows.images, OC), dy.dtype)
        four[rows.rest :, :, -1] = 0
        for pixels, tile in in_tiles(dy, rows):
            np.copyto(four[: pixels.shape[3], :, tile], pixels.transpose(3, 1, 2, 0, 4))
        products = self.scratch("products", (rows.P, rows.OH * rows.T * rows.images, OC), dy.dtype)
        np.matmul(A.T, four.reshape(OUTPUTS, -1), out=products.reshape(rows.P, -1))
        return products


def images_at_once(image_bytes: int, rows: int, multiplications: int) -> int:
    """Return how many images to multiply at once.

    `image_bytes` are of the products of an image, `rows` of its matrices, and `multiplications` those of a row.
    """
    small = SMALL_PRODUCT // (rows * multiplications)
    fitting = max(1, CACHE_BYTES // image_bytes)
    return min(small, fitting) if small * rows >= LEAST_ROWS else max(fitting, -(-GOOD_ROWS // rows))


def in_tiles(y: Array, rows: Rows) -> list[tuple[Array, slice]]:
    """Return the pixels of y (n, OH, OW, C) in whole tiles, (n, OH, T, 4, C), and those of a last one that is not whole.

    Each comes with the tiles that it is.
    """
    whole = rows.OW // OUTPUTS
    n, h, w, c = y.strides
    full = as_strided(y, (*y.shape[:2], whole, OUTPUTS, y.shape[3]), (n, h, OUTPUTS * w, w, c))
    parts = [(full, slice(0, whole))]
    if rows.rest < OUTPUTS:
        parts.append((y[:, :, None, OUTPUTS * whole :], slice(whole, None)))
    return parts
