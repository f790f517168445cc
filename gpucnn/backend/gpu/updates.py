"""The updates of the optimizers, one kernel over the arena."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import updates as kernels

__all__ = ["GpuUpdates"]


class GpuUpdates(GpuArrays):
    """Part of `GpuBackend`."""

    def sgd_step(self, w: Array, g: Array, v: Array, hyper: Array, *, nesterov: bool = False) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.SGD_STEP, g, hyper, nesterov, w, v)

    def adam_step(
        self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyper: Array, *, decoupled: bool = False
    ) -> None:
        """As the reference: one kernel for the powers, one over the arena."""
        self._run(kernels.ADAM_POWERS, hyper, powers)
        self._run(kernels.ADAM_STEP, g, powers, hyper, decoupled, w, m, v)

    def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyper: Array) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.RMSPROP_STEP, g, hyper, w, v, b)

    def adagrad_step(self, w: Array, g: Array, v: Array, hyper: Array) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.ADAGRAD_STEP, g, hyper, w, v)
