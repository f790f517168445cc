"""Optimizers: one operation of the backend updates the whole arena; hyper-parameters lie on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.errors import InputError, lookup
from gpucnn.geometry import number
from gpucnn.memory import Arena

__all__ = ["OPTIMIZERS", "SGD", "Adam", "Optimizer", "get_optimizer"]


class HyperParameter:
    """A number of an optimizer that lies on the device too: setting it updates the device's copy."""

    def __init__(self, *, below: float = math.inf):
        self.below = below

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Optimizer | None, owner: type) -> Any:
        return self if optimizer is None else vars(optimizer)[self.name]

    def __set__(self, optimizer: Optimizer, value: float) -> None:
        what = f"{type(optimizer).__name__}: {self.name}"
        vars(optimizer)[self.name] = number(value, what, below=self.below)
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
    eps = HyperParameter()
    weight_decay = HyperParameter()

    def __init__(self, learning_rate: float = 0.001, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.eps, self.weight_decay = eps, weight_decay
        if self.eps == 0:
            raise InputError("Adam: eps must be above 0, else a weight whose gradient is 0 becomes 0/0; try 1e-8")

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.mean, self.square = arena.slot(), arena.slot()
        self.powers = backend.from_host(np.ones(2, backend.precision))

    def _step(self, arena: Arena) -> None:
        self.backend.adam_step(arena.values, arena.gradients, self.mean, self.square, self.powers, self.hyper)


OPTIMIZERS = {"sgd": SGD, "nesterov": SGD, "adam": Adam}


def get_optimizer(
    name: str, learning_rate: float | None = None, momentum: float | None = None, weight_decay: float = 0.0
) -> Optimizer:
    """Return a new optimizer by name.

    The learning rate is 0.01 for SGD and 0.001 for Adam unless given, the momentum of SGD 0.9; Adam takes none.
    """
    kind = lookup("optimizer", name, OPTIMIZERS)
    settings = {"weight_decay": weight_decay} | ({} if learning_rate is None else {"learning_rate": learning_rate})
    if kind is SGD:
        return SGD(momentum=0.9 if momentum is None else momentum, nesterov=name == "nesterov", **settings)
    if momentum is not None:
        raise InputError("adam has moments of its own: leave the momentum out, or use the optimizer sgd")
    return Adam(**settings)
