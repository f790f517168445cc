"""Batches."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from oracles.dropout import philox4x32
from oracles.numbers import Array, zeros


def gather_batch(
    images: Array,
    labels: Array,
    order: Array,
    cursor: Array,
    scale: Array,
    shift: Array,
    N: int,
    augmentation: Any = None,
    key: tuple[int, int] = (0, 0),
    epoch: Array = (0,),
) -> tuple[Array, Array, Array]:
    _, H, W, C = images.shape
    x, y = zeros(N, H, W, C), np.zeros(N, np.int64)
    start = int(cursor[0])
    for n in range(N):
        sample = int(order[start + n])
        y[n] = int(labels[sample])
        dy, dx, mirrored = movement(augmentation, philox4x32((start + n, 0, int(epoch[0]), 0), key))
        for i, j, c in product(range(H), range(W), range(C)):
            row, column = i + dy, (W - 1 - j if mirrored else j) + dx
            pixel = int(images[sample, row, column, c]) if 0 <= row < H and 0 <= column < W else 0
            x[n, i, j, c] = pixel * float(scale[c]) + float(shift[c])
    return x, y, np.array([start + N])


def movement(augmentation: Any, words: tuple[int, ...]) -> tuple[int, int, bool]:
    """Rows and columns between -shift and shift, each as likely, and a throw of a coin: head if a word is large."""
    if augmentation is None:
        return 0, 0, False
    choices = 2 * augmentation.shift + 1
    dy, dx = (int(Fraction(word, 2**32) * choices) - augmentation.shift for word in words[:2])
    return dy, dx, augmentation.flip and words[2] >= 2**31


def one_hot(labels: Array, K: int) -> Array:
    y = zeros(len(labels), K)
    for n in range(len(labels)):
        if 0 <= labels[n] < K:
            y[n, int(labels[n])] = 1.0
    return y
