"""When memory runs out: which layer asked for it, and which batch would fit."""

from __future__ import annotations

import contextlib
from typing import Any

from gpucnn.errors import OutOfMemoryError
from gpucnn.execution.memory_plan import MemoryPlan, in_units
from gpucnn.execution.segment import LayerMemoryError

__all__ = ["MemoryErrorsExplained", "check_memory", "largest_batch"]

SPARE = 0.9  # share of the free memory that is planned for: the batch, the loss and the plan's error have the rest


def check_memory(plan: MemoryPlan, free: int | None, network: Any, **run: Any) -> None:
    """Raise `OutOfMemoryError` if a plan does not fit: systems promise memory that they do not have.

    `run` is what else of a training run the plan counts: see `Sequential.plan`.
    """
    if free is None or _fits(plan, free):
        return
    name, _, kept = max(plan.rows, key=lambda row: row[2])
    raise OutOfMemoryError(
        f"{network.label}: a batch of {plan.batch:,} takes {in_units(plan.peak)}, {in_units(kept)} of them for what "
        f"{name} keeps; {_left(network, free, largest_batch(network, free, plan.batch, **run))}"
    )


class MemoryErrorsExplained:
    """Raises an `OutOfMemoryError` in the place of any other `MemoryError` that comes meanwhile."""

    def __init__(self, network: Any, batch: int):
        self.network, self.batch = network, batch

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, *traceback: object) -> None:
        if isinstance(error, MemoryError) and not isinstance(error, OutOfMemoryError):
            raise _explained(error, self.network, self.batch) from error


def _explained(error: MemoryError, network: Any, batch: int) -> OutOfMemoryError:
    """Return an error that names the layer which ran out of memory, and a batch that fits."""
    free, fitting = network.backend.free_bytes(), 0
    with contextlib.suppress(MemoryError):  # the plan may need some itself
        fitting = 0 if free is None else largest_batch(network, free + network.held_bytes(), batch)
    told = _left(network, free, fitting)
    layer: Any = network
    cause: BaseException | None = error
    if isinstance(error, LayerMemoryError):
        layer, cause = error.layer, error.__cause__
    return OutOfMemoryError(f"{layer.label}: out of memory with a batch of {batch:,} ({cause}); {told}")


def largest_batch(network: Any, free: int, below: int, **run: Any) -> int:
    """Return the largest batch, less than `below`, whose training step fits by plan; 0 if none does."""
    if below > 1 and _fits(network.plan(below - 1, **run), free):
        return below - 1
    fitting, failing = 0, below
    while failing - fitting > max(1, fitting // 64):  # else it is near enough
        batch = (fitting + failing) // 2
        if _fits(network.plan(batch, **run), free):
            fitting = batch
        else:
            failing = batch
    return fitting


def _fits(plan: MemoryPlan, free: int) -> bool:
    return plan.peak <= free * SPARE


def _left(network: Any, free: int | None, fitting: int) -> str:
    left = "" if free is None else f"{network.backend.name} has {in_units(free)} left, "
    return left + (f"where by plan a batch of {fitting:,} fits" if fitting else "use a smaller batch or network")
