"""Batches."""

from __future__ import annotations

from itertools import product

import numpy as np

from loops.numbers import Array, zeros


def gather_batch(
    images: Array, labels: Array, order: Array, cursor: Array, scale: Array, shift: Array, N: int
) -> tuple[Array, Array, Array]:
    _, H, W, C = images.shape
    x, y = zeros(N, H, W, C), np.zeros(N, np.int64)
    start = int(cursor[0])
    for n in range(N):
        sample = int(order[start + n])
        y[n] = int(labels[sample])
        for i, j, c in product(range(H), range(W), range(C)):
            x[n, i, j, c] = int(images[sample, i, j, c]) * float(scale[c]) + float(shift[c])
    return x, y, np.array([start + N])


def one_hot(labels: Array, K: int) -> Array:
    y = zeros(len(labels), K)
    for n in range(len(labels)):
        y[n, int(labels[n])] = 1.0
    return y
