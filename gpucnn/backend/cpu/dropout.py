"""Dropout, in place."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import philox
from gpucnn.backend.cpu.blocks import BLOCK, Array, keep_where
from gpucnn.backend.cpu.random_words import philox_block
from gpucnn.backend.cpu.sharing import shared

__all__ = ["dropout", "dropout_dx"]


def dropout(
    self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
) -> tuple[Array, Array]:
    """As the reference, with Philox in place on one block of counters after another."""
    out = self.result(out, x.shape, x.dtype)
    mask = self.result(mask, x.shape, np.uint8)
    kept = mask.reshape(-1)
    for start in range(0, x.size, 4 * BLOCK):
        words = philox_block(self, start // 4, min(BLOCK, -(-(x.size - start) // 4)), key, int(counter[0]))
        block = kept[start : start + words.size]
        np.greater_equal(words[: block.size], philox.threshold(rate), out=block.view(np.bool_))
    counter += 1
    return self.dropout_dx(x, mask, rate, out=out), mask


@shared("dy", "mask", "out")
def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
    """As the reference, in place."""
    kept = np.not_equal(mask, 0, out=self.scratch("mask", mask.shape, np.bool_))
    out = keep_where(dy, kept, self.result(out, dy.shape, dy.dtype))
    return np.multiply(out, 1.0 / (1.0 - rate), out=out)
