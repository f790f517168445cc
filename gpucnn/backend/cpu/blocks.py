"""Flat arrays a block at a time, and what many operations do with one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["BLOCK", "Array", "blocks", "clip_negative", "count_to", "keep_where"]

Array = np.ndarray

BLOCK = 1 << 16  # elements at a time in optimizers, Philox and ReLU


def blocks(size: int) -> Iterator[slice]:
    """Split a flat array into slices of `BLOCK` elements."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def count_to(self, count: int) -> Array:
    """Return 0, 1, .., count - 1 as uint64."""
    ramp = self.cache.get("ramp")
    if ramp is None or len(ramp) < count:
        ramp = self.cache["ramp"] = np.arange(count, dtype=np.uint64)
    return ramp[:count]


def clip_negative(self, x: Array, out: Array) -> Array:
    """Write max(x, 0), beside an array of zeros: with a number NumPy uses no vector instructions here."""
    zeros, x, y = self.cached(("zeros", x.dtype), lambda: np.zeros(BLOCK, x.dtype)), x.reshape(-1), out.reshape(-1)
    for block in blocks(x.size):
        np.maximum(x[block], zeros[: block.stop - block.start], out=y[block])
    return out


def keep_where(x: Array, mask: Array, out: Array) -> Array:
    """Write x where the mask is set, else 0, by its bits: as fast as a product, and exact for inf and NaN.

    `out` may be x: NumPy then widens the mask in small blocks, where there is no room for it.
    """
    integer = np.int32 if x.dtype == np.float32 else np.int64
    mask = mask.view(np.int8)
    np.negative(mask, out=mask)  # 0 or -1: no bit or all bits
    bits, x = out.view(integer), np.ascontiguousarray(x).view(integer)
    if not np.may_share_memory(bits, x):
        np.copyto(bits, mask)
        mask = bits
    np.bitwise_and(mask, x, out=bits)
    return out
