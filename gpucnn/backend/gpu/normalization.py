"""Batch normalization in three launches each way: sums over some rows, sums of those, and the elements."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.records import Elementwise, kernel
from gpucnn.backend.gpu.sums import ADD_PARTIALS, EACH, reduce_rows
from gpucnn.errors import InputError

__all__ = ["batch_norm", "batch_norm_dx", "batch_norm_inference", "fold_batch_norm"]

PARTIAL_MOMENTS = kernel("partial_moments", "reductions.cuh", "normalization.cu")
BATCH_NORM_MOMENTS = kernel("batch_norm_moments", "reductions.cuh", "normalization.cu", EACH=EACH)
BATCH_NORM = Elementwise(
    "batch_norm", "T x, T mean, T rstd, T gamma, T beta", "T y", "y = (x - mean) * (gamma * rstd) + beta"
)


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
    mean_rstd = self.result(mean_rstd, running.shape, x.dtype)
    partials, M, rows = reduce_rows(self, PARTIAL_MOMENTS, 2, x)
    _, C, blocks = partials.shape
    scalars = *map(x.dtype.type, (momentum, eps)), M, rows, np.int32(blocks)
    self.launch(BATCH_NORM_MOMENTS, (C,), partials, mean_rstd, running, *scalars)
    return self.map_elementwise(BATCH_NORM, x, mean_rstd[0], mean_rstd[1], gamma, beta, out=out), mean_rstd


BATCH_NORM_INFERENCE = Elementwise(
    "batch_norm_inference",
    "T x, T mean, T variance, T gamma, T beta, T eps",
    "T y",
    "y = (x - mean) * (gamma / sqrt(variance + eps)) + beta",
)


def batch_norm_inference(
    self, x: Array, gamma: Array, beta: Array, running: Array, eps: float, *, out: Array = None
) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(BATCH_NORM_INFERENCE, x, running[0], running[1], gamma, beta, eps, out=out)


PARTIAL_GRADIENTS = kernel("partial_gradients", "reductions.cuh", "normalization.cu")
BATCH_NORM_DX = Elementwise(
    "batch_norm_dx",
    "T dy, T x, T mean, T rstd, T gamma, T dgamma, T dbeta, int32 M",
    "T dx",
    "dx = gamma * rstd * (dy - (dbeta + (x - mean) * rstd * dgamma) / M)",
)


def batch_norm_dx(
    self, dy: Array, x: Array, gamma: Array, mean_rstd: Array, *, dgamma: Array, dbeta: Array, out: Array = None
) -> Array:
    """As the reference, with the sums of blocks of rows."""
    partials, M, _ = reduce_rows(self, PARTIAL_GRADIENTS, 2, dy, x, mean_rstd)
    _, C, blocks = partials.shape
    self.launch(ADD_PARTIALS, (C, 2), partials, dgamma, dbeta, np.int32(blocks))
    arrays = dy, x, mean_rstd[0], mean_rstd[1], gamma, dgamma, dbeta
    return self.map_elementwise(BATCH_NORM_DX, *arrays, M, out=out)


FOLDED_KERNELS = Elementwise(
    "folded_kernels", "T w, T variance, T gamma, T eps", "T folded", "folded = w * (gamma / sqrt(variance + eps))"
)
FOLDED_BIAS = Elementwise(
    "folded_bias",
    "T b, T mean, T variance, T gamma, T beta, T eps",
    "T folded",
    "folded = (b - mean) * (gamma / sqrt(variance + eps)) + beta",
)


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
    self.map_elementwise(FOLDED_KERNELS, w, variance, gamma, eps, out=folded_w)
    self.run_elementwise(FOLDED_BIAS, 0.0 if b is None else b, mean, variance, gamma, beta, eps, folded_b)
