"""A moving average of the weights, kept beside them on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpucnn.backend import Backend
from gpucnn.backend.memory import Arena
from gpucnn.optim.hyperparameters import ArenaBound, Hyperparameter

__all__ = ["WeightAverage"]

Array = Any


class WeightAverage(ArenaBound):
    """Exponential moving average of the weights: `m = decay m + (1 - decay) w` after each step, over `1 - decay^t`.

    The mean of the weights of all steps so far, each of which counts `decay` times as much as the next: of the last
    `1/(1 - decay)` or so, without their noise. Only weights are averaged: the running statistics of batch
    normalization stay those of the trained weights. Source: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992),
    here in exponential form.

    `Trainer(model, loss, optimizer, average=WeightAverage(0.999))` evaluates with the averaged weights. By hand:

    >>> from gpucnn import Dense
    >>> layer, average = Dense(1, initializer="zeros"), WeightAverage(0.5)
    >>> layer.build((1,), "cpu")
    (1,)
    >>> average.attach(layer.arena, layer.backend)
    >>> average.update()
    >>> layer.w.value[...] = 3.0
    >>> average.update()
    >>> with average.applied():
    ...     print(layer.w.value.item())  # (0.5 * 0 + 3)/1.5
    2.0
    >>> print(layer.w.value.item())
    3.0
    """

    hyperparameter_names = ("decay",)
    decay = Hyperparameter(below=1.0)

    def __init__(self, decay: float = 0.999):
        self.decay = decay

    def attach(self, arena: Arena, backend: Backend) -> None:
        super().attach(arena, backend)
        self.mean = arena.slot()
        self.total_weight = backend.zeros((1,))
        self._updated = False

    def state(self) -> dict[str, Array]:
        return {"mean": self.mean, "worth": self.total_weight}  # the names that checkpoints of format 1 have

    def on_state_loaded(self) -> None:
        self._updated = bool(self.backend.to_host(self.total_weight)[0] > 0)

    def update(self) -> None:
        """Take the present weights into the average; nothing is read back from the device."""
        arena = self._current_arena()
        with self.backend.limit_blas_threads():
            self.backend.average_step(arena.values, self.mean, self.total_weight, self.hyperparameters)
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
        """Give the model the averaged weights for a while, and then exactly those that it had."""
        arena = self._current_arena()
        trained = arena.slot()
        self._replace(trained, arena.values)
        self.apply()
        try:
            yield
        finally:
            self._replace(arena.values, trained)
