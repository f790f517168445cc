"""When memory runs out: which layer asked for it, and which batch would fit."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

from gpucnn.errors import OutOfMemoryError
from gpucnn.execution.memory_plan import MemoryPlan, in_units
from gpucnn.layers.base import Layer

__all__ = ["check_memory", "explain", "largest_batch"]

SPARE = 0.9  # share of the free memory that is planned for: the batch, the loss and the plan's error have the rest


def check_memory(plan: MemoryPlan, free: int | None, network: Any, optimizer: Any = None) -> None:
    """Raise `OutOfMemoryError` if a plan does not fit: systems promise memory that they do not have."""
    if free is None or _fits(plan, free):
        return
    name, _, kept = max(plan.rows, key=lambda row: row[2])
    raise OutOfMemoryError(
        f"{network.label}: a batch of {plan.batch:,} takes {in_units(plan.peak)}, {in_units(kept)} of them for what "
        f"{name} keeps; {_left(network, free, largest_batch(network, free, plan.batch, optimizer))}"
    )


def explain(error: MemoryError, network: Any, batch: int) -> OutOfMemoryError:
    """Return an error that names the layer which ran out of memory, and a batch that fits."""
    layer = _innermost(error.__traceback__) or network
    free, fitting = network.backend.free_bytes(), 0
    with contextlib.suppress(MemoryError):  # the plan may need some itself
        fitting = 0 if free is None else largest_batch(network, free + network.held_bytes(), batch)
    told = _left(network, free, fitting)
    return OutOfMemoryError(f"{layer.label}: out of memory with a batch of {batch:,} ({error}); {told}")


def largest_batch(network: Any, free: int, below: int, optimizer: Any = None) -> int:
    """Return the largest batch, less than `below`, whose training step fits by plan; 0 if none does."""
    if below > 1 and _fits(network.plan(below - 1, optimizer=optimizer), free):
        return below - 1
    fitting, failing = 0, below
    while failing - fitting > max(1, fitting // 64):  # else it is near enough
        batch = (fitting + failing) // 2
        if _fits(network.plan(batch, optimizer=optimizer), free):
            fitting = batch
        else:
            failing = batch
    return fitting


def _fits(plan: MemoryPlan, free: int) -> bool:
    return plan.peak <= free * SPARE


def _left(network: Any, free: int | None, fitting: int) -> str:
    left = "" if free is None else f"{network.backend.name} has {in_units(free)} left, "
    return left + (f"where by plan a batch of {fitting:,} fits" if fitting else "use a smaller batch or network")


def _innermost(trace: TracebackType | None) -> Layer | None:
    """Return the layer whose method called last."""
    found = None
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = owner if isinstance(owner, Layer) else found
        trace = trace.tb_next
    return found
