"""Which buffers of a network share memory, and how much memory it takes, before it runs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from gpucnn.backend.memory import Workspace
from gpucnn.execution.context import PlannedMemory, Slots
from gpucnn.execution.trace import START, Buffer

__all__ = ["MemoryPlan", "assign_slots", "held_bytes", "in_units", "kept_bytes", "table"]

Layer = Any  # one of gpucnn.layers: those import this package
MAX_REHEARSED = 512  # samples: what operations need beyond that grows evenly, or no more


def assign_slots(buffers: Sequence[Buffer]) -> dict[tuple[int, str], Hashable]:
    """Give each buffer the first slot where it overlaps no other, the largest first, so that none makes a slot grow.

    A slot has one dtype. Those of training and of inference have the same names, the largest first, so that both lie in
    the same memory. What the network returns keeps its own name.
    """
    taken: dict[Hashable, list[Buffer]] = defaultdict(list)
    slots: dict[tuple[int, str], Hashable] = {}
    for buffer in sorted(buffers, key=lambda buffer: -buffer.elements()):
        numbered = ((str(buffer.dtype), buffer.per_sample, number) for number in count())
        candidates = [buffer.key] if buffer.first_use == START else numbered
        slot = next(slot for slot in candidates if not any(map(buffer.overlaps, taken[slot])))
        taken[slot].append(buffer)
        slots[buffer.key] = slot
    return slots


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of memory of a training step, or of an inference, with one batch: `print(model.plan(64))`.

    The batch itself, the loss, and what layers of a user's own allocate are left out, though such layers are run.

    Attributes
    ----------
    parameters, gradients : of all layers; several threads have gradients each
    optimizer : what it keeps from step to step
    copies : of all that a run carries from step to step, as it was at the start of an epoch
    kept : what lasts until the next forward pass: arrays that the backward pass will read, and the outputs
    shared : what all other buffers need beside those, as they take turns
    workspace : what the backend's operations hold beside their arguments
    rows : for each layer its name, the bytes of its parameters, and those of `kept` that it writes
    """

    batch: int
    train: bool
    parameters: int
    gradients: int
    optimizer: int
    copies: int
    kept: int
    shared: int
    workspace: int
    rows: tuple[tuple[str, int, int], ...]

    @property
    def peak(self) -> int:
        """Bytes of all together."""
        held = self.parameters + self.gradients + self.optimizer + self.copies
        return held + self.kept + self.shared + self.workspace

    @classmethod
    def of(cls, network: Any, batch: int, *, train: bool, slots: int, copies: int) -> MemoryPlan:
        """Count the memory of a built network.

        Each thread takes an equal part of the batch through the first steps, with buffers and gradients of its own, and
        their outputs are joined. `slots` is how many arrays as large as all parameters an optimizer keeps,
        `copies` how many copies of all that a run carries from step to step.
        """
        program, arena = network.program, network.arena
        front, itemsize = program.front, np.dtype(network.backend.precision).itemsize
        threads = network.backend.threads if front else 1
        parts = Counter(filter(None, [(batch + thread) // threads for thread in range(threads)]))
        shared_layers = set(front.segment.layers()) if front else set()
        held, kept = 0, Counter()
        places = program.slots[train]
        for samples, times, is_shared in [(batch, 1, False), *((N, times, True) for N, times in parts.items())]:
            buffers = [one for one in program.buffers(train) if (one.layer in shared_layers) == is_shared]
            held += times * held_bytes(buffers, places, samples)
            for layer, size in kept_bytes(buffers, samples).items():
                kept[layer] += times * size
        outputs = math.prod(front.output_shape) * batch if front else 0
        own_gradients = sum(parameter.size for parameter in front.parameters) if front else 0
        state = sum(array.nbytes for array in network.arrays().values())
        optimizer = arena.size * slots * itemsize
        return cls(
            batch=batch,
            train=train,
            parameters=arena.size * itemsize,
            gradients=(arena.size + own_gradients * (threads - 1)) * itemsize,
            optimizer=optimizer,
            copies=copies * (state + optimizer),
            kept=kept.total() + outputs * itemsize,
            shared=held - kept.total(),
            workspace=sum(times * workspace_bytes(network, N, train=train) for N, times in parts.items()),
            rows=tuple(_row(layer, kept, itemsize) for layer in network.layers),
        )

    def __str__(self) -> str:
        rows = [("layer", "parameters", "kept"), *((name, *map(in_units, sizes)) for name, *sizes in self.rows)]
        names = "parameters", "gradients", "optimizer", "copies", "kept", "shared", "workspace", "peak"
        totals = [(name, "", in_units(getattr(self, name))) for name in names]
        title = f"{'training step' if self.train else 'inference'}, batch of {self.batch}"
        return f"{title}\n{table([*rows, *totals], left=1, totals=len(totals))}"


def workspace_bytes(network: Any, batch: int, *, train: bool) -> int:
    """Return what the backend's operations hold beside their arguments; some show it in a run of a few samples."""
    if network.backend.rehearsal() is None:
        return network.backend.together(part.workspace_bytes(batch, train=train) for part in network.parts())
    workers = 1 if network.program.front else network.backend.threads  # these share each operation
    samples = -(-batch // workers)
    held = _rehearse(network, min(samples, MAX_REHEARSED), train)
    if samples > MAX_REHEARSED:
        half = MAX_REHEARSED // 2
        held += (held - _rehearse(network, half, train)) * (samples - MAX_REHEARSED) // half
    return workers * held


def _rehearse(network: Any, samples: int, train: bool) -> int:
    """Run the network once over zeros on another backend, and return what that holds then."""
    backend = network.backend.rehearsal()
    memory = PlannedMemory(Workspace(backend), network.program.slots[train])
    whole, context = network.program.whole, network.context
    with network.undone(), context.computing_on(backend), context.using(memory), np.errstate(all="ignore"):
        y = whole.forward(backend.zeros((samples, *network.input_shape)), train, samples)
        if train:
            whole.backward(backend.zeros(tuple(y.shape)), False)
    return backend.held_bytes()


def _row(layer: Layer, kept: Counter[Layer], itemsize: int) -> tuple[str, int, int]:
    weights = sum(parameter.size for parameter in layer.parameters())
    return layer.name, weights * itemsize, sum(kept[part] for part in layer.parts())


def held_bytes(buffers: Iterable[Buffer], slots: Slots, batch: int) -> int:
    """Return the bytes of all slots that some buffers lie in: of each slot, those of its largest buffer."""
    sizes: Counter[Hashable] = Counter()
    for buffer in buffers:
        slot = slots[buffer.key]
        sizes[slot] = max(sizes[slot], buffer.nbytes(batch))
    return sizes.total()


def kept_bytes(buffers: Iterable[Buffer], batch: int) -> Counter[Layer]:
    """Return the bytes that last until the next forward pass, by the layer that writes them."""
    kept: Counter[Layer] = Counter()
    for buffer in buffers:
        kept[buffer.layer] += buffer.nbytes(batch) if buffer.is_kept else 0
    return kept


def in_units(size: int) -> str:
    """Return a number of bytes as people read it, with three digits or so."""
    if size < 1000:
        return f"{size} B"
    power = min((len(str(size)) - 1) // 3, 3)
    number = size / 1000**power
    return f"{number:.{max(0, 3 - len(str(int(number))))}f} {'kMG'[power - 1]}B"


def table(rows: Sequence[Sequence[str]], *, left: int, totals: int) -> str:
    """Return lines of columns under a header; the first ones are flush left, and the last rows are totals."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        flush = [str.ljust] * left + [str.rjust] * (len(row) - left)
        lines.append("  ".join(align(cell, width) for align, cell, width in zip(flush, row, widths, strict=True)))
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-totals], rule, *lines[-totals:]])
