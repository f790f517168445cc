"""How things show themselves: as the call that makes them, and in notebooks as a table."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

__all__ = ["html_table", "representation", "settings", "shape_text"]

LONGEST = 60  # characters of one argument
INDENT = "    "


def representation(thing: object, **defaults: Any) -> str:
    """Return the call that makes a thing: `Conv2D(8, 3, padding=1)`.

    Arguments without a default come first, in their order, then by name those that differ from their default;
    `defaults` are those that follow from other arguments. A name that a layer has from its place is left out. What a
    user's class does not keep as an attribute is shown as `...`.

    >>> class Circle:
    ...     def __init__(self, radius, *, color="black"):
    ...         self.radius, self.color = radius, color
    >>> representation(Circle(2)), representation(Circle(2, color="red"))
    ('Circle(2)', "Circle(2, color='red')")
    """
    arguments = []
    for parameter, value in _arguments(thing):
        name = parameter.name
        if parameter.default is parameter.empty:
            arguments.append(_shown(value))
        elif name == "name" and isinstance(value, str) and _is_given_by_place(thing, value):
            continue
        elif not _is(value, defaults.get(name, parameter.default)):
            arguments.append(f"{name}={_shown(value)}")
    return f"{type(thing).__name__}({', '.join(arguments)})"


def settings(thing: object) -> dict[str, str]:
    """Return the arguments that make a thing, as text by name, whether or not they differ from their default.

    >>> class Circle:
    ...     def __init__(self, radius, *, color="black"):
    ...         self.radius, self.color = radius, color
    >>> settings(Circle(2))
    {'radius': '2', 'color': "'black'"}
    """
    return {parameter.name: _shown(value) for parameter, value in _arguments(thing)}


def shape_text(shape: tuple[int, ...]) -> str:
    """Return sizes as people read them.

    >>> shape_text((28, 28, 1))
    '28 x 28 x 1'
    """
    return " x ".join(map(str, shape))


def html_table(rows: Sequence[Sequence[object]], *, left: int = 1, totals: int = 0, caption: str = "") -> str:
    """Return a table in HTML, for `_repr_html_`; whatever a cell or the caption says is escaped.

    The first row is the head; it and the last `totals` rows are made of header cells. The first `left` columns are
    aligned to the left, the others to the right, as numbers are.

    >>> html_table([("class", "images"), ("<cat>", 3)]).splitlines()[2]
    '<tr><td style="text-align: left">&lt;cat&gt;</td><td style="text-align: right">3</td></tr>'
    """
    heads = {0, *range(len(rows) - totals, len(rows))}
    lines = [_html_row(row, "th" if place in heads else "td", left) for place, row in enumerate(rows)]
    title = [f"<caption>{escape(caption)}</caption>"] if caption else []
    return "\n".join(["<table>", *title, *lines, "</table>"])


def _html_row(row: Sequence[object], tag: str, left: int) -> str:
    sides = ["left"] * left + ["right"] * (len(row) - left)
    cells = zip(row, sides, strict=True)
    inner = "".join(f'<{tag} style="text-align: {side}">{escape(str(cell))}</{tag}>' for cell, side in cells)
    return f"<tr>{inner}</tr>"


def _arguments(thing: object) -> Iterator[tuple[inspect.Parameter, Any]]:
    """Yield the parameters of a thing's class, each with the value that the thing keeps as an attribute."""
    for name, parameter in inspect.signature(type(thing)).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            unknown = ... if parameter.default is parameter.empty else parameter.default
            yield parameter, getattr(thing, name, unknown)


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
