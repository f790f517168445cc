"""Dropout, with Philox in place."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import philox
from gpucnn.backend.cpu.arrays import BLOCK, Array, CpuArrays

__all__ = ["CpuDropout"]


class CpuDropout(CpuArrays):
    """Part of `CpuBackend`."""

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
    ) -> tuple[Array, Array]:
        """As the reference, with Philox in place on one block of counters after another."""
        out = self._result(out, x.shape, x.dtype)
        mask = self._result(mask, x.shape, np.uint8)
        kept = mask.reshape(-1)
        for start in range(0, x.size, 4 * BLOCK):
            words = self._philox_block(start // 4, min(BLOCK, -(-(x.size - start) // 4)), key, int(counter[0]))
            block = kept[start : start + words.size]
            np.greater_equal(words[: block.size], philox.threshold(rate), out=block.view(np.bool_))
        counter += 1
        return self.dropout_dx(x, mask, rate, out=out), mask

    def _philox_block(self, first: int, count: int, key: tuple[int, int], step: int) -> Array:
        """Words of the counters `first .. first + count - 1`: `philox.philox_words`, in place."""
        c = self.scratch("philox", (6, count), np.uint64)
        c.fill(0)
        c0, c1, c2, c3, product0, product1 = c
        c2.fill(step)
        np.add(self._count_to(count), first, out=c0)
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

    def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
        """As the reference, in place."""
        kept = np.not_equal(mask, 0, out=self.scratch("mask", mask.shape, np.bool_))
        out = self._keep(dy, kept, self._result(out, dy.shape, dy.dtype))
        return np.multiply(out, 1.0 / (1.0 - rate), out=out)
