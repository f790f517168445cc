"""Optimizers: one operation of the backend updates the whole arena; hyper-parameters lie on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.checks import integer, number
from gpucnn.errors import InputError, lookup
from gpucnn.optim.hyperparameters import Attached, HyperParameter
from gpucnn.backend.memory import Arena
from gpucnn.optim.schedules import check_schedule

__all__ = ["OPTIMIZERS", "SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "get_optimizer"]

Array = Any
MOST_STEPS = 10_000_000  # the learning rate of each is in a table
NOT_ZERO = "else a weight whose gradient is 0 becomes 0/0; try 1e-8"


class Optimizer(Attached):
    """Turns gradients into new weights: `attach` it to the arena of a built model, then `step` after each backward.

    Hyper-parameters may be set between steps. With `clip_norm`, all gradients together are scaled down to that norm
    before each step, on the device: `g = g min(1, clip_norm/(||g|| + 1e-6))`.
    """

    slots = 0  # arrays as large as the arena that it keeps from step to step
    clip_norm = HyperParameter(optional=True, not_zero="else nothing is learned; None clips nothing")
    shares: np.ndarray | None = None  # of the learning rate, one for each step, where it follows a schedule
    _schedules = 0  # that it was told to follow

    def attach(self, arena: Arena, backend: Backend) -> None:
        limit = backend.from_host(self.held(("clip_norm",), backend.precision))
        super().attach(arena, backend)
        self.limit = limit
        if self.shares is not None:
            self._start_clock(backend)

    def state(self) -> dict[str, Array]:
        return super().state() | ({} if self.shares is None else {"clock": self.clock})

    def send(self) -> None:
        super().send()
        self.backend.from_host(self.held(("clip_norm",), self.backend.precision), out=self.limit)
        if self.shares is not None:
            self.backend.from_host(self._rates(self.backend.precision), out=self.rates)

    def follow(self, schedule: Callable[[float], float], steps: int) -> None:
        """Let the learning rate follow a schedule: in step t from now, t < steps, `learning_rate schedule(t/steps)`.

        After the last step it stays. The rates are computed here, once, and lie on the device, where each step finds
        its own. A `learning_rate` set later changes them all and leaves the clock alone.
        """
        name = type(self).__name__
        steps = integer(steps, f"{name}: steps", least=1, most=MOST_STEPS)
        check_schedule(schedule, f"{name}: schedule")
        shares = [number(schedule(t / steps), f"{name}: the schedule's share at {t}/{steps}") for t in range(steps)]
        self.shares, self._schedules = np.array(shares), self._schedules + 1
        if self.backend is not None:
            self._start_clock(self.backend)

    def _start_clock(self, backend: Backend) -> None:
        self.rates = backend.from_host(self._rates(backend.precision))
        self.clock = backend.zeros((1,), backend.xp.int64)

    def _rates(self, precision: str) -> np.ndarray:
        return (self.learning_rate * self.shares).astype(precision)

    def past_rate(self, ago: int) -> float:
        """Return the learning rate of a step already made, the last of them 1 step ago; reads the clock: a wait."""
        if self.shares is None:
            return self.learning_rate
        step = int(self.backend.to_host(self.clock)[0]) - ago
        return self.learning_rate * float(self.shares[min(step, len(self.shares) - 1)])

    @property
    def kind(self) -> tuple[Any, ...]:
        """What decides which operations a step consists of, beside its numbers."""
        return self.clip_norm is not None, self._schedules

    def step(self) -> None:
        """Update all weights from their gradients."""
        arena = self._current_arena()
        with self.backend.at_work():
            if self.clip_norm is not None:
                self.backend.clip_norm(arena.gradients, self.limit)
            if self.shares is not None:
                self.backend.take_rate(self.rates, self.clock, self.hyper)
            self._step(arena)

    def _step(self, arena: Arena) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent, `w = w - alpha dL/dw` (paper, section 3, backward, update), with momentum and weight decay.

    `g = dL/dw + weight_decay w; v = momentum v + g; w = w - learning_rate v`; with `nesterov` w moves by
    `g + momentum v` instead. Source: Sutskever et al., ICML 2013, in PyTorch's form.
    """

    slots = 1
    kept = ("velocity",)
    hyper_parameters = ("learning_rate", "momentum", "weight_decay")
    learning_rate = HyperParameter()
    momentum = HyperParameter(below=1.0)
    weight_decay = HyperParameter()

    def __init__(self, learning_rate=0.01, momentum=0.0, *, nesterov=False, weight_decay=0.0, clip_norm=None):
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.nesterov, self.clip_norm = nesterov, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.velocity = arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.sgd_step(arena.values, arena.gradients, self.velocity, self.hyper, nesterov=self.nesterov)


class Adam(Optimizer):
    """Adaptive moments: `w = w - learning_rate m^/(sqrt(v^) + eps)`, m^ and v^ the unbiased means of g and g^2.

    `g = dL/dw + weight_decay w`. Source: Kingma and Ba, ICLR 2015, algorithm 1.
    """

    slots = 2
    kept = ("mean", "square", "powers")
    hyper_parameters = ("learning_rate", "beta1", "beta2", "eps", "weight_decay")
    learning_rate = HyperParameter()
    beta1 = HyperParameter(below=1.0)
    beta2 = HyperParameter(below=1.0)
    eps = HyperParameter(not_zero=NOT_ZERO)
    weight_decay = HyperParameter()
    decoupled = False  # whether the decay stands beside the gradient

    def __init__(self, learning_rate=0.001, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=None):
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.eps, self.weight_decay, self.clip_norm = eps, weight_decay, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.mean, self.square = arena.slot(), arena.slot()
        self.powers = backend.from_host(np.ones(2, backend.precision))

    def _step(self, arena: Arena) -> None:
        slots = self.mean, self.square, self.powers
        self.backend.adam_step(arena.values, arena.gradients, *slots, self.hyper, decoupled=self.decoupled)


class AdamW(Adam):
    """Adam whose weight decay stands beside the gradient: `w = w - learning_rate weight_decay w` in each step.

    Source: Loshchilov and Hutter, ICLR 2019.
    """

    decoupled = True

    def __init__(self, learning_rate=0.001, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=None):
        super().__init__(
            learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm
        )


class RMSprop(Optimizer):
    """Steps divided by the root of the mean square: `v = s v + (1-s) g^2; w = w - learning_rate g/(sqrt(v) + eps)`.

    s is `smoothing`; with momentum, `b = momentum b + g/(sqrt(v) + eps)` takes the place of that quotient.
    Source: Tieleman and Hinton, Coursera 2012, in PyTorch's form.
    """

    slots = 2
    kept = ("square", "velocity")
    hyper_parameters = ("learning_rate", "smoothing", "eps", "momentum", "weight_decay")
    learning_rate = HyperParameter()
    smoothing = HyperParameter(below=1.0)
    eps = HyperParameter(not_zero=NOT_ZERO)
    momentum = HyperParameter(below=1.0)
    weight_decay = HyperParameter()

    def __init__(
        self, learning_rate=0.001, momentum=0.0, *, smoothing=0.99, eps=1e-8, weight_decay=0.0, clip_norm=None
    ):
        self.learning_rate, self.momentum, self.smoothing = learning_rate, momentum, smoothing
        self.eps, self.weight_decay, self.clip_norm = eps, weight_decay, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.square, self.velocity = arena.slot(), arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.rmsprop_step(arena.values, arena.gradients, self.square, self.velocity, self.hyper)


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of squares so far: `v = v + g^2; w = w - learning_rate g/(sqrt(v) + eps)`.

    Source: Duchi, Hazan and Singer, JMLR 12 (2011).
    """

    slots = 1
    kept = ("square",)
    hyper_parameters = ("learning_rate", "eps", "weight_decay")
    learning_rate = HyperParameter()
    eps = HyperParameter(not_zero=NOT_ZERO)
    weight_decay = HyperParameter()

    def __init__(self, learning_rate=0.01, *, eps=1e-10, weight_decay=0.0, clip_norm=None):
        self.learning_rate, self.eps = learning_rate, eps
        self.weight_decay, self.clip_norm = weight_decay, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.square = arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.adagrad_step(arena.values, arena.gradients, self.square, self.hyper)


OPTIMIZERS = {"sgd": SGD, "nesterov": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad}


def get_optimizer(
    name: str,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
) -> Optimizer:
    """Return a new optimizer by name.

    What is left out is as the optimizer has it, but for the momentum of SGD, which is 0.9.
    """
    kind = lookup("optimizer", name, OPTIMIZERS)
    settings = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    settings = {name: value for name, value in settings.items() if value is not None} | {"clip_norm": clip_norm}
    if kind is SGD:
        return SGD(**{"momentum": 0.9} | settings, nesterov=name == "nesterov")
    if momentum is not None and "momentum" not in kind.hyper_parameters:
        raise InputError(f"{name} takes no momentum: leave it out, or use the optimizer sgd")
    return kind(**settings)
