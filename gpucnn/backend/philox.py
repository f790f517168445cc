"""Philox4x32-10: random words from a counter, so that they're the same on every device and in every order.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MULTIPLIERS", "ROUNDS", "WEYL", "philox4x32", "philox_words", "threshold"]

Array = Any
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = 0xFFFFFFFF


def philox4x32(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Encrypt counters of four 32-bit words under a key of two: ten rounds of multiply, exchange and xor.

    The words are uint64 arrays (each below 2^32) of one shape; so is the result.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & MASK, (product0 >> 32) ^ c3 ^ k1, product0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def philox_words(xp: Any, size: int, key: tuple[int, int], step: Array) -> Array:
    """Return words 0..size-1 of the stream (key, step), as uint64 below 2^32.

    Word i is word `i % 4` of the counter `(i // 4, 0, step, 0)`. `step` is an integer array of shape (1,), below 2^32.
    """
    block = xp.arange(-(-size // 4), dtype=xp.uint64)
    step = block * 0 + (xp.astype(step, xp.uint64) if hasattr(xp, "astype") else step.astype(xp.uint64))
    words = philox4x32((block, block * 0, step, block * 0), key)
    return xp.reshape(xp.stack(words, axis=1), (-1,))[:size]


def threshold(rate: float) -> int:
    """The word below which an element is dropped: `rate * 2^32`."""
    return min(round(rate * 2**32), MASK)
