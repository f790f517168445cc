"""A network as what it does: a list of steps, which everything else reads.

A container says once how its parts are connected (`Container.connect`). From that follow the order of the forward and
of the backward pass, which steps are fused, which of them threads share, the memory plan, and the name of the step at
which memory ran out or a number became NaN.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np

from gpucnn.backend.memory import Workspace
from gpucnn.execution.context import PlannedMemory, Setting, Slots
from gpucnn.execution.memory_plan import assign_slots
from gpucnn.execution.replicas import Replicas
from gpucnn.execution.segment import Observer, Pattern, Segment, Step
from gpucnn.execution.trace import Buffer, Trace, TracedBackend

__all__ = ["Program"]

Array = Any
Layer = Any  # one of gpucnn.layers: those import this module
INPUT = 0  # the number of the network's input among its values


class Program:
    """What a built container does.

    Attributes
    ----------
    whole : all steps on one thread
    front : the first steps, whose samples threads share, or None
    rest : those that follow, which is all where there is no front
    is_planned : whether buffers share memory: of a network that is part of no other
    """

    def __init__(self, network: Layer, patterns: Sequence[Pattern], *, is_planned: bool):
        self.network, self.context, self.is_planned = network, network.context, is_planned
        self._calls: list[Step] = []
        target = network.connect(self, INPUT)
        self.whole = Segment(self._fused(patterns, self._calls), INPUT, target)
        self.front: Replicas | None = None
        self.rest = self.whole
        if is_planned and self.context.backend.threads > 1:
            self._split(patterns)
        self._traces: dict[bool, Trace] | None = None
        self._slots: dict[bool, Slots] | None = None
        self._memory: dict[bool, PlannedMemory] | None = None

    # ---- compiling ------------------------------------------------------------------------------------------------

    def add(self, layer: Layer, x: int) -> int:
        """Add what a layer does, by its parts where it is a container; return the number of the value that it makes."""
        return layer.connect(self, x) if layer.is_transparent else self.call(layer, x)

    def call(self, layer: Layer, *inputs: int) -> int:
        """Add a call of a layer to the end; return the number of the value that it makes."""
        self._calls.append(Step((layer,), inputs, len(self._calls) + 1))
        return len(self._calls)

    def _fused(self, patterns: Sequence[Pattern], calls: Sequence[Step]) -> dict[bool, list[Step]]:
        readers = Counter(value for call in self._calls for value in call.inputs)
        found = {}
        for train in (False, True):
            steps = list(calls)
            for pattern in patterns:
                if train in pattern.modes:
                    steps = list(_fuse(steps, pattern, readers))
            found[train] = steps
        return found

    def _split(self, patterns: Sequence[Pattern]) -> None:
        """Let threads share the samples of as many of the first calls as can be, but of no part of a fusion."""
        count = sum(1 for _ in takewhile(lambda call: call.layers[0].is_per_sample, self._calls))
        while count and not self._is_cut(count):
            count -= 1
        if not count:
            return
        front, rest = self._calls[:count], self._calls[count:]
        self.front = Replicas(Segment(self._fused(patterns, front), INPUT, front[-1].output), self.network)
        self.rest = Segment(self._fused(patterns, rest), front[-1].output, self.whole.target)

    def _is_cut(self, count: int) -> bool:
        """Whether only the last value of the first calls is read later, and no fusion is cut in two."""
        later = {value for call in self._calls[count:] for value in call.inputs}
        if any(value < count for value in later):
            return False
        first = {call.layers[0] for call in self._calls[:count]}
        steps = (step for some in self.whole.steps.values() for step in some)
        return all(len(first.intersection(step.layers)) in (0, len(step.layers)) for step in steps)

    # ---- running --------------------------------------------------------------------------------------------------

    def forward(self, x: Array, *, train: bool) -> Array:
        """Return the network's output, in memory that the next pass overwrites."""
        with self._using_memory(train):
            if self.front:
                x = self.front.forward(x, train)
            return self.rest.forward(x, train, x.shape[0])

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        """Overwrite the gradients of the parameters and return the gradient in the input, where it is needed."""
        with self._using_memory(True):
            if not self.front:
                return self.rest.backward(dy, need_dx)
            if self.rest.backward_steps:
                dy = self.rest.backward(dy, True)
            return self.front.backward(dy, need_dx)

    def _using_memory(self, train: bool) -> Setting:
        return self.context.using(self.memory[train] if self.is_planned else self.context.memory)

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Let something see each step for a while."""
        segments = [self.rest, *(self.front.segments if self.front else [])]
        for segment in segments:
            segment.observer = observer
        try:
            yield
        finally:
            for segment in segments:
                segment.observer = None

    def replica_layers(self) -> list[Layer]:
        """Return the layers that other threads compute with."""
        return self.front.layers() if self.front else []

    # ---- memory ---------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> dict[bool, Slots]:
        """Where the buffers of inference and of training lie."""
        if self._slots is None:
            self._slots = {train: assign_slots(trace.buffers) for train, trace in self.traces.items()}
        return self._slots

    @property
    def memory(self) -> dict[bool, PlannedMemory]:
        """What hands out the buffers of inference and of training."""
        if self._memory is None:
            workspace = self.network.workspace
            self._memory = {train: PlannedMemory(workspace, slots) for train, slots in self.slots.items()}
            if self.front:
                self.front.use(self.slots, self.traces)
        return self._memory

    def buffers(self, train: bool) -> list[Buffer]:
        """Return the buffers of inference or of a training step, which needs no gradient in the network's input."""
        trace = self.traces[train]
        elsewhere = self.front.output_buffers(trace) if self.front else []
        return [buffer for buffer in trace.buffers if not buffer.for_dx and buffer not in elsewhere]

    def reserve(self, batch: int) -> None:
        """Allocate the buffers for a batch, in training and in inference."""
        shared = set(self.front.segment.layers()) if self.front else set()
        for train, memory in self.memory.items():
            buffers = self.buffers(train)
            for buffer in buffers:
                if buffer.layer not in shared:
                    memory.reserve(buffer, batch)
            if self.front:
                self.front.reserve([buffer for buffer in buffers if buffer.layer in shared], batch, train)

    def workspaces(self) -> list[Workspace]:
        """Return the memory of the buffers, on all threads."""
        return [self.network.workspace, *(self.front.workspaces if self.front else [])]

    @property
    def traces(self) -> dict[bool, Trace]:
        """What a pass of one sample was seen to do, in inference and in training."""
        if self._traces is None:
            with self.network.undone(), np.errstate(all="ignore"):
                self._traces = {train: self._traced(train) for train in (True, False)}
        return self._traces

    def _traced(self, train: bool) -> Trace:
        """Watch one pass over zeros; of one that fails nothing is known, and it shares no memory."""
        backend = self.context.backend.rehearsal() or self.context.backend  # so that its own scratch stays as it is
        trace, x = Trace(backend), backend.zeros((1, *self.network.input_shape))
        if not backend.tells_views:
            return trace
        try:
            self._run_traced(trace, x, train)
        except MemoryError:
            raise
        except Exception as error:  # whatever a layer of a user's own raises on a single sample of zeros
            return Trace(backend, failure=error)
        trace.release()
        return trace

    def _run_traced(self, trace: Trace, x: Array, train: bool) -> None:
        with self.context.computing_on(TracedBackend(trace.backend, trace)), self.context.using(trace):
            self.whole.observer = trace
            try:
                y = self.whole.forward(x, train, math.inf)
                trace.keep_returned(y)
                if not train:
                    return
                dy = trace.backend.zeros(tuple(y.shape))
                trace.is_forward = False
                trace.keep_returned(self.whole.backward(dy, True))
                without_dx = Trace(trace.backend)
                with self.context.using(without_dx):
                    self.whole.observer = None
                    self.whole.backward(dy, False)
                trace.needed_without_dx({buffer.key for buffer in without_dx.buffers})
            finally:
                self.whole.observer = None


def _fuse(steps: Sequence[Step], pattern: Pattern, readers: Counter[int]) -> Iterator[Step]:
    """Put two steps of one layer each into one, where a pattern fits and nothing else reads what lies between them."""
    waiting: Step | None = None
    for step in steps:
        if waiting is not None and _fits(waiting, step, pattern, readers):
            yield Step(waiting.layers + step.layers, waiting.inputs, step.output, pattern)
            waiting = None
        else:
            yield from [] if waiting is None else [waiting]
            waiting = step
    yield from [] if waiting is None else [waiting]


def _fits(first: Step, second: Step, pattern: Pattern, readers: Counter[int]) -> bool:
    is_pair = len(first.layers) == len(second.layers) == 1 and second.inputs == (first.output,)
    return is_pair and readers[first.output] == 1 and pattern.fits(*first.layers, *second.layers)
