"""Which buffers of a network share memory.

The rule: what a backward pass will read keeps memory of its own from its forward pass until the next one, so that
`backward` may be called twice; so does what a layer receives or returns of which nothing is known. What the network
returns shares with nothing, so that it may be an input of the next call. All else, gradients included, takes turns: two
buffers share memory unless one is still to be read when the other is written. An elementwise operation may write over
what it is the last to read.

A network is walked once when it is built, its layers in the order in which they compute, without computing anything.
Sizes are those of one sample, so what shares memory does not depend on the batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gpucnn.layers.base import Layer

__all__ = ["Buffer", "Slots", "Spec", "Value", "Walk", "assign", "is_builtin", "is_known", "join_values", "lifetimes"]

START = 0  # of a walk; its first operation is number 1
Slots = dict[str, Hashable]  # where each buffer lies that a plan knows


class Spec(NamedTuple):
    """Shape and dtype (None: the backend's floats) of a buffer, for one sample unless it is the same for any batch."""

    shape: tuple[int, ...]
    dtype: Any = None
    per_sample: bool = True


@dataclass(eq=False)
class Buffer:
    """A buffer of a layer, from the call that writes it to the last one that reads it."""

    layer: Layer
    name: str
    spec: Spec
    birth: int
    last: float  # infinity: it is kept until the next forward pass
    over: Sequence[Buffer] = ()  # inputs that it may be written over

    @property
    def key(self) -> str:
        """The name by which the workspace knows it, unless it shares memory."""
        return self.layer.buffer_key(self.name)

    @property
    def is_kept(self) -> bool:
        """Whether it lasts until the next forward pass."""
        return self.last == math.inf

    def size(self, batch: int = 1) -> int:
        """Return the number of elements for a batch."""
        return math.prod(self.spec.shape) * (batch if self.spec.per_sample else 1)

    def nbytes(self, batch: int, precision: str) -> int:
        """Return the number of bytes for a batch."""
        return self.size(batch) * np.dtype(self.spec.dtype or precision).itemsize

    def meets(self, other: Buffer) -> bool:
        """Whether both hold something at the same time."""
        first, second = (self, other) if self.birth <= other.birth else (other, self)
        return first.last > second.birth or (first.last == second.birth and first not in second.over)


Value = tuple[Buffer, ...]  # the buffers that an array may lie in: none for the caller's own


def is_builtin(kind: type) -> bool:
    """Whether a class is one of the library's."""
    return kind.__module__.startswith("gpucnn.")


def is_known(layer: Layer) -> bool:
    """Whether `keeps` speaks for a layer: not if it redefines anything of the class that declares it, or of ours."""
    redefined = {name for name, value in vars(layer).items() if callable(value)}
    for kind in type(layer).__mro__:
        if "keeps" in vars(kind) or is_builtin(kind):
            return layer.keeps is not None and not any(hasattr(kind, name) for name in redefined)
        redefined.update(name for name in vars(kind) if not name.startswith("__"))
    return False


class Walk:
    """The calls of a network's layers in their order, with a `Value` in place of each array."""

    def __init__(self, *, train: bool, batch: float = math.inf):
        self.train, self.batch = train, batch
        self.buffers: list[Buffer] = []
        self.now = 0

    def forward(self, layer: Layer, x: Any) -> Value:
        """Call a layer's `_forward`; a join takes a list of values."""
        if is_known(layer):
            return layer._walk_forward(self, x)
        return self.keep(join_values(x) if isinstance(x, list) else x)  # it may return what it was given

    def backward(self, layer: Layer, dy: Value, need_dx: bool = True) -> Value:
        """Call a layer's `_backward`."""
        return layer._walk_backward(self, dy, need_dx) if is_known(layer) else self.keep(dy)

    def split(self, join: Layer, dy: Value) -> list[Value]:
        """Call a join's `_backward`, which returns a gradient for each input."""
        return join._walk_split(self, dy) if is_known(join) else [self.keep(dy)] * len(join.input_shape)

    def fold(self, convolution: Layer, norm: Layer, x: Value) -> Value:
        """Call a convolution's `_forward_normalized`, which folds `norm` into other kernels, or applies it in place."""
        folded: dict[str, Value] = {}
        if convolution.is_folded(self.batch):
            shape = convolution.w.shape
            specs = {name: Spec(size, per_sample=False) for name, size in (("w", shape), ("b", shape[-1:]))}
            folded = self.call(norm, (), specs)
        return self.forward(convolution, x + join_values(folded.values()))

    def call(self, layer: Layer, value: Value, specs: dict[str, Spec], over: Sequence[Buffer] = ()) -> dict[str, Value]:
        """Do one operation: it reads a value and writes buffers of a layer, perhaps over some of what it reads."""
        self.now += 1
        for buffer in value:
            buffer.last = max(buffer.last, self.now)
        made = {name: Buffer(layer, name, spec, self.now, self.now, over) for name, spec in specs.items()}
        self.buffers += made.values()
        return {name: (buffer,) for name, buffer in made.items()}

    def add(self, layer: Layer, name: str, shape: tuple[int, ...], values: Sequence[Value]) -> Value:
        """Add arrays two at a time: the sum may lie over either of the first two, but for what is added later."""
        later = join_values(values[2:])
        over = [buffer for buffer in join_values(values[:2]) if buffer not in later]
        return self.call(layer, join_values(values), {name: Spec(shape)}, over)[name]

    def keep(self, value: Value) -> Value:
        """Let nothing be written over a value until the next forward pass."""
        for buffer in value:
            buffer.last = math.inf
        return value


def join_values(values: Iterable[Value]) -> Value:
    """Return the buffers of several values."""
    return tuple(buffer for value in values for buffer in value)


def lifetimes(network: Layer, *, train: bool, need_dx: bool = True, batch: float = math.inf) -> list[Buffer]:
    """Walk a network forward, and with `train` backward; return its buffers."""
    walk = Walk(train=train, batch=batch)
    returned = walk.forward(network, ())
    if train:
        returned += walk.backward(network, (), need_dx)
    for buffer in walk.keep(returned):
        buffer.birth = START
    return walk.buffers


def assign(buffers: Sequence[Buffer]) -> Slots:
    """Give each buffer the first slot where it meets no other, the largest first, so that none makes a slot grow.

    A slot has one dtype. Those of training and of inference have the same names, the largest first, so that both lie in
    the same memory. What the network returns keeps its own name.
    """
    taken: dict[Hashable, list[Buffer]] = defaultdict(list)
    slots: Slots = {}
    for buffer in sorted(buffers, key=lambda buffer: -buffer.size()):
        numbered = ((buffer.spec.dtype, buffer.spec.per_sample, number) for number in count())
        candidates = [buffer.key] if buffer.birth == START else numbered
        slot = next(slot for slot in candidates if not any(map(buffer.meets, taken[slot])))
        taken[slot].append(buffer)
        slots[buffer.key] = slot
    return slots
