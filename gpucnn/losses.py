"""Losses: the mean over a batch and its gradient, in one operation of the backend (paper, sections 2.5 and 3.2).

A loss takes outputs (N, K) of float32 or float64, K for each of N samples, and targets: class labels (N,) of an integer
type, or an array (N, K) of the outputs' type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend import Backend, backend_of
from gpucnn.backend.memory import Workspace
from gpucnn.checks import number
from gpucnn.errors import DeviceError, InputError, describe, lookup
from gpucnn.representation import representation

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "BinaryCrossEntropy",
    "Hinge",
    "Huber",
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
    """A function of a network's outputs (N, K) and their targets, class labels (N,) or an array (N, K).

    >>> loss = SoftmaxCrossEntropy()
    >>> logits, labels = np.zeros((2, 10)), np.array([3, 7])
    >>> value = loss.forward(logits, labels)  # the mean over the batch, shape (), on the device
    >>> f"{value:.4f}"
    '2.3026'
    >>> dlogits = loss.backward()  # its gradient in the logits
    >>> dlogits.shape
    (2, 10)

    With `reduction="sum"` the value and the gradient are N times those of the mean: nothing is divided by N.

    A loss of your own names one of the backend's operations, or replaces `_compute`.
    """

    operation: str
    settings: tuple[float, ...] = ()  # what the operation takes beside outputs and targets
    ignored_label: int | None = None  # of samples that have no target
    label_hint = ""  # what else the error for wrong labels says
    backend: Backend  # since `build`
    workspace: Workspace

    def __init__(self, *, reduction: str = "mean"):
        if reduction not in ("mean", "sum"):
            raise InputError(f'{type(self).__name__}: reduction must be "mean" or "sum", received {reduction!r}')
        self.reduction = reduction
        self._is_built = False
        self._dx: Array | None = None

    def __repr__(self) -> str:
        return representation(self)

    def build(self, backend: Backend) -> None:
        """Take the backend to compute on; without this call, the loss takes that of the first outputs."""
        self.backend, self.workspace = backend, Workspace(backend)
        self._is_built = True

    def forward(self, outputs: Array, targets: Array, *, train: bool = True, totals: Array = None) -> Array:
        """Return the loss of a batch, as an array of shape () on the device that the next call overwrites.

        With `train` the gradient is computed alongside. `totals`, float64 (4,), grows by the batch's sum of losses,
        its hits, its samples that have a target, and all its samples if the sum is still finite; the first divided by
        the third is a mean loss, whatever the reduction and the sizes of the batches.

        Raises
        ------
        InputError
            For shapes, dtypes or labels that do not suit; labels are looked at on a CPU only.
        DeviceError
            Where the outputs or the targets are not on the loss's device.
        """
        if not self._is_built:
            self.build(backend_of(outputs, type(self).__name__))
        self._check(outputs, targets)
        with self.backend.limit_blas_threads():
            loss = self.workspace.take("loss", (), outputs.dtype)
            self._dx = self.workspace.take("dx", tuple(outputs.shape), outputs.dtype) if train else None
            return self._compute(outputs, targets, loss=loss, dx=self._dx, totals=totals)

    def backward(self) -> Array:
        """Return the gradient of the last `forward` in its outputs, (N, K), which the next `forward` overwrites.

        Raises `InputError` unless a forward pass with `train=True` came before.
        """
        if self._dx is None:
            raise InputError(f"{type(self).__name__}: backward needs a forward with train=True before it")
        return self._dx

    def _compute(self, outputs: Array, targets: Array, *, loss: Array, dx: Array | None, totals: Array | None) -> Array:
        """Run the operation, which makes means, and make sums of them where those are wanted."""
        operation = getattr(self.backend, self.operation)
        operation(outputs, self._prepare(targets, outputs), *self.settings, loss=loss, dx=dx, totals=totals)
        if self.reduction == "sum":
            loss *= outputs.shape[0]
            if dx is not None:
                dx *= outputs.shape[0]
        return loss

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
        if outputs.shape[0] == 0:
            raise InputError(f"{name}: received an empty batch; give at least one sample")
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
                f"targets of another kind pass an array (N, {K}){self.label_hint}"
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
    """`L = -1/N sum_n log softmax(z_n)[label_n]` from logits z; gradient `(softmax(z) - onehot)/N` (paper, 2.14).

    Targets t (N, K), in each row a distribution, make it `L = -1/N sum_n sum_k t[n,k] log softmax(z_n)[k]`; a row of
    zeros is a sample without a target.

    Parameters
    ----------
    class_weights : K numbers w of at least 0, the factors of the K terms of each sample
    ignored_label : an integer, also one of no class; samples with this label have no loss, no gradient and no hit
    label_smoothing : s, which makes `(1 - s) t + s/K` of the targets t; t of a label is 1 there and 0 elsewhere
    reduction : "mean" divides targets (N, K) by N, and labels by the sum of `w[label]`, 1 each without weights, over
        the samples that are not ignored; "sum" divides by nothing

    So does PyTorch, but where that sum is 0 it returns NaN. Here 1 takes its place: a batch of ignored labels alone
    has loss and gradient 0. The totals are sums over samples, of losses with their weights: the mean over an epoch is
    that of `w[label] loss` per sample that has a target, and does not depend on how the samples were batched.

    >>> loss = SoftmaxCrossEntropy(class_weights=[1, 1, 2], ignored_label=-1, label_smoothing=0.1)
    >>> value = loss.forward(np.zeros((3, 3)), np.array([0, 2, -1]))  # the last sample has no target
    >>> bool(loss.backward()[2].any())
    False
    """

    operation = "softmax_cross_entropy"
    label_hint = ", and for samples without a target set ignored_label"

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | np.ndarray | None = None,
        ignored_label: int | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ):
        super().__init__(reduction=reduction)
        self.class_weights = None if class_weights is None else _class_weights(class_weights)
        self.ignored_label = None if ignored_label is None else _label(ignored_label)
        self.label_smoothing = number(label_smoothing, "SoftmaxCrossEntropy: label_smoothing", below=1.0)
        self._weights: Array | None = None  # on the device

    def build(self, backend: Backend) -> None:
        super().build(backend)
        self._load_weights(backend.precision)

    def _load_weights(self, precision: Any) -> None:
        if self.class_weights is not None:
            self._weights = self.backend.from_host(np.array(self.class_weights, precision))

    def _compute(self, outputs: Array, targets: Array, **results: Array | None) -> Array:
        """Take the short way for plain labels, and otherwise make targets (N, K) of what there is."""
        plain = self.class_weights is None and self.ignored_label is None and not self.label_smoothing
        if plain and targets.ndim == 1:
            return super()._compute(outputs, targets, **results)
        if self._weights is not None and self._weights.dtype != outputs.dtype:
            self._load_weights(str(outputs.dtype))
        norm = self.workspace.take("norm", (), outputs.dtype)
        targets = self._soften(targets, outputs, norm)
        if self.reduction == "sum":
            norm[...] = 1
        return self.backend.soft_cross_entropy(outputs, targets, self._weights, self.label_smoothing, norm, **results)

    def _soften(self, targets: Array, outputs: Array, norm: Array) -> Array:
        """Return targets (N, K), and set `norm` to what divides their mean."""
        if targets.ndim == 2:
            norm[...] = outputs.shape[0]
            return targets
        rows = self.workspace.take("targets", tuple(outputs.shape), outputs.dtype)
        ignored = -1 if self.ignored_label is None else self.ignored_label
        self.backend.label_targets(self._int32(targets), self._weights, ignored, out=rows, norm=norm)
        return rows

    def _check(self, outputs: Array, targets: Array) -> None:
        super()._check(outputs, targets)
        if self.class_weights is not None and len(self.class_weights) != outputs.shape[1]:
            raise InputError(
                f"SoftmaxCrossEntropy: expected a class weight for each of {outputs.shape[1]} outputs, received "
                f"{len(self.class_weights)}"
            )

    def _check_labels(self, labels: Array, K: int) -> None:
        if self.ignored_label is not None and isinstance(labels, np.ndarray):
            labels = labels[labels != self.ignored_label]
        super()._check_labels(labels, K)

    def _prepare(self, targets: Array, outputs: Array) -> Array:
        return self._int32(targets)


def _class_weights(weights: object) -> tuple[float, ...]:
    if not isinstance(weights, (Sequence, np.ndarray)) or isinstance(weights, str):
        raise InputError(f"SoftmaxCrossEntropy: class_weights must be a sequence of numbers, received {weights!r}")
    return tuple(number(weight, "SoftmaxCrossEntropy: each of class_weights") for weight in weights)


def _label(label: object) -> int:
    if not isinstance(label, (int, np.integer)) or isinstance(label, bool) or not -(2**31) <= label < 2**31:
        raise InputError(f"SoftmaxCrossEntropy: ignored_label must be an integer of 32 bits, received {label!r}")
    return int(label)


class SigmoidCrossEntropy(Loss):
    """`L = -1/N sum_n sum_k [t log s(z) + (1 - t) log(1 - s(z))]` from logits z, s the sigmoid (paper, Eqn 2.14).

    Summed over the K outputs and averaged over the batch, so that the gradient is the paper's `(s(z) - t)` over N.

    >>> loss = SigmoidCrossEntropy()
    >>> value = loss.forward(np.zeros((1, 2)), np.array([[1.0, 0.0]]))
    >>> loss.backward().tolist()
    [[-0.5, 0.5]]
    """

    operation = "sigmoid_cross_entropy"


class BinaryCrossEntropy(Loss):
    """`L = -1/N sum_n sum_k [t log y + (1 - t) log(1 - y)]` from probabilities y in 0..1 (paper, Eqn 2.14).

    Summed over the K outputs and averaged over the batch, as in `SigmoidCrossEntropy`, which takes logits and is exact
    where a probability rounds to 0 or 1. Here the logarithms are kept at -100 or more, as in PyTorch.

    >>> f"{BinaryCrossEntropy().forward(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])):.4f}"  # 2 log 2
    '1.3863'
    """

    operation = "binary_cross_entropy"


class MeanSquaredError(Loss):
    """`L = 1/(N K) sum (y - t)^2`, averaged over batch and outputs; gradient `2 (y - t)/(N K)` (paper, section 2.5).

    >>> float(MeanSquaredError().forward(np.array([[1.0, 4.0]]), np.array([[1.0, 2.0]])))
    2.0
    """

    operation = "mean_squared_error"


class SquaredError(Loss):
    """`L = 1/N sum (y - t)^2`: summed over the outputs, averaged over the batch (paper, section 2.5, L2).

    >>> float(SquaredError().forward(np.array([[1.0, 4.0]]), np.array([[1.0, 2.0]])))
    4.0
    """

    operation = "squared_error"


class MeanSquaredLogError(Loss):
    """`L = 1/(N K) sum (log(y + 1) - log(t + 1))^2`, for values above -1 (paper, section 2.5, MSLE).

    >>> float(MeanSquaredLogError().forward(np.array([[3.0]]), np.array([[3.0]])))
    0.0
    """

    operation = "mean_squared_log_error"


class AbsoluteError(Loss):
    """`L = 1/N sum |y - t|`: summed over the outputs, averaged over the batch (paper, section 2.5, L1).

    >>> float(AbsoluteError().forward(np.array([[1.0, 4.0]]), np.array([[2.0, 2.0]])))
    3.0
    """

    operation = "absolute_error"


class MeanAbsoluteError(Loss):
    """`L = 1/(N K) sum |y - t|`, averaged over batch and outputs (paper, section 2.5, MAE).

    >>> float(MeanAbsoluteError().forward(np.array([[1.0, 4.0]]), np.array([[2.0, 2.0]])))
    1.5
    """

    operation = "mean_absolute_error"


class Huber(Loss):
    """`L = 1/(N K) sum h(y - t)`, with `h(d) = d^2/2` where |d| <= delta and `delta (|d| - delta/2)` beyond.

    Averaged over batch and outputs, as in PyTorch's `HuberLoss`; no gradient is larger than `delta/(N K)`.

    >>> float(Huber(delta=1.0).forward(np.array([[3.0]]), np.array([[0.0]])))
    2.5
    """

    operation = "huber"

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.delta = number(delta, "Huber: delta")
        if not self.delta:
            raise InputError("Huber: delta must be more than 0; from that difference on the loss is linear")
        self.settings = (self.delta,)


class Hinge(Loss):
    """`L = 1/(N K) sum max(0, 1 - t y)` for targets 1 and -1, averaged over batch and outputs.

    A class label is a 1 at the label and -1 elsewhere: each output tells its class from all others.

    >>> float(Hinge().forward(np.array([[0.5, -2.0]]), np.array([0])))
    0.25
    """

    operation = "hinge"

    def _prepare(self, targets: Array, outputs: Array) -> Array:
        rows = super()._prepare(targets, outputs)
        if targets.ndim == 1:
            rows *= 2
            rows -= 1
        return rows


class MeanAbsolutePercentageError(Loss):
    """`L = 100/(N K) sum |(t - y)/t|`, for targets (N, K) that are not 0 (paper, section 2.5, MAPE).

    >>> float(MeanAbsolutePercentageError().forward(np.array([[3.0]]), np.array([[4.0]])))
    25.0
    """

    operation = "mean_absolute_percentage_error"

    def _prepare(self, targets: Array, outputs: Array) -> Array:
        if targets.ndim == 1:
            raise InputError(f"{type(self).__name__}: expected targets (N, K) that are not 0, received class labels")
        return targets


LOSSES: dict[str, type[Loss]] = {
    loss.operation: loss
    for loss in (
        SoftmaxCrossEntropy,
        SigmoidCrossEntropy,
        BinaryCrossEntropy,
        MeanSquaredError,
        SquaredError,
        MeanSquaredLogError,
        AbsoluteError,
        MeanAbsoluteError,
        MeanAbsolutePercentageError,
        Huber,
        Hinge,
    )
}


def get_loss(name: str) -> Loss:
    """Return a new loss by name, one of `LOSSES`; raise `InputError` for an unknown one.

    >>> get_loss("huber")
    Huber()
    """
    return lookup("loss", name, LOSSES)()
