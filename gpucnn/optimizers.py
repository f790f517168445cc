"""Optimizers: one operation of the backend updates the whole arena; hyper-parameters lie on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.checks import number
from gpucnn.errors import InputError, lookup
from gpucnn.memory import Arena

__all__ = ["OPTIMIZERS", "SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "get_optimizer"]


class HyperParameter:
    """A number of an optimizer that lies on the device too: setting it updates the device's copy."""

    def __init__(self, *, below: float = math.inf, positive: bool = False):
        self.below, self.positive = below, positive

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
        return self if optimizer is None else vars(optimizer)[self.name]

    def __set__(self, optimizer: Optimizer, value: float) -> None:
        what = f"{type(optimizer).__name__}: {self.name}"
        checked = number(value, what, below=self.below)
        if self.positive and checked == 0:
            raise InputError(f"{what} must be above 0, else a weight whose gradient is 0 becomes 0/0; try 1e-8")
        vars(optimizer)[self.name] = checked
        if optimizer.backend is not None:
            optimizer.backend.from_host(optimizer.host_hyper(optimizer.backend.precision), out=optimizer.hyper)


class Optimizer:
    """Turns gradients into new weights: `attach` it to the arena of a built model, then `step` after each backward.

    Hyper-parameters may be set between steps.
    """

    hyper_parameters: tuple[str, ...]  # in the order in which the backend's operation takes them
    backend: Backend | None = None
    arena: Arena | None = None

    def attach(self, arena: Arena, backend: Backend) -> None:
        """Take the arena to train, and allocate the state kept for it."""
        if self.arena is not None and self.arena is not arena:
            raise InputError(f"{type(self).__name__}: already trains another model; make a new optimizer")
        self.hyper = backend.from_host(self.host_hyper(backend.precision))
        self.arena, self.backend = arena, backend

    def step(self) -> None:
        """Update all weights from their gradients."""
        if self.arena is None:
            raise InputError(f"{type(self).__name__}: has nothing to train; call attach first")
        if not self.arena.in_use:
            raise InputError(f"{type(self).__name__}: its model was built again or moved; make a new optimizer for it")
        self._step(self.arena)

    def _step(self, arena: Arena) -> None:
        raise NotImplementedError

    def host_hyper(self, precision: str) -> np.ndarray:
        """Return the hyper-parameters as the device holds them."""
        values = np.array([getattr(self, name) for name in self.hyper_parameters])
        with np.errstate(over="ignore"):
            rounded = values.astype(precision)
        for name, value, kept in zip(self.hyper_parameters, values, rounded, strict=True):
            if not np.isfinite(kept) or (kept == 0) != (value == 0) or (kept < 1) != (value < 1):
                raise InputError(f"{type(self).__name__}: {name} {value:g} becomes {kept:g} in {precision}")
        return rounded


class SGD(Optimizer):
    """Gradient descent, `w = w - alpha dL/dw` (paper, section 3, backward, update), with momentum and weight decay.

    `g = dL/dw + weight_decay w; v = momentum v + g; w = w - learning_rate v`; with `nesterov` w moves by
    `g + momentum v` instead. Source: Sutskever et al., ICML 2013, in PyTorch's form.
    """

    hyper_parameters = ("learning_rate", "momentum", "weight_decay")
    learning_rate = HyperParameter()
    momentum = HyperParameter(below=1.0)
    weight_decay = HyperParameter()

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, *, nesterov=False, weight_decay=0.0):
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.nesterov = nesterov

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.velocity = arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.sgd_step(arena.values, arena.gradients, self.velocity, self.hyper, nesterov=self.nesterov)


class Adam(Optimizer):
    """Adaptive moments: `w = w - learning_rate m^/(sqrt(v^) + eps)`, m^ and v^ the unbiased means of g and g^2.

    `g = dL/dw + weight_decay w`. Source: Kingma and Ba, ICLR 2015, algorithm 1.
    """

    hyper_parameters = ("learning_rate", "beta1", "beta2", "eps", "weight_decay")
    learning_rate = HyperParameter()
    beta1 = HyperParameter(below=1.0)
    beta2 = HyperParameter(below=1.0)
    eps = HyperParameter(positive=True)
    weight_decay = HyperParameter()
    decoupled = False  # whether the decay stands beside the gradient

    def __init__(self, learning_rate: float = 0.001, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.eps, self.weight_decay = eps, weight_decay

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

    def __init__(self, learning_rate: float = 0.001, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


class RMSprop(Optimizer):
    """Steps divided by the root of the mean square: `v = s v + (1-s) g^2; w = w - learning_rate g/(sqrt(v) + eps)`.

    s is `smoothing`; with momentum, `b = momentum b + g/(sqrt(v) + eps)` takes the place of that quotient.
    Source: Tieleman and Hinton, Coursera 2012, in PyTorch's form.
    """

    hyper_parameters = ("learning_rate", "smoothing", "eps", "momentum", "weight_decay")
    learning_rate = HyperParameter()
    smoothing = HyperParameter(below=1.0)
    eps = HyperParameter(positive=True)
    momentum = HyperParameter(below=1.0)
    weight_decay = HyperParameter()

    def __init__(self, learning_rate: float = 0.001, momentum=0.0, *, smoothing=0.99, eps=1e-8, weight_decay=0.0):
        self.learning_rate, self.momentum, self.smoothing = learning_rate, momentum, smoothing
        self.eps, self.weight_decay = eps, weight_decay

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.square, self.velocity = arena.slot(), arena.slot()

    def _step(self, arena: Arena) -> None:
        self.backend.rmsprop_step(arena.values, arena.gradients, self.square, self.velocity, self.hyper)


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of squares so far: `v = v + g^2; w = w - learning_rate g/(sqrt(v) + eps)`.

    Source: Duchi, Hazan and Singer, JMLR 12 (2011).
    """

    hyper_parameters = ("learning_rate", "eps", "weight_decay")
    learning_rate = HyperParameter()
    eps = HyperParameter(positive=True)
    weight_decay = HyperParameter()

    def __init__(self, learning_rate: float = 0.01, *, eps=1e-10, weight_decay=0.0):
        self.learning_rate, self.eps, self.weight_decay = learning_rate, eps, weight_decay

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
) -> Optimizer:
    """Return a new optimizer by name.

    What is left out is as the optimizer has it, but for the momentum of SGD, which is 0.9.
    """
    kind = lookup("optimizer", name, OPTIMIZERS)
    settings = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    settings = {name: value for name, value in settings.items() if value is not None}
    if kind is SGD:
        return SGD(**{"momentum": 0.9} | settings, nesterov=name == "nesterov")
    if momentum is not None and "momentum" not in kind.hyper_parameters:
        raise InputError(f"{name} takes no momentum: leave it out, or use the optimizer sgd")
    return kind(**settings)
