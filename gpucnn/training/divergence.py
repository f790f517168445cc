"""Finding out where a loss became NaN or infinite, after it did: nothing is checked in the steps themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpucnn.model import Sequential

__all__ = ["DivergenceTracer"]

Array = Any


class NotFinite(Exception):
    """An array holds NaN or infinity; the message names it."""


class DivergenceTracer:
    """A copy, on the device, of what a run was at the beginning of an epoch: from there its steps can be made again.

    They give the same bits again, so the first array that is not finite is found by looking at all of them.
    """

    def __init__(self, model: Sequential):
        self.model, self.backend = model, model.backend
        self._copies: dict[str, Array] = {}

    def keep(self, state: dict[str, Array]) -> None:
        """Copy a state."""
        if self._copies.keys() != state.keys():
            self._copies = {name: self.backend.empty(array.shape, array.dtype) for name, array in state.items()}
        for name, array in state.items():
            self._copies[name][...] = array

    def find(self, state: dict[str, Array], steps: Iterable[Callable[[], None]]) -> str:
        """Go back to the state that was kept, make steps again, and say what was not finite first, if anything."""
        for name, array in state.items():
            array[...] = self._copies[name]
        try:
            self._check_values("at the start of the epoch")
            with self.model.program.observed(self):
                for step in steps:
                    step()
                    for name, parameter in self.model.named_parameters():
                        self._check(parameter.gradient, f"the gradient of {name}")
                    self._check_values("after the update")
        except NotFinite as found:
            return str(found)
        return ""

    def before(self, layers: Sequence[Any], arrays: Sequence[Array]) -> None:
        """Look at nothing: what a step is given was checked when it was made."""

    def after(self, what: str, layers: Sequence[Any], arrays: Sequence[Array | None]) -> None:
        """Check what a step of the network has returned."""
        for array in arrays:
            self._check(array, f"{what} {layers[0].label}")

    def _check_values(self, when: str) -> None:
        for name, parameter in self.model.named_parameters():
            self._check(parameter.value, f"{name} {when}")

    def _check(self, array: Array | None, what: str) -> None:
        if array is not None and not bool(self.backend.xp.all(self.backend.xp.isfinite(array))):
            raise NotFinite(what)
