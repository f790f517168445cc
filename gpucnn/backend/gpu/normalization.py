"""Batch normalization in three launches each way: sums over some rows, sums of those, and the elements."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import normalization as kernels
from gpucnn.backend.kernels import sums
from gpucnn.errors import InputError

__all__ = ["GpuNormalization"]


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
        mean_rstd: Array = None,
    ) -> tuple[Array, Array]:
        """As the reference, with the moments of blocks of rows, from which those of all rows follow."""
        if x.size == 0:
            raise InputError(f"batch_norm: no samples have no mean, received {x.shape}; leave out empty batches")
        mean_rstd = self._result(mean_rstd, running.shape, x.dtype)
        partials, M, rows = self._partials(kernels.PARTIAL_MOMENTS, 2, x)
        _, C, blocks = partials.shape
        scalars = *map(x.dtype.type, (momentum, eps)), M, rows, np.int32(blocks)
        self._launch(kernels.BATCH_NORM_MOMENTS, (C,), partials, mean_rstd, running, *scalars)
        return self._map(kernels.BATCH_NORM, x, mean_rstd[0], mean_rstd[1], gamma, beta, out=out), mean_rstd

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, running: Array, eps: float, *, out: Array = None
    ) -> Array:
        """As the reference, in one kernel."""
        return self._map(kernels.BATCH_NORM_INFERENCE, x, running[0], running[1], gamma, beta, eps, out=out)

    def batch_norm_dx(
        self, dy: Array, x: Array, gamma: Array, mean_rstd: Array, *, dgamma: Array, dbeta: Array, out: Array = None
    ) -> Array:
        """As the reference, with the sums of blocks of rows."""
        partials, M, _ = self._partials(kernels.PARTIAL_GRADIENTS, 2, dy, x, mean_rstd)
        _, C, blocks = partials.shape
        self._launch(sums.ADD_PARTIALS, (C, 2), partials, dgamma, dbeta, np.int32(blocks))
        arrays = dy, x, mean_rstd[0], mean_rstd[1], gamma, dgamma, dbeta
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
