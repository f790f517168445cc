"""Windows over images a few at a time, and the taps of a window without a copy where there is no padding."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np

from gpucnn.backend.cpu.blocks import Array
from gpucnn.geometry import Window

__all__ = ["taps"]

CACHE_BYTES = 1 << 21  # of images at a time, or lowered ones: small beside a third-level cache, and few calls for all
SMALL_PRODUCT = 10**6  # multiplications of a matrix product up to which OpenBLAS reads its factors in place


def images_at_a_time(image_bytes: int) -> int:
    """Return how many images of so many bytes stay in the cache."""
    return max(1, CACHE_BYTES // image_bytes)


def chunks(N: int, count: int) -> Iterator[slice]:
    """Split a batch into slices of at most `count` images."""
    return (slice(start, min(start + count, N)) for start in range(0, N, count))


def strided(array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Return a view of a contiguous array: `as_strided` at a seventh of its cost, which counts with small images."""
    return np.ndarray(shape, array.dtype, array, 0, strides)


def contiguous_runs(out: Array, x: Array) -> tuple[Array, Array]:
    """Return views of two arrays of one shape, in which each run that both have in memory is one item.

    To copy them is to copy the arrays: NumPy copies items of any size, and takes twice as long for as many short rows.
    """
    size, axes = x.itemsize, x.ndim
    while axes and out.strides[axes - 1] == x.strides[axes - 1] == size:
        axes -= 1
        size *= x.shape[axes]
    if axes == x.ndim or size == 0:
        return out, x
    shape = (*x.shape[:axes], -1)
    return out.reshape(shape).view(_item(size)), x.reshape(shape).view(_item(size))


def copy_contiguous_runs(out: Array, x: Array) -> None:
    """Copy x to out, run by run (see `contiguous_runs`)."""
    np.copyto(*contiguous_runs(out, x))


@functools.cache
def _item(size: int) -> np.dtype:
    return np.dtype((np.void, size))


def windows_of(padded: Array, window: Window, OH: int, OW: int) -> Array:
    """Return the pixels of padded images that each tap meets as the window slides, a view (KH, KW, N, OH, OW, C)."""
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    n, h, w, c = padded.strides
    shape = KH, KW, len(padded), OH, OW, padded.shape[-1]
    return strided(padded, shape, (DH * h, DW * w, n, SH * h, SW * w, c))


def padded_copy(self, x: Array, window: Window, value: float) -> Array:
    """Return x itself where there is no padding, else a padded copy kept for its shape; contiguous."""
    if not window.is_padded:
        return np.ascontiguousarray(x)
    N, H, W, C = x.shape
    key = ("padded", x.shape[1:], window, x.dtype, value)
    padded = self.cache.get(key)
    if padded is None or len(padded) < N:
        padded = self.cache[key] = np.full((N, *window.padded_size(H, W), C), value, x.dtype)
    rows, columns = window.interior(H, W)
    copy_contiguous_runs(padded[:N, rows, columns], x)
    return padded[:N]


def windows(self, x: Array, window: Window, value: float) -> Array:
    """Return the pixels that each tap meets, a view (KH, KW, N, OH, OW, C)."""
    return windows_of(padded_copy(self, x, window, value), window, *window.output_size(*x.shape[1:3]))


def taps(self, x: Array, window: Window, value: float) -> list[Array]:
    """As the reference, as views."""
    return [tap for row in windows(self, x, window, value) for tap in row]


def gather(self, x: Array, window: Window, value: float) -> Array:
    """Return the taps, one after another in memory: (KH*KW, N, OH, OW, C)."""
    pixels = windows(self, x, window, value)
    gathered = self.scratch("gathered", pixels.shape, x.dtype)
    copy_contiguous_runs(gathered, pixels)
    return gathered.reshape(-1, *pixels.shape[2:])


def scatter(self, taps: Array, window: Window, out: Array) -> Array:
    """As `sum_taps` into `out`: from taps one after another, or from one for all, (1, N, OH, OW, C)."""
    N, OH, OW, C = taps.shape[1:]
    apart = all(extent <= stride for extent, stride in zip(window.extent, window.stride, strict=True))
    if window.is_padded or not apart:
        taps = np.broadcast_to(taps, (window.taps, *taps.shape[1:]))
        return add_taps(self, taps, window, out)
    if window.taps * OH * OW < out.shape[1] * out.shape[2]:
        out.fill(0)  # there are pixels in no window
    pixels = windows_of(out, window, OH, OW)
    whole = window.kernel if len(taps) > 1 else (1, 1)
    copy_contiguous_runs(pixels, np.broadcast_to(taps.reshape(*whole, N, OH, OW, C), pixels.shape))
    return out


def add_taps(self, taps: Iterable[Array], window: Window, out: Array) -> Array:
    """As `sum_taps`, into `out` (N, H, W, ..), from taps that may share one buffer."""
    N, H, W, *C = out.shape
    padded = out
    if window.is_padded:
        padded = self.scratch("padded", (N, *window.padded_size(H, W), *C), out.dtype)
    padded.fill(0)
    for (rows, columns), tap in zip(window.tap_slices(H, W), taps, strict=True):
        pixels = padded[:, rows, columns]
        np.add(pixels, tap, out=pixels)
    if padded is not out:
        np.copyto(out, padded[(slice(None), *window.interior(H, W))])
    return out
