"""Optimizers: the arrays after the step."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from oracles.numbers import Array, zeros


def sgd_step(w: Array, g: Array, v: Array, hyperparameters: Array, nesterov: bool = False) -> tuple[Array, Array]:
    rate, momentum, decay = map(float, hyperparameters)
    new_w, new_v = zeros(len(w)), zeros(len(v))
    for i in range(len(w)):
        gradient = float(g[i]) + decay * float(w[i])
        new_v[i] = momentum * float(v[i]) + gradient
        step = gradient + momentum * new_v[i] if nesterov else new_v[i]
        new_w[i] = float(w[i]) - rate * step
    return new_w, new_v


def adam_step(
    w: Array, g: Array, m: Array, v: Array, powers: Array, hyperparameters: Array, decoupled: bool = False
) -> tuple[Array, ...]:
    rate, beta1, beta2, epsilon, decay = map(float, hyperparameters)
    power1, power2 = float(powers[0]) * beta1, float(powers[1]) * beta2
    new_w, new_m, new_v = zeros(len(w)), zeros(len(w)), zeros(len(w))
    for i in range(len(w)):
        gradient = float(g[i]) + (0.0 if decoupled else decay * float(w[i]))
        new_m[i] = beta1 * float(m[i]) + (1.0 - beta1) * gradient
        new_v[i] = beta2 * float(v[i]) + (1.0 - beta2) * gradient**2
        mean, variance = new_m[i] / (1.0 - power1), new_v[i] / (1.0 - power2)
        new_w[i] = float(w[i]) - rate * mean / (math.sqrt(variance) + epsilon)
        new_w[i] -= rate * decay * float(w[i]) if decoupled else 0.0
    return new_w, new_m, new_v, np.array([power1, power2])


def rmsprop_step(w: Array, g: Array, v: Array, b: Array, hyperparameters: Array) -> tuple[Array, Array, Array]:
    rate, smoothing, epsilon, momentum, decay = map(float, hyperparameters)
    new_w, new_v, new_b = zeros(len(w)), zeros(len(w)), zeros(len(w))
    for i in range(len(w)):
        gradient = float(g[i]) + decay * float(w[i])
        new_v[i] = smoothing * float(v[i]) + (1.0 - smoothing) * gradient**2
        new_b[i] = momentum * float(b[i]) + gradient / (math.sqrt(new_v[i]) + epsilon)
        new_w[i] = float(w[i]) - rate * new_b[i]
    return new_w, new_v, new_b


def adagrad_step(w: Array, g: Array, v: Array, hyperparameters: Array) -> tuple[Array, Array]:
    rate, epsilon, decay = map(float, hyperparameters)
    new_w, new_v = zeros(len(w)), zeros(len(w))
    for i in range(len(w)):
        gradient = float(g[i]) + decay * float(w[i])
        new_v[i] = float(v[i]) + gradient**2
        new_w[i] = float(w[i]) - rate * gradient / (math.sqrt(new_v[i]) + epsilon)
    return new_w, new_v


def adam_run(w: Array, gradients: Array, hyperparameters: Array) -> Array:
    """Weights after one step per row of gradients, from moments of zero: algorithm 1, with beta^t spelt out."""
    rate, beta1, beta2, epsilon, decay = map(float, hyperparameters)
    result = zeros(len(w))
    for i in range(len(w)):
        weight, m, v = float(w[i]), 0.0, 0.0
        for t in range(1, len(gradients) + 1):
            gradient = float(gradients[t - 1, i]) + decay * weight
            m = beta1 * m + (1.0 - beta1) * gradient
            v = beta2 * v + (1.0 - beta2) * gradient**2
            weight -= rate * (m / (1.0 - beta1**t)) / (math.sqrt(v / (1.0 - beta2**t)) + epsilon)
        result[i] = weight
    return result


def clip_norm(g: Array, limit: Array) -> Array:
    """PyTorch's `clip_grad_norm_`, but that zeros stay zeros."""
    norm = math.sqrt(math.fsum(float(value) ** 2 for value in g))
    share = float(limit[0]) / (norm + 1e-6)
    result = zeros(len(g))
    for i in range(len(g)):
        result[i] = float(g[i]) if g[i] == 0 or share > 1.0 else share * float(g[i])
    return result


def apply_scheduled_rate(rates: Array, clock: Array, hyperparameters: Array) -> tuple[Array, Array]:
    now = int(clock[0])
    rate = rates[now] if now < len(rates) else rates[-1]
    return np.array([now + 1]), np.array([float(rate), *map(float, hyperparameters[1:])])


def average_step(w: Array, mean: Array, total_weight: Array, hyperparameters: Array) -> tuple[Array, Array]:
    """The mean of two, of which the one before has the worth that it had times the decay."""
    before = float(hyperparameters[0]) * float(total_weight[0])
    result = zeros(len(w))
    for i in range(len(w)):
        result[i] = (before * float(mean[i]) + float(w[i])) / (before + 1.0)
    return result, np.array([before + 1.0])


def average_run(weights: Array, decay: float) -> Array:
    """The average after one step per row of weights: Adam's mean; in fractions, since `1 - decay^t` cancels."""
    result = zeros(weights.shape[1])
    b = Fraction(decay)
    for i in range(weights.shape[1]):
        m = Fraction(0)
        for t in range(len(weights)):
            m = b * m + (1 - b) * Fraction(float(weights[t, i]))
        result[i] = float(m / (1 - b ** len(weights)))
    return result
