"""A network on several threads: each takes a part of the batch through its layers."""

from __future__ import annotations

import copy
from functools import partial
from itertools import takewhile
from typing import Any

from gpucnn.execution.lifetimes import is_builtin
from gpucnn.layers.activations import Activation, Identity
from gpucnn.layers.adaptive_pooling import AdaptivePool2D
from gpucnn.layers.base import Array, Context, Layer
from gpucnn.layers.containers import Container
from gpucnn.layers.convolution import Convolution
from gpucnn.layers.dense import Dense
from gpucnn.layers.joins import Join
from gpucnn.layers.normalization import GroupNorm
from gpucnn.layers.pooling import GlobalPool2D, Pool2D
from gpucnn.layers.shapes import Reshape, ZeroPad2D

__all__ = ["Shards", "copy_onto"]

# Layers that treat each sample by itself: not batch normalization, nor dropout, whose mask depends on a sample's place.
BY_SAMPLE = (
    *(Activation, Identity, AdaptivePool2D, Container, Convolution, Dense, GlobalPool2D, GroupNorm, Join, Pool2D),
    *(Reshape, ZeroPad2D),
)


class Shards:
    """Copies of the first layers of a built network, one for each thread, that share its weights.

    Each has buffers and gradients of its own; the gradients are added in the order of the batch, so that a run repeats.
    To wake a thread costs as much as a small convolution: here that happens once for a pass, not for each operation.

    Attributes
    ----------
    network : a `Sequential` of those layers
    """

    def __init__(self, network: Any):
        self.network, self.backend = network, network.backend
        self.copies = [
            copy_onto(worker, network, own_gradients=number > 0) for number, worker in enumerate(self.backend.workers)
        ]
        self._parts: list[slice] = []

    @classmethod
    def of(cls, network: Any) -> Shards | None:
        """Return the shards of a built `Sequential`, or None where there is one thread, or no layer to share."""
        if network.backend.threads == 1 or not is_builtin(type(network)):
            return None
        front = network.front(sum(1 for _ in takewhile(is_shared, network.order)))
        return cls(front) if front.order else None

    def _forward(self, x: Array, train: bool) -> Array:
        """Return the outputs of a batch."""
        y = self.network.buffer("y", (x.shape[0], *self.network.output_shape))

        def run(network: Layer, part: slice) -> None:
            y[part] = network._forward(x[part], train)

        self._parts = self.backend.parts(x.shape[0])
        self.backend.run([partial(run, *mine) for mine in zip(self.copies, self._parts, strict=False)])
        return y

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Overwrite the gradients of the network's parameters, and return dx."""
        dx = self.network.buffer("dx", (dy.shape[0], *self.network.input_shape)) if need_dx else None

        def run(network: Layer, part: slice) -> None:
            part_dx = network._backward(dy[part], need_dx)
            if need_dx:
                dx[part] = part_dx

        self.backend.run([partial(run, *mine) for mine in zip(self.copies, self._parts, strict=False)])
        totals, *others = (network.parameters() for network in self.copies[: len(self._parts)])
        for more in others:
            for total, part in zip(totals, more, strict=True):
                self.backend.add(total.gradient, part.gradient, out=total.gradient)
        return dx


def is_shared(layer: Layer) -> bool:
    """Whether it is known and worth while that each thread computes some of the samples.

    What a class of the user's own does is not known, even if it is derived from one of these. The matrix of a large
    dense layer is shared by its columns instead: then no thread reads all of it, or writes all of its gradient.
    """
    kinds = {type(part) for part in layer.parts()}
    known = all(issubclass(kind, BY_SAMPLE) and is_builtin(kind) for kind in kinds)
    return known and not (isinstance(layer, Dense) and layer.backend.splits(layer.w.value))


def copy_onto(backend: Any, network: Any, *, own_gradients: bool) -> Any:
    """Return a copy of a network that computes on another backend with the same weights, perhaps gradients too."""
    memo: dict[int, Any] = {  # what is shared counts as copied already
        id(network.context): Context(backend, network.context.seed),
        **{id(part): None for part in (network.arena, network._shards)},
    }
    if network.layers[0].owner is not network:  # these are some layers of another network
        memo[id(network.layers[0].owner)] = None
    for part in network.parts():
        if is_builtin(type(part)):  # what the last pass left in it is not needed
            left = [value for value in vars(part).values() if network.backend.owns(value)]
            memo |= {id(value): None for value in left if not any(value is array for array in part.state().values())}
    for parameter in network.parameters():
        memo[id(parameter.value)] = parameter.value
        if not own_gradients:
            memo[id(parameter.gradient)] = parameter.gradient
    return copy.deepcopy(network, memo)
