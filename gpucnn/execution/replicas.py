"""The first steps of a network on several threads: each takes a part of the batch through them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from gpucnn.backend.memory import Parameter, Workspace
from gpucnn.execution.context import Context, PlannedMemory, Slots
from gpucnn.execution.segment import Segment
from gpucnn.execution.trace import Buffer, Trace

__all__ = ["Replicas", "replicate"]

Array = Any
Layer = Any


def replicate(layer: Layer, context: Context, gradients: dict[int, Array] | None) -> Layer:
    """Return a copy of a layer that computes in another context, with the same settings and weights.

    What a pass leaves in it is its own. So are its gradients, by the number of their parameter, if any are given.
    """
    replica = copy.copy(layer)
    vars(replica)["context"] = context
    for name, value in vars(layer).items():
        if gradients is not None and isinstance(value, Parameter):
            vars(replica)[name] = value.with_gradient(gradients[id(value)])
    return replica


class Replicas:
    """Copies of the layers of some steps, one set for each thread, that share their weights.

    Each has buffers and gradients of its own; the gradients are added in the order of the batch, so that a run repeats.
    To wake a thread costs as much as a small convolution: here that happens once for a pass, not for each operation.
    They are made anew after a setting of a layer was changed.
    """

    def __init__(self, segment: Segment, network: Layer):
        self.segment, self.network, self.backend = segment, network, network.backend
        self.contexts = [Context(worker, network.context.seed) for worker in self.backend.workers]
        self.workspaces = [Workspace(worker) for worker in self.backend.workers]
        self.parameters = [one for layer in segment.layers() for one in layer.parameters()]
        self._gradients = [
            {id(one): context.backend.zeros(one.shape) for one in self.parameters} for context in self.contexts[1:]
        ]
        self._segments: list[Segment] = []
        self._version: int | None = None
        self._memory: list[dict[bool, PlannedMemory]] = []
        self._parts: list[slice] = []

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one sample of the output."""
        return self.segment.steps[True][-1].layers[-1].output_shape

    @property
    def segments(self) -> list[Segment]:
        """The steps of each thread."""
        if self._version != self.network.context.version:
            self._version = self.network.context.version
            gradients = [None, *self._gradients]
            self._segments = [
                self.segment.of({layer: replicate(layer, context, own) for layer in self.segment.layers()})
                for context, own in zip(self.contexts, gradients, strict=True)
            ]
        return self._segments

    def layers(self) -> list[Layer]:
        """Return the layers of all threads."""
        return [layer for segment in self.segments for layer in segment.layers()]

    def use(self, slots: Mapping[bool, Slots], traces: Mapping[bool, Trace]) -> None:
        """Take buffers from the slots of a plan, each thread in a workspace of its own."""
        self._memory = [
            {train: PlannedMemory(workspace, some) for train, some in slots.items()} for workspace in self.workspaces
        ]
        self._outputs = {train: self.output_buffers(trace) for train, trace in traces.items()}

    def output_buffers(self, trace: Trace) -> list[Buffer]:
        """Return the buffer that the output lies in, if it is all of one: it then lies in that of the whole batch."""
        found = trace.outputs.get(self.segment.steps[True][-1].layers[-1], [])
        is_whole = len(found) == 1 and found[0].layer in self.segment.layers() and found[0].per_sample
        return found if is_whole and found[0].size == math.prod(self.output_shape) else []

    def reserve(self, buffers: Sequence[Buffer], batch: int, train: bool) -> None:
        """Allocate buffers for the parts of a batch, and what joins them."""
        self.network.workspace.take((self.network.id, "front"), (batch, *self.output_shape), self.backend.float_dtype)
        for memory, part in zip(self._memory, self.backend.parts(batch), strict=False):
            for buffer in buffers:
                memory[train].reserve(buffer, part.stop - part.start)

    def forward(self, x: Array, train: bool) -> Array:
        """Return the outputs of a batch."""
        y = self.network.buffer("front", (x.shape[0], *self.output_shape))
        self._parts = self.backend.parts(x.shape[0])
        segments, outputs = self.segments, self._outputs[train]

        def run(number: int, part: slice) -> None:
            memory = self.contexts[number].memory = self._memory[number][train]
            memory.given = {buffer.key: y[part] for buffer in outputs}
            part_y = segments[number].forward(x[part], train, part.stop - part.start)
            if not outputs:
                y[part] = part_y

        self._share(run)
        return y

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Overwrite the gradients of the parameters, and return dx where it is needed."""
        dx = self.network.buffer("front dx", (dy.shape[0], *self.network.input_shape)) if need_dx else None

        def run(number: int, part: slice) -> None:
            memory = self.contexts[number].memory = self._memory[number][True]
            memory.given = {}
            part_dx = self._segments[number].backward(dy[part], need_dx)
            if need_dx:
                dx[part] = part_dx

        self._share(run)
        for gradients in self._gradients[: len(self._parts) - 1]:
            for parameter in self.parameters:
                self.backend.add(parameter.gradient, gradients[id(parameter)], out=parameter.gradient)
        return dx

    def _share(self, run: Callable[[int, slice], None]) -> None:
        self.backend.run([partial(run, *part) for part in enumerate(self._parts)])
