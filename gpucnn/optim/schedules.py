"""Learning-rate schedules: the factor of the learning rate at each point of a run, from 0 (start) towards 1 (end).

A schedule is any function of the progress; those here are values that say what they are when printed, and raise
`InputError` for wrong numbers. An optimizer takes one with `set_schedule(schedule, steps)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gpucnn.checks import number
from gpucnn.errors import InputError, lookup

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Exponential",
    "Linear",
    "OneCycle",
    "Step",
    "WarmUp",
    "check_schedule",
    "get_schedule",
]


def check_schedule(schedule: object, what: str) -> None:
    """Raise `InputError` unless `schedule` is a function; a class is one too, but not of the progress.

    `what` names it in the error.

    >>> check_schedule("linear", "SGD: schedule")
    Traceback (most recent call last):
    gpucnn.errors.InputError: SGD: schedule must be a function of the progress, such as Linear(), received 'linear'
    """
    if not callable(schedule) or isinstance(schedule, type):
        raise InputError(f"{what} must be a function of the progress, such as Linear(), received {schedule!r}")


def _cosine(first: float, last: float, progress: float) -> float:
    """Go from `first` to `last` along half a cosine wave: slowly at both ends."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Constant:
    """The same rate throughout.

    >>> Constant()(0.5)
    1.0
    """

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear:
    """A rate that falls evenly to the factor `end`: large steps first, little noise in the last ones.

    >>> Linear(end=0.5)(0.5)
    0.75
    """

    end: float = 0.0

    def __post_init__(self) -> None:
        number(self.end, "Linear: end")

    def __call__(self, progress: float) -> float:
        return 1.0 - (1.0 - self.end) * progress


@dataclass(frozen=True)
class Step:
    """A rate that is multiplied by `factor` at each milestone, a fraction of the run.

    By default those of He et al., CVPR 2016, on CIFAR-10: a tenth after a half, a hundredth after three quarters.

    >>> [Step(factor=0.5)(progress) for progress in (0.0, 0.5, 0.9)]
    [1.0, 0.5, 0.25]
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, (tuple, list)):
            raise InputError(f"Step: milestones must be a tuple of numbers, received {self.milestones!r}")
        for milestone in self.milestones:
            number(milestone, "Step: a milestone", below=1.0)
        number(self.factor, "Step: factor")

    def __call__(self, progress: float) -> float:
        return self.factor ** sum(progress >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Exponential:
    """A rate that loses the same part of itself in every step, down to the factor `end`: `end^progress`.

    >>> Exponential(end=0.25)(0.5)
    0.5
    """

    end: float = 0.01

    def __post_init__(self) -> None:
        if number(self.end, "Exponential: end") == 0:
            raise InputError("Exponential: end must be above 0, which no power reaches; try 0.01")

    def __call__(self, progress: float) -> float:
        return self.end**progress


@dataclass(frozen=True)
class Cosine:
    """A rate that falls along half a cosine wave to the factor `end`, one period without restarts.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5.

    >>> f"{Cosine(end=0.5)(0.5):.2f}"
    '0.75'
    """

    end: float = 0.0

    def __post_init__(self) -> None:
        number(self.end, "Cosine: end")

    def __call__(self, progress: float) -> float:
        return _cosine(1.0, self.end, progress)


@dataclass(frozen=True)
class OneCycle:
    """A rate that climbs from the factor `start` to 1 in the first part `peak` of a run, and then falls to `end`.

    Both ways along half a cosine wave. Source: Smith and Topin, Super-Convergence, 2018 (arXiv 1708.07120), in
    PyTorch's form and with its numbers: up from 1/25 in 30 % of the run, down to 1/25 of a ten thousandth.

    >>> [f"{OneCycle()(progress):.2f}" for progress in (0.0, 0.3, 0.65)]
    ['0.04', '1.00', '0.50']
    """

    peak: float = 0.3
    start: float = 0.04
    end: float = 4e-6

    def __post_init__(self) -> None:
        number(self.peak, "OneCycle: peak", below=1.0)
        number(self.start, "OneCycle: start")
        number(self.end, "OneCycle: end")

    def __call__(self, progress: float) -> float:
        if progress < self.peak:
            return _cosine(self.start, 1.0, progress / self.peak)
        return _cosine(1.0, self.end, (progress - self.peak) / (1.0 - self.peak))


@dataclass(frozen=True)
class WarmUp:
    """A climb in front of a schedule: evenly from the part `start` of its first rate, during `share` of the run.

    The schedule has the rest of the run. Source: Goyal et al., 2017 (arXiv 1706.02677), section 2.2.

    >>> [WarmUp(Linear(), share=0.5, start=0.0)(progress) for progress in (0.0, 0.25, 0.5, 0.75)]
    [0.0, 0.5, 1.0, 0.5]
    """

    schedule: Callable[[float], float]
    share: float
    start: float = 0.01

    def __post_init__(self) -> None:
        check_schedule(self.schedule, "WarmUp: schedule")
        number(self.share, "WarmUp: share", below=1.0)
        number(self.start, "WarmUp: start")

    def __call__(self, progress: float) -> float:
        if progress < self.share:
            return self.schedule(0.0) * (self.start + (1.0 - self.start) * progress / self.share)
        return self.schedule((progress - self.share) / (1.0 - self.share))


SCHEDULES: dict[str, Callable[[], Callable[[float], float]]] = {
    "linear": Linear,
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "cosine": Cosine,
    "one-cycle": OneCycle,
}


def get_schedule(name: str, warm_up: float = 0.0) -> Callable[[float], float]:
    """Return a schedule by name, one of `SCHEDULES`, with its usual numbers, after a climb in the share `warm_up`.

    Raises `InputError` for an unknown name, or a `warm_up` that is not in [0, 1).

    >>> get_schedule("cosine", warm_up=0.1)
    WarmUp(schedule=Cosine(end=0.0), share=0.1, start=0.01)
    """
    return WarmUp(lookup("schedule", name, SCHEDULES)(), warm_up)
