"""Where the taps of a window fall."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any


def positions(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> list[list[int | None]]:
    """For each output pixel along one axis, the input pixel under each tap, None in the padding."""
    before, after = padding
    found, start = [], -before
    while start + dilation * (kernel - 1) < size + after:
        under = [start + dilation * tap for tap in range(kernel)]
        found.append([i if 0 <= i < size else None for i in under])
        start += stride
    return found


def axes(window: Any, H: int, W: int) -> tuple[list, list]:
    """Positions along the rows and along the columns."""
    arguments = zip((H, W), window.kernel, window.stride, window.padding, window.dilation, strict=True)
    rows, columns = (positions(*axis) for axis in arguments)
    return rows, columns


def output_size(window: Any, H: int, W: int) -> tuple[int, int]:
    rows, columns = axes(window, H, W)
    return len(rows), len(columns)


def meetings(window: Any, H: int, W: int) -> Iterator[tuple[int, int, int, int, int | None, int | None]]:
    """Every output pixel (m, q), tap (u, v), and the input pixel (i, j) under it, None in the padding."""
    rows, columns = axes(window, H, W)
    for (m, row), (q, column) in product(enumerate(rows), enumerate(columns)):
        for (u, i), (v, j) in product(enumerate(row), enumerate(column)):
            yield (m, q, u, v, i, j) if i is not None and j is not None else (m, q, u, v, None, None)


def inside(window: Any, H: int, W: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The meetings with pixels of the image."""
    return (meeting for meeting in meetings(window, H, W) if meeting[4] is not None)
