"""How much memory a network takes, before it runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.execution.lifetimes import Buffer, Slots, lifetimes
from gpucnn.execution.replicas import copy_onto

if TYPE_CHECKING:
    from gpucnn.layers.base import Layer

__all__ = ["MemoryPlan", "held_bytes", "in_units", "kept_bytes", "table"]

REHEARSED = 512  # samples at most: what operations need beyond that grows evenly, or no more


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of memory of a training step, or of an inference, with one batch: `print(model.plan(64))`.

    The batch itself, the loss, and what layers of a user's own allocate are left out, though such layers are run.

    Attributes
    ----------
    parameters, gradients : of all layers; several threads have gradients each
    optimizer : what it keeps from step to step
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
    kept: int
    shared: int
    workspace: int
    rows: tuple[tuple[str, int, int], ...]

    @property
    def peak(self) -> int:
        """Bytes of all together."""
        return self.parameters + self.gradients + self.optimizer + self.kept + self.shared + self.workspace

    @classmethod
    def of(cls, network: Any, batch: int, *, train: bool, front: Any, slots: int) -> MemoryPlan:
        """Count the memory of a built `Sequential`.

        Each thread takes an equal part of the batch through the layers of `front`, with buffers and gradients of its
        own, and their outputs are joined; None is a front of no layers. `slots` is how many arrays as large as all
        parameters an optimizer keeps.
        """
        precision, arena = network.backend.precision, network.arena
        itemsize = np.dtype(precision).itemsize
        threads = network.backend.threads if front else 1
        parts = Counter(filter(None, [(batch + thread) // threads for thread in range(threads)]))
        before = set(front.parts()) if front else set()
        held, kept = 0, Counter()
        for samples, times, is_shared in [(batch, 1, False), *((N, times, True) for N, times in parts.items())]:
            walked = lifetimes(network, train=train, need_dx=False, batch=samples)
            buffers = [buffer for buffer in walked if (buffer.layer in before) == is_shared]
            held += times * held_bytes(buffers, network.slots[train], samples, precision)
            for layer, size in kept_bytes(buffers, samples, precision).items():
                kept[layer] += times * size
        outputs = math.prod(front.output_shape) * batch if front else 0
        own_gradients = sum(parameter.size for parameter in front.parameters()) if front else 0
        return cls(
            batch=batch,
            train=train,
            parameters=arena.size * itemsize,
            gradients=(arena.size + own_gradients * (threads - 1)) * itemsize,
            optimizer=arena.size * slots * itemsize,
            kept=kept.total() + outputs * itemsize,
            shared=held - kept.total(),
            workspace=sum(times * workspace_bytes(network, N, train=train) for N, times in parts.items()),
            rows=tuple(_row(layer, kept, itemsize) for layer in network.layers),
        )

    def __str__(self) -> str:
        rows = [("layer", "parameters", "kept"), *((name, *map(in_units, sizes)) for name, *sizes in self.rows)]
        names = "parameters", "gradients", "optimizer", "kept", "shared", "workspace", "peak"
        totals = [(name, "", in_units(getattr(self, name))) for name in names]
        title = f"{'training step' if self.train else 'inference'}, batch of {self.batch}"
        return f"{title}\n{table([*rows, *totals], left=1, totals=len(totals))}"


def workspace_bytes(network: Any, batch: int, *, train: bool) -> int:
    """Return what the backend's operations hold beside their arguments; some show it in a run of a few samples."""
    if network.backend.rehearsal() is None:
        return network.backend.together(part.workspace_bytes(batch, train=train) for part in network.parts())
    workers = 1 if network._shards else network.backend.threads  # these share each operation
    samples = -(-batch // workers)
    held = _rehearse(network, min(samples, REHEARSED), train)
    if samples > REHEARSED:
        half = REHEARSED // 2
        held += (held - _rehearse(network, half, train)) * (samples - REHEARSED) // half
    return workers * held


def _rehearse(network: Any, samples: int, train: bool) -> int:
    backend = network.backend.rehearsal()
    copy = copy_onto(backend, network, own_gradients=True)
    with np.errstate(all="ignore"):
        copy._forward(backend.zeros((samples, *network.input_shape)), train)
        if train:
            copy._backward(backend.zeros((samples, *network.output_shape)), need_dx=False)
    return backend.held_bytes()


def _row(layer: Layer, kept: Counter[Layer], itemsize: int) -> tuple[str, int, int]:
    weights = sum(parameter.size for parameter in layer.parameters())
    return layer.name, weights * itemsize, sum(kept[part] for part in layer.parts())


def held_bytes(buffers: Iterable[Buffer], slots: Slots, batch: int, precision: str) -> int:
    """Return the bytes of all slots that some buffers lie in: of each slot, those of its largest buffer."""
    sizes: Counter[Hashable] = Counter()
    for buffer in buffers:
        slot = slots[buffer.key]
        sizes[slot] = max(sizes[slot], buffer.nbytes(batch, precision))
    return sizes.total()


def kept_bytes(buffers: Iterable[Buffer], batch: int, precision: str) -> Counter[Layer]:
    """Return the bytes that last until the next forward pass, by the layer that writes them."""
    kept: Counter[Layer] = Counter()
    for buffer in buffers:
        kept[buffer.layer] += buffer.nbytes(batch, precision) if buffer.is_kept else 0
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
