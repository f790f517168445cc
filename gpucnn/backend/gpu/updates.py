"""The updates of the optimizers, one kernel over the arena."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import updates as kernels

__all__ = ["GpuUpdates"]


class GpuUpdates(GpuArrays):
    """Part of `GpuBackend`."""

    def sgd_step(self, w: Array, g: Array, v: Array, hyperparameters: Array, *, nesterov: bool = False) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.SGD_STEP, g, hyperparameters, nesterov, w, v)

    def adam_step(
        self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyperparameters: Array, *, decoupled: bool = False
    ) -> None:
        """As the reference: one kernel for the powers, one over the arena."""
        self._run(kernels.ADAM_POWERS, hyperparameters, powers)
        self._run(kernels.ADAM_STEP, g, powers, hyperparameters, decoupled, w, m, v)

    def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyperparameters: Array) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.RMSPROP_STEP, g, hyperparameters, w, v, b)

    def adagrad_step(self, w: Array, g: Array, v: Array, hyperparameters: Array) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.ADAGRAD_STEP, g, hyperparameters, w, v)

    def clip_norm(self, g: Array, limit: Array) -> None:
        """As the reference, in two launches: sums of squares by many blocks, then a scaling that adds those up."""
        threads = kernels.SQUARE_SUMS.threads
        grid = max(1, min(-(-g.size // threads), kernels.MAX_SUMS))  # a model may have no parameters
        sums = self.scratch("square_sums", (grid,), np.float64)
        self._launch(kernels.SQUARE_SUMS, (grid,), g, sums, np.int64(g.size))
        self._launch(kernels.CLIP_NORM, (grid,), sums, limit, g, np.int64(g.size), dtype=g.dtype)

    def apply_scheduled_rate(self, rates: Array, clock: Array, hyperparameters: Array) -> None:
        """As the reference, in one tiny kernel."""
        self._run(kernels.APPLY_SCHEDULED_RATE, rates, len(rates) - 1, hyperparameters[:1], clock)

    def average_step(self, w: Array, mean: Array, total_weight: Array, hyperparameters: Array) -> None:
        """As the reference: one kernel for the total_weight, one over the arena."""
        self._run(kernels.AVERAGE_WORTH, hyperparameters, total_weight)
        self._run(kernels.AVERAGE_STEP, w, total_weight, mean)
