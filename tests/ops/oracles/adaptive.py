"""Pooling to an output of a given size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from oracles.numbers import Array, zeros


def bin_pixels(size: int, outputs: int, output: int) -> list[int]:
    """The pixels along one axis that share any of their extent with an output pixel, in whole numbers."""
    return [i for i in range(size) if (i + 1) * outputs > output * size and i * outputs < (output + 1) * size]


def shares(H: int, W: int, OH: int, OW: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Every output pixel, and the pixels that it takes, row by row."""
    for m, q in product(range(OH), range(OW)):
        yield m, q, list(product(bin_pixels(H, OH, m), bin_pixels(W, OW, q)))


def adaptive_average_pool2d(x: Array, size: tuple[int, int]) -> Array:
    N, H, W, C = x.shape
    y = zeros(N, *size, C)
    for m, q, pixels in shares(H, W, *size):
        for (i, j), n, c in product(pixels, range(N), range(C)):
            y[n, m, q, c] += float(x[n, i, j, c]) / len(pixels)
    return y


def adaptive_average_pool2d_dx(dy: Array, x_shape: tuple[int, ...]) -> Array:
    N, H, W, C = x_shape
    dx = zeros(*x_shape)
    for m, q, pixels in shares(H, W, *dy.shape[1:3]):
        for (i, j), n, c in product(pixels, range(N), range(C)):
            dx[n, i, j, c] += float(dy[n, m, q, c]) / len(pixels)
    return dx


def adaptive_max_pool2d(x: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    N, H, W, C = x.shape
    y, argmax = np.full((N, *size, C), -math.inf), np.zeros((N, *size, C), np.int64)
    for m, q, pixels in shares(H, W, *size):
        for n, c in product(range(N), range(C)):
            for place, (i, j) in enumerate(pixels):
                pixel = float(x[n, i, j, c])
                if place == 0 or pixel > y[n, m, q, c] or math.isnan(pixel):
                    y[n, m, q, c] = pixel
                    argmax[n, m, q, c] = i * W + j
    return y, argmax


def adaptive_max_pool2d_dx(dy: Array, argmax: Array, x_shape: tuple[int, ...]) -> Array:
    N, OH, OW, C = dy.shape
    dx = zeros(*x_shape)
    for n, m, q, c in product(range(N), range(OH), range(OW), range(C)):
        i, j = divmod(int(argmax[n, m, q, c]), x_shape[2])
        dx[n, i, j, c] += float(dy[n, m, q, c])
    return dx
