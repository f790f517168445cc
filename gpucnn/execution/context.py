"""What the layers of one network share, and where their buffers come from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import numpy as np

from gpucnn.backend import Backend
from gpucnn.backend.memory import Workspace
from gpucnn.execution.trace import Buffer

__all__ = ["Context", "Memory", "PlannedMemory", "Slots"]

Array = Any
Shape = tuple[int, ...]
Key = tuple[int, str]  # of a buffer: the number of its layer, and its name in it
Slots = Mapping[Key, Hashable]  # where each buffer lies that a plan knows


class Memory(Protocol):
    """Where the buffers of layers come from."""

    def take(self, layer: Any, name: str, shape: Shape, dtype: Any, per_sample: bool, min_batch: int) -> Array:
        """Return a layer's buffer; its contents are whatever was left in it."""


class PlannedMemory:
    """Buffers that take turns in the slots of a plan; those that the plan does not know keep memory of their own."""

    def __init__(self, workspace: Workspace, slots: Slots):
        self.workspace, self.slots = workspace, slots
        self.given: dict[Key, Array] = {}  # memory of somebody else's that some buffers lie in

    def take(self, layer: Any, name: str, shape: Shape, dtype: Any, per_sample: bool, min_batch: int) -> Array:
        """Return the buffer in its slot, which grows when asked for more."""
        key = layer.id, name
        if key in self.given:
            return self.given[key].reshape(shape)
        return self.workspace.take(self.slots.get(key, key), shape, dtype)

    def reserve(self, buffer: Buffer, batch: int) -> None:
        """Allocate a buffer for a batch, if it is large enough to take it."""
        if batch >= buffer.min_batch:
            self.workspace.take(self.slots[buffer.key], (buffer.elements(batch),), buffer.dtype)


class Context:
    """The backend, the memory, and the seed of the random streams of one network, or of a layer alone.

    Attributes
    ----------
    memory : where the pass that is under way gets its buffers; None is new arrays, as for layers that are called alone
    version : goes up with each change of a layer's settings
    """

    def __init__(self, backend: Backend, seed: int = 0):
        self.backend, self.seed = backend, seed
        self.memory: Memory | None = None
        self.version = 0
        self._layers = 0

    def next_layer_id(self) -> int:
        """Return a new number for a layer: it keeps the buffers and the random streams of two layers apart."""
        self._layers += 1
        return self._layers

    def random_key(self, layer_id: int) -> tuple[int, int]:
        """Return the Philox key of the layer with this number, the same on every device."""
        low, high = np.random.SeedSequence((self.seed, layer_id)).generate_state(2)
        return int(low), int(high)

    def using(self, memory: Memory | None) -> Setting:
        """Take buffers from a memory for a while."""
        return Setting(self, memory, self.backend)

    def computing_on(self, backend: Any) -> Setting:
        """Compute on another backend for a while."""
        return Setting(self, self.memory, backend)


class Setting:
    """A context with another memory and backend for a while; a class, as each pass has two, and generators are slow."""

    def __init__(self, context: Context, memory: Memory | None, backend: Any):
        self.context, self.wanted = context, (memory, backend)

    def __enter__(self) -> None:
        self.before = self.context.memory, self.context.backend
        self.context.memory, self.context.backend = self.wanted

    def __exit__(self, *error: object) -> None:
        self.context.memory, self.context.backend = self.before
