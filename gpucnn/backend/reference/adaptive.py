"""Pooling to an output of a given size: its pixels share those of the input among them."""

from __future__ import annotations

from collections.abc import Iterator

from gpucnn.backend.reference.arrays import Array
from gpucnn.geometry import Pair, bins

__all__ = ["adaptive_average_pool2d", "adaptive_average_pool2d_dx", "adaptive_max_pool2d", "adaptive_max_pool2d_dx"]

Index = tuple[slice, slice, slice, slice]


def adaptive_average_pool2d(self, x: Array, size: Pair, *, out: Array = None) -> Array:
    """Mean of the pixels in each of OH x OW bins, which `geometry.bins` describes.

    x (N, H, W, C), size (OH, OW) -> (N, OH, OW, C).
    """
    N, H, W, C = x.shape
    y = self.xp.empty((N, *size, C), dtype=x.dtype)
    for pixels, output in _bins(self, (H, W), size):
        y[output] = self.xp.mean(x[pixels], axis=(1, 2), keepdims=True)
    return self.store(y, out)


def adaptive_average_pool2d_dx(self, dy: Array, x_shape: tuple[int, ...], *, out: Array = None) -> Array:
    """Gradient of `adaptive_average_pool2d`: the error is shared equally. (N, OH, OW, C) -> (N, H, W, C)."""
    dx = self.xp.zeros(x_shape, dtype=dy.dtype)
    for pixels, output in _bins(self, x_shape[1:3], dy.shape[1:3]):
        _, rows, columns, _ = pixels
        dx[pixels] += dy[output] / float((rows.stop - rows.start) * (columns.stop - columns.start))
    return self.store(dx, out)


def adaptive_max_pool2d(self, x: Array, size: Pair, *, out: Array = None, argmax: Array = None) -> tuple[Array, Array]:
    """Largest pixel in each of OH x OW bins, and which it was: the first on a tie, pixel h*W + w.

    NaN wins over numbers, the last one if there are several.
    x (N, H, W, C), size (OH, OW) -> out (N, OH, OW, C), argmax (N, OH, OW, C) of dtype int32.
    """
    xp, (N, H, W, C) = self.xp, x.shape
    y, winner = xp.empty((N, *size, C), dtype=x.dtype), xp.empty((N, *size, C), dtype=xp.int32)
    numbers = _pixel_numbers(self, H, W)
    zero, behind = (xp.full((), number, dtype=xp.int32) for number in (0, H * W))
    for pixels, output in _bins(self, (H, W), size):
        values, number = x[pixels], numbers[pixels]
        best = xp.max(values, axis=(1, 2), keepdims=True)
        first = xp.min(xp.where(values == best, number, behind), axis=(1, 2), keepdims=True)
        last_nan = xp.max(xp.where(values != values, number, zero), axis=(1, 2), keepdims=True)
        y[output], winner[output] = best, xp.where(best == best, first, last_nan)
    return self.store(y, out), self.store(winner, argmax)


def adaptive_max_pool2d_dx(self, dy: Array, argmax: Array, x_shape: tuple[int, ...], *, out: Array = None) -> Array:
    """Gradient of `adaptive_max_pool2d`: the whole error goes to the winning pixel."""
    dx, zero = self.xp.zeros(x_shape, dtype=dy.dtype), self.xp.zeros((), dtype=dy.dtype)
    numbers = _pixel_numbers(self, *x_shape[1:3])
    for pixels, output in _bins(self, x_shape[1:3], dy.shape[1:3]):
        won = argmax[output] == numbers[pixels]
        dx[pixels] += self.xp.where(won, dy[output], zero)
    return self.store(dx, out)


def _bins(self, size: Pair, outputs: Pair) -> Iterator[tuple[Index, Index]]:
    """For each output pixel, row by row: the index of the pixels in its bin, and its own, both of rank 4."""
    (H, W), (OH, OW), every = size, outputs, slice(None)
    for m, rows in enumerate(bins(H, OH)):
        for q, columns in enumerate(bins(W, OW)):
            yield (every, rows, columns, every), (every, slice(m, m + 1), slice(q, q + 1), every)


def _pixel_numbers(self, H: int, W: int) -> Array:
    """Return h*W + w, (1, H, W, 1)."""
    return self.xp.reshape(self.xp.arange(H * W, dtype=self.xp.int32), (1, H, W, 1))
