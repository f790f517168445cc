"""Batch normalization in three launches each way: sums over some rows, sums of those, and the elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import Block
from gpucnn.backend.kernels import normalization as kernels

__all__ = ["GpuNormalization"]

ELEMENTS = 1 << 12  # that a block of threads reduces; by the shape alone, so that sums are the same on every device


class GpuNormalization(GpuArrays):
    """Part of `GpuBackend`."""

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
        moments: Array = None,
    ) -> tuple[Array, Array]:
        """As the reference, with the moments of blocks of rows, from which those of all rows follow."""
        moments = self._result(moments, running.shape, x.dtype)
        partials, M, rows = self._partials(kernels.PARTIAL_MOMENTS, x)
        scalars = *map(x.dtype.type, (momentum, eps)), M, rows, np.int32(partials.shape[2])
        self._channels(kernels.BATCH_NORM_MOMENTS, partials, moments, running, *scalars)
        return self._map(kernels.BATCH_NORM, x, moments[0], moments[1], gamma, beta, out=out), moments

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, running: Array, eps: float, *, out: Array = None
    ) -> Array:
        """As the reference, in one kernel."""
        return self._map(kernels.BATCH_NORM_INFERENCE, x, running[0], running[1], gamma, beta, eps, out=out)

    def batch_norm_dx(
        self, dy: Array, x: Array, gamma: Array, moments: Array, *, dgamma: Array, dbeta: Array, out: Array = None
    ) -> Array:
        """As the reference, with the sums of blocks of rows."""
        partials, M, _ = self._partials(kernels.PARTIAL_GRADIENTS, dy, x, moments)
        self._channels(kernels.BATCH_NORM_GRADIENTS, partials, dgamma, dbeta, np.int32(partials.shape[2]))
        arrays = dy, x, moments[0], moments[1], gamma, dgamma, dbeta
        return self._map(kernels.BATCH_NORM_DX, *arrays, M, out=out)

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
        """As the reference, in two kernels."""
        mean, variance = running[0], running[1]
        self._map(kernels.FOLDED_KERNELS, w, variance, gamma, eps, out=folded_w)
        self._run(kernels.FOLDED_BIAS, 0.0 if b is None else b, mean, variance, gamma, beta, eps, folded_b)

    def _partials(self, record: Block, *arrays: Array) -> tuple[Array, np.int32, np.int32]:
        """Reduce blocks of rows of (..., C); return the results, (2, C, blocks), M, and the rows of a block."""
        first, C = arrays[0], arrays[0].shape[-1]
        M, rows = first.size // C, max(1, ELEMENTS // min(C, kernels.CHANNELS))
        grid = -(-M // rows), -(-C // kernels.CHANNELS)
        partials = self.scratch("partials", (2, C, grid[0]), first.dtype)
        M, C, rows = map(np.int32, (M, C, rows))
        self._launch(record, grid, *map(self._contiguous, arrays), partials, M, C, rows)
        return partials, M, rows

    def _channels(self, record: Block, partials: Array, *arguments: Any) -> None:
        """Reduce the partial results of each channel."""
        self._launch(record, (partials.shape[1],), partials, *arguments)
