"""Schedules: their values at the start, in the middle and at the end, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from gpucnn import InputError
from gpucnn.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Linear,
    OneCycle,
    Step,
    WarmUp,
    get_schedule,
)

ROOT_HALF = math.sqrt(0.5)

VALUES = {
    "constant": (Constant(), {0: 1, 0.3: 1, 1: 1}),
    "linear": (Linear(), {0: 1, 0.25: 0.75, 0.5: 0.5, 1: 0}),
    "linear to a fifth": (Linear(end=0.2), {0: 1, 0.5: 0.6, 1: 0.2}),
    "step": (Step(), {0: 1, 0.499: 1, 0.5: 0.1, 0.749: 0.1, 0.75: 0.01, 1: 0.01}),
    "step by a half": (Step((0.2, 0.3, 0.9), 0.5), {0: 1, 0.1: 1, 0.2: 0.5, 0.25: 0.5, 0.5: 0.25, 1: 0.125}),
    "exponential": (Exponential(), {0: 1, 0.5: 0.1, 1: 0.01}),
    "exponential to a quarter": (Exponential(0.25), {0: 1, 0.5: 0.5, 0.75: ROOT_HALF / 2, 1: 0.25}),
    "cosine": (Cosine(), {0: 1, 0.25: (1 + ROOT_HALF) / 2, 0.5: 0.5, 0.75: (1 - ROOT_HALF) / 2, 1: 0}),
    "cosine to a fifth": (Cosine(0.2), {0: 1, 0.5: 0.6, 1: 0.2}),
    "one-cycle": (OneCycle(), {0: 0.04, 0.15: 0.52, 0.3: 1, 0.65: 0.500002, 1: 4e-6}),
    "one-cycle, half up": (OneCycle(0.5, 0.2, 0.1), {0: 0.2, 0.25: 0.6, 0.5: 1, 0.75: 0.55, 1: 0.1}),
    "one-cycle, down only": (OneCycle(0.0, 0.2, 0.0), {0: 1, 0.5: 0.5, 1: 0}),
    "warm-up": (WarmUp(Linear(), 0.2), {0: 0.01, 0.1: 0.505, 0.2: 1, 0.6: 0.5, 1: 0}),
    "warm-up from nothing": (WarmUp(OneCycle(0.0, 1.0, 0.5), 0.5, 0.0), {0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.75, 1: 0.5}),
    "warm-up to less than 1": (WarmUp(lambda progress: 0.5, 0.4, 0.2), {0: 0.1, 0.2: 0.3, 0.4: 0.5, 1: 0.5}),
    "no warm-up": (WarmUp(Cosine(), 0.0), {0: 1, 0.5: 0.5, 1: 0}),
}


@pytest.mark.parametrize("case", VALUES)
def test_values(case: str) -> None:
    schedule, values = VALUES[case]
    for progress, share in values.items():
        assert schedule(progress) == pytest.approx(share, rel=1e-12, abs=1e-15), progress


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warm_up", [0.0, 0.05])
def test_by_name(name: str, warm_up: float) -> None:
    """Each starts at its first share, is 1 at most, and changes by no jump but those of `step`."""
    schedule, plain = get_schedule(name, warm_up), SCHEDULES[name]()
    factors = [schedule(t / 1000) for t in range(1000)]
    assert factors[0] == pytest.approx(plain(0.0) * (0.01 if warm_up else 1.0))
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(plain((0.999 - warm_up) / (1 - warm_up)))
    jumps = sum(abs(after - before) > 0.021 for before, after in pairwise(factors))
    assert jumps == {"step": 2}.get(name, 0)


BAD = [
    (lambda: get_schedule("lineer"), "unknown schedule 'lineer': did you mean 'linear'? known are linear, constant, "),
    (lambda: get_schedule("linear", 1.0), "WarmUp: share must be a number of at least 0 and below 1, received 1.0"),
    (lambda: WarmUp(Linear(), -0.1), "WarmUp: share must be a number of at least 0 and below 1, received -0.1"),
    (lambda: WarmUp(Linear(), 0.1, -1), "WarmUp: start must be a number of at least 0 and finite, received -1"),
    (lambda: Linear(-0.1), "Linear: end must be a number of at least 0 and finite, received -0.1"),
    (lambda: Cosine(math.nan), "Cosine: end must be a number of at least 0 and finite, received nan"),
    (lambda: Exponential(-1), "Exponential: end must be a number of at least 0 and finite, received -1"),
    (lambda: Exponential(0.0), "Exponential: end must be above 0, which no power reaches; try 0.01"),
    (lambda: Step((0.5, 1.0)), "Step: a milestone must be a number of at least 0 and below 1, received 1.0"),
    (lambda: Step(0.5), "Step: milestones must be a tuple of numbers, received 0.5"),
    (lambda: WarmUp(Linear, 0.1), "WarmUp: schedule must be a function of the progress, such as Linear(), received"),
    (lambda: Step(factor=-0.1), "Step: factor must be a number of at least 0 and finite, received -0.1"),
    (lambda: OneCycle(1.0), "OneCycle: peak must be a number of at least 0 and below 1, received 1.0"),
    (lambda: OneCycle(start=-1), "OneCycle: start must be a number of at least 0 and finite, received -1"),
    (lambda: OneCycle(end=math.inf), "OneCycle: end must be a number of at least 0 and finite, received inf"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_settings(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value).startswith(message)
