"""How a backend gets its operations: each topic is a module of functions, and a class takes what they export."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

__all__ = ["in_place", "with_operations"]

Kind = TypeVar("Kind", bound=type)
Operation = TypeVar("Operation", bound=Callable)


def with_operations(*topics: ModuleType) -> Callable[[Kind], Kind]:
    """Give a class the functions that some modules name in `__all__` as its methods.

    So topics are siblings: none derives from another, and what one needs of another it imports. A function that
    overrides one of the class before must have its signature, which the tests check.
    """

    def give(kind: Kind) -> Kind:
        for topic in topics:
            for name in topic.__all__:
                if name in vars(kind):
                    raise TypeError(f"{kind.__name__}: {name} is there already; {topic.__name__} defines it again")
                setattr(kind, name, getattr(topic, name))
        return kind

    return give


def in_place(*arguments: str) -> Callable[[Operation], Operation]:
    """Say of an operation that its first result may lie over any one of these arguments: it works element by element.

    The names are its attribute `in_place`. They are said at the reference's operation and bind all overrides.
    """

    def mark(operation: Operation) -> Operation:
        unknown = set(arguments) - inspect.signature(operation).parameters.keys()
        if unknown:
            raise TypeError(f"{operation.__name__}: has no argument {', '.join(sorted(unknown))} to lie over")
        operation.in_place = arguments
        return operation

    return mark
