"""Losses in two launches each: rows by many blocks of threads, and one that adds up what those have summed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, check_indices
from gpucnn.backend.gpu.records import Block, kernel
from gpucnn.backend.gpu.sums import EACH, MAX_PARTIALS
from gpucnn.errors import InputError

__all__ = [
    "label_targets",
    "mean_squared_error",
    "sigmoid_cross_entropy",
    "soft_cross_entropy",
    "softmax_cross_entropy",
]

WARPS = 8  # of a block
FILES = "reductions.cuh", "losses.cu"

SOFTMAX_CROSS_ENTROPY = kernel("softmax_cross_entropy", *FILES, WARPS=WARPS, EACH=EACH)


def softmax_cross_entropy(
    self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """As the reference; labels that are not int32 are converted, which allocates."""
    labels = labels if labels.dtype == np.int32 else labels.astype(np.int32)
    return _loss(self, SOFTMAX_CROSS_ENTROPY, logits, labels, loss, dx, totals)


LABEL_TARGETS = kernel("label_targets", *FILES, WARPS=WARPS, EACH=EACH)
LABEL_NORM = kernel("label_norm", *FILES, WARPS=WARPS, EACH=EACH)


def label_targets(
    self, labels: Array, weights: Array | None, ignored: int, *, out: Array, norm: Array
) -> tuple[Array, Array]:
    """As the reference, in two kernels."""
    weights = None if weights is None else self.contiguous(weights)
    partials = _sums_of_blocks(self, len(out))
    arguments = self.contiguous(labels), weights, np.int32(ignored), out, partials, *map(np.int32, out.shape)
    self.launch(LABEL_TARGETS, (len(partials),), *arguments, dtype=out.dtype)
    self.launch(LABEL_NORM, (1,), partials, norm, np.int32(len(partials)), dtype=norm.dtype)
    return out, norm


SOFT_CROSS_ENTROPY = kernel("soft_cross_entropy", *FILES, WARPS=WARPS, EACH=EACH)


def soft_cross_entropy(
    self,
    logits: Array,
    targets: Array,
    weights: Array | None,
    smoothing: float,
    norm: Array,
    *,
    loss: Array = None,
    dx: Array = None,
    totals: Array = None,
) -> Array:
    """As the reference, in two kernels."""
    weights = None if weights is None else self.contiguous(weights)
    further = weights, np.float64(smoothing), norm
    return _loss(self, SOFT_CROSS_ENTROPY, logits, targets, loss, dx, totals, *further, norm=norm)


SIGMOID_CROSS_ENTROPY = kernel("sigmoid_cross_entropy", *FILES, WARPS=WARPS, EACH=EACH)


def sigmoid_cross_entropy(
    self, logits: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """As the reference, in two kernels."""
    return _loss(self, SIGMOID_CROSS_ENTROPY, logits, targets, loss, dx, totals)


MEAN_SQUARED_ERROR = kernel("mean_squared_error", *FILES, WARPS=WARPS, EACH=EACH)


def mean_squared_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """As the reference, in two kernels."""
    return _loss(self, MEAN_SQUARED_ERROR, outputs, targets, loss, dx, totals)


REPORT = kernel("report_loss", *FILES, WARPS=WARPS, EACH=EACH)


def _loss(
    self,
    record: Block,
    outputs: Array,
    targets: Array,
    loss: Array,
    dx: Array,
    totals: Array,
    *further: Any,
    norm: Array = None,
) -> Array:
    """Launch a loss kernel, and what makes a mean of its sums, by `norm` or else by N; None is a null pointer."""
    N, K = outputs.shape
    if K == 0:
        raise InputError(f"a loss needs outputs (N, K) with K of at least 1, received {outputs.shape}")
    loss, partials = self.result(loss, (), outputs.dtype), _sums_of_blocks(self, N)
    arrays = self.contiguous(outputs), self.contiguous(targets), dx, partials
    self.launch(record, (len(partials),), *arrays, np.int32(N), np.int32(K), *further)
    scalars = np.int32(N), np.int32(len(partials))
    self.launch(REPORT, (1,), partials, norm, loss, totals, *scalars, dtype=loss.dtype)
    return loss


def _sums_of_blocks(self, N: int) -> Array:
    """Return where the blocks that share N rows leave their sums; by N alone, so that every device adds alike."""
    check_indices(N, f"a batch of {N}", "use a smaller one")
    return self.scratch("losses", (min(-(-N // WARPS), MAX_PARTIALS), 3), np.float64)
