"""Batch normalization, a few rows at a time, each while it is in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpucnn.backend.cpu.blocks import Array
from gpucnn.backend.cpu.sharing import shared

__all__ = ["batch_norm", "batch_norm_dx", "batch_norm_inference", "fold_batch_norm"]

CACHE_BYTES = 1 << 17  # of each array at a time: an operation's four stay in a common second-level cache


def batch_norm(
    self,
    x: Array,
    gamma: Array,
    beta: Array,
    running: Array,
    momentum: float,
    eps: float,
    *,
    out: Array = None,
    mean_rstd: Array = None,
) -> tuple[Array, Array]:
    """As the reference, in three passes: for the mean, for the variance, and for the result."""
    out = self.result(out, x.shape, x.dtype)
    mean, inverse = mean_rstd = self.result(mean_rstd, running.shape, x.dtype)
    M = x.size // len(mean)
    np.divide(_sum(self, _blocks(x), mean), M, out=mean)
    variance, scale, share = self.scratch("channels", (3, len(mean)), x.dtype)
    np.divide(_sum(self, _squares(self, _centred(self, x, mean, out)), variance), M, out=variance)
    np.divide(1, np.sqrt(np.add(variance, eps, out=inverse), out=inverse), out=inverse)
    np.multiply(variance, M / max(M - 1, 1), out=variance)
    for moment, average in zip((mean, variance), running, strict=True):
        np.multiply(average, 1 - momentum, out=average)
        np.add(average, np.multiply(moment, momentum, out=share), out=average)
    _scale_and_shift(self, _blocks(out), np.multiply(gamma, inverse, out=scale), beta, out)
    return out, mean_rstd


@shared("x", "out")
def batch_norm_inference(
    self, x: Array, gamma: Array, beta: Array, running: Array, eps: float, *, out: Array = None
) -> Array:
    """As the reference, in one pass."""
    out = self.result(out, x.shape, x.dtype)
    scale = _running_scale(self, gamma, running, eps)
    _scale_and_shift(self, _centred(self, x, running[0], out), scale, beta, out)
    return out


def batch_norm_dx(
    self, dy: Array, x: Array, gamma: Array, mean_rstd: Array, *, dgamma: Array, dbeta: Array, out: Array = None
) -> Array:
    """As the reference: first the sums, then `dx = scale (dy - ((x - mean) slope + shift))`."""
    out = self.result(out, x.shape, x.dtype)
    mean, inverse = mean_rstd
    M = x.size // len(mean)
    _sum(self, _blocks(dy), dbeta)
    np.multiply(_sum(self, _products(self, _centred(self, x, mean, out), dy), dgamma), inverse, out=dgamma)
    scale, slope, shift = self.scratch("channels", (3, len(mean)), x.dtype)
    np.multiply(gamma, inverse, out=scale)
    np.multiply(np.divide(dgamma, M, out=slope), inverse, out=slope)
    np.divide(dbeta, M, out=shift)
    _scale_and_shift(self, _blocks(out), slope, shift, out)
    tile = _tile(self, "scale", scale, x)
    for rows, dy_rows in zip(_blocks(out), _blocks(dy), strict=True):
        np.multiply(np.subtract(dy_rows, rows, out=rows), tile[: len(rows)], out=rows)
    return out


def fold_batch_norm(
    self,
    w: Array,
    b: Array | None,
    gamma: Array,
    beta: Array,
    running: Array,
    eps: float,
    *,
    folded_w: Array,
    folded_b: Array,
) -> None:
    """As the reference, in place."""
    scale = _running_scale(self, gamma, running, eps)
    np.multiply(w, scale, out=folded_w)
    np.subtract(0 if b is None else b, running[0], out=folded_b)
    np.add(np.multiply(folded_b, scale, out=folded_b), beta, out=folded_b)


def _running_scale(self, gamma: Array, running: Array, eps: float) -> Array:
    """`gamma/sqrt(variance + eps)` of the running variance."""
    scale = np.add(running[1], eps, out=self.scratch("channels", gamma.shape, running.dtype))
    return np.divide(gamma, np.sqrt(scale, out=scale), out=scale)


def _centred(self, x: Array, mean: Array, out: Array) -> Iterator[Array]:
    """Write `x - mean` into `out`, in blocks of rows; yield each while it is in the cache."""
    tile = _tile(self, "mean", mean, x)
    for rows, centred in zip(_blocks(x), _blocks(out), strict=True):
        yield np.subtract(rows, tile[: len(rows)], out=centred)


def _squares(self, blocks: Iterator[Array]) -> Iterator[Array]:
    for rows in blocks:
        yield np.square(rows, out=self.scratch("terms", rows.shape, rows.dtype))


def _products(self, blocks: Iterator[Array], dy: Array) -> Iterator[Array]:
    for rows, dy_rows in zip(blocks, _blocks(dy), strict=True):
        yield np.multiply(rows, dy_rows, out=self.scratch("terms", rows.shape, rows.dtype))


def _sum(self, blocks: Iterator[Array], out: Array) -> Array:
    """Sum all rows, block by block in their order."""
    part = self.scratch("part", out.shape, out.dtype)
    out.fill(0)
    for rows in blocks:
        np.add(out, self.sum_rows(rows, out=part), out=out)
    return out


def _scale_and_shift(self, blocks: Iterator[Array], scale: Array, shift: Array, x: Array) -> None:
    """Multiply and add in place, in all blocks of rows of x."""
    scale, shift = _tile(self, "scale", scale, x), _tile(self, "shift", shift, x)
    for rows in blocks:
        np.add(np.multiply(rows, scale[: len(rows)], out=rows), shift[: len(rows)], out=rows)


def _tile(self, name: str, row: Array, x: Array) -> Array:
    """Repeat a row to the size of a block of x: NumPy is faster on two equal shapes than where one is broadcast."""
    rows = _rows_in_block(x)
    if x.size <= rows * len(row):
        return row[np.newaxis]  # for one block alone the copy costs what it saves
    tile = self.scratch(name, (rows, len(row)), x.dtype)
    np.copyto(tile, row)
    return tile


def _blocks(x: Array) -> Iterator[Array]:
    """Split x (..., C) into blocks of rows."""
    rows, step = x.reshape(-1, x.shape[-1]), _rows_in_block(x)
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _rows_in_block(x: Array) -> int:
    return max(1, CACHE_BYTES // (x.shape[-1] * x.itemsize))
