"""Dropout: Philox4x32-10 of Salmon et al., SC 2011, on Python integers."""

from __future__ import annotations

import numpy as np

from oracles.numbers import Array, each, indices, zeros


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Ten rounds: (L, R) halves of two products, crossed over; the key is bumped between the rounds."""
    left0, right0, left1, right1 = counter
    key0, key1 = key
    for number in range(10):
        if number > 0:
            key0 = (key0 + 0x9E3779B9) % 2**32  # the golden ratio
            key1 = (key1 + 0xBB67AE85) % 2**32  # sqrt(3) - 1
        high0, low0 = divmod(0xD2511F53 * left0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * left1, 2**32)
        left0, right0, left1, right1 = high1 ^ right0 ^ key0, low1, high0 ^ right1 ^ key1, low0
    return left0, right0, left1, right1


def dropout(x: Array, rate: float, key: tuple[int, int], counter: Array) -> tuple[Array, Array, Array]:
    y, mask = zeros(*x.shape), np.zeros(x.shape, np.int64)
    step = int(counter[0])
    for number, index in enumerate(indices(x)):
        word = philox4x32((number // 4, 0, step, 0), key)[number % 4]
        if word >= rate * 2**32:
            mask[index] = 1
            y[index] = float(x[index]) / (1.0 - rate)
    return y, mask, np.array([step + 1])


def dropout_dx(dy: Array, mask: Array, rate: float) -> Array:
    return each(lambda dy, kept: dy / (1.0 - rate) if kept else 0.0, dy, mask)
