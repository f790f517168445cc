"""The errors this library raises on purpose: each message is one sentence that names the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = [
    *("DeviceError", "DivergedError", "GpucnnError", "InputError", "OutOfMemoryError"),
    *("describe", "lookup", "unknown_name"),
]


T = TypeVar("T")


class GpucnnError(Exception):
    """Base of every error that the library raises on purpose.

    >>> from gpucnn import GpucnnError, get_backend
    >>> try:
    ...     get_backend("cpuu")
    ... except GpucnnError as error:
    ...     print(error)
    unknown device 'cpuu': did you mean 'cpu'? known are auto, cpu, gpu, gpu:0, reference
    """


class InputError(GpucnnError, ValueError):
    """An argument or a file is not what was expected; the message says what was, and the cure. Also a `ValueError`.

    >>> from gpucnn import SGD
    >>> SGD(learning_rate=-1)
    Traceback (most recent call last):
    gpucnn.errors.InputError: SGD: learning_rate must be a number of at least 0 and finite, received -1
    """


class DeviceError(GpucnnError, RuntimeError):
    """A device is missing, or arrays of two devices meet; the message says how to mend it. Also a `RuntimeError`.

    >>> from gpucnn import DeviceError, get_backend
    >>> try:
    ...     backend = get_backend("gpu:64")
    ... except DeviceError:
    ...     backend = get_backend("cpu")
    >>> backend.name
    'cpu'
    """


class DivergedError(GpucnnError, ArithmeticError):
    """The loss became NaN or infinite during training; the message says in which step. Also an `ArithmeticError`.

    >>> from gpucnn import DivergedError
    >>> issubclass(DivergedError, ArithmeticError)
    True
    """


class OutOfMemoryError(GpucnnError, MemoryError):
    """A batch does not fit into memory; the message says which batch does. Also a `MemoryError`.

    >>> from gpucnn.errors import OutOfMemoryError
    >>> issubclass(OutOfMemoryError, MemoryError)
    True
    """


def describe(array: object) -> str:
    """Return how messages name the kind of an array.

    >>> import numpy as np
    >>> describe(np.zeros(3))
    'numpy ndarray'
    """
    return f"{type(array).__module__.partition('.')[0]} {type(array).__name__}"


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`; raise `InputError` for an unknown name.

    >>> lookup("colour", "red", {"red": 1})
    1
    """
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not one of `known`, with the nearest match if there is one.

    >>> str(unknown_name("colour", "rad", ["red", "blue"]))
    "unknown colour 'rad': did you mean 'red'? known are red, blue"
    """
    known = list(known)
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f" did you mean {nearest[0]!r}?" if nearest else ""
    return InputError(f"unknown {kind} {name!r}:{hint} known are {', '.join(known)}")
