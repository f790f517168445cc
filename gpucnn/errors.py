"""The errors this library raises on purpose: each message is one sentence that names the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DeviceError", "DivergedError", "GpucnnError", "InputError", "unknown_name"]


class GpucnnError(Exception):
    """Base of every error that the library raises on purpose."""


class InputError(GpucnnError, ValueError):
    """An argument or a file is not what was expected; the message says what was and how to mend it."""


class DeviceError(GpucnnError, RuntimeError):
    """A device is missing, or arrays of two devices meet; the message says which and how to mend it."""


class DivergedError(GpucnnError, ArithmeticError):
    """The loss became NaN or infinite during training."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Build the error for a name that is none of `known`, with the nearest match if there is one."""
    known = list(known)
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f" did you mean {nearest[0]!r}?" if nearest else ""
    return InputError(f"unknown {kind} {name!r}:{hint} known are {', '.join(known)}")
