"""Pixels under a sliding window, as one array for each of its taps."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array
from gpucnn.geometry import Window

__all__ = ["pad", "sum_taps", "taps"]


def pad(self, x: Array, window: Window, value: float) -> Array:
    """Copy `x` (N, H, W, C) into an image with the window's border around it, filled with `value`."""
    N, H, W, C = x.shape
    padded = self.xp.full((N, *window.padded_size(H, W), C), value, dtype=x.dtype)
    rows, columns = window.interior(H, W)
    padded[:, rows, columns, :] = x
    return padded


def taps(self, x: Array, window: Window, value: float) -> list[Array]:
    """For each kernel tap, the (N, OH, OW, C) pixels of the padded image that it meets as the window slides."""
    N, H, W, C = x.shape
    padded = self.pad(x, window, value)
    return [padded[:, rows, columns, :] for rows, columns in window.tap_slices(H, W)]


def sum_taps(self, taps: list[Array], x_shape: tuple[int, ...], window: Window) -> Array:
    """Adjoint of `taps`: add each tap's (N, OH, OW, C) back onto the pixels of (N, H, W, C) that it came from."""
    N, H, W, C = x_shape
    padded = self.xp.zeros((N, *window.padded_size(H, W), C), dtype=taps[0].dtype)
    for (rows, columns), tap in zip(window.tap_slices(H, W), taps, strict=True):
        padded[:, rows, columns, :] += tap
    rows, columns = window.interior(H, W)
    return padded[:, rows, columns, :]
