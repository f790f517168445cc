"""Watching one pass of a network: which operation writes and reads which buffer, and when for the last time.

The rule that follows from it: what a backward pass reads of its forward pass keeps memory of its own until the next
forward pass, so that `backward` may be called twice; so does what a layer receives, makes or returns that may touch
arrays otherwise than by operations of the backend (`Layer.is_opaque`). What the network returns shares with nothing.
All else, gradients included, takes turns.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.backend import Backend

__all__ = ["START", "Buffer", "Trace", "TracedBackend"]

Array = Any
Shape = tuple[int, ...]
START = 0  # of a pass; its first operation is number 1


@dataclass(eq=False)
class Buffer:
    """A buffer of a layer, from the operation that first writes it to the last one that reads it.

    Attributes
    ----------
    size, dtype : its elements in the pass of one sample that was watched, and what they are
    per_sample : whether its size grows with the batch
    min_batch : the smallest batch for which the layer takes it
    last_use : infinity if it is kept until the next forward pass
    over : buffers that it may be written over, if nothing reads them later
    for_dx : whether only the gradient in the network's input needs it
    """

    layer: Any
    name: str
    size: int
    dtype: Any
    per_sample: bool
    min_batch: int
    first_use: int
    last_use: float
    is_of_forward: bool
    is_written: bool = False
    over: tuple[Buffer, ...] = ()
    for_dx: bool = False

    @property
    def key(self) -> tuple[int, str]:
        """The number of its layer and its name in it."""
        return self.layer.id, self.name

    @property
    def is_kept(self) -> bool:
        """Whether it lasts until the next forward pass."""
        return self.last_use == math.inf

    def elements(self, batch: int = 1) -> int:
        """Return its size for a batch."""
        return self.size * (batch if self.per_sample else 1)

    def nbytes(self, batch: int) -> int:
        """Return its bytes for a batch; 0 for one too small for the layer to take it."""
        return self.elements(batch) * np.dtype(str(self.dtype)).itemsize if batch >= self.min_batch else 0

    def overlaps(self, other: Buffer) -> bool:
        """Whether both hold something at the same time."""
        first, second = (self, other) if self.first_use <= other.first_use else (other, self)
        return first.last_use > second.first_use or (first.last_use == second.first_use and first not in second.over)


@dataclass
class Trace:
    """The buffers of a pass, in the order in which they are taken; a memory that hands out each of them once."""

    backend: Any
    failure: Exception | None = None  # that kept the pass from being watched
    buffers: list[Buffer] = field(default_factory=list)
    now: int = START
    is_forward: bool = True
    outputs: dict[Any, list[Buffer]] = field(default_factory=dict)  # what the output of each layer lies in
    _arrays: dict[tuple[int, str], Array] = field(default_factory=dict)
    _by_memory: dict[int, Buffer] = field(default_factory=dict)
    _taken_before: int = 0

    def take(self, layer: Any, name: str, shape: Shape, dtype: Any, per_sample: bool, min_batch: int) -> Array:
        """Return a new array for a buffer, or the one that the pass has for it already."""
        array = self._arrays.get((layer.id, name))
        if array is None or tuple(array.shape) != tuple(shape):
            array = self._arrays[layer.id, name] = self.backend.empty(shape, dtype)
            how = per_sample, min_batch, self.now, self.now, self.is_forward
            self.buffers.append(Buffer(layer, name, array.size, array.dtype, *how))
            self._by_memory[self.backend.memory_of(array)] = self.buffers[-1]
        return array

    def release(self) -> None:
        """Let go of the arrays, and of the backend with its scratch memory: what was seen of them is known."""
        self.backend = None
        self._arrays.clear()
        self._by_memory.clear()

    def of(self, *arrays: Any) -> Iterator[Buffer]:
        """Yield the buffers that some arrays, or lists of arrays, lie in."""
        for array in arrays:
            if isinstance(array, (list, tuple)):
                yield from self.of(*array)
            elif getattr(array, "ndim", 0) and self.backend.owns(array):
                found = self._by_memory.get(self.backend.memory_of(array))
                if found is not None:
                    yield found

    def call(self, operation: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Do an operation of the backend: it reads the arrays it is given, and writes those that are keywords alone."""
        given, results, in_place = _roles(operation, len(arguments))
        self.now += 1
        over = []
        for name, value in [*zip(given, arguments, strict=False), *keywords.items()]:
            if name not in results:
                for buffer in self.of(value):
                    self._read(buffer)
                    over += [buffer] if name in in_place else []
        for name in results & keywords.keys():
            for buffer in self.of(keywords[name]):
                self._write(buffer, tuple(over))
        return operation(*arguments, **keywords)

    def _read(self, buffer: Buffer) -> None:
        keeps = buffer.is_of_forward and not self.is_forward
        buffer.last_use = math.inf if keeps else max(buffer.last_use, self.now)

    def _write(self, buffer: Buffer, over: tuple[Buffer, ...]) -> None:
        if not buffer.is_written:
            buffer.is_written, buffer.first_use, buffer.over = True, self.now, over
        buffer.last_use = max(buffer.last_use, self.now)

    def before(self, layers: Sequence[Any], arrays: Sequence[Array]) -> None:
        """Keep what an opaque layer is given."""
        if any(layer.is_opaque for layer in layers):
            self.keep(self.of(*arrays))
        self._taken_before = len(self.buffers)

    def after(self, what: str, layers: Sequence[Any], arrays: Sequence[Array | None]) -> None:
        """Keep what an opaque layer has made and returned."""
        if self.is_forward:
            self.outputs[layers[-1]] = list(self.of(*arrays))
        if any(layer.is_opaque for layer in layers):
            self.keep([*self.of(*arrays), *self.buffers[self._taken_before :]])

    def needed_without_dx(self, keys: Set[tuple[int, str]]) -> None:
        """Take note which buffers a backward pass without the gradient in the network's input takes."""
        for buffer in self.buffers:
            buffer.for_dx = not buffer.is_of_forward and buffer.key not in keys

    def keep(self, buffers: Iterable[Buffer]) -> None:
        """Let nothing be written over some buffers until the next forward pass."""
        for buffer in buffers:
            buffer.last_use = math.inf

    def keep_returned(self, array: Array) -> None:
        """Let what a network returns share memory with nothing."""
        for buffer in self.of(array):
            buffer.first_use, buffer.last_use = START, math.inf


@functools.cache
def _signature(function: Callable[..., Any]) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]]:
    parameters = inspect.signature(function).parameters.values()
    given = tuple(one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD)
    results = frozenset(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)
    return given[1:], results, frozenset(getattr(function, "in_place", ()))


def _roles(operation: Callable[..., Any], count: int) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]]:
    """Return the names of an operation's arguments, of its results, and of the arguments that a result may lie over."""
    name = getattr(operation, "__name__", "")
    reference = getattr(Backend, name, None)
    if reference is None:
        return ("",) * count, frozenset(), frozenset()
    return _signature(reference)


class TracedBackend:
    """A backend whose operations are watched; all else is its own."""

    def __init__(self, backend: Backend, trace: Trace):
        self._backend, self._trace = backend, trace

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return functools.partial(self._trace.call, found) if inspect.ismethod(found) else found
