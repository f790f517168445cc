"""Where the taps of a window fall."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any


def positions(
    size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int, overhang: int = 0
) -> list[list[int]]:
    """For each output pixel along one axis, the row or column under each tap; the image has those from 0 to size."""
    before, after = padding
    found, start = [], -before
    while start + dilation * (kernel - 1) < size + after + overhang:
        found.append([start + dilation * tap for tap in range(kernel)])
        start += stride
    return found


def axes(window: Any, H: int, W: int) -> tuple[list, list]:
    """Positions along the rows and along the columns."""
    geometry = window.kernel, window.stride, window.padding, window.dilation, window.overhang
    rows, columns = (positions(*axis) for axis in zip((H, W), *geometry, strict=True))
    return rows, columns


def output_size(window: Any, H: int, W: int) -> tuple[int, int]:
    rows, columns = axes(window, H, W)
    return len(rows), len(columns)


def meetings(window: Any, H: int, W: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Every output pixel (m, q), tap (u, v), and the row and column (i, j) under it, in the image or around it."""
    rows, columns = axes(window, H, W)
    for (m, row), (q, column) in product(enumerate(rows), enumerate(columns)):
        for (u, i), (v, j) in product(enumerate(row), enumerate(column)):
            yield m, q, u, v, i, j


def inside(window: Any, H: int, W: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The meetings with pixels of the image."""
    for m, q, u, v, i, j in meetings(window, H, W):
        if 0 <= i < H and 0 <= j < W:
            yield m, q, u, v, i, j
