"""How a backend gets its operations: each topic is a module of functions, and a class takes what they export."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

__all__ = ["with_operations"]

Kind = TypeVar("Kind", bound=type)


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
