"""Optimizers: one operation of the backend updates the whole arena; hyperparameters lie on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.backend.memory import Arena
from gpucnn.checks import integer, number
from gpucnn.errors import InputError, lookup
from gpucnn.optim.hyperparameters import ArenaBound, Hyperparameter
from gpucnn.optim.schedules import check_schedule

__all__ = ["OPTIMIZERS", "SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "get_optimizer"]

Array = Any
MAX_STEPS = 10_000_000  # the learning rate of each is in a table
NOT_ZERO = "else a weight whose gradient is 0 becomes 0/0; try 1e-8"


class Optimizer(ArenaBound):
    """Turns gradients into new weights: `attach` it to the arena of a built model, `step` after each backward pass.

    >>> from gpucnn import Dense
    >>> layer, optimizer = Dense(1, initializer="zeros"), SGD(learning_rate=0.5)
    >>> layer.build((2,), "cpu")
    (1,)
    >>> optimizer.attach(layer.arena, layer.backend)
    >>> layer.w.gradient[...] = 1.0
    >>> optimizer.step()
    >>> layer.w.value.tolist()
    [[-0.5], [-0.5]]

    Hyperparameters may be set between steps, and raise `InputError` for a value that makes no sense. With `clip_norm`,
    all gradients together are scaled down to that norm before each step, on the device:
    `g = g min(1, clip_norm/(||g|| + 1e-6))`.
    """

    slots = 0  # arrays as large as the arena that it keeps from step to step
    learning_rate = Hyperparameter()
    clip_norm = Hyperparameter(optional=True, not_zero="else nothing is learned; None clips nothing")
    lr_factors: np.ndarray | None = None  # of the learning rate, one for each step, where it follows a schedule
    _schedules = 0  # that it was told to follow

    def attach(self, arena: Arena, backend: Backend) -> None:
        limit = backend.from_host(self.held(("clip_norm",), backend.precision))
        super().attach(arena, backend)
        self.limit = limit
        if self.lr_factors is not None:
            self._start_clock(backend)

    def state(self) -> dict[str, Array]:
        return super().state() | ({} if self.lr_factors is None else {"clock": self.clock})

    def send(self) -> None:
        super().send()
        self.backend.from_host(self.held(("clip_norm",), self.backend.precision), out=self.limit)
        if self.lr_factors is not None:
            self.backend.from_host(self._rates(self.backend.precision), out=self.rates)

    def set_schedule(self, schedule: Callable[[float], float], steps: int) -> None:
        """Let the learning rate follow a schedule: in step t from now, t < steps, `learning_rate schedule(t/steps)`.

        After the last step it stays. The rates are computed here, once, and lie on the device, where each step finds
        its own. A `learning_rate` set later changes them all and leaves the clock alone. Raises `InputError` for what
        is not a schedule, or gives anything but finite numbers of at least 0.

        >>> from gpucnn.optim.schedules import Linear
        >>> optimizer = SGD(learning_rate=0.1)
        >>> optimizer.set_schedule(Linear(), steps=4)
        >>> optimizer.lr_factors.tolist()
        [1.0, 0.75, 0.5, 0.25]
        """
        name = type(self).__name__
        steps = integer(steps, f"{name}: steps", least=1, most=MAX_STEPS)
        check_schedule(schedule, f"{name}: schedule")
        factors = [number(schedule(t / steps), f"{name}: the schedule's factor at {t}/{steps}") for t in range(steps)]
        self.lr_factors, self._schedules = np.array(factors), self._schedules + 1
        if self.arena is not None:
            self._start_clock(self.backend)

    def _start_clock(self, backend: Backend) -> None:
        self.rates = backend.from_host(self._rates(backend.precision))
        self.clock = backend.zeros((1,), backend.xp.int64)

    def _rates(self, precision: str) -> np.ndarray:
        return np.asarray(self.learning_rate * self.lr_factors, precision)

    def learning_rate_at(self, ago: int) -> float:
        """Return the learning rate of a step already made, the last one 1 step `ago`; reading the clock is a wait."""
        if self.lr_factors is None:
            return self.learning_rate
        step = int(self.backend.to_host(self.clock)[0]) - ago
        return self.learning_rate * float(self.lr_factors[min(step, len(self.lr_factors) - 1)])

    @property
    def kind(self) -> tuple[Any, ...]:
        """What decides which operations a step consists of, beside its numbers."""
        return self.clip_norm is not None, self._schedules

    def step(self) -> None:
        """Update all weights from their gradients."""
        arena = self._current_arena()
        with self.backend.limit_blas_threads():
            if self.clip_norm is not None:
                self.backend.clip_norm(arena.gradients, self.limit)
            if self.lr_factors is not None:
                self.backend.apply_scheduled_rate(self.rates, self.clock, self.hyperparameters)
            self._step(arena)

    def _step(self, arena: Arena) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent, `w = w - alpha dL/dw` (paper, section 3, backward, update), with momentum and weight decay.

    `g = dL/dw + weight_decay w; v = momentum v + g; w = w - learning_rate v`; with `nesterov` w moves by
    `g + momentum v` instead. Source: Sutskever et al., ICML 2013, in PyTorch's form.

    >>> SGD(learning_rate=0.05, momentum=0.9, nesterov=True)
    SGD(learning_rate=0.05, momentum=0.9, nesterov=True)
    """

    slots = 1
    kept = ("velocity",)
    hyperparameter_names = ("learning_rate", "momentum", "weight_decay")
    momentum = Hyperparameter(below=1.0)
    weight_decay = Hyperparameter()

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.nesterov, self.clip_norm = nesterov, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.velocity = arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.sgd_step(
            arena.values, arena.gradients, self.velocity, self.hyperparameters, nesterov=self.nesterov
        )


class Adam(Optimizer):
    """Adaptive moments: `w = w - learning_rate m^/(sqrt(v^) + eps)`, m^ and v^ the unbiased means of g and g^2.

    `g = dL/dw + weight_decay w`. Source: Kingma and Ba, ICLR 2015, algorithm 1.

    >>> Adam(learning_rate=0.002, beta2=0.99)
    Adam(learning_rate=0.002, beta2=0.99)
    """

    slots = 2
    kept = ("mean", "square", "powers")
    hyperparameter_names = ("learning_rate", "beta1", "beta2", "eps", "weight_decay")
    beta1 = Hyperparameter(below=1.0)
    beta2 = Hyperparameter(below=1.0)
    eps = Hyperparameter(not_zero=NOT_ZERO)
    weight_decay = Hyperparameter()
    decoupled = False  # whether the weight decay is added to the step, not to the gradient

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.eps, self.weight_decay, self.clip_norm = eps, weight_decay, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.mean, self.square = arena.slot(), arena.slot()
        self.powers = backend.from_host(np.ones(2, backend.precision))

    def _step(self, arena: Arena) -> None:
        slots = self.mean, self.square, self.powers
        self.backend.adam_step(arena.values, arena.gradients, *slots, self.hyperparameters, decoupled=self.decoupled)


class AdamW(Adam):
    """Adam with decoupled weight decay: `w = w - learning_rate weight_decay w` in each step, beside Adam's own step.

    Source: Loshchilov and Hutter, ICLR 2019.

    >>> AdamW(weight_decay=0.1, clip_norm=1.0)
    AdamW(weight_decay=0.1, clip_norm=1.0)
    """

    decoupled = True

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        clip_norm: float | None = None,
    ):
        super().__init__(
            learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm
        )


class RMSprop(Optimizer):
    """Steps divided by the root of the mean square: `v = s v + (1-s) g^2; w = w - learning_rate g/(sqrt(v) + eps)`.

    s is `smoothing`; with momentum, `b = momentum b + g/(sqrt(v) + eps)` takes the place of that quotient.
    Source: Tieleman and Hinton, Coursera 2012, in PyTorch's form.

    >>> RMSprop(momentum=0.9)
    RMSprop(momentum=0.9)
    """

    slots = 2
    kept = ("square", "velocity")
    hyperparameter_names = ("learning_rate", "smoothing", "eps", "momentum", "weight_decay")
    smoothing = Hyperparameter(below=1.0)
    eps = Hyperparameter(not_zero=NOT_ZERO)
    momentum = Hyperparameter(below=1.0)
    weight_decay = Hyperparameter()

    def __init__(
        self,
        learning_rate: float = 0.001,
        momentum: float = 0.0,
        *,
        smoothing: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        self.learning_rate, self.momentum, self.smoothing = learning_rate, momentum, smoothing
        self.eps, self.weight_decay, self.clip_norm = eps, weight_decay, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.square, self.velocity = arena.slot(), arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.rmsprop_step(arena.values, arena.gradients, self.square, self.velocity, self.hyperparameters)


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of squares so far: `v = v + g^2; w = w - learning_rate g/(sqrt(v) + eps)`.

    Source: Duchi, Hazan and Singer, JMLR 12 (2011).

    >>> Adagrad(0.05)
    Adagrad(learning_rate=0.05)
    """

    slots = 1
    kept = ("square",)
    hyperparameter_names = ("learning_rate", "eps", "weight_decay")
    eps = Hyperparameter(not_zero=NOT_ZERO)
    weight_decay = Hyperparameter()

    def __init__(
        self,
        learning_rate: float = 0.01,
        *,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ):
        self.learning_rate, self.eps = learning_rate, eps
        self.weight_decay, self.clip_norm = weight_decay, clip_norm

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.square = arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.adagrad_step(arena.values, arena.gradients, self.square, self.hyperparameters)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "nesterov": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}


def get_optimizer(
    name: str,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
) -> Optimizer:
    """Return a new optimizer by name, one of `OPTIMIZERS`.

    What is left out has the optimizer's own default, except for the momentum of SGD, which is 0.9. Raises `InputError`
    for an unknown name, a wrong number, or a momentum for an optimizer that has none.

    >>> get_optimizer("nesterov", learning_rate=0.1)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    """
    kind = lookup("optimizer", name, OPTIMIZERS)
    given = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings["clip_norm"] = clip_norm
    if kind is SGD:
        return SGD(**{"momentum": 0.9} | settings, nesterov=name == "nesterov")
    if momentum is not None and "momentum" not in kind.hyperparameter_names:
        raise InputError(f"{name} takes no momentum: leave it out, or use the optimizer sgd")
    return kind(**settings)
