"""Checks of numbers that users give: each returns the number, or raises `InputError` and says what is wrong with it."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from gpucnn.errors import InputError

__all__ = ["flag", "integer", "number", "pair"]


def flag(value: object, what: str) -> bool:
    """Return `value`, True or False; `what` names it in the error.

    >>> flag(True, "bias")
    True
    >>> flag("yes", "bias")
    Traceback (most recent call last):
    gpucnn.errors.InputError: bias must be True or False, received 'yes'
    """
    if value not in (True, False):
        raise InputError(f"{what} must be True or False, received {value!r}")
    return bool(value)


def integer(value: Any, what: str, *, least: int, most: int | None = None) -> int:
    """Return `value` as an int of at least `least`, and at most `most` if given; `what` names it in the error.

    >>> integer(3, "size", least=1)
    3
    >>> integer(2.5, "size", least=1)
    Traceback (most recent call last):
    gpucnn.errors.InputError: size must be an integer of at least 1, received 2.5
    """
    try:
        whole = operator.index(value)
    except TypeError:
        whole = least - 1
    if isinstance(value, bool) or whole < least or (most is not None and whole > most):
        limit = f"at most {most:,}" if most is not None and whole > most else f"at least {least}"
        raise InputError(f"{what} must be an integer of {limit}, received {value!r}")
    return whole


def number(value: Any, what: str, *, least: float = 0.0, below: float = math.inf) -> float:
    """Return `value` as a float, at least `least` and less than `below`; `what` names it in the error.

    >>> number(0.5, "rate", below=1.0)
    0.5
    >>> number(1, "rate", below=1.0)
    Traceback (most recent call last):
    gpucnn.errors.InputError: rate must be a number of at least 0 and below 1, received 1
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= float(value) < below:
        limit = "finite" if below == math.inf else f"below {below:g}"
        raise InputError(f"{what} must be a number of at least {least:g} and {limit}, received {value!r}")
    return float(value)


def pair(value: object, what: str, *, least: int) -> tuple[int, int]:
    """Return an int or a pair of ints as a pair (rows, columns), each at least `least`; `what` names it in the error.

    >>> pair(3, "kernel_size", least=1), pair((3, 5), "kernel_size", least=1)
    ((3, 3), (3, 5))
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise InputError(f"{what} must be an integer or a pair (rows, columns), received {value!r}")
    return integer(values[0], what, least=least), integer(values[1], what, least=least)
