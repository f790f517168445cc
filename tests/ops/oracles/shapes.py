"""Numbers that only move."""

from __future__ import annotations

from itertools import product
from typing import Any

from oracles.numbers import Array, indices, zeros


def concat(arrays: list[Array]) -> Array:
    y = zeros(*arrays[0].shape[:-1], sum(x.shape[-1] for x in arrays))
    for place in product(*map(range, y.shape[:-1])):
        numbers = [float(x[(*place, c)]) for x in arrays for c in range(x.shape[-1])]
        for c, number in enumerate(numbers):
            y[(*place, c)] = number
    return y


def slice_channels(x: Array, first: int, C: int) -> Array:
    y = zeros(*x.shape[:-1], C)
    for *place, c in indices(y):
        y[(*place, c)] = float(x[(*place, first + c)])
    return y


def zero_pad2d(x: Array, window: Any) -> Array:
    (N, H, W, C), ((top, bottom), (left, right)) = x.shape, window.padding
    y = zeros(N, top + H + bottom, left + W + right, C)
    for n, i, j, c in indices(x):
        y[n, top + i, left + j, c] = float(x[n, i, j, c])
    return y


def zero_pad2d_dx(dy: Array, x_shape: tuple[int, ...], window: Any) -> Array:
    (top, _), (left, _) = window.padding
    dx = zeros(*x_shape)
    for n, i, j, c in indices(dx):
        dx[n, i, j, c] = float(dy[n, top + i, left + j, c])
    return dx
