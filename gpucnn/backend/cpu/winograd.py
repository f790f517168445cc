"""Convolution with fewer multiplications: Winograd's minimal filtering along the rows of images.

For convolutions of stride 1 with kernels three to five pixels wide, and many channels. Along the height nothing
changes: KH rows of a tile lie one after another, as in `Bands`. So a kernel of 3 x 3 costs half of the multiplications
and one of 5 x 5 two fifths, and the transforms are matrix products too. Rounding errors are six to eight times those of
the plain sum, of the order of 1e-6 of the result in float32, and an infinity or NaN reaches all four pixels of a tile
that sees it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from gpucnn.backend.cpu.blocks import Array
from gpucnn.backend.cpu.lowering import lowering_of
from gpucnn.backend.cpu.windows import SMALL_PRODUCT, chunks, copy_contiguous_runs, strided
from gpucnn.geometry import Window

__all__ = ["filtering", "is_filtered", "winograd", "winograd_dw"]

OUTPUTS = 4  # pixels of a row computed together
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, -0.5, 2.0)  # and infinity; in this order the rounding errors are small
TAPS = range(3, len(POINTS) - OUTPUTS + 3)  # kernel widths that the points suffice for
PRODUCT_BYTES = 3 << 18  # of products at a time: what a common second-level cache holds beside their factors
MIN_WORK = 28  # kernel width times channels, of x or y, from which on the transforms cost less than they save
MIN_ROWS, GOOD_ROWS = 16, 64  # of a matrix product: with fewer, reading the kernels takes longer than multiplying


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


class Tiles:
    """A padded copy of some images, its axes in an order in which tiles are matrices, and the tiles' transforms.

    A tile is what four pixels of an output row see: P columns of the padded image, four columns from one to the next.
    """

    order: str  # of the axes n, h, w and c

    def __init__(self, image_shape: tuple[int, ...], window: Window, images: int, dtype: np.dtype, scratch: Callable):
        H, W, self.C = image_shape
        (self.KH, KW), self._scratch = window.kernel, scratch
        self.OH, self.OW = window.output_size(H, W)
        self.T, self.P = -(-self.OW // OUTPUTS), OUTPUTS + KW - 1
        self.H = window.padded_size(H, W)[0]
        rows, columns = window.interior(H, W)
        sizes = {"n": images, "h": self.H, "w": OUTPUTS * self.T + KW - 1, "c": self.C}
        self.padded = np.zeros([sizes[axis] for axis in self.order], dtype)
        self.interior = self.padded.transpose([self.order.index(axis) for axis in "nhwc"])[:, rows, columns]

    @property
    def nbytes(self) -> int:
        """Bytes of the padded copy."""
        return self.padded.nbytes

    def by_tile(self, y: Array) -> list[tuple[Array, slice]]:
        """Return the pixels of y (n, OH, OW, C) by tile: of all whole ones, (n, OH, T, 4, C), and of one that is not.

        Each comes with the numbers of its tiles.
        """
        whole, rest = divmod(self.OW, OUTPUTS)
        if not rest:
            return [(y.reshape(*y.shape[:2], whole, OUTPUTS, -1), slice(None))]
        full, last = y[:, :, :-rest], y[:, :, None, -rest:]
        return [(full.reshape(*y.shape[:2], whole, OUTPUTS, -1), slice(0, whole)), (last, slice(whole, None))]


class TilesByColumn(Tiles):
    """For the convolution: KH rows of a tile lie one after another, and all tiles of the images one below another."""

    order = "wnhc"

    def transformed(self, x: Array, B: Array) -> Array:
        """Return the transformed tiles under the rows of the kernels, (P, OH, T*n, KH*C)."""
        copy_contiguous_runs(self.interior[: len(x)], x)
        n, size, width = len(x), x.itemsize, self.H * self.C
        column = self.padded.strides[0]
        pixels = strided(self.padded, (self.T, self.P, n * width), (OUTPUTS * column, column, size))
        tiles = self._scratch("tiles", (self.P, self.T, n * width), x.dtype)
        np.matmul(B, pixels, out=tiles.swapaxes(0, 1))
        strides = tiles.strides[0], self.C * size, width * size, size
        return strided(tiles, (self.P, self.OH, self.T * n, self.KH * self.C), strides)

    def restore(self, products: Array, A: Array, y: Array) -> None:
        """Write the pixels y (n, OH, OW, OC) that the products (P, OH, T*n, OC) make."""
        four = self._scratch("four", (OUTPUTS, self.OH, self.T, len(y), y.shape[-1]), y.dtype)
        np.matmul(A, products.reshape(self.P, -1), out=four.reshape(OUTPUTS, -1))
        for pixels, tile in self.by_tile(y):
            copy_contiguous_runs(pixels, four[: pixels.shape[3], :, tile].transpose(3, 1, 2, 0, 4))


class TilesByRow(Tiles):
    """For the gradient of the kernels: all tiles of one row, then those of the next, so that sums over both are one.

    The transforms are those of the convolution, transposed.
    """

    order = "whnc"

    def transformed(self, x: Array, B: Array) -> Array:
        """Return the transformed tiles for each row of the kernels, (P, KH, C, OH*T*n)."""
        copy_contiguous_runs(self.interior[: len(x)], x)
        n, count = len(x), len(x) * self.C
        column, row, _, size = self.padded.strides
        pixels = strided(self.padded, (self.T, self.H, self.P, count), (OUTPUTS * column, row, column, size))
        tiles = self._scratch("tiles", (self.P, self.H, self.T, count), x.dtype)
        np.matmul(B, pixels, out=tiles.transpose(2, 1, 0, 3))
        strides = *tiles.strides[:2], size, self.C * size
        return strided(tiles, (self.P, self.KH, self.C, self.OH * self.T * n), strides)

    def gradients(self, dy: Array, A: Array) -> Array:
        """Return the gradients of the products, (P, 1, OH*T*n, OC)."""
        n, OC = len(dy), dy.shape[-1]
        four = self._scratch("four", (OUTPUTS, self.OH, self.T, n, OC), dy.dtype)
        four[self.OW - OUTPUTS * (self.T - 1) :, :, -1] = 0  # there are no such pixels in the last tile
        for pixels, tile in self.by_tile(dy):
            copy_contiguous_runs(four[: pixels.shape[3], :, tile], pixels.transpose(3, 1, 2, 0, 4))
        products = self._scratch("products", (self.P, 1, self.OH * self.T * n, OC), dy.dtype)
        np.matmul(A.T, four.reshape(OUTPUTS, -1), out=products.reshape(self.P, -1))
        return products


def is_filtered(x: Array, y: Array, window: Window) -> bool:
    """Whether a convolution of x that makes y can have fewer multiplications, and is faster for it."""
    return (
        window.stride == window.dilation == (1, 1)
        and window.kernel[1] in TAPS
        and window.kernel[1] * min(x.shape[-1], y.shape[-1]) >= MIN_WORK
        and y.shape[2] >= OUTPUTS
    )


def winograd(self, x: Array, w: Array, b: Array | None, window: Window, relu: bool, out: Array) -> Array:
    """As `conv2d`."""
    KH, KW, C, OC = w.shape
    A, G, B = filtering(KW, x.dtype)
    P, OH, T = len(G), out.shape[1], -(-out.shape[2] // OUTPUTS)
    kernels = self.scratch("kernels", (P, 1, KH * C, OC), w.dtype)
    np.matmul(G, w.reshape(KH, KW, -1), out=kernels.reshape(P, KH, -1).swapaxes(0, 1))
    count = images_at_once(out[0].nbytes * P // OUTPUTS, T, KH * C * OC)
    tiles = lowering_of(self, TilesByColumn, x, window, count)
    for images in chunks(len(x), count):
        y = out[images]
        products = self.scratch("products", (P, OH, len(y) * T, OC), x.dtype)
        np.matmul(tiles.transformed(x[images], B), kernels, out=products)
        if b is not None:
            np.add(products[1], b, out=products[1])  # the values at 1 count once in each of the four pixels
        tiles.restore(products, A, y)
        self.finish(y, None, relu)
    return out


def winograd_dw(self, x: Array, dy: Array, window: Window, dw: Array) -> None:
    """As `conv2d_dw_db` without the bias."""
    KH, KW, C, OC = dw.shape
    A, G, B = filtering(KW, x.dtype)
    P, OH, T = len(G), dy.shape[1], -(-dy.shape[2] // OUTPUTS)
    total = self.scratch("filtered", (P, KH, C, OC), dw.dtype)
    part = self.scratch("part", total.shape, dw.dtype)
    count = images_at_once(dy[0].nbytes * P // OUTPUTS, OH * T, C * OC)
    tiles = lowering_of(self, TilesByRow, x, window, count)
    for images in chunks(len(x), count):
        gradients = tiles.gradients(dy[images], A)
        transformed = tiles.transformed(x[images], B)
        np.matmul(transformed, gradients, out=part if images.start else total)
        if images.start:
            np.add(total, part, out=total)
    np.matmul(G.T, total.reshape(P, KH, -1).swapaxes(0, 1), out=dw.reshape(KH, KW, -1))


def images_at_once(image_bytes: int, rows: int, multiplications: int) -> int:
    """Return how many images to multiply at once.

    `image_bytes` are of the products of an image, `rows` of its matrices, and `multiplications` those of a row.
    """
    small = SMALL_PRODUCT // (rows * multiplications)
    fitting = max(1, PRODUCT_BYTES // image_bytes)
    return min(small, fitting) if small * rows >= MIN_ROWS else max(fitting, -(-GOOD_ROWS // rows))
