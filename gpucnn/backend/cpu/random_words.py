"""Random words: Philox in place."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import philox
from gpucnn.backend.cpu.blocks import Array, count_to

__all__ = ["philox_block"]


def philox_block(self, first: int, count: int, key: tuple[int, int], step: int) -> Array:
    """Words of the counters `first .. first + count - 1`: `philox.philox_words`, in place."""
    c = self.scratch("philox", (6, count), np.uint64)
    c.fill(0)
    c0, c1, c2, c3, product0, product1 = c
    c2.fill(step)
    np.add(count_to(self, count), first, out=c0)
    k0, k1 = key
    for _ in range(philox.ROUNDS):
        np.multiply(c0, philox.MULTIPLIERS[0], out=product0)
        np.multiply(c2, philox.MULTIPLIERS[1], out=product1)
        np.right_shift(product1, 32, out=c0)
        np.bitwise_xor(np.bitwise_xor(c0, c1, out=c0), k0, out=c0)
        np.bitwise_and(product1, philox.MASK, out=c1)
        np.right_shift(product0, 32, out=c2)
        np.bitwise_xor(np.bitwise_xor(c2, c3, out=c2), k1, out=c2)
        np.bitwise_and(product0, philox.MASK, out=c3)
        k0, k1 = (k0 + philox.WEYL[0]) & philox.MASK, (k1 + philox.WEYL[1]) & philox.MASK
    words = self.scratch("words", (count, 4), np.uint64)
    np.copyto(words, c[:4].T)
    return words.reshape(-1)
