"""The activations: the paper's table 1 and newer ones, each with its derivative under it.

A derivative takes dy and the input x or the output y, whichever it is simpler in.
"""

from __future__ import annotations

import math

from gpucnn.backend.assembly import in_place
from gpucnn.backend.reference.arrays import Array
from gpucnn.backend.reference.normal import FARTHEST, normal

__all__ = [
    *("arctan", "arctan_dx", "binary_step", "binary_step_dx", "elu", "elu_dx", "gelu", "gelu_dx", "hard_sigmoid"),
    *("hard_sigmoid_dx", "leaky_relu", "leaky_relu_dx", "log_softmax", "log_softmax_dx", "prelu_dslope", "relu"),
    *("relu_dx", "selu", "selu_dx", "sigmoid", "sigmoid_dx", "softmax", "softmax_dx", "softplus", "softplus_dx"),
    *("swish", "swish_dx", "tanh", "tanh_dx"),
]

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
GELU_SCALE = math.sqrt(8.0 / math.pi)
GELU_CUBE = 0.044715


@in_place("x")
def relu(self, x: Array, *, out: Array = None) -> Array:
    """`max(x, 0)`. Paper: table 1, ReLU."""
    return self.store(self.xp.where(x < 0, self.xp.zeros((), dtype=x.dtype), x), out)


@in_place("dy")
def relu_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """Derivative of `relu`: 1 where y > 0, else 0."""
    return self.store(self.xp.where(y > 0, dy, self.xp.zeros((), dtype=dy.dtype)), out)


@in_place("x")
def sigmoid(self, x: Array, *, out: Array = None) -> Array:
    """`1/(1 + e^-x)`, without overflow at either end. Paper: table 1, sigmoid."""
    e = self.xp.exp(-self.xp.abs(x))
    return self.store(self.xp.where(x < 0, e, self.xp.ones((), dtype=x.dtype)) / (1.0 + e), out)


@in_place("dy")
def sigmoid_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """Derivative of `sigmoid`: `y (1 - y)`."""
    return self.store(dy * y * (1.0 - y), out)


@in_place("x")
def tanh(self, x: Array, *, out: Array = None) -> Array:
    """`(e^x - e^-x)/(e^x + e^-x)`. Paper: table 1, tanh."""
    return self.store(self.xp.tanh(x), out)


@in_place("dy")
def tanh_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """Derivative of `tanh`: `1 - y^2`."""
    return self.store(dy * (1.0 - y * y), out)


def softmax(self, x: Array, *, out: Array = None) -> Array:
    """`e^x_k / sum_j e^x_j` along the last axis, shifted so that it can't overflow. Paper: table 1, softmax."""
    e = self.xp.exp(x - self.xp.max(x, axis=-1, keepdims=True))
    return self.store(e / self.xp.sum(e, axis=-1, keepdims=True), out)


def softmax_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """Derivative of `softmax`: `dx = y (dy - sum_k dy_k y_k)`."""
    return self.store(y * (dy - self.xp.sum(dy * y, axis=-1, keepdims=True)), out)


@in_place("x")
def leaky_relu(self, x: Array, slope: float | Array, *, out: Array = None) -> Array:
    """`x` where x > 0, else `slope x`; with a slope for each channel, (C,), it is the parametric ReLU.

    Paper: table 1, leaky ReLU.
    """
    return self.store(self.xp.where(x > 0, x, slope * x), out)


@in_place("dy")
def leaky_relu_dx(self, dy: Array, x: Array, slope: float | Array, *, out: Array = None) -> Array:
    """Derivative of `leaky_relu`: 1 where x > 0, else `slope`."""
    return self.store(self.xp.where(x > 0, dy, slope * dy), out)


def prelu_dslope(self, dy: Array, x: Array, *, dslope: Array) -> None:
    """Gradient of `leaky_relu` in its slopes: `sum dy min(x, 0)` over all but the channels. x (..., C) -> (C,).

    Paper: table 1, parametric ReLU. Source: He et al., ICCV 2015.
    """
    xp = self.xp
    terms = dy * xp.where(x > 0, xp.zeros((), dtype=x.dtype), x)
    dslope[...] = xp.sum(xp.reshape(terms, (-1, x.shape[-1])), axis=0)


@in_place("x")
def elu(self, x: Array, alpha: float, *, out: Array = None) -> Array:
    """`x` where x > 0, else `alpha (e^x - 1)`. Paper: table 1, ELU. Source: Clevert et al., ICLR 2016."""
    xp = self.xp
    negative = xp.where(x > 0, xp.zeros((), dtype=x.dtype), x)  # so that e^x can't overflow
    return self.store(xp.where(x > 0, x, alpha * xp.expm1(negative)), out)


@in_place("dy")
def elu_dx(self, dy: Array, y: Array, alpha: float, *, out: Array = None) -> Array:
    """Derivative of `elu`: 1 where x > 0, else `alpha e^x = y + alpha`."""
    return self.store(self.xp.where(y > 0, dy, dy * (y + alpha)), out)


@in_place("x")
def softplus(self, x: Array, *, out: Array = None) -> Array:
    """`log(1 + e^x)`, as `max(x, 0) + log(1 + e^-|x|)`, which can't overflow. Paper: table 1, softplus."""
    xp = self.xp
    positive = xp.where(x > 0, x, xp.zeros((), dtype=x.dtype))
    return self.store(positive + xp.log1p(xp.exp(-xp.abs(x))), out)


@in_place("dy")
def softplus_dx(self, dy: Array, x: Array, *, out: Array = None) -> Array:
    """Derivative of `softplus`: the sigmoid of x."""
    return self.store(dy * self.sigmoid(x), out)


@in_place("x")
def arctan(self, x: Array, *, out: Array = None) -> Array:
    """`tan^-1(x)`. Paper: table 1, arctan."""
    arctan = getattr(self.xp, "atan", None) or self.xp.arctan  # the standard's name is atan
    return self.store(arctan(x), out)


@in_place("dy")
def arctan_dx(self, dy: Array, x: Array, *, out: Array = None) -> Array:
    """Derivative of `arctan`: `1/(1 + x^2)`."""
    return self.store(dy / (1.0 + x * x), out)


@in_place("x")
def binary_step(self, x: Array, *, out: Array = None) -> Array:
    """1 where x >= 0, else 0. Paper: table 1, binary step."""
    one = self.xp.ones((), dtype=x.dtype)
    return self.store(self.xp.where(x >= 0, one, 0.0 * one), out)


@in_place("dy")
def binary_step_dx(self, dy: Array, x: Array, *, out: Array = None) -> Array:
    """Derivative of `binary_step`: 0 everywhere, so that nothing in front of it can be trained."""
    return self.store(0.0 * x, out)


@in_place("x")
def selu(self, x: Array, *, out: Array = None) -> Array:
    """`scale x` where x > 0, else `scale alpha (e^x - 1)`, with the constants that keep mean 0 and variance 1.

    Source: Klambauer et al., NeurIPS 2017.
    """
    return self.store(SELU_SCALE * self.elu(x, SELU_ALPHA), out)


@in_place("dy")
def selu_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """Derivative of `selu`: `scale` where x > 0, else `scale alpha e^x = y + scale alpha`."""
    slope = self.xp.where(y > 0, self.xp.full((), SELU_SCALE, dtype=y.dtype), y + SELU_SCALE * SELU_ALPHA)
    return self.store(dy * slope, out)


@in_place("x")
def swish(self, x: Array, *, out: Array = None) -> Array:
    """`x s(x)`, s the sigmoid; also called SiLU. Source: Ramachandran et al., arXiv 1710.05941."""
    return self.store(x * self.sigmoid(x), out)


@in_place("dy")
def swish_dx(self, dy: Array, x: Array, *, out: Array = None) -> Array:
    """Derivative of `swish`: `s(x) (1 + x (1 - s(x)))`."""
    s = self.sigmoid(x)
    return self.store(dy * s * (1.0 + x * (1.0 - s)), out)


@in_place("x")
def gelu(self, x: Array, approximate: bool, *, out: Array = None) -> Array:
    """`x Phi(x)`, Phi the normal distribution; approximately `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.

    Source: Hendrycks and Gimpel, arXiv 1606.08415.
    """
    bounded = self.xp.clip(x, -FARTHEST, FARTHEST)  # so that nothing overflows, and -inf gives 0
    Phi = _gelu_sigmoid(self, bounded) if approximate else normal(bounded, self.xp)[1]
    return self.store(self.xp.where(x > 0, x, bounded) * Phi, out)


@in_place("dy")
def gelu_dx(self, dy: Array, x: Array, approximate: bool, *, out: Array = None) -> Array:
    """Derivative of `gelu`: `Phi(x) + x phi(x)`, phi the density; approximately with the derivative of the tanh."""
    x = self.xp.clip(x, -FARTHEST, FARTHEST)
    if approximate:
        Phi = _gelu_sigmoid(self, x)
        phi = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x) * Phi * (1.0 - Phi)
    else:
        phi, Phi = normal(x, self.xp)
    return self.store(dy * (Phi + x * phi), out)


def _gelu_sigmoid(self, x: Array) -> Array:
    """`(1 + tanh(u))/2` as the sigmoid of 2u, which keeps its digits where tanh is near -1."""
    return self.sigmoid(GELU_SCALE * x * (1.0 + GELU_CUBE * x * x))


@in_place("x")
def hard_sigmoid(self, x: Array, slope: float, offset: float, *, out: Array = None) -> Array:
    """`slope x + offset`, held between 0 and 1. Source: Courbariaux et al., NeurIPS 2015."""
    return self.store(self.xp.clip(slope * x + offset, 0.0, 1.0), out)


@in_place("dy")
def hard_sigmoid_dx(self, dy: Array, y: Array, slope: float, offset: float, *, out: Array = None) -> Array:
    """Derivative of `hard_sigmoid`: `slope` where 0 < y < 1, else 0."""
    inside = (y > 0) & (y < 1)
    return self.store(self.xp.where(inside, slope * dy, self.xp.zeros((), dtype=dy.dtype)), out)


@in_place("x")
def log_softmax(self, x: Array, *, out: Array = None) -> Array:
    """`x_k - log sum_j e^x_j` along the last axis, shifted so that it can't overflow."""
    xp = self.xp
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    return self.store(shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True)), out)


@in_place("dy")
def log_softmax_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
    """Derivative of `log_softmax`: `dx = dy - e^y sum_k dy_k`."""
    return self.store(dy - self.xp.exp(y) * self.xp.sum(dy, axis=-1, keepdims=True), out)
