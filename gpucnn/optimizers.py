"""Optimizers: one operation of the backend updates the whole arena; hyper-parameters lie on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.errors import InputError, unknown_name
from gpucnn.geometry import number
from gpucnn.memory import Arena

__all__ = ["OPTIMIZERS", "SGD", "Adam", "Optimizer", "get_optimizer"]


class Optimizer:
    """Turns gradients into new weights. `attach` it to the arena of a built model, then `step` after each backward.

    `learning_rate` may be set between steps: the device's copy is updated, and a captured step sees it.
    """

    def __init__(self, learning_rate: float):
        self._learning_rate = self._number("learning_rate", learning_rate)
        self.arena: Arena | None = None
        self.backend: Backend | None = None
        self.hyper: Any = None

    def attach(self, arena: Arena, backend: Backend) -> None:
        """Take the arena to train, and allocate the state kept for it."""
        self.arena, self.backend = arena, backend
        self.hyper = backend.from_host(self._hyper())

    def step(self) -> None:
        """Update all weights from their gradients."""
        raise NotImplementedError

    def _values(self) -> tuple[float, ...]:
        """The hyper-parameters in the order that the backend's operation takes them."""
        raise NotImplementedError

    def _hyper(self) -> np.ndarray:
        return np.array(self._values(), self.backend.precision)

    @property
    def learning_rate(self) -> float:
        """Step size, alpha in the paper."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = self._number("learning_rate", value)
        if self.backend is not None:
            self.backend.from_host(self._hyper(), out=self.hyper)

    def _number(self, what: str, value: float, below: float = math.inf) -> float:
        return number(value, f"{type(self).__name__}: {what}", below=below)


class SGD(Optimizer):
    """Gradient descent, `w = w - alpha dL/dw` (paper, section 3, backward, update), with momentum and weight decay.

    `g = dL/dw + weight_decay w; v = momentum v + g; w = w - learning_rate v`; with `nesterov` w moves by
    `g + momentum v` instead. Source: Sutskever et al., ICML 2013, in PyTorch's form.
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, *, nesterov=False, weight_decay=0.0):
        super().__init__(learning_rate)
        self.momentum = self._number("momentum", momentum, below=1.0)
        self.weight_decay = self._number("weight_decay", weight_decay)
        self.nesterov = nesterov

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.velocity = arena.slot()

    def step(self) -> None:
        arena = self.arena
        self.backend.sgd_step(arena.values, arena.gradients, self.velocity, self.hyper, nesterov=self.nesterov)

    def _values(self) -> tuple[float, ...]:
        return self.learning_rate, self.momentum, self.weight_decay


class Adam(Optimizer):
    """Adaptive moments: `w = w - learning_rate m^/(sqrt(v^) + eps)`, m^ and v^ the unbiased means of g and g^2.

    `g = dL/dw + weight_decay w`. Source: Kingma and Ba, ICLR 2015, algorithm 1.
    """

    def __init__(self, learning_rate: float = 0.001, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        super().__init__(learning_rate)
        self.beta1 = self._number("beta1", beta1, below=1.0)
        self.beta2 = self._number("beta2", beta2, below=1.0)
        self.eps = self._number("eps", eps)
        if self.eps == 0:
            raise InputError("Adam: eps must be above 0, else a weight whose gradient is 0 becomes 0/0; try 1e-8")
        self.weight_decay = self._number("weight_decay", weight_decay)

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.mean, self.square = arena.slot(), arena.slot()
        self.powers = backend.from_host(np.ones(2, backend.precision))

    def step(self) -> None:
        arena = self.arena
        self.backend.adam_step(arena.values, arena.gradients, self.mean, self.square, self.powers, self.hyper)

    def _values(self) -> tuple[float, ...]:
        return self.learning_rate, self.beta1, self.beta2, self.eps, self.weight_decay


OPTIMIZERS = {"sgd": SGD, "nesterov": SGD, "adam": Adam}


def get_optimizer(
    name: str, learning_rate: float, momentum: float | None = None, weight_decay: float = 0.0
) -> Optimizer:
    """Return a new optimizer by name; the momentum of SGD is 0.9 unless given, and Adam takes none."""
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    if name == "adam":
        if momentum is not None:
            raise InputError("adam has moments of its own: leave the momentum out, or use the optimizer sgd")
        return Adam(learning_rate, weight_decay=weight_decay)
    momentum = 0.9 if momentum is None else momentum
    return SGD(learning_rate, momentum, nesterov=name == "nesterov", weight_decay=weight_decay)
