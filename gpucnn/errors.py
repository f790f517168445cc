"""The errors this library raises on purpose: each message is one sentence that names the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    *("DeviceError", "DivergedError", "GpucnnError", "InputError", "OutOfMemoryError"),
    *("describe", "lookup", "unknown_name"),
]


class GpucnnError(Exception):
    """Base of every error that the library raises on purpose."""


class InputError(GpucnnError, ValueError):
    """An argument or a file is not what was expected; the message says what was and how to mend it."""


class DeviceError(GpucnnError, RuntimeError):
    """A device is missing, or arrays of two devices meet; the message says which and how to mend it."""


class DivergedError(GpucnnError, ArithmeticError):
    """The loss became NaN or infinite during training."""


class OutOfMemoryError(GpucnnError, MemoryError):
    """A batch does not fit into memory; the message says what was asked for, what there is, and which batch fits."""


def describe(array: object) -> str:
    """Name the kind of an array in a message: "numpy ndarray"."""
    return f"{type(array).__module__.partition('.')[0]} {type(array).__name__}"


def lookup(kind: str, name: object, table: Mapping[str, Any]) -> Any:
    """Return `table[name]`, or raise the error for an unknown name."""
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Build the error for a name that is none of `known`, with the nearest match if there is one."""
    known = list(known)
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f" did you mean {nearest[0]!r}?" if nearest else ""
    return InputError(f"unknown {kind} {name!r}:{hint} known are {', '.join(known)}")
