"""First values of the weights, drawn on the host in float64: one seed gives the same weights on every device.

An initializer is a function (rng, shape) -> array. The fan of a kernel (KH, KW, C, OC) or matrix (I, O) is the number
of terms in one output (in: KH*KW*C or I) or of outputs that one input reaches (out: KH*KW*OC or O).
"""

from __future__ import annotations

import math

import numpy as np

from gpucnn.backend.memory import Initializer
from gpucnn.errors import InputError, lookup

__all__ = [
    "INITIALIZERS",
    "get_initializer",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "orthogonal",
    "sigmoid_uniform",
    "zeros",
]

Shape = tuple[int, ...]


def he_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal with variance `2/fan_in`: keeps the scale through ReLU. Source: He et al., ICCV 2015."""
    return rng.standard_normal(shape) * math.sqrt(2.0 / _fans(shape)[0])


def he_uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Uniform with variance `2/fan_in`, within +-sqrt(6/fan_in). Source: He et al., ICCV 2015."""
    limit = math.sqrt(6.0 / _fans(shape)[0])
    return rng.uniform(-limit, limit, shape)


def glorot_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal with variance `2/(fan_in + fan_out)`, for sigmoid and tanh. Source: Glorot and Bengio, AISTATS 2010."""
    return rng.standard_normal(shape) * math.sqrt(2.0 / sum(_fans(shape)))


def glorot_uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Uniform with variance `2/(fan_in + fan_out)`, for sigmoid and tanh. Source: Glorot and Bengio, AISTATS 2010."""
    limit = math.sqrt(6.0 / sum(_fans(shape)))
    return rng.uniform(-limit, limit, shape)


def sigmoid_uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Four times `glorot_uniform`, since the slope of a sigmoid at 0 is 1/4. Source: Bengio, arXiv 1206.5533."""
    return 4.0 * glorot_uniform(rng, shape)


def lecun_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal with variance `1/fan_in`, for SELU. Source: LeCun et al., "Efficient BackProp", 1998."""
    return rng.standard_normal(shape) * math.sqrt(1.0 / _fans(shape)[0])


def lecun_uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Uniform with variance `1/fan_in`, within +-sqrt(3/fan_in). Source: LeCun et al., "Efficient BackProp", 1998."""
    limit = math.sqrt(3.0 / _fans(shape)[0])
    return rng.uniform(-limit, limit, shape)


def orthogonal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Orthonormal columns, or rows if those are fewer, of the (KH*KW*C, OC) matrix. Source: Saxe et al., ICLR 2014."""
    _fans(shape)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # else the signs would not be evenly drawn
    return (q if rows >= columns else q.T).reshape(shape)


def zeros(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Zeros, for biases."""
    return np.zeros(shape)


INITIALIZERS = {
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "orthogonal": orthogonal,
    "sigmoid_uniform": sigmoid_uniform,
    "zeros": zeros,
}


def get_initializer(initializer: Initializer | str) -> Initializer:
    """Return an initializer given by name, or the function itself."""
    if callable(initializer):
        return initializer
    return lookup("initializer", initializer, INITIALIZERS)


def _fans(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        raise InputError(f"an initializer with a fan needs a kernel or a matrix, received shape {shape}; use zeros")
    *taps, fan_in, fan_out = shape
    return math.prod(taps) * fan_in, math.prod(taps) * fan_out
