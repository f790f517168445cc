"""Pooling."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from oracles.numbers import Array, each, indices, zeros
from oracles.windows import inside, meetings, output_size


def max_pool2d(x: Array, window: Any, relu: bool = False) -> tuple[Array, Array]:
    N, H, W, C = x.shape
    y = np.full((N, *output_size(window, H, W), C), -math.inf)
    argmax = np.zeros(y.shape, np.int64)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            pixel = float(x[n, i, j, c])
            if pixel > y[n, m, q, c] or math.isnan(pixel):
                y[n, m, q, c] = pixel
                argmax[n, m, q, c] = u * window.kernel[1] + v
    if relu:
        for index in indices(y):
            if not y[index] > 0:
                y[index] = y[index] if math.isnan(y[index]) else 0.0
                argmax[index] = window.kernel[0] * window.kernel[1]
    return y, argmax


def max_pool2d_dx(dy: Array, argmax: Array, x_shape: tuple[int, ...], window: Any) -> Array:
    N, H, W, C = x_shape
    dx = zeros(*x_shape)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            if int(argmax[n, m, q, c]) == u * window.kernel[1] + v:
                dx[n, i, j, c] += float(dy[n, m, q, c])
    return dx


def pool_counts(window: Any, H: int, W: int, count_include_pad: bool) -> Array:
    counts = zeros(*output_size(window, H, W))
    (_, below), (_, beside) = window.padding
    for m, q, _, _, i, j in meetings(window, H, W):
        in_image = 0 <= i < H and 0 <= j < W
        in_padding = count_include_pad and i < H + below and j < W + beside
        counts[m, q] += 1.0 if in_image or in_padding else 0.0
    return counts


def average_pool2d(x: Array, window: Any, count_include_pad: bool = False) -> Array:
    N, H, W, C = x.shape
    counts = pool_counts(window, H, W, count_include_pad)
    y = zeros(N, *counts.shape, C)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            y[n, m, q, c] += float(x[n, i, j, c]) / counts[m, q]
    return y


def average_pool2d_dx(dy: Array, x_shape: tuple[int, ...], window: Any, count_include_pad: bool = False) -> Array:
    N, H, W, C = x_shape
    counts = pool_counts(window, H, W, count_include_pad)
    dx = zeros(*x_shape)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            dx[n, i, j, c] += float(dy[n, m, q, c]) / counts[m, q]
    return dx


def lp_pool2d(x: Array, p: float, window: Any) -> Array:
    N, H, W, C = x.shape
    total = zeros(N, *output_size(window, H, W), C)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            total[n, m, q, c] += abs(float(x[n, i, j, c])) ** p
    return each(lambda s: s ** (1.0 / p), total)


def lp_pool2d_dx(dy: Array, x: Array, y: Array, p: float, window: Any) -> Array:
    N, H, W, C = x.shape
    dx = zeros(*x.shape)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            pixel, norm = float(x[n, i, j, c]), float(y[n, m, q, c])
            if norm > 0.0 and pixel != 0.0:
                slope = math.copysign((abs(pixel) / norm) ** (p - 1.0), pixel)
                dx[n, i, j, c] += float(dy[n, m, q, c]) * slope
    return dx
