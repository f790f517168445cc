"""The networks that `torch_nets.save_network` wrote as functions of JAX, for the engine `jax` of `scripts/bench.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["load_network", "make_steps"]

Weights = dict[str, Any]
Network = Callable[[Weights, Any], Any]


def load_network(path: str) -> tuple[Network, Weights]:
    """Return a function (weights, images) -> outputs, and the weights."""
    with np.load(f"{path}.npz") as arrays:
        weights = {name: jnp.asarray(arrays[name], jnp.float32) for name in arrays}
    return _network(json.loads(Path(f"{path}.json").read_text())), weights


def _network(about: dict[str, Any]) -> Network:
    """Return the function of one layer, or of several in order; images are (N, C, H, W)."""
    kind, path = about["kind"], about["path"]
    if kind == "Sequential":
        parts = [_network(part) for part in about["layers"]]

        def apply(weights: Weights, x: Any) -> Any:
            for part in parts:
                x = part(weights, x)
            return x

        return apply
    strides, pads = about.get("stride"), [(size, size) for size in about.get("padding", ())]

    def convolve(weights: Weights, x: Any) -> Any:
        y = lax.conv_general_dilated(x, weights[f"{path}weight"], strides, pads)
        return y + weights[f"{path}bias"][:, None, None] if about["bias"] else y

    def multiply(weights: Weights, x: Any) -> Any:
        y = x @ weights[f"{path}weight"].T
        return y + weights[f"{path}bias"] if about["bias"] else y

    def pool(weights: Weights, x: Any) -> Any:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, *about["kernel"]), (1, 1, *strides), [(0, 0)] * 2 + pads)

    kinds = {
        "Conv2D": convolve,
        "Dense": multiply,
        "MaxPool2D": pool,
        "ReLU": lambda weights, x: jnp.maximum(x, 0),
        "Sigmoid": lambda weights, x: jax.nn.sigmoid(x),
        "Flatten": lambda weights, x: x.reshape(len(x), -1),
        "Identity": lambda weights, x: x,
    }
    if kind not in kinds:
        raise SystemExit(f"bench.py: the engine jax has no {kind}; leave this network or this peer out")
    return kinds[kind]


def make_steps(network: Network, rate: float, momentum: float) -> tuple[Callable, Callable]:
    """Return compiled functions: (weights, velocities, x, labels) -> (weights, velocities), and (weights, x) -> y."""

    def loss(weights: Weights, x: Any, labels: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(network(weights, x)), labels[:, None], 1).mean()

    def train(weights: Weights, velocities: Weights, x: Any, labels: Any) -> tuple[Weights, Weights]:
        gradients = jax.grad(loss)(weights, x, labels)
        velocities = jax.tree.map(lambda v, g: momentum * v + g, velocities, gradients)
        return jax.tree.map(lambda w, v: w - rate * v, weights, velocities), velocities

    return jax.jit(train, donate_argnums=(0, 1)), jax.jit(network)
