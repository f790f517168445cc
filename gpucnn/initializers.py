"""First values of the weights, drawn on the host in float64: one seed gives the same weights on every device.

An initializer is a function (rng, shape) -> array. The fan of a kernel (KH, KW, C, OC) or matrix (I, O) is the number
of terms in one output (in: KH*KW*C or I) or of outputs that one input reaches (out: KH*KW*OC or O).
"""

from __future__ import annotations

import math

import numpy as np

from gpucnn.errors import InputError, lookup

__all__ = [
    "INITIALIZERS",
    "get_initializer",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
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


def zeros(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Zeros, for biases."""
    return np.zeros(shape)


INITIALIZERS = {
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "sigmoid_uniform": sigmoid_uniform,
    "zeros": zeros,
}


def get_initializer(initializer):
    """Return an initializer given by name, or the function itself."""
    if callable(initializer):
        return initializer
    return lookup("initializer", initializer, INITIALIZERS)


def _fans(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        raise InputError(f"an initializer with a fan needs a kernel or a matrix, received shape {shape}; use zeros")
    *taps, fan_in, fan_out = shape
    return math.prod(taps) * fan_in, math.prod(taps) * fan_out
