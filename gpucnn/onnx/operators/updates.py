"""The optimizers, of `ai.onnx.preview.training`: one step for each of the tensors given.

Their inputs are the learning rate, the number of steps done, all tensors, all gradients, and all of each kind of state;
their outputs all new tensors, and all new states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value

Array = Any


@operator("Momentum")
def momentum(node: Node, rate: Value, steps: Value, *tensors: Value) -> tuple[Value, ...]:
    """`v = alpha v + beta g; w = w - rate v`, by Nesterov `w - rate (g + alpha v)`; at first beta is 1."""
    beta = node["beta"] if steps.number > 0 else 1.0
    is_nesterov = node["mode"] == "nesterov"

    def step(w: Array, g: Array, v: Array) -> None:
        g = g + node["norm_coefficient"] * w
        node.backend.sgd_step(w, beta * g, v, _hyper(node, rate.number, node["alpha"], 0.0), nesterov=is_nesterov)
        if is_nesterov:
            w -= (rate.number * (1.0 - beta)) * g  # Nesterov's step takes g itself, not beta g

    return _update(node, step, tensors, 1)


@operator("Adagrad")
def adagrad(node: Node, rate: Value, steps: Value, *tensors: Value) -> tuple[Value, ...]:
    """`v = v + g^2; w = w - rate g/(sqrt(v) + eps)`; the rate falls as `1/(1 + decay_factor steps)`."""
    falling = rate.number / (1.0 + steps.number * node["decay_factor"])

    def step(w: Array, g: Array, v: Array) -> None:
        node.backend.adagrad_step(w, g, v, _hyper(node, falling, node["epsilon"], node["norm_coefficient"]))

    return _update(node, step, tensors, 1)


@operator("Adam")
def adam(node: Node, rate: Value, steps: Value, *tensors: Value) -> tuple[Value, ...]:
    """`m = alpha m + (1 - alpha) g; v = beta v + (1 - beta) g^2; w = w - rate m^/(sqrt(v^) + eps^)`.

    From the second step on, ONNX corrects the bias of the rate and leaves eps, so that `eps^ = eps/sqrt(1 - beta^t)`.
    """
    alpha, beta, t = node["alpha"], node["beta"], steps.number
    powers = [alpha ** (t - 1), beta ** (t - 1)] if t > 0 else [0.0, 0.0]  # adam_step advances them by one
    eps = node["epsilon"] / (1.0 - beta * powers[1]) ** 0.5
    hyperparameters = _hyper(node, rate.number, alpha, beta, eps, node["norm_coefficient"])

    def step(w: Array, g: Array, m: Array, v: Array) -> None:
        node.backend.adam_step(w, g, m, v, _hyper(node, *powers), hyperparameters)
        w *= 1.0 - node["norm_coefficient_post"]

    return _update(node, step, tensors, 2)


def _hyper(node: Node, *numbers: float) -> Array:
    """Return numbers as an array of the device."""
    return node.backend.from_host(np.asarray(numbers, node.backend.precision))


def _update(node: Node, step: Callable[..., None], tensors: tuple[Value, ...], states: int) -> tuple[Value, ...]:
    """Apply a step that works in place to copies of each tensor and its states."""
    count = len(tensors) // (2 + states)
    kinds = [tensors[start : start + count] for start in range(0, len(tensors), count)]
    results = []
    for w, g, *state in zip(*kinds, strict=True):
        copies = [_copy(node, value) for value in (w, *state)]
        step(copies[0], node.xp.reshape(g.array(), (-1,)), *copies[1:])
        results.append([node.value(array).reshaped(w.shape) for array in copies])
    return tuple(value for kind in zip(*results, strict=True) for value in kind)


def _copy(node: Node, value: Value) -> Array:
    copy = node.backend.empty((value.size,), value.array().dtype)
    copy[...] = node.xp.reshape(value.array(), (-1,))
    return copy
