"""Losses in two launches each: rows by many blocks of threads, and one that adds up what those have summed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays, check_indices
from gpucnn.backend.kernels import Block
from gpucnn.backend.kernels import losses as kernels
from gpucnn.backend.kernels.reductions import MAX_PARTIALS
from gpucnn.errors import InputError

__all__ = ["GpuLosses"]


class GpuLosses(GpuArrays):
    """Part of `GpuBackend`."""

    def softmax_cross_entropy(
        self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference; labels that are not int32 are converted, which allocates."""
        labels = labels if labels.dtype == np.int32 else labels.astype(np.int32)
        return self._loss(kernels.SOFTMAX_CROSS_ENTROPY, logits, labels, loss, dx, totals)

    def label_targets(
        self, labels: Array, weights: Array | None, ignored: int, *, out: Array, norm: Array
    ) -> tuple[Array, Array]:
        weights = None if weights is None else self._contiguous(weights)
        partials = self._sums_of_blocks(len(out))
        arguments = self._contiguous(labels), weights, np.int32(ignored), out, partials, *map(np.int32, out.shape)
        self._launch(kernels.LABEL_TARGETS, (len(partials),), *arguments, dtype=out.dtype)
        self._launch(kernels.LABEL_NORM, (1,), partials, norm, np.int32(len(partials)), dtype=norm.dtype)
        return out, norm

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
        weights = None if weights is None else self._contiguous(weights)
        further = weights, np.float64(smoothing), norm
        return self._loss(kernels.SOFT_CROSS_ENTROPY, logits, targets, loss, dx, totals, *further, norm=norm)

    def sigmoid_cross_entropy(
        self, logits: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        return self._loss(kernels.SIGMOID_CROSS_ENTROPY, logits, targets, loss, dx, totals)

    def mean_squared_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        return self._loss(kernels.MEAN_SQUARED_ERROR, outputs, targets, loss, dx, totals)

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
        loss, partials = self._result(loss, (), outputs.dtype), self._sums_of_blocks(N)
        arrays = self._contiguous(outputs), self._contiguous(targets), dx, partials
        self._launch(record, (len(partials),), *arrays, np.int32(N), np.int32(K), *further)
        scalars = np.int32(N), np.int32(len(partials))
        self._launch(kernels.REPORT, (1,), partials, norm, loss, totals, *scalars, dtype=loss.dtype)
        return loss

    def _sums_of_blocks(self, N: int) -> Array:
        """Return where the blocks that share N rows leave their sums; by N alone, so that every device adds alike."""
        check_indices(N, f"a batch of {N}", "use a smaller one")
        return self.scratch("losses", (min(-(-N // kernels.WARPS), MAX_PARTIALS), 3), np.float64)
