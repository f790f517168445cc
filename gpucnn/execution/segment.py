"""The steps of a network, forward and backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["LayerMemoryError", "Observer", "Pattern", "Segment", "Step"]

Array = Any
Layer = Any  # one of gpucnn.layers: those import this module


class LayerMemoryError(MemoryError):
    """Memory ran out in a layer; the error that said so is its cause."""

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer


class Pattern(NamedTuple):
    """Two layers, one after the other, that compute together: an entry of the table of fusions.

    Attributes
    ----------
    fits : (first, second) -> whether it is for these layers
    modes : for training (True) and inference (False)
    forward : (first, second, x, train, batch) -> y
    backward : (first, second, dy, need_dx) -> dx
    """

    fits: Callable[[Layer, Layer], bool]
    modes: tuple[bool, ...]
    forward: Callable[[Layer, Layer, Array, bool, float], Array]
    backward: Callable[[Layer, Layer, Array, bool], Array | None]


class Step:
    """A layer, or two that compute together, with the numbers of the values that they read and make."""

    def __init__(self, layers: tuple[Layer, ...], inputs: tuple[int, ...], output: int, pattern: Pattern | None = None):
        self.layers, self.inputs, self.output, self.pattern = layers, inputs, output, pattern
        self._layer, self._is_join = layers[0], len(inputs) > 1

    def given(self, values: Mapping[int, Array]) -> list[Array]:
        """Return the arrays that it reads."""
        return [values[value] for value in self.inputs]

    def forward(self, values: Mapping[int, Array], train: bool, batch: float) -> Array:
        """Return the output; `batch` is the number of samples that it is decided by how to compute."""
        x = self.given(values) if self._is_join else values[self.inputs[0]]
        if self.pattern:
            first, second = self.layers
            return self.pattern.forward(first, second, x, train, batch)
        return self._layer.forward(x, train=train)

    def backward(self, dy: Array, need_dx: bool) -> list[Array | None]:
        """Return the gradient in each input, None where it is not needed."""
        if self.pattern:
            first, second = self.layers
            return [self.pattern.backward(first, second, dy, need_dx)]
        dx = self._layer.backward(dy, need_dx=need_dx)
        return dx if self._is_join and dx is not None else [dx] * len(self.inputs)

    def of(self, layers: dict[Layer, Layer]) -> Step:
        """Return this step with other layers in the place of these."""
        return Step(tuple(layers[layer] for layer in self.layers), self.inputs, self.output, self.pattern)


class Observer(Protocol):
    """Sees what the steps of a pass are given and what they return."""

    def before(self, layers: Sequence[Layer], arrays: Sequence[Array]) -> None:
        """Look at what a step is given."""

    def after(self, what: str, layers: Sequence[Layer], arrays: Sequence[Array | None]) -> None:
        """Look at what a step has returned; `what` says what it is: "the output of"."""


class Segment:
    """Steps that run one after another on one backend, from one value to another."""

    def __init__(self, steps: dict[bool, list[Step]], source: int, target: int):
        self.steps, self.source, self.target = steps, source, target
        self.backward_steps = _backward_order(steps[True], target)
        self._need_dx = [any(value != source for value in step.inputs) for step in self.backward_steps]
        self._last_reads = {train: _last_reads(some, target) for train, some in steps.items()}
        self.observer: Observer | None = None

    def layers(self) -> list[Layer]:
        """Return the layers, in their order."""
        return [layer for step in self.steps[True] for layer in step.layers]

    def forward(self, x: Array, train: bool, batch: float) -> Array:
        """Return the value at the end."""
        values = {self.source: x}
        for step, dead in zip(self.steps[train], self._last_reads[train], strict=True):
            if self.observer:
                self.observer.before(step.layers, step.given(values))
            try:
                y = values[step.output] = step.forward(values, train, batch)
            except MemoryError as error:
                raise LayerMemoryError(step.layers[0]) from error
            if self.observer:
                self.observer.after("the output of", step.layers, [y])
            for value in dead:
                del values[value]
        return values[self.target]

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Overwrite the gradients of the parameters; return the gradient at the start, where it is needed."""
        gradients = {self.target: dy}
        for step, needs in zip(self.backward_steps, self._need_dx, strict=True):
            dy = gradients.pop(step.output)
            if self.observer:
                self.observer.before(step.layers, [dy])
            try:
                dxs = step.backward(dy, need_dx or needs)
                if self.observer:
                    self.observer.after("the gradient in the input of", step.layers, dxs)
                for value, dx in zip(step.inputs, dxs, strict=True):
                    if need_dx or value != self.source:
                        gradients[value] = _sum(gradients[value], dx, step, value) if value in gradients else dx
            except MemoryError as error:
                raise LayerMemoryError(step.layers[0]) from error
        return gradients.get(self.source) if need_dx else None

    def of(self, layers: dict[Layer, Layer]) -> Segment:
        """Return these steps with other layers in the place of these."""
        steps = {train: [step.of(layers) for step in some] for train, some in self.steps.items()}
        return Segment(steps, self.source, self.target)


def _sum(total: Array, dx: Array, step: Step, value: int) -> Array:
    """Add a gradient to those that have come from other readers of the same value."""
    layer = step.layers[0]
    return layer.backend.add(total, dx, out=layer.buffer(f"sum of gradients {value}", tuple(dx.shape)))


def _last_reads(steps: Sequence[Step], target: int) -> list[list[int]]:
    """Return for each step the values that no later one reads."""
    seen, found = {target}, []
    for step in reversed(steps):
        found.append([value for value in dict.fromkeys(step.inputs) if value not in seen])
        seen |= {*step.inputs}
    return found[::-1]


def _backward_order(steps: Sequence[Step], target: int) -> list[Step]:
    """Return the steps in the order of the backward pass: each when all gradients of its output are there.

    Of several that are ready it is the one whose turn has come last, so that one branch is gone through before another.
    """
    maker = {step.output: step for step in steps}
    waiting = Counter(value for step in steps for value in step.inputs)
    order, ready = [], [target]
    while ready:
        step = maker.get(ready.pop())
        if step is None:
            continue
        order.append(step)
        for value in reversed(step.inputs):
            waiting[value] -= 1
            if not waiting[value]:
                ready.append(value)
    return order
