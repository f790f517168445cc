"""Checks of numbers that users give: each returns what it was given, or says what is wrong with it."""

from __future__ import annotations

import math
import operator
from numbers import Real

from gpucnn.errors import InputError

__all__ = ["flag", "integer", "number", "pair"]


def flag(value: object, what: str) -> bool:
    """Return `value`, True or False; `what` names it in the error."""
    if value not in (True, False):
        raise InputError(f"{what} must be True or False, received {value!r}")
    return bool(value)


def integer(value: object, what: str, *, least: int, most: int | None = None) -> int:
    """Return `value` as an int of at least `least`, and at most `most` if given; `what` names it in the error."""
    try:
        whole = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        whole = least - 1
    if isinstance(value, bool) or whole < least or (most is not None and whole > most):
        limit = f"at most {most:,}" if most is not None and whole > most else f"at least {least}"
        raise InputError(f"{what} must be an integer of {limit}, received {value!r}")
    return whole


def number(value: object, what: str, *, least: float = 0.0, below: float = math.inf) -> float:
    """Return `value` as a float, at least `least` and less than `below`; `what` names it in the error."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= value < below:
        limit = "finite" if below == math.inf else f"below {below:g}"
        raise InputError(f"{what} must be a number of at least {least:g} and {limit}, received {value!r}")
    return float(value)


def pair(value: object, what: str, *, least: int) -> tuple[int, int]:
    """Return an int or a pair of ints as a pair (rows, columns), each at least `least`."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise InputError(f"{what} must be an integer or a pair (rows, columns), received {value!r}")
    return integer(values[0], what, least=least), integer(values[1], what, least=least)
