"""How layers, models, losses and optimizers show themselves: as the call that makes them."""

from __future__ import annotations

import inspect
import re
from typing import Any

__all__ = ["representation", "shape_text"]

LONGEST = 60  # characters of one argument
INDENT = "    "


def representation(thing: object, **defaults: Any) -> str:
    """Return the call that makes a thing: `Conv2D(8, 3, padding=1)`.

    Arguments without a default stand in their order, the others by name where they differ from it; `defaults` are those
    that follow from other arguments. A name that a layer got from its place is left out. What a class of a user's own
    does not keep as an attribute is shown as `...`.
    """
    arguments = []
    for name, parameter in inspect.signature(type(thing)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        is_needed = parameter.default is parameter.empty
        value = getattr(thing, name, ... if is_needed else parameter.default)
        if is_needed:
            arguments.append(_shown(value))
        elif name == "name" and isinstance(value, str) and _is_given_by_place(thing, value):
            continue
        elif not _is(value, defaults.get(name, parameter.default)):
            arguments.append(f"{name}={_shown(value)}")
    return f"{type(thing).__name__}({', '.join(arguments)})"


def shape_text(shape: tuple[int, ...]) -> str:
    """Return sizes as people read them: "28 x 28 x 1"."""
    return " x ".join(map(str, shape))


def _is(value: Any, default: Any) -> bool:
    """Whether a value is the default, or the function that the default names."""
    if isinstance(default, str) and callable(value):
        return getattr(value, "__name__", "") == default
    return value is default or (isinstance(value, (bool, int, float, str, tuple)) and value == default)


def _is_given_by_place(thing: object, name: str) -> bool:
    return re.fullmatch(rf"{type(thing).__name__.lower()}\d+", name) is not None


def _shown(value: Any) -> str:
    if value is ...:
        return "..."
    if isinstance(value, (list, tuple)) and value and all(hasattr(part, "infer_shape") for part in value):  # layers
        lines = "".join(f"{part!r},\n" for part in value)
        return f"[\n{_indented(lines)}]"
    text = repr(getattr(value, "__name__", value))
    return text if len(text) <= LONGEST or "\n" in text else f"{text[: LONGEST - 3]}..."


def _indented(lines: str) -> str:
    return "".join(f"{INDENT}{line}\n" for line in lines.splitlines())
