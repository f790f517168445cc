"""Learning-rate schedules: the share of the first learning rate at each point of a run, from 0 (start) to 1 (end)."""

from __future__ import annotations

from collections.abc import Callable

from gpucnn.errors import lookup

__all__ = ["SCHEDULES", "constant", "get_schedule", "linear"]


def constant(progress: float) -> float:
    """The same rate throughout."""
    return 1.0


def linear(progress: float) -> float:
    """A rate that falls evenly towards zero: large steps first, little noise in the last ones."""
    return 1.0 - progress


SCHEDULES = {"linear": linear, "constant": constant}


def get_schedule(name: str) -> Callable[[float], float]:
    """Return a schedule by name."""
    return lookup("schedule", name, SCHEDULES)
