"""A moving average of the weights, kept beside them on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpucnn.backend import Backend
from gpucnn.optim.hyperparameters import Attached, HyperParameter
from gpucnn.backend.memory import Arena

__all__ = ["WeightAverage"]

Array = Any


class WeightAverage(Attached):
    """Exponential moving average of the weights: `m = decay m + (1 - decay) w` after each step, over `1 - decay^t`.

    The mean of the weights of all steps so far, each worth `decay` times the next: of the last `1/(1 - decay)` or so,
    without their noise. Only weights are averaged: the running statistics of batch normalization stay those of the
    trained weights. Source: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992), here in exponential form.

    ::

        trainer = Trainer(model, loss, optimizer, average=WeightAverage(0.999))  # evaluates with the averaged weights
        with trainer.average.applied():
            model.predict(x)
    """

    hyper_parameters = ("decay",)
    kept = ("mean", "worth")
    decay = HyperParameter(below=1.0)

    def __init__(self, decay: float = 0.999):
        self.decay = decay

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.mean = arena.slot()
        self.worth = backend.zeros((1,))
        self._updated = False

    def loaded(self) -> None:
        self._updated = bool(self.backend.to_host(self.worth)[0] > 0)

    def update(self) -> None:
        """Take the present weights into the average; nothing is read back."""
        arena = self._current_arena()
        with self.backend.at_work():
            self.backend.average_step(arena.values, self.mean, self.worth, self.hyper)
        self._updated = True

    def apply(self) -> None:
        """Replace the weights by their average for good; before the first `update` they stay as they are."""
        arena = self._current_arena()
        if self._updated:
            self._replace(arena.values, self.mean)

    def _replace(self, weights: Array, others: Array) -> None:
        with self.backend.on_device():
            weights[...] = others

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights for a while, and then exactly those that it had."""
        arena = self._current_arena()
        trained = arena.slot()
        self._replace(trained, arena.values)
        self.apply()
        try:
            yield
        finally:
            self._replace(arena.values, trained)
