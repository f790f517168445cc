"""`Sequential`: layers one after another."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.checks import integer
from gpucnn.errors import InputError, OutOfMemoryError
from gpucnn.execution.lifetimes import Slots, Value, Walk, assign, lifetimes
from gpucnn.execution.memory_plan import MemoryPlan, held_bytes, in_units, kept_bytes, table
from gpucnn.execution.out_of_memory import check_memory, explain, largest_batch
from gpucnn.execution.replicas import Shards
from gpucnn.execution.step_graphs import Inferences
from gpucnn.layers import BatchNorm2D, Conv2D, Dense, MaxPool2D, ReLU
from gpucnn.layers.base import Context, Layer, Shape
from gpucnn.layers.containers import Container
from gpucnn.optim.optimizers import Optimizer
from gpucnn.representation import shape_text

__all__ = ["Sequential"]

Array = Any


class Sequential(Container):
    """A network of layers one after another, itself a layer.

    ::

        model = Sequential([Conv2D(6, 5, padding=2), ReLU(), MaxPool2D(2), Flatten(), Dense(10)])
        model.build((28, 28, 1), "cpu", max_batch=64, seed=0)
        logits = model.forward(x)

    A layer without a name gets one from its kind and its place: conv2d1, relu1, conv2d2, ...
    """

    keeps = ()

    # Of a network that is part of no other: where buffers share memory, in inference and in training; and copies of its
    # first layers, where threads share the batch.
    slots: dict[bool, Slots] | None = None
    _shards: Shards | None = None

    # ---- building -------------------------------------------------------------------------------------------------

    def build(
        self, input_shape: Shape, backend: Backend | str | None = None, *, max_batch: int = 0, seed: int = 0
    ) -> Shape:
        """Infer all shapes, put all parameters into one arena, draw the weights from `seed`, return the output's shape.

        With `max_batch`, one pass of that many zeros forward and backward follows: it allocates the layers' buffers and
        on a GPU compiles their kernels, so that no later pass does. Larger batches still work: buffers grow.
        """
        integer(max_batch, f"{self.label}: max_batch", least=0)
        shape = super().build(input_shape, backend, seed=seed)
        if max_batch:
            self.warm_up(max_batch)
        return shape

    def warm_up(self, N: int) -> None:
        """Pass a batch of zeros forward and backward, which allocates all buffers for it."""
        with self.backend.on_device(), self.explained(N):
            x = self.backend.zeros((N, *self.input_shape))
            dy = self.backend.zeros((N, *self.output_shape))
            self._forward(x, train=True)
            self._backward(dy, need_dx=False)
            self.reset()

    def infer_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer._set_shapes(input_shape)
        self._pair_up()
        return input_shape

    def _pair_up(self) -> None:
        """Find the layers that compute together; a subclass may compute something else.

        A ReLU before a max pooling is a part of it altogether; one behind a convolution or a dense layer is its own
        layer in the backward pass.
        """
        pooled = {relu: pool for relu, pool in pairwise(self.layers) if (type(relu), type(pool)) == (ReLU, MaxPool2D)}
        self.order = [layer for layer in self.layers if layer not in pooled]
        kinds = {layer: (type(layer), type(following)) for layer, following in pairwise(self.order)}
        self._normalized = {layer for layer, pair in kinds.items() if pair == (Conv2D, BatchNorm2D)}
        self._activated = {layer for layer, pair in kinds.items() if pair in ((Conv2D, ReLU), (Dense, ReLU))}
        self._rectified = {*pooled.values(), *self._activated}

    def bind(self, context: Context) -> None:
        self.slots = self._shards = None
        self._inferences = Inferences()
        super().bind(context)

    def _assemble(self, context: Context) -> None:
        super()._assemble(context)
        self.slots = self._share()
        self._shards = Shards.of(self)

    def front(self, count: int) -> Sequential:
        """Return a network of this one's own layers: the first ones, at most `count` of `order`."""
        while count and self.order[count - 1] in self._normalized | self._activated:  # computes together with the next
            count -= 1
        front = copy.copy(self)
        end = self.layers.index(self.order[count - 1]) + 1 if count else 0
        front.layers = self.layers[:end]
        front._pair_up()
        front.output_shape = front.layers[-1].output_shape if count else self.input_shape
        return front

    def _share(self) -> dict[bool, Slots]:
        return {train: assign(lifetimes(self, train=train)) for train in (False, True)}

    # ---- memory ---------------------------------------------------------------------------------------------------

    def held_bytes(self) -> int:
        """Return the bytes of the parameters, their gradients and all buffers at present."""
        networks = (self, *self.copies())
        return 2 * self.arena.values.nbytes + sum(network.context.workspace.nbytes for network in networks)

    @contextmanager
    def explained(self, N: int) -> Iterator[None]:
        """Say of memory that runs out meanwhile which layer asked for it, and which batch fits."""
        try:
            yield
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            raise explain(error, self, N) from error

    def require_memory(self, batch: int, optimizer: Optimizer | None = None) -> None:
        """Raise `OutOfMemoryError` if a training step does not fit into free memory by plan, and say which batch does.

        A GPU refuses what it does not have; most systems promise it, and end programs that use it.
        """
        check_memory(self.plan(batch, optimizer=optimizer), self.backend.free_bytes(), self, optimizer)

    def largest_batch(self, below: int, optimizer: Optimizer | None = None) -> int:
        """Return the largest batch, less than `below`, whose training step fits into free memory by plan."""
        free = self.backend.free_bytes()
        return below - 1 if free is None else largest_batch(self, free, below, optimizer)

    # ---- running --------------------------------------------------------------------------------------------------

    def _units(self) -> list[Layer | Shards]:
        """Return what computes, one after another."""
        return [self._shards, *self.order[len(self._shards.network.order) :]] if self._shards else self.order

    def copies(self) -> list[Sequential]:
        """Return the copies that threads compute with, of its first layers; none where there is one thread."""
        return self._shards.copies if self._shards else []

    def _forward(self, x: Array, train: bool) -> Array:
        if self.slots:
            self.context.slots = self.slots[train]
        layers = iter(self._units())
        for layer in layers:
            if not train and layer in self._normalized:
                x = layer._forward_normalized(x, next(layers))
            elif layer in self._rectified:
                x = layer._forward(x, train, relu=True)
                if layer in self._activated:
                    next(layers).y = x  # which its backward pass reads
            else:
                x = layer._forward(x, train)
        return x

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        if self.slots:
            self.context.slots = self.slots[True]
        first, *others = self._units()
        for layer in reversed(others):
            dy = layer._backward(dy, need_dx=True)
        return first._backward(dy, need_dx)

    def _walk_forward(self, walk: Walk, x: Value) -> Value:
        layers = iter(self.order)
        for layer in layers:
            if not walk.train and layer in self._normalized:
                x = walk.fold(layer, next(layers), x)
            else:
                x = walk.forward(layer, x)
                if layer in self._activated:
                    next(layers)
                    x = walk.keep(x) if walk.train else x  # the ReLU's backward pass reads it
        return x

    def _walk_backward(self, walk: Walk, dy: Value, need_dx: bool) -> Value:
        for layer in reversed(self.order[1:]):
            dy = walk.backward(layer, dy)
        return walk.backward(self.order[0], dy, need_dx)

    def forward(self, x: Array, *, train: bool = True) -> Array:
        with self.explained(x.shape[0] if getattr(x, "ndim", 0) else 1):
            return super().forward(x, train=train)

    def backward(self, dy: Array, *, need_dx: bool = True) -> Array | None:
        with self.explained(self._batch or 1):
            return super().backward(dy, need_dx=need_dx)

    __call__ = forward

    def predict(self, x: Array) -> Array:
        """Return the outputs of a batch, without keeping anything for a backward pass.

        A `BatchNorm2D` right behind a `Conv2D` is then not computed: it is folded into the kernels and the bias, anew
        in each call, unless the kernels are larger than the convolution's output. On a GPU the passes of a batch size
        are recorded as a CUDA graph from the second on; Python code of layers of your own does not run in those that
        follow. `forward(x, train=False)` is never recorded.
        """
        with self.explained(x.shape[0] if getattr(x, "ndim", 0) else 1):
            if type(self).forward is not Sequential.forward:  # a subclass computes something else
                return self.forward(x, train=False)
            self._admit(x, train=False)
            with self.backend.limit_blas_threads():
                return self._inferences.run(self, x) if self.backend.records else self._forward(x, train=False)

    # ---- what it holds --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copy all weights and state to the host, by full name."""
        return {name: self.backend.to_host(array) for name, array in self.arrays().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Set all weights and state from host arrays; on an error nothing is changed."""
        arrays = self.arrays()
        if missing := arrays.keys() - state.keys():
            raise InputError(f"{self.label}: the state lacks {', '.join(sorted(missing))}")
        if unknown := state.keys() - arrays.keys():
            raise InputError(f"{self.label}: the state has {', '.join(sorted(unknown))}, which this model has not")
        for name, array in arrays.items():
            if tuple(state[name].shape) != tuple(array.shape):
                raise InputError(
                    f"{self.label}: {name} is {tuple(array.shape)} here and {tuple(state[name].shape)} in the state"
                )
        try:
            values = {name: np.asarray(state[name], np.dtype(str(array.dtype))) for name, array in arrays.items()}
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.label}: the state holds something other than numbers ({error})") from error
        for name, array in arrays.items():
            self.backend.from_host(values[name], out=array)

    def arrays(self) -> dict[str, Array]:
        self._require_shapes("weights")
        return super().arrays()

    def _require_shapes(self, what: str) -> None:
        if self.input_shape is None:
            raise InputError(f"{self.label}: has no {what} yet; call build first")

    def weights_sha256(self) -> str:
        """Return the SHA-256 of all weights: names, shapes and little-endian bytes, in order."""
        self._require_shapes("weights")
        digest = hashlib.sha256()
        for name, parameter in self.named_parameters():
            value = self.backend.to_host(parameter.value)
            digest.update(f"{name} {value.shape} {value.dtype.name}\n".encode())
            digest.update(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def plan(self, batch: int, *, train: bool = True, optimizer: Optimizer | None = None) -> MemoryPlan:
        """Return what memory a training step with so many samples takes, or an inference, without running it.

        With an optimizer, what it keeps for each parameter counts too. On a CPU, a copy of the network runs once with
        at most 512 samples of zeros, which shows what the operations themselves need for any number.
        """
        integer(batch, f"{self.label}: batch", least=1)
        if self.owner is not None:
            raise InputError(f"{self.label}: is a part of {self.owner.label}; plan that instead")
        self._require_shapes("buffers")
        front = self._shards.network if self._shards else None
        return MemoryPlan.of(self, batch, train=train, front=front, slots=optimizer.slots if optimizer else 0)

    def summary(self) -> str:
        """Return a table of the layers: name, kind, output, parameters, and what they keep for each sample."""
        self._require_shapes("shapes")
        slots, precision = self.slots or self._share(), self.backend.precision
        held = {}
        for train in (False, True):
            buffers = [buffer for buffer in lifetimes(self, train=train, need_dx=False) if buffer.spec.per_sample]
            held[train], kept = held_bytes(buffers, slots[train], 1, precision), kept_bytes(buffers, 1, precision)
        rows = [("layer", "kind", "output", "parameters", "kept per sample")]
        rows.append(("input", "", shape_text(self.input_shape), "", ""))
        for layer in self.layers:
            described = layer.name, type(layer).__name__, shape_text(layer.output_shape)
            rows.append((*described, *_counts(layer, kept)))
        rows.append(("total", "", "", *_counts(self, kept)))
        return (
            f"{table(rows, left=3, totals=1)}\n"
            f"buffers per sample: {in_units(held[True])} in training, {in_units(held[True] - kept.total())} of them "
            f"shared; {in_units(held[False])} in inference"
        )


def _counts(layer: Layer, kept: Counter[Layer]) -> tuple[str, str]:
    """Return the last columns of `summary`."""
    count = sum(parameter.size for parameter in layer.parameters())
    size = sum(kept[part] for part in layer.parts())
    return f"{count:,}" if count else "-", in_units(size) if size else "-"
