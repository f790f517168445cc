"""Activations (paper, table 1): element by element, but for softmax."""

from __future__ import annotations

from typing import Any, ClassVar

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
    """What activations share: an operation of the backend and its derivative, (N, ...) -> (N, ...)."""

    from_operations = per_sample = True
    operation: ClassVar[str]
    derivative_of: ClassVar[str] = "y"  # what the derivative is a function of beside dy: the output y, or the input x

    def infer_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def _settings(self) -> tuple[Any, ...]:
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
    """Rectified linear unit: `y = max(x, 0)`.

    The derivative is 1 where x > 0, else 0; (N, ...) -> (N, ...).

    >>> relu = ReLU()
    >>> relu(np.array([[-1.0, 0.0, 2.0]]), train=True)
    array([[0., 0., 2.]])
    >>> relu.backpropagate(np.array([[5.0, 5.0, 5.0]]))
    array([[0., 0., 5.]])
    """

    operation = "relu"


class Sigmoid(Activation):
    """Logistic function: `y = 1/(1 + e^-x)`.

    The derivative is `y (1 - y)`; (N, ...) -> (N, ...).

    >>> sigmoid = Sigmoid()
    >>> sigmoid(np.array([[-100.0, 0.0, 100.0]]), train=True).round(3)
    array([[0. , 0.5, 1. ]])
    >>> sigmoid.backpropagate(np.array([[1.0, 1.0, 1.0]])).round(3)
    array([[0.  , 0.25, 0.  ]])
    """

    operation = "sigmoid"


class Tanh(Activation):
    """Hyperbolic tangent: `y = tanh(x)`.

    The derivative is `1 - y^2`; (N, ...) -> (N, ...).

    >>> tanh = Tanh()
    >>> tanh(np.array([[-100.0, 0.0, 100.0]]), train=True)
    array([[-1.,  0.,  1.]])
    >>> tanh.backpropagate(np.array([[1.0, 1.0, 1.0]]))
    array([[0., 1., 0.]])
    """

    operation = "tanh"


class Softmax(Activation):
    """Probabilities from scores: `y_k = e^x_k / sum_j e^x_j` over the last axis.

    The derivative is `dx_k = y_k (dy_k - sum_j dy_j y_j)`; (N, ..., K) -> (N, ..., K). For training leave it out and
    use `SoftmaxCrossEntropy`, which takes the scores and contains it.

    >>> Softmax()(np.log([[1.0, 2.0, 5.0]])).round(3)
    array([[0.125, 0.25 , 0.625]])
    """

    operation = "softmax"


class LeakyReLU(Activation):
    """ReLU that lets a little through: `y = x` where x > 0, else `slope x`.

    The derivative is 1 or `slope`; (N, ...) -> (N, ...).

    Parameters
    ----------
    slope : a number of at least 0; it may be changed later

    Raises `InputError` for any other slope.

    >>> LeakyReLU(0.25)(np.array([[-2.0, 3.0]]))
    array([[-0.5,  3. ]])
    """

    operation = "leaky_relu"
    derivative_of = "x"
    changeable: ClassVar = {"slope": number}

    def __init__(self, slope: float = 0.01, *, name: str | None = None):
        super().__init__(name)
        self.slope = number(slope, f"{self.label}: slope")

    def _settings(self) -> tuple[Any, ...]:
        return (self.slope,)


class PReLU(Activation):
    """Parametric ReLU, which learns its slopes: `y = x` where x > 0, else `slope_c x` in channel c.

    (N, ..., C) -> (N, ..., C). Source: He et al., ICCV 2015.

    Attributes
    ----------
    slope : Parameter, (C,), at first 0.25

    >>> prelu = PReLU()
    >>> prelu(np.array([[-2.0, 3.0]]), train=True)
    array([[-0.5,  3. ]])
    >>> dx = prelu.backpropagate(np.array([[1.0, 1.0]]))
    >>> prelu.slope.gradient  # of each channel: the sum of dy x, where x <= 0
    array([-2.,  0.])
    """

    operation = "leaky_relu"
    derivative_of = "x"
    slope: Parameter  # since its shape is known

    def __init__(self, *, name: str | None = None):
        super().__init__(name)

    def infer_shape(self, input_shape: Shape) -> Shape:
        self.slope = Parameter("slope", (self._channels(input_shape),), lambda rng, shape: np.full(shape, 0.25))
        return super().infer_shape(input_shape)

    def _settings(self) -> tuple[Any, ...]:
        return (self.slope.value,)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        self.backend.prelu_dslope(dy, self.x, dslope=self.slope.gradient)
        return super().backward(dy, need_dx=need_dx)


class ELU(Activation):
    """Exponential linear unit: `y = x` where x > 0, else `alpha (e^x - 1)`.

    The derivative is 1 or `y + alpha`; (N, ...) -> (N, ...). Source: Clevert et al., ICLR 2016.

    Parameters
    ----------
    alpha : a number of at least 0; it may be changed later

    Raises `InputError` for any other alpha.

    >>> ELU()(np.array([[-np.log(2.0), 3.0]]))
    array([[-0.5,  3. ]])
    """

    operation = "elu"
    changeable: ClassVar = {"alpha": number}

    def __init__(self, alpha: float = 1.0, *, name: str | None = None):
        super().__init__(name)
        self.alpha = number(alpha, f"{self.label}: alpha")

    def _settings(self) -> tuple[Any, ...]:
        return (self.alpha,)


class Softplus(Activation):
    """Smooth ReLU: `y = log(1 + e^x)`.

    The derivative is the sigmoid of x; (N, ...) -> (N, ...).

    >>> Softplus()(np.array([[-100.0, 0.0, 100.0]])).round(4)
    array([[  0.    ,   0.6931, 100.    ]])
    """

    operation = "softplus"
    derivative_of = "x"


class Arctan(Activation):
    """Inverse tangent: `y = tan^-1(x)`.

    The derivative is `1/(1 + x^2)`; (N, ...) -> (N, ...).

    >>> arctan = Arctan()
    >>> arctan(np.array([[0.0, 1.0]]), train=True) / np.pi
    array([[0.  , 0.25]])
    >>> arctan.backpropagate(np.array([[1.0, 1.0]]))
    array([[1. , 0.5]])
    """

    operation = "arctan"
    derivative_of = "x"


class BinaryStep(Activation):
    """Step: `y = 1` where x >= 0, else 0.

    The derivative is 0, so that no layer in front of it learns anything; (N, ...) -> (N, ...).

    >>> BinaryStep()(np.array([[-1.0, 0.0, 2.0]]))
    array([[0., 1., 1.]])
    """

    operation = "binary_step"
    derivative_of = "x"


class SELU(Activation):
    """Scaled ELU: `y = scale x` where x > 0, else `scale alpha (e^x - 1)`, with scale 1.0507 and alpha 1.6733.

    With these numbers activations keep mean 0 and variance 1; (N, ...) -> (N, ...). Draw the weights in front of it by
    `initializer="lecun_normal"`. Source: Klambauer et al., NeurIPS 2017.

    >>> SELU()(np.array([[-100.0, 0.0, 1.0]])).round(4)
    array([[-1.7581,  0.    ,  1.0507]])
    """

    operation = "selu"


class Swish(Activation):
    """Input times its sigmoid, also called SiLU: `y = x s(x)`.

    The derivative is `s(x) (1 + x (1 - s(x)))`; (N, ...) -> (N, ...). Source: Ramachandran et al., arXiv 1710.05941.

    >>> Swish()(np.array([[0.0, 1.0, 100.0]])).round(4)
    array([[  0.    ,   0.7311, 100.    ]])
    """

    operation = "swish"
    derivative_of = "x"


class GELU(Activation):
    """Gaussian error linear unit: `y = x Phi(x)`, Phi the normal distribution.

    The derivative is `Phi(x) + x phi(x)`, phi the density; (N, ...) -> (N, ...). Source: Hendrycks and Gimpel,
    arXiv 1606.08415.

    Parameters
    ----------
    approximate : whether to take `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as GPT-2 does: off by at most 5e-4;
        it may be changed later

    Raises `InputError` unless `approximate` is True or False.

    >>> x = np.array([[-1.0, 0.0, 1.0]])
    >>> GELU()(x).round(5), GELU(approximate=True)(x).round(5)
    (array([[-0.15866,  0.     ,  0.84134]]), array([[-0.15881,  0.     ,  0.84119]]))
    """

    operation = "gelu"
    derivative_of = "x"
    changeable: ClassVar = {"approximate": flag}

    def __init__(self, approximate: bool = False, *, name: str | None = None):
        super().__init__(name)
        self.approximate = flag(approximate, f"{self.label}: approximate")

    def _settings(self) -> tuple[Any, ...]:
        return (self.approximate,)


class HardSigmoid(Activation):
    """Sigmoid of straight lines: `y = slope x + offset`, held between 0 and 1.

    The derivative is `slope` between the ends, else 0; (N, ...) -> (N, ...).

    Parameters
    ----------
    slope, offset : numbers of at least 0, 1/6 and 1/2 unless given, as in PyTorch (ONNX's slope is 0.2); they may be
        changed later

    Raises `InputError` for any other slope or offset.

    >>> HardSigmoid(slope=0.25)(np.array([[-3.0, 0.0, 1.0, 3.0]]))
    array([[0.  , 0.5 , 0.75, 1.  ]])
    """

    operation = "hard_sigmoid"
    changeable: ClassVar = {"slope": number, "offset": number}

    def __init__(self, slope: float = 1 / 6, offset: float = 0.5, *, name: str | None = None):
        super().__init__(name)
        self.slope = number(slope, f"{self.label}: slope")
        self.offset = number(offset, f"{self.label}: offset")

    def _settings(self) -> tuple[Any, ...]:
        return self.slope, self.offset


class LogSoftmax(Activation):
    """Logarithm of `Softmax`: `y_k = x_k - log sum_j e^x_j` over the last axis.

    The derivative is `dx_k = dy_k - e^y_k sum_j dy_j`; (N, ..., K) -> (N, ..., K).

    >>> np.exp(LogSoftmax()(np.log([[1.0, 2.0, 5.0]]))).round(3)
    array([[0.125, 0.25 , 0.625]])
    """

    operation = "log_softmax"


class Identity(Layer):
    """The input itself, where a layer must stand but do nothing: `y = x`, `dx = dy`.

    >>> Identity()(np.array([[-1.0, 2.0]]))
    array([[-1.,  2.]])
    """

    from_operations = per_sample = True

    def infer_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, x: Array, *, train: bool) -> Array:
        return x

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        return dy if need_dx else None
