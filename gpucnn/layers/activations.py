"""Activations (paper, table 1): element by element, but for softmax."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from gpucnn.backend.memory import Parameter
from gpucnn.checks import flag, number
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

    from_operations = per_sample = True
    operation: ClassVar[str]
    derivative_of: ClassVar[str] = "y"  # what the derivative is a function of beside dy: the output y, or the input x

    def infer_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def _settings(self) -> tuple:
        """Further arguments of the operation and of its derivative."""
        return ()

    def forward(self, x: Array, *, train: bool) -> Array:
        self.x, self.y = x, self.buffer("y", tuple(x.shape))
        return getattr(self.backend, self.operation)(x, *self._settings(), out=self.y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        derivative = getattr(self.backend, f"{self.operation}_dx")
        known = getattr(self, self.derivative_of)
        return derivative(dy, known, *self._settings(), out=self.buffer("dx", tuple(dy.shape)))


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


class LeakyReLU(Activation):
    """`x` where x > 0, else `slope x`; its derivative is 1 or `slope`."""

    operation = "leaky_relu"
    derivative_of = "x"
    changeable: ClassVar = {"slope": number}

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
    derivative_of = "x"

    def __init__(self, *, name: str | None = None):
        super().__init__(name)
        self.slope: Parameter | None = None

    def infer_shape(self, input_shape: Shape) -> Shape:
        self.slope = Parameter("slope", (self._channels(input_shape),), lambda rng, shape: np.full(shape, 0.25))
        return super().infer_shape(input_shape)

    def _settings(self) -> tuple:
        return (self.slope.value,)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        self.backend.prelu_dslope(dy, self.x, dslope=self.slope.gradient)
        return super().backward(dy, need_dx=need_dx)


class ELU(Activation):
    """`x` where x > 0, else `alpha (e^x - 1)`; its derivative is 1 or `y + alpha`."""

    operation = "elu"
    changeable: ClassVar = {"alpha": number}

    def __init__(self, alpha: float = 1.0, *, name: str | None = None):
        super().__init__(name)
        self.alpha = number(alpha, f"{self.label}: alpha")

    def _settings(self) -> tuple:
        return (self.alpha,)


class Softplus(Activation):
    """`log(1 + e^x)`; its derivative is the sigmoid of x."""

    operation = "softplus"
    derivative_of = "x"


class Arctan(Activation):
    """`tan^-1(x)`; its derivative is `1/(1 + x^2)`."""

    operation = "arctan"
    derivative_of = "x"


class BinaryStep(Activation):
    """1 where x >= 0, else 0. Its derivative is 0: no layer in front of it learns anything."""

    operation = "binary_step"
    derivative_of = "x"


class SELU(Activation):
    """ELU scaled so that activations keep mean 0 and variance 1. Source: Klambauer et al., NeurIPS 2017."""

    operation = "selu"


class Swish(Activation):
    """`x s(x)`, s the sigmoid (also called SiLU); its derivative is `s(x) (1 + x (1 - s(x)))`."""

    operation = "swish"
    derivative_of = "x"


class GELU(Activation):
    """`x Phi(x)`, Phi the normal distribution; its derivative is `Phi(x) + x phi(x)`, phi the density.

    With `approximate` it is `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as in GPT-2: off by at most 5e-4.
    Source: Hendrycks and Gimpel, arXiv 1606.08415.
    """

    operation = "gelu"
    derivative_of = "x"
    changeable: ClassVar = {"approximate": flag}

    def __init__(self, approximate: bool = False, *, name: str | None = None):
        super().__init__(name)
        self.approximate = flag(approximate, f"{self.label}: approximate")

    def _settings(self) -> tuple:
        return (self.approximate,)


class HardSigmoid(Activation):
    """`slope x + offset`, held between 0 and 1. By default with PyTorch's slope of 1/6 (ONNX' default is 0.2)."""

    operation = "hard_sigmoid"
    changeable: ClassVar = {"slope": number, "offset": number}

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

    from_operations = per_sample = True

    def infer_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, x: Array, *, train: bool) -> Array:
        return x

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        return dy if need_dx else None
