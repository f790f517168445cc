"""Activations (paper, table 1): element by element, but for softmax."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.memory import Parameter
from gpucnn.checks import number
from gpucnn.errors import InputError
from gpucnn.execution.lifetimes import Spec
from gpucnn.layers.base import Array, Layer, Shape

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Arctan",
    "BinaryStep",
    "HardSigmoid",
    "Identity",
    "LeakyReLU",
    "LogSoftmax",
    "PReLU",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Swish",
    "Tanh",
]


class Activation(Layer):
    """An operation of the backend and its derivative, for samples of any shape."""

    operation: str
    keeps = ("y",)  # what the derivative is a function of beside dy: the output, or the input
    in_place = ("y", "dx")

    def infer_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def _settings(self) -> tuple:
        """Further arguments of the operation and of its derivative."""
        return ()

    def _forward(self, x: Array, train: bool) -> Array:
        self.x, self.y = x, self.buffer("y", x.shape)
        return getattr(self.backend, self.operation)(x, *self._settings(), out=self.y)

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        derivative = getattr(self.backend, f"{self.operation}_dx")
        known = self.y if "y" in self.keeps else self.x
        return derivative(dy, known, *self._settings(), out=self.buffer("dx", dy.shape))


class ReLU(Activation):
    """`max(x, 0)`; its derivative is 1 where x > 0, else 0."""

    operation = "relu"


class Sigmoid(Activation):
    """`1/(1 + e^-x)`; its derivative is `y (1 - y)`."""

    operation = "sigmoid"


class Tanh(Activation):
    """`tanh(x)`; its derivative is `1 - y^2`."""

    operation = "tanh"


class Softmax(Activation):
    """`e^x_k / sum_j e^x_j` over the last axis.

    For training leave it out and use `SoftmaxCrossEntropy`, which takes logits and contains it.
    """

    operation = "softmax"
    in_place = ()


class LeakyReLU(Activation):
    """`x` where x > 0, else `slope x`; its derivative is 1 or `slope`."""

    operation = "leaky_relu"
    keeps = ("x",)

    def __init__(self, slope: float = 0.01, *, name: str | None = None):
        super().__init__(name)
        self.slope = number(slope, f"{self.label}: slope")

    def _settings(self) -> tuple:
        return (self.slope,)


class PReLU(Activation):
    """Parametric ReLU: `x` where x > 0, else `slope x` with a trained slope for each channel, 0.25 at first.

    Source: He et al., ICCV 2015.
    """

    operation = "leaky_relu"
    keeps = ("x",)

    def __init__(self, *, name: str | None = None):
        super().__init__(name)
        self.slope: Parameter | None = None

    def infer_shape(self, input_shape: Shape) -> Shape:
        self.slope = Parameter("slope", (self._channels(input_shape),), lambda rng, shape: np.full(shape, 0.25))
        return super().infer_shape(input_shape)

    def parameters(self) -> list[Parameter]:
        return [] if self.slope is None else [self.slope]

    def _settings(self) -> tuple:
        return (self.slope.value,)

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        self.backend.prelu_dslope(dy, self.x, dslope=self.slope.gradient)
        return super()._backward(dy, need_dx)


class ELU(Activation):
    """`x` where x > 0, else `alpha (e^x - 1)`; its derivative is 1 or `y + alpha`."""

    operation = "elu"
    keeps = ("y",)

    def __init__(self, alpha: float = 1.0, *, name: str | None = None):
        super().__init__(name)
        self.alpha = number(alpha, f"{self.label}: alpha")

    def _settings(self) -> tuple:
        return (self.alpha,)


class Softplus(Activation):
    """`log(1 + e^x)`; its derivative is the sigmoid of x."""

    operation = "softplus"
    keeps = ("x",)


class Arctan(Activation):
    """`tan^-1(x)`; its derivative is `1/(1 + x^2)`."""

    operation = "arctan"
    keeps = ("x",)


class BinaryStep(Activation):
    """1 where x >= 0, else 0. Its derivative is 0: no layer in front of it learns anything."""

    operation = "binary_step"
    keeps = ("x",)


class SELU(Activation):
    """ELU scaled so that activations keep mean 0 and variance 1. Source: Klambauer et al., NeurIPS 2017."""

    operation = "selu"


class Swish(Activation):
    """`x s(x)`, s the sigmoid (also called SiLU); its derivative is `s(x) (1 + x (1 - s(x)))`."""

    operation = "swish"
    keeps = ("x",)


class GELU(Activation):
    """`x Phi(x)`, Phi the normal distribution; its derivative is `Phi(x) + x phi(x)`, phi the density.

    With `approximate` it is `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as in GPT-2: off by at most 5e-4.
    Source: Hendrycks and Gimpel, arXiv 1606.08415.
    """

    operation = "gelu"
    keeps = ("x",)

    def __init__(self, approximate: bool = False, *, name: str | None = None):
        super().__init__(name)
        if approximate not in (True, False):
            raise InputError(f"{self.label}: approximate must be True or False, received {approximate!r}")
        self.approximate = bool(approximate)

    def _settings(self) -> tuple:
        return (self.approximate,)


class HardSigmoid(Activation):
    """`slope x + offset`, held between 0 and 1. By default with PyTorch's slope of 1/6 (ONNX' default is 0.2)."""

    operation = "hard_sigmoid"
    keeps = ("y",)

    def __init__(self, slope: float = 1 / 6, offset: float = 0.5, *, name: str | None = None):
        super().__init__(name)
        self.slope = number(slope, f"{self.label}: slope")
        self.offset = number(offset, f"{self.label}: offset")

    def _settings(self) -> tuple:
        return self.slope, self.offset


class LogSoftmax(Activation):
    """`x_k - log sum_j e^x_j` over the last axis: the logarithm of `Softmax`."""

    operation = "log_softmax"


class Identity(Layer):
    """`x` itself, and dy itself: a place that an activation may take."""

    keeps = ()

    def forward_buffers(self, train: bool) -> dict[str, Spec]:
        return {}

    def backward_buffers(self, need_dx: bool) -> dict[str, Spec]:
        return {}

    def infer_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def _forward(self, x: Array, train: bool) -> Array:
        return x

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        return dy if need_dx else None
