"""Activations and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import product
from typing import Any

import numpy as np

from oracles.numbers import Array, each, indices, zeros


def exp(x: float | Decimal) -> Decimal:
    return Decimal(x).exp()


def decimal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function with 50-digit decimal numbers."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with localcontext(prec=50, Emin=-999999, Emax=999999):
            return function(*args, **kwargs)

    return wrapped


def relu(x: Array) -> Array:
    return each(lambda x: x if math.isnan(x) else max(x, 0.0), x)


def relu_dx(dy: Array, y: Array) -> Array:
    return each(lambda dy, y: dy if y > 0.0 else 0.0, dy, y)


@decimal
def sigmoid(x: Array) -> Array:
    return each(lambda x: float(1 / (1 + exp(-x))), x)


def sigmoid_dx(dy: Array, y: Array) -> Array:
    return each(lambda dy, y: dy * y * (1.0 - y), dy, y)


@decimal
def tanh(x: Array) -> Array:
    return each(lambda x: float((exp(x) - exp(-x)) / (exp(x) + exp(-x))), x)


def tanh_dx(dy: Array, y: Array) -> Array:
    return each(lambda dy, y: dy * (1.0 - y**2), dy, y)


def leaky_relu(x: Array, slope: Any) -> Array:
    return each(lambda x, slope: x if x > 0.0 else slope * x, x, np.broadcast_to(slope, x.shape))


def leaky_relu_dx(dy: Array, x: Array, slope: Any) -> Array:
    return each(lambda dy, x, slope: dy if x > 0.0 else slope * dy, dy, x, np.broadcast_to(slope, x.shape))


def prelu_dslope(dy: Array, x: Array) -> Array:
    dslope = zeros(x.shape[-1])
    for i in indices(x):
        dslope[i[-1]] += 0.0 if x[i] > 0.0 else float(dy[i]) * float(x[i])
    return dslope


@decimal
def elu(x: Array, alpha: float) -> Array:
    return each(lambda x: x if x > 0.0 else float(Decimal(alpha) * (exp(x) - 1)), x)


def elu_dx(dy: Array, y: Array, alpha: float) -> Array:
    return each(lambda dy, y: dy if y > 0.0 else dy * (y + alpha), dy, y)


@decimal
def softplus(x: Array) -> Array:
    return each(lambda x: float((1 + exp(x)).ln()), x)


@decimal
def softplus_dx(dy: Array, x: Array) -> Array:
    return each(lambda dy, x: dy * float(1 / (1 + exp(-x))), dy, x)


SELU = 1.0507009873554805, 1.6732632423543772  # scale and alpha


@decimal
def selu(x: Array) -> Array:
    scale, alpha = SELU
    return each(lambda x: scale * x if x > 0.0 else float(Decimal(scale * alpha) * (exp(x) - 1)), x)


def selu_dx(dy: Array, y: Array) -> Array:
    scale, alpha = SELU
    return each(lambda dy, y: dy * (scale if y > 0.0 else y + scale * alpha), dy, y)


@decimal
def swish(x: Array) -> Array:
    return each(lambda x: x * float(1 / (1 + exp(-x))), x)


@decimal
def swish_dx(dy: Array, x: Array) -> Array:
    def slope(x: float) -> float:
        s = 1 / (1 + exp(-x))
        return float(s + Decimal(x) * s * (1 - s))

    return each(lambda dy, x: dy * slope(x), dy, x)


def gelu(x: Array, approximate: bool) -> Array:
    def y(x: float) -> float:
        if x == -math.inf:
            return 0.0
        u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
        return x * ((1.0 + math.tanh(u)) / 2.0 if approximate else math.erfc(-x / math.sqrt(2.0)) / 2.0)

    return each(y, x)


def gelu_dx(dy: Array, x: Array, approximate: bool) -> Array:
    def slope(x: float) -> float:
        if math.isinf(x):
            return 1.0 if x > 0.0 else 0.0
        if approximate:
            u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
            du = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x**2)
            return (1.0 + math.tanh(u) + x * (1.0 - math.tanh(u) ** 2) * du) / 2.0
        return math.erfc(-x / math.sqrt(2.0)) / 2.0 + x * math.exp(-(x**2) / 2.0) / math.sqrt(2.0 * math.pi)

    return each(lambda dy, x: dy * slope(x), dy, x)


def hard_sigmoid(x: Array, slope: float, offset: float) -> Array:
    return each(lambda x: min(max(slope * x + offset, 0.0), 1.0), x)


def hard_sigmoid_dx(dy: Array, y: Array, slope: float, offset: float) -> Array:
    return each(lambda dy, y: slope * dy if 0.0 < y < 1.0 else 0.0, dy, y)


@decimal
def log_softmax(x: Array) -> Array:
    y = zeros(*x.shape)
    for row in product(*map(range, x.shape[:-1])):
        total = sum(exp(float(z)) for z in x[row]).ln()
        for k in range(x.shape[-1]):
            y[(*row, k)] = float(Decimal(float(x[(*row, k)])) - total)
    return y


def log_softmax_dx(dy: Array, y: Array) -> Array:
    """Through the Jacobian: dy_k/dx_j = 1 - e^y_j for j = k, else -e^y_j."""
    dx = zeros(*y.shape)
    K = y.shape[-1]
    for row in product(*map(range, y.shape[:-1])):
        for j, k in product(range(K), range(K)):
            slope = (1.0 if j == k else 0.0) - math.exp(float(y[(*row, j)]))
            dx[(*row, j)] += float(dy[(*row, k)]) * slope
    return dx


def arctan(x: Array) -> Array:
    return each(math.atan, x)


def arctan_dx(dy: Array, x: Array) -> Array:
    return each(lambda dy, x: dy / (1.0 + x * x), dy, x)


def binary_step(x: Array) -> Array:
    return each(lambda x: 1.0 if x >= 0.0 else 0.0, x)


def binary_step_dx(dy: Array, x: Array) -> Array:
    return zeros(*x.shape)


@decimal
def softmax(x: Array) -> Array:
    y = zeros(*x.shape)
    for row in product(*map(range, x.shape[:-1])):
        e = [exp(float(z)) for z in x[row]]
        for k in range(x.shape[-1]):
            y[(*row, k)] = float(e[k] / sum(e))
    return y


def softmax_dx(dy: Array, y: Array) -> Array:
    """Through the Jacobian: dy_k/dx_j = y_k (1 - y_k) for j = k, else -y_k y_j."""
    dx = zeros(*y.shape)
    K = y.shape[-1]
    for row in product(*map(range, y.shape[:-1])):
        for j, k in product(range(K), range(K)):
            y_j, y_k = float(y[(*row, j)]), float(y[(*row, k)])
            dx[(*row, j)] += float(dy[(*row, k)]) * (y_k * (1.0 - y_k) if j == k else -y_k * y_j)
    return dx
