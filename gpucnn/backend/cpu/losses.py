"""Losses in place, by reductions of ufuncs: `np.sum` and its like take several times as long for a small batch."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.cpu.blocks import Array, count_to

__all__ = ["mean_squared_error", "sigmoid_cross_entropy", "softmax_cross_entropy"]


def softmax_cross_entropy(
    self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """As the reference, in place."""
    N, K = logits.shape
    e = self.scratch("e", (N, K), logits.dtype)
    row = self.scratch("row", (N, 1), logits.dtype)
    losses = self.scratch("losses", (N,), logits.dtype)
    np.subtract(logits, np.maximum.reduce(logits, axis=1, keepdims=True, out=row), out=e)
    positions, is_wrong = _label_positions(self, labels, K)
    np.take(e, positions, out=losses, mode="clip")
    np.add.reduce(np.exp(e, out=e), axis=1, keepdims=True, out=row)
    if dx is not None:
        np.divide(e, row, out=dx)
        probability = np.take(dx, positions, out=self.scratch("probability", (N,), dx.dtype), mode="clip")
        np.put(dx, positions, np.subtract(probability, 1, out=probability), mode="clip")
        np.divide(dx, N, out=dx)
        np.copyto(dx, np.nan, where=is_wrong[:, None])
    np.subtract(np.log(row, out=row)[:, 0], losses, out=losses)
    np.copyto(losses, np.nan, where=is_wrong)
    best = np.argmax(logits, axis=1, out=self.scratch("best", (N,), np.intp))
    return _count(self, losses, np.equal(best, labels, out=self.scratch("hits", (N,), np.bool_)), loss, totals)


def sigmoid_cross_entropy(
    self, logits: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """As the reference, in place."""
    N, K = logits.shape
    terms = self.scratch("terms", (N, K), logits.dtype)
    product = self.scratch("product", (N, K), logits.dtype)
    np.log1p(np.exp(np.negative(np.abs(logits, out=terms), out=terms), out=terms), out=terms)
    np.add(terms, np.maximum(logits, 0, out=product), out=terms)
    np.subtract(terms, np.multiply(logits, targets, out=product), out=terms)
    if dx is not None:
        np.subtract(self.sigmoid(logits, out=dx), targets, out=dx)
        np.divide(dx, N, out=dx)
    losses = np.add.reduce(terms, axis=1, out=self.scratch("losses", (N,), logits.dtype))
    return _count(self, losses, _hits(self, logits, targets, 0.0), loss, totals)


def mean_squared_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """As the reference, in place."""
    N, K = outputs.shape
    difference = self.scratch("terms", (N, K), outputs.dtype)
    np.subtract(outputs, targets, out=difference)
    if dx is not None:
        np.multiply(difference, 2.0 / (N * K), out=dx)
    losses = self.scratch("losses", (N,), outputs.dtype)
    np.add.reduce(np.square(difference, out=difference), axis=1, out=losses)
    return _count(self, np.divide(losses, K, out=losses), _hits(self, outputs, targets, 0.5), loss, totals)


def _label_positions(self, labels: Array, K: int) -> tuple[Array, Array]:
    """Flat positions in a C-contiguous (N, K) array of labels, or of the nearest class; and which have none."""
    nearest = np.maximum(labels, 0, out=self.scratch("nearest", labels.shape, labels.dtype))
    np.minimum(nearest, K - 1, out=nearest)
    is_wrong = np.not_equal(nearest, labels, out=self.scratch("is_wrong", labels.shape, np.bool_))
    positions = self.scratch("positions", labels.shape, np.intp)
    np.multiply(count_to(self, len(labels)), K, out=positions, casting="unsafe")
    return np.add(positions, nearest, out=positions), is_wrong


def _hits(self, outputs: Array, targets: Array, boundary: float) -> Array:
    N, K = outputs.shape
    if K == 1:
        return (outputs[:, 0] > boundary) == (targets[:, 0] > 0.5)
    best = np.argmax(outputs, axis=1, out=self.scratch("best", (N,), np.intp))
    wanted = np.argmax(targets, axis=1, out=self.scratch("wanted", (N,), np.intp))
    return np.equal(best, wanted, out=self.scratch("hits", (N,), np.bool_))


def _count(self, losses: Array, hits: Array, loss: Array, totals: Array) -> Array:
    """Store the mean of the losses and add to the totals, as the reference does."""
    if totals is not None:
        totals[0] += np.add.reduce(losses, dtype=np.float64)
        totals[1] += np.count_nonzero(hits)
        totals[2] += len(losses)
        totals[3] += len(losses) if np.isfinite(totals[0]) else 0
    return np.divide(np.add.reduce(losses), len(losses), out=self.result(loss, (), losses.dtype))
