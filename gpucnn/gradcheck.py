"""Gradients against finite differences along random directions: for tests, and for anyone who writes a layer.

With a random upstream gradient `u` and a random direction `d`, the derivative of `<u, f(x + h d)>` in h is `<dx, d>`,
where dx is what the backward pass makes of u. One direction checks every element of dx at the price of two forward
passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backend import get_backend
from gpucnn.layers.base import Layer

__all__ = ["check_layer", "directional_error"]


def directional_error(
    function: Callable[[np.ndarray], float],
    x: np.ndarray,
    gradient: np.ndarray,
    rng: np.random.Generator,
    step: float = 1e-6,
) -> float:
    """Return how far `gradient` is from the central difference of a scalar function at x, relative to its size.

    Everything in float64. The error of the difference itself is about `1e-16/step + step^2`: near 1e-9 for a right
    gradient of a smooth function. The function must be smooth within `step` of x (no ReLU input nearer to 0 than that).

    >>> x, rng = np.array([1.0, 2.0]), np.random.default_rng(0)
    >>> directional_error(lambda x: float(np.sum(x**2)), x, gradient=2 * x, rng=rng) < 1e-8
    True
    """
    direction = rng.standard_normal(x.shape)
    difference = (function(x + step * direction) - function(x - step * direction)) / (2.0 * step)
    slope = float(np.sum(gradient * direction))
    scale = float(np.linalg.norm(gradient)) or 1.0
    return abs(slope - difference) / scale


def check_layer(layer: Layer, x: np.ndarray, *, device: str = "cpu", seed: int = 0) -> dict[str, float]:
    """Build a layer in float64 and return the relative error of each of its gradients by name: "x", "w", "b", ...

    x (N, ...) is a batch for it. A right layer stays below 1e-6 wherever it is smooth.

    >>> from gpucnn import Tanh
    >>> errors = check_layer(Tanh(), np.linspace(-1.0, 1.0, 12).reshape(3, 4))
    >>> {name: error < 1e-6 for name, error in errors.items()}
    {'x': True}
    """
    rng = np.random.default_rng(seed)
    backend = get_backend(device, "float64")
    layer.build(x.shape[1:], backend, seed=seed)
    upstream = rng.standard_normal((len(x), *layer.output_shape))

    def forward(x: np.ndarray) -> float:
        layer.reset()  # the same dropout mask each time
        return float(np.sum(upstream * backend.to_host(layer(backend.from_host(x), train=True))))

    def with_value(parameter: Any) -> Callable[[np.ndarray], float]:
        def function(value: np.ndarray) -> float:
            kept = backend.to_host(parameter.value)
            backend.from_host(value, out=parameter.value)
            result = forward(x)
            backend.from_host(kept, out=parameter.value)
            return result

        return function

    forward(x)
    gradients = {"x": backend.to_host(layer.backpropagate(backend.from_host(upstream)))}
    points: dict[str, tuple[np.ndarray, Callable[[np.ndarray], float]]] = {"x": (x, forward)}
    for name, parameter in layer.named_parameters():
        gradients[name] = backend.to_host(parameter.gradient)
        points[name] = backend.to_host(parameter.value), with_value(parameter)
    return {name: directional_error(points[name][1], points[name][0], gradients[name], rng) for name in points}
