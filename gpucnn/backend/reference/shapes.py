"""Operations that move numbers and compute none: feature maps side by side, and borders of zeros."""

from __future__ import annotations

from collections.abc import Sequence

from gpucnn.backend.reference.arrays import Array
from gpucnn.geometry import Window

__all__ = ["concat", "slice_channels", "zero_pad2d", "zero_pad2d_dx"]


def concat(self, arrays: Sequence[Array], *, out: Array = None) -> Array:
    """Put feature maps side by side: (N, ..., C1), (N, ..., C2), ... -> (N, ..., C1 + C2 + ...)."""
    (*shape, _), C = arrays[0].shape, sum(x.shape[-1] for x in arrays)
    out = self.result(out, (*shape, C), arrays[0].dtype)
    first = 0
    for x in arrays:
        out[..., first : first + x.shape[-1]] = x
        first += x.shape[-1]
    return out


def slice_channels(self, x: Array, first: int, *, out: Array) -> Array:
    """Copy as many channels as `out` has, from channel `first` on: of the gradient of `concat` that of one input.

    x (N, ..., C) -> out (N, ..., D), D <= C - first.
    """
    out[...] = x[..., first : first + out.shape[-1]]
    return out


def zero_pad2d(self, x: Array, window: Window, *, out: Array = None) -> Array:
    """Put the window's padding around images, as zeros: (N, H, W, C) -> (N, top + H + bottom, left + W + right, C)."""
    return self.store(self.pad(x, window, 0.0), out)


def zero_pad2d_dx(self, dy: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
    """Gradient of `zero_pad2d`: that of the pixels within the padding."""
    rows, columns = window.interior(*x_shape[1:3])
    out = self.result(out, x_shape, dy.dtype)
    out[...] = dy[:, rows, columns, :]
    return out
