"""Finding out where a loss became NaN or infinite, after it did: nothing is checked in the steps themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gpucnn.layers.base import Layer
from gpucnn.model import Sequential

__all__ = ["DivergenceTracer"]

Array = Any
RESULTS = {  # of a layer's methods
    "_forward": "the output of",
    "_forward_normalized": "the output of",
    "_backward": "the gradient in the input of",
}


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
            with ExitStack() as stack:
                for network in (self.model, *self.model.copies()):
                    for layer in network.parts():
                        stack.enter_context(self._watched(layer))
                for step in steps:
                    step()
                    for name, parameter in self.model.named_parameters():
                        self._check(parameter.gradient, f"the gradient of {name}")
                    self._check_values("after the update")
        except NotFinite as found:
            return str(found)
        return ""

    def _check_values(self, when: str) -> None:
        for name, parameter in self.model.named_parameters():
            self._check(parameter.value, f"{name} {when}")

    def _check(self, array: Array | None, what: str) -> None:
        if array is not None and not bool(self.backend.xp.all(self.backend.xp.isfinite(array))):
            raise NotFinite(what)

    @contextmanager
    def _watched(self, layer: Layer) -> Iterator[None]:
        """Check what a layer returns, for a while."""
        if isinstance(layer, Sequential):  # its parts speak for themselves
            yield
            return
        methods = [name for name in RESULTS if hasattr(layer, name)]
        for name in methods:
            setattr(layer, name, self._checked(getattr(layer, name), f"{RESULTS[name]} {layer.label}"))
        try:
            yield
        finally:
            for name in methods:
                delattr(layer, name)

    def _checked(self, method: Callable[..., Array], what: str) -> Callable[..., Array]:
        def call(*arguments: Any, **options: Any) -> Array:
            result = method(*arguments, **options)
            self._check(result, what)
            return result

        return call
