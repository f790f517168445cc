"""Pooling, one tap of all windows after another."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend.cpu.blocks import Array, clip_negative, keep_where
from gpucnn.backend.cpu.sharing import POOLING, shared
from gpucnn.backend.cpu.windows import add_taps, chunks, gather, images_at_a_time, scatter
from gpucnn.backend.reference import pooling as reference
from gpucnn.geometry import Window

__all__ = [
    *("average_pool2d", "average_pool2d_dx", "lp_pool2d", "lp_pool2d_dx", "max_pool2d", "max_pool2d_dx", "pool_counts")
]


@functools.cache
def _numbers(taps: int, dtype: np.dtype) -> Array:
    """Return the numbers of the taps, (taps, 1, 1, 1, 1)."""
    return np.arange(taps, dtype=dtype).reshape(-1, 1, 1, 1, 1)


@shared("x", "out", "argmax", min_bytes=POOLING)
def max_pool2d(
    self, x: Array, window: Window, *, relu: bool = False, out: Array = None, argmax: Array = None
) -> tuple[Array, Array]:
    """As the reference, a few images at a time, from a copy in which each tap is one run."""
    shape = (len(x), *window.output_size(*x.shape[1:3]), x.shape[-1])
    out = self.result(out, shape, x.dtype)
    argmax = self.result(argmax, shape, self.argmax_dtype(window))
    for images in chunks(len(x), images_at_a_time(window.taps * out[0].nbytes)):
        _max_pool(self, x[images], window, relu, out[images], argmax[images])
    return out, argmax


def _max_pool(self, x: Array, window: Window, relu: bool, out: Array, argmax: Array) -> None:
    """Of the taps that equal the maximum the first has the highest rank. NaN is left to the reference."""
    taps = gather(self, x, window, -np.inf)
    np.maximum.reduce(taps, axis=0, out=out)
    if np.isnan(np.maximum.reduce(out, axis=None)):
        reference.max_pool2d(self, x, window, relu=relu, out=out, argmax=argmax)
        return
    largest = out
    if relu:
        least = np.finfo(x.dtype).smallest_subnormal  # so that a pixel equals `largest` only if it is above 0
        largest = np.maximum(out, least, out=self.scratch("largest", out.shape, x.dtype))
        clip_negative(self, out, out)
    wins = np.equal(taps, largest, out=self.scratch("mask", taps.shape, np.bool_))
    ranks = self.scratch("ranks", taps.shape, argmax.dtype)
    np.multiply(wins, _numbers(window.taps, argmax.dtype)[::-1] + 1, out=ranks)
    np.maximum.reduce(ranks, axis=0, out=argmax)
    np.subtract(window.taps, argmax, out=argmax)


@shared("dy", "argmax", "out", min_bytes=POOLING)
def max_pool2d_dx(
    self, dy: Array, argmax: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
) -> Array:
    """As the reference, a few images and all taps at a time; windows that do not overlap add nothing up."""
    out = self.result(out, x_shape, dy.dtype)
    for images in chunks(len(dy), images_at_a_time(window.taps * dy[0].nbytes)):
        scatter(self, _won(self, dy[images], argmax[images], window.taps), window, out[images])
    return out


def _won(self, dy: Array, argmax: Array, taps: int) -> Array:
    """Return the share of each tap, (taps, N, OH, OW, C): dy where it won, else 0."""
    mask = self.scratch("mask", (taps, *dy.shape), np.bool_)
    np.equal(argmax, _numbers(taps, argmax.dtype), out=mask)
    return keep_where(dy, mask, self.scratch("won", mask.shape, dy.dtype))


def pool_counts(self, x_shape: tuple[int, ...], window: Window, count_include_pad: bool, dtype: Any) -> Array:
    """As the reference, computed once for each shape."""
    arguments = x_shape, window, count_include_pad, dtype
    key = ("pool_counts", x_shape[1:3], *arguments[1:])
    return self.cached(key, lambda: reference.pool_counts(self, *arguments))


@shared("x", "out", min_bytes=POOLING)
def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
    """As the reference, summed in place."""
    first, *others = self.taps(x, window, 0.0)
    out = self.result(out, first.shape, x.dtype)
    np.copyto(out, first)
    for pixels in others:
        np.add(out, pixels, out=out)
    return np.divide(out, self.pool_counts(x.shape, window, count_include_pad, x.dtype), out=out)


@shared("dy", "out", min_bytes=POOLING)
def average_pool2d_dx(
    self, dy: Array, x_shape: tuple[int, ...], window: Window, *, count_include_pad: bool = False, out: Array = None
) -> Array:
    """As the reference, from one buffer of shares."""
    share = self.scratch("share", (1, *dy.shape), dy.dtype)
    np.divide(dy, self.pool_counts(x_shape, window, count_include_pad, dy.dtype), out=share[0])
    return scatter(self, share, window, self.result(out, x_shape, dy.dtype))


@shared("x", "out", min_bytes=POOLING)
def lp_pool2d(self, x: Array, p: float, window: Window, *, out: Array = None) -> Array:
    """As the reference, summed in place; squares and a square root for p = 2."""
    taps = self.taps(x, window, 0.0)
    out = self.result(out, taps[0].shape, x.dtype)
    power = self.scratch("power", out.shape, out.dtype)
    out.fill(0)
    for pixels in taps:
        np.add(out, _absolute_power(self, pixels, p, power), out=out)
    return np.sqrt(out, out=out) if p == 2 else np.power(out, 1.0 / p, out=out)


@shared("dy", "x", "y", "out", min_bytes=POOLING)
def lp_pool2d_dx(self, dy: Array, x: Array, y: Array, p: float, window: Window, *, out: Array = None) -> Array:
    """As the reference, one tap at a time through two buffers."""
    scale = self.scratch("scale", dy.shape, dy.dtype)
    sign = self.scratch("sign", dy.shape, dy.dtype)
    norm = self.scratch("norm", y.shape, y.dtype)
    np.copyto(norm, y)
    np.putmask(norm, np.equal(y, 0, out=self.scratch("mask", y.shape, np.bool_)), 1)

    def taps() -> Iterator[Array]:
        for pixels in self.taps(x, window, 0.0):
            np.divide(pixels, norm, out=scale)
            np.sign(scale, out=sign)
            np.multiply(_absolute_power(self, scale, p - 1, scale), sign, out=scale)
            yield np.multiply(scale, dy, out=scale)

    return add_taps(self, taps(), window, self.result(out, x.shape, dy.dtype))


def _absolute_power(self, x: Array, p: float, out: Array) -> Array:
    """`|x|^p` into `out`."""
    if p == 2:
        return np.square(x, out=out)
    np.abs(x, out=out)
    return out if p == 1 else np.power(out, p, out=out)
