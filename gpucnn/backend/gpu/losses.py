"""Losses, one launch each."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import Block
from gpucnn.backend.kernels import losses as kernels

__all__ = ["GpuLosses"]


class GpuLosses(GpuArrays):
    """Part of `GpuBackend`."""

    def softmax_cross_entropy(
        self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in one launch; labels that are not int32 are converted, which allocates."""
        labels = labels if labels.dtype == np.int32 else labels.astype(np.int32)
        return self._loss(kernels.SOFTMAX_CROSS_ENTROPY, logits, labels, loss, dx, totals)

    def label_targets(
        self, labels: Array, weights: Array | None, ignored: int, *, out: Array, norm: Array
    ) -> tuple[Array, Array]:
        """As the reference, in one launch."""
        record, (N, K) = kernels.LABEL_TARGETS, map(np.int32, out.shape)
        weights = None if weights is None else self._contiguous(weights)
        arguments = self._contiguous(labels), weights, np.int32(ignored), out, norm, N, K
        self._launch(record, (1,), *arguments, dtype=out.dtype)
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
        """As the reference, in one launch."""
        weights = None if weights is None else self._contiguous(weights)
        further = weights, np.float64(smoothing), norm
        return self._loss(kernels.SOFT_CROSS_ENTROPY, logits, targets, loss, dx, totals, *further)

    def sigmoid_cross_entropy(
        self, logits: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in one launch."""
        return self._loss(kernels.SIGMOID_CROSS_ENTROPY, logits, targets, loss, dx, totals)

    def mean_squared_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in one launch."""
        return self._loss(kernels.MEAN_SQUARED_ERROR, outputs, targets, loss, dx, totals)

    def _loss(
        self, record: Block, outputs: Array, targets: Array, loss: Array, dx: Array, totals: Array, *further: Any
    ) -> Array:
        """Launch a loss kernel; None is a null pointer there."""
        loss = self._result(loss, (), outputs.dtype)
        arrays = self._contiguous(outputs), self._contiguous(targets), loss
        N, K = map(np.int32, outputs.shape)
        self._launch(record, (1,), *arrays, dx, totals, N, K, *further)
        return loss
