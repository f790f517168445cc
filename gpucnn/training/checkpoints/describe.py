"""The settings of a run as plain JSON: so that one that resumes can be compared with the one that stopped."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterator
from typing import Any

from gpucnn.data import Dataset
from gpucnn.layers import Layer

__all__ = ["describe_data", "describe_layer", "differences", "is_plain", "settings_of"]

DEEPEST = 100  # lists and objects in each other; a layer in a container takes two


def settings_of(thing: object) -> dict[str, Any]:
    """Return the kind of a thing and the plain arguments that it was made with, of those that it keeps.

    >>> from gpucnn import WeightAverage
    >>> settings_of(WeightAverage(0.9))
    {'kind': 'WeightAverage', 'decay': 0.9}
    """
    names = inspect.signature(type(thing).__init__).parameters
    held = {name: getattr(thing, name, ...) for name in names}
    return {"kind": type(thing).__name__} | {name: value for name, value in held.items() if is_plain(value)}


def is_plain(value: object, deepest: int = DEEPEST) -> bool:
    """Whether a value is what JSON can hold: text, truth values, finite numbers, None, and lists and objects of these.

    `deepest` says how many lists and objects may lie in each other.

    >>> is_plain({"rate": [0.1, None]}), is_plain(float("nan")), is_plain([[]], deepest=1)
    (True, False, False)
    """
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (tuple, list, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return deepest > 0 and all(is_plain(part, deepest - 1) for part in parts)
    return value is None or isinstance(value, (bool, int, str))


def describe_layer(layer: Layer) -> dict[str, Any]:
    """Return a layer's kind and arguments, the shapes of its output and its parameters, and those of all its parts.

    >>> from gpucnn import Flatten
    >>> layer = Flatten(name="flat")
    >>> layer.build((2, 2, 1), "cpu")
    (4,)
    >>> describe_layer(layer)
    {'kind': 'Flatten', 'name': 'flat', 'output': (4,), 'parameters': {}}
    """
    described = settings_of(layer) | {"output": layer.output_shape}
    if parts := getattr(layer, "layers", None):
        return described | {"layers": {part.name: describe_layer(part) for part in parts}}
    return described | {"parameters": {parameter.name: parameter.shape for parameter in layer.parameters()}}


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Return the sizes of a data set, and a checksum of the part that a network is trained on.

    >>> from gpucnn.data import load
    >>> described = describe_data(load("digits"))
    >>> described["images"], described["classes"]
    ((1438, 8, 8, 1), 10)
    """
    digest = hashlib.sha256(dataset.train.images.data)
    digest.update(dataset.train.labels.data)
    shape = dataset.train.images.shape
    return {"images": shape, "classes": dataset.classes, "sha256": digest.hexdigest()}


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield what differs between two descriptions, a sentence for each.

    >>> list(differences({"loss": {"delta": 1.0}}, {"loss": {"delta": 2.0}}))
    ['loss.delta was 1.0 and is 2.0']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            yield from differences(before.get(name), now.get(name), f"{where}.{name}" if where else name)
    elif before != now:
        yield f"{where} was {_shown(before)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
