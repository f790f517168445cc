"""What a run was told, as plain JSON: so that one that goes on can be compared with the one that stopped."""

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
    """Return the kind of a thing and the plain arguments that it was made with, of those that it keeps."""
    names = inspect.signature(type(thing).__init__).parameters
    held = {name: getattr(thing, name, ...) for name in names}
    return {"kind": type(thing).__name__} | {name: value for name, value in held.items() if is_plain(value)}


def is_plain(value: object, deepest: int = DEEPEST) -> bool:
    """Whether a value is what JSON can hold: text, truth values, finite numbers, None, and not too many lists of them.

    Objects count as such lists; `deepest` says how many may lie in each other.
    """
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (tuple, list, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return deepest > 0 and all(is_plain(part, deepest - 1) for part in parts)
    return value is None or isinstance(value, (bool, int, str))


def describe_layer(layer: Layer) -> dict[str, Any]:
    """Return a layer's kind and arguments, the shapes of its output and its parameters, and of all of its parts."""
    described = settings_of(layer) | {"output": layer.output_shape}
    if parts := getattr(layer, "layers", None):
        return described | {"layers": {part.name: describe_layer(part) for part in parts}}
    return described | {"parameters": {parameter.name: parameter.shape for parameter in layer.parameters()}}


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Return the sizes of a data set, and a checksum of what is trained on."""
    digest = hashlib.sha256(dataset.train.images.data)
    digest.update(dataset.train.labels.data)
    shape = dataset.train.images.shape
    return {"images": shape, "classes": dataset.classes, "sha256": digest.hexdigest()}


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield what differs between two descriptions, one sentence each."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            yield from differences(before.get(name), now.get(name), f"{where}.{name}" if where else name)
    elif before != now:
        yield f"{where} was {_shown(before)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
