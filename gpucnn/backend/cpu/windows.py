"""Windows over images a few at a time, and the taps of a window without a copy where there is no padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucnn.backend.cpu.arrays import Array, CpuArrays
from gpucnn.geometry import Window

__all__ = ["CpuWindows", "chunks", "images_at_a_time"]

CACHE_BYTES = 1 << 19  # of images at a time: half of a common second-level cache


def images_at_a_time(image_bytes: int) -> int:
    """Return how many images of so many bytes stay in the cache."""
    return max(1, CACHE_BYTES // image_bytes)


def chunks(N: int, count: int) -> Iterator[slice]:
    """Split a batch into slices of at most `count` images."""
    return (slice(start, min(start + count, N)) for start in range(0, N, count))


class CpuWindows(CpuArrays):
    """Part of `CpuBackend`."""

    def __init__(self, float_dtype: Any = "float32"):
        super().__init__(float_dtype)
        self._padded: dict[tuple, Array] = {}
        self._lowerings: dict[tuple, Any] = {}

    def _lowering(self, kind: Callable, x: Array, *arguments: Any) -> Any:
        """Return the lowering of a kind for images of x's size, made once."""
        key = (kind, x.shape[1:], x.dtype, *arguments)
        if key not in self._lowerings:
            self._lowerings[key] = kind(x.shape[1:], *arguments, x.dtype)
        return self._lowerings[key]

    def taps(self, x: Array, window: Window, value: float) -> list[Array]:
        """As the reference: views of x itself where there is no padding, else of a padded copy kept for its shape."""
        N, H, W, C = x.shape
        if window.is_padded:
            key = (x.shape[1:], window, x.dtype, value)
            padded = self._padded.get(key)
            if padded is None or len(padded) < N:
                padded = self._padded[key] = np.full((N, *window.padded_size(H, W), C), value, x.dtype)
            rows, columns = window.interior(H, W)
            padded[:N, rows, columns] = x
            x = padded[:N]
        return [x[:, rows, columns] for rows, columns in window.tap_slices(H, W)]

    def _sum_taps(self, taps: Iterator[Array], window: Window, out: Array) -> Array:
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
