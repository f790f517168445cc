"""Losses: the mean over a batch, and its gradient, in one operation of the backend (paper, sections 2.5 and 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import Backend, backend_of
from gpucnn.errors import DeviceError, InputError, describe, lookup
from gpucnn.memory import Workspace

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogError",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "get_loss",
]

Array = Any


class Loss:
    """A function of a network's outputs (N, K) and their targets.

    Targets are integer class labels (N,), or an array (N, K)::

        loss = SoftmaxCrossEntropy()
        value = loss.forward(logits, labels)    # mean over the batch, shape (), on the device
        dlogits = loss.backward()               # its gradient in the logits
    """

    operation: str

    def __init__(self):
        self.backend: Backend | None = None
        self._dx: Array | None = None

    def build(self, backend: Backend) -> None:
        """Take the backend to compute on; without this, that of the first outputs."""
        self.backend = backend
        self.workspace = Workspace(backend)

    def forward(self, outputs: Array, targets: Array, *, train: bool = True, totals: Array = None) -> Array:
        """Return the mean loss of a batch, as an array of shape () on the device that the next call overwrites.

        With `train` the gradient is computed alongside. `totals`, float64 (4,), grows by the batch's sum of losses,
        its hits, its samples, and its samples if the sum is still finite.
        """
        if self.backend is None:
            self.build(backend_of(outputs, type(self).__name__))
        self._check(outputs, targets)
        loss = self.workspace.take("loss", (), outputs.dtype)
        self._dx = self.workspace.take("dx", tuple(outputs.shape), outputs.dtype) if train else None
        compute = getattr(self.backend, self.operation)
        return compute(outputs, self._prepare(targets, outputs), loss=loss, dx=self._dx, totals=totals)

    def backward(self) -> Array:
        """Return the gradient of the last `forward` in its outputs."""
        if self._dx is None:
            raise InputError(f"{type(self).__name__}: backward needs a forward with train=True before it")
        return self._dx

    def _check(self, outputs: Array, targets: Array) -> None:
        name = type(self).__name__
        if not (self.backend.owns(outputs) and self.backend.owns(targets)):
            raise DeviceError(
                f"{name}: computes on {self.backend.name}, but received a {describe(outputs)} and a "
                f"{describe(targets)}; move both there with backend.from_host"
            )
        if outputs.ndim != 2 or targets.shape not in (outputs.shape, outputs.shape[:1]):
            raise InputError(
                f"{name}: expected outputs (N, K) and targets (N,) or (N, K), received "
                f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        if targets.ndim == 2 and targets.dtype != outputs.dtype:
            raise InputError(f"{name}: expected targets of dtype {outputs.dtype}, received {targets.dtype}; use astype")
        if targets.ndim == 1:
            self._check_labels(targets, outputs.shape[1])

    def _check_labels(self, labels: Array, K: int) -> None:
        name = type(self).__name__
        if "int" not in str(labels.dtype):
            raise InputError(f"{name}: expected integer class labels, received {labels.dtype}; convert with astype")
        if isinstance(labels, np.ndarray) and labels.size and not 0 <= labels.min() <= labels.max() < K:
            raise InputError(
                f"{name}: labels must be 0 to {K - 1} for {K} outputs, received {labels.min()} to {labels.max()}; for "
                f"targets of another kind pass an array (N, {K})"
            )

    def _prepare(self, targets: Array, outputs: Array) -> Array:
        """Turn class labels into rows with 1 at the label and 0 elsewhere."""
        if targets.ndim == 2:
            return targets
        rows = self.workspace.take("targets", tuple(outputs.shape), outputs.dtype)
        return self.backend.one_hot(self._int32(targets), out=rows)

    def _int32(self, labels: Array) -> Array:
        """Labels as the data sets have them; those of another integer type are converted, which allocates."""
        int32 = self.backend.xp.int32
        return labels if labels.dtype == int32 else self.backend.cast(labels, int32)


class SoftmaxCrossEntropy(Loss):
    """`L = -1/N sum_n log softmax(z_n)[label_n]` from logits z; gradient `(softmax(z) - onehot)/N` (paper, 2.14)."""

    operation = "softmax_cross_entropy"

    def _prepare(self, targets: Array, outputs: Array) -> Array:
        if targets.ndim != 1:
            raise InputError("SoftmaxCrossEntropy: expected integer class labels (N,), received targets (N, K)")
        return self._int32(targets)


class SigmoidCrossEntropy(Loss):
    """`L = -1/N sum_n sum_k [t log s(z) + (1 - t) log(1 - s(z))]` from logits z, s the sigmoid (paper, Eqn 2.14).

    Summed over the K outputs and averaged over the batch, so that the gradient is the paper's `(s(z) - t)` over N.
    """

    operation = "sigmoid_cross_entropy"


class MeanSquaredError(Loss):
    """`L = 1/(N K) sum (y - t)^2`, averaged over batch and outputs; gradient `2 (y - t)/(N K)` (paper, section 2.5)."""

    operation = "mean_squared_error"


class SquaredError(Loss):
    """`L = 1/N sum (y - t)^2`: summed over the outputs, averaged over the batch (paper, section 2.5, L2)."""

    operation = "squared_error"


class MeanSquaredLogError(Loss):
    """`L = 1/(N K) sum (log(y + 1) - log(t + 1))^2`, for values above -1 (paper, section 2.5, MSLE)."""

    operation = "mean_squared_log_error"


class AbsoluteError(Loss):
    """`L = 1/N sum |y - t|`: summed over the outputs, averaged over the batch (paper, section 2.5, L1)."""

    operation = "absolute_error"


class MeanAbsoluteError(Loss):
    """`L = 1/(N K) sum |y - t|`, averaged over batch and outputs (paper, section 2.5, MAE)."""

    operation = "mean_absolute_error"


class MeanAbsolutePercentageError(Loss):
    """`L = 100/(N K) sum |(t - y)/t|`, for targets that are not 0 (paper, section 2.5, MAPE)."""

    operation = "mean_absolute_percentage_error"

    def _prepare(self, targets: Array, outputs: Array) -> Array:
        if targets.ndim == 1:
            raise InputError(f"{type(self).__name__}: expected targets (N, K) that are not 0, received class labels")
        return targets


LOSSES = {
    loss.operation: loss
    for loss in (
        SoftmaxCrossEntropy,
        SigmoidCrossEntropy,
        MeanSquaredError,
        SquaredError,
        MeanSquaredLogError,
        AbsoluteError,
        MeanAbsoluteError,
        MeanAbsolutePercentageError,
    )
}


def get_loss(name: str) -> Loss:
    """Return a new loss by name."""
    return lookup("loss", name, LOSSES)()
