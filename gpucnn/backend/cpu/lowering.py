"""Three ways to lay out the pixels under windows for BLAS, a few images at a time, which stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backend.cpu.blocks import Array
from gpucnn.backend.cpu.windows import CACHE_BYTES, copy_contiguous_runs, strided, windows_of
from gpucnn.geometry import Window

__all__ = ["Bands", "Columns", "Planes", "by_group", "lowering_of"]

MIN_PIXELS = 256  # of outputs at a time: matrix products of fewer rows are slow


def lowering_of(self, kind: Callable, x: Array, *arguments: Any) -> Any:
    """Return the lowering of a kind for images of x's size, made once."""
    key = (kind, x.shape[1:], x.dtype, *arguments)
    return self.cached(key, lambda: kind(x.shape[1:], *arguments, x.dtype, self.workspace.take))


class Lowering:
    """A padded copy of a few images, whose border is filled once, and a view of it that a subclass copies from.

    Where it copies to is scratch memory, which all convolutions share.
    """

    def __init__(
        self, image_shape: tuple[int, ...], window: Window, dtype: np.dtype, scratch: Callable, image_elements: int
    ):
        H, W, C = image_shape
        self.window = window
        self.OH, self.OW = window.output_size(H, W)
        padded = *window.padded_size(H, W), C
        image_bytes = max(image_elements, math.prod(padded)) * dtype.itemsize
        self.images = max(CACHE_BYTES // image_bytes, -(-MIN_PIXELS // (self.OH * self.OW)))
        self.padded = np.zeros((self.images, *padded), dtype)
        rows, columns = window.interior(H, W)
        self.interior = self.padded[:, rows, columns]
        self._scratch = scratch

    @property
    def nbytes(self) -> int:
        """Bytes of the padded copy."""
        return self.padded.nbytes

    def pad(self, x: Array) -> int:
        """Copy at most `images` images into the padded copy; return how many."""
        copy_contiguous_runs(self.interior[: len(x)], x)
        return len(x)

    def lowered(self, shape: tuple[int, ...]) -> Array:
        """Return memory to copy to."""
        return self._scratch("lowered", shape, self.padded.dtype)


class Columns(Lowering):
    """All pixels under each window as one row, by group: (groups, n*OH*OW, KH*KW*C/groups). For any window."""

    def __init__(self, image_shape: tuple[int, ...], window: Window, groups: int, dtype: np.dtype, scratch: Callable):
        OH, OW = window.output_size(*image_shape[:2])
        super().__init__(image_shape, window, dtype, scratch, OH * OW * window.taps * image_shape[2])
        pixels = windows_of(self.padded, window, OH, OW)
        pixels = pixels.reshape(*pixels.shape[:-1], groups, -1)  # (KH, KW, n, OH, OW, groups, C/groups)
        self.taps = pixels.transpose(2, 3, 4, 5, 0, 1, 6)
        self.groups = groups

    def rows(self, n: int) -> Array:
        """Return memory for the columns of n images, (n*OH*OW, groups*KH*KW*C/groups)."""
        return self.lowered((n, *self.taps.shape[1:])).reshape(n * self.OH * self.OW, -1)

    def lower(self, x: Array) -> Array:
        """Return the columns of at most `images` images."""
        n = self.pad(x)
        copy_contiguous_runs(self.lowered((n, *self.taps.shape[1:])), self.taps[:n])
        return by_group(self.rows(n), self.groups)

    def transposed(self, x: Array) -> Array:
        """Return the columns as the left factor of a gradient, (groups, KH*KW*C/groups, n*OH*OW)."""
        return self.lower(x).swapaxes(1, 2)


class Bands(Lowering):
    """Images lowered along their width alone, (n, OW, padded H, KW*C): KW copies of a pixel instead of KH*KW.

    The windows of one column lie one after another there and overlap: each is KH*KW*C numbers long, and begins KW*C
    after the one above it. BLAS takes such a view, (n, OH, OW, KH*KW*C), as a matrix of OW rows for each row of the
    output. For windows not dilated along the height, and rows long enough for a matrix product of their own.
    Source: Cho and Brand, MEC: memory-efficient convolution, ICML 2017.
    """

    def __init__(self, image_shape: tuple[int, ...], window: Window, dtype: np.dtype, scratch: Callable):
        KW, SW, DW, C = window.kernel[1], window.stride[1], window.dilation[1], image_shape[2]
        height, OW = window.padded_size(*image_shape[:2])[0], window.output_size(*image_shape[:2])[1]
        super().__init__(image_shape, window, dtype, scratch, OW * height * KW * C)
        n, h, w, c = self.padded.strides
        self.taps = strided(self.padded, (self.images, OW, height, KW, C), (n, SW * w, h, DW * w, c))

    def lower(self, x: Array) -> Array:
        """Return the windows of at most `images` images."""
        n = self.pad(x)
        bands = self.lowered((n, *self.taps.shape[1:]))
        copy_contiguous_runs(bands, self.taps[:n])
        image, column, row, _, size = bands.strides
        shape = n, self.OH, self.OW, self.window.taps * bands.shape[-1]
        return strided(bands, shape, (image, self.window.stride[0] * row, column, size))


class Planes(Lowering):
    """For images of one channel, a plane for each tap: (1, KH*KW, n*OH*OW), copied row by row instead of KW by KW."""

    def __init__(self, image_shape: tuple[int, ...], window: Window, dtype: np.dtype, scratch: Callable):
        OH, OW = window.output_size(*image_shape[:2])
        super().__init__(image_shape, window, dtype, scratch, window.taps * OH * OW)
        self.taps = windows_of(self.padded, window, OH, OW)[..., 0]

    def transposed(self, x: Array) -> Array:
        """Return the planes of at most `images` images as the left factor of a gradient, (1, KH*KW, n*OH*OW)."""
        n = self.pad(x)
        taps = self.taps[:, :, :n]
        planes = self.lowered(taps.shape)
        copy_contiguous_runs(planes, taps)
        return planes.reshape(1, self.window.taps, -1)


def by_group(rows: Array, groups: int) -> Array:
    """Return (M, groups*K) as a view (groups, M, K)."""
    return rows.reshape(len(rows), groups, -1).swapaxes(0, 1)
