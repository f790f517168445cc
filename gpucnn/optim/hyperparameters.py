"""Hyperparameters, whose values lie on the device too, and what works with them on the arena of one model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.backend.memory import Arena
from gpucnn.checks import number
from gpucnn.errors import InputError
from gpucnn.representation import representation

__all__ = ["ArenaBound", "Hyperparameter"]


class Hyperparameter:
    """A number that lies on the device too: setting it updates the device's copy; a refused one changes nothing.

    It must be below `below`; `not_zero` says why it may not be 0, if it may not; an `optional` one may be None.

    >>> from gpucnn import SGD
    >>> optimizer = SGD(momentum=0.9)
    >>> optimizer.momentum = 0.5
    >>> optimizer.momentum = 1.5
    Traceback (most recent call last):
    gpucnn.errors.InputError: SGD: momentum must be a number of at least 0 and below 1, received 1.5
    >>> optimizer.momentum
    0.5
    """

    def __init__(self, *, below: float = math.inf, not_zero: str = "", optional: bool = False):
        self.below, self.not_zero, self.optional = below, not_zero, optional

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: ArenaBound | None, kind: type) -> Any:
        return self if owner is None else vars(owner)[self.name]

    def __set__(self, owner: ArenaBound, value: float | None) -> None:
        what = self._called(owner)
        checked = None if value is None and self.optional else number(value, what, below=self.below)
        if self.not_zero and checked == 0:
            raise InputError(f"{what} must be above 0, {self.not_zero}")
        if owner.arena is not None:
            self.held(owner, checked, owner.backend.precision)
        vars(owner)[self.name] = checked
        if owner.arena is not None:
            owner.send()

    def _called(self, owner: ArenaBound) -> str:
        return f"{type(owner).__name__}: {self.name}"

    def held(self, owner: ArenaBound, value: float | None, precision: str) -> float:
        """Return a value as a device of that precision holds it, None as infinity."""
        if value is None:
            return math.inf
        with np.errstate(over="ignore", under="ignore"):
            held = float(np.dtype(precision).type(value))
        if held >= self.below or (held == 0) != (value == 0):
            raise InputError(
                f"{self._called(owner)} {value!r} becomes {held:g} in {precision}; choose a less extreme number, or "
                f"compute in float64"
            )
        return held


class ArenaBound:
    """Works on the arena of one model after `attach`, with hyperparameters that may be set at any time.

    >>> from gpucnn import Adam, Dense
    >>> layer, optimizer = Dense(2), Adam()
    >>> layer.build((3,), "cpu")
    (2,)
    >>> optimizer.attach(layer.arena, layer.backend)
    >>> sorted(optimizer.state())
    ['mean', 'powers', 'square']
    """

    hyperparameter_names: tuple[str, ...]  # in the order in which the backend's operation takes them
    kept: tuple[str, ...] = ()  # attributes: arrays that change from step to step
    arena: Arena | None = None
    backend: Backend  # since `attach`

    def __repr__(self) -> str:
        return representation(self)

    def attach(self, arena: Arena, backend: Backend) -> None:
        """Take the arena to work on and allocate the state for it; a second call with the same arena starts anew.

        Raises `InputError` if this belongs to another model already.
        """
        if self.arena is not None and self.arena is not arena:
            raise InputError(f"{type(self).__name__}: already belongs to another model; make a new one")
        self.hyperparameters = backend.from_host(self.held(self.hyperparameter_names, backend.precision))
        self.arena, self.backend = arena, backend

    def state(self) -> dict[str, Any]:
        """Return the arrays that it carries from step to step, by name."""
        return {name: getattr(self, name) for name in self.kept}

    def on_state_loaded(self) -> None:
        """Take note that the arrays of `state` have new values, of a checkpoint."""

    def send(self) -> None:
        """Copy the hyperparameters to the device again, into the same arrays."""
        self.backend.from_host(self.held(self.hyperparameter_names, self.backend.precision), out=self.hyperparameters)

    def held(self, names: Sequence[str], precision: str) -> np.ndarray:
        """Return hyperparameters as the device holds them."""
        kind = type(self)
        return np.array([getattr(kind, name).held(self, getattr(self, name), precision) for name in names], precision)

    def _current_arena(self) -> Arena:
        """Return the arena, if there is one and its model still uses it."""
        if self.arena is None:
            raise InputError(f"{type(self).__name__}: has no model; call attach first")
        if not self.arena.in_use:
            raise InputError(f"{type(self).__name__}: its model was built again or moved; make a new one for it")
        return self.arena
