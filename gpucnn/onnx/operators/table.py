"""The table of the operators' functions."""

from __future__ import annotations

import functools
from collections.abc import Callable

from gpucnn.onnx.node import Node
from gpucnn.onnx.values import Value

__all__ = ["OPERATORS", "operator"]

Operator = Callable[..., Value | tuple[Value, ...]]

OPERATORS: dict[str, Operator] = {}


def operator(name: str, *, any_type: bool = False, broadcasts: bool = False) -> Callable[[Operator], Operator]:
    """Enter a function under the name of its operator.

    Unless `any_type`, its first input must be of floats. One that `broadcasts` all its inputs may ask for much more
    memory than they take, which is checked before.
    """

    def enter(function: Operator) -> Operator:
        entered = function if any_type else _of_floats(function)
        OPERATORS[name] = _with_room(entered) if broadcasts else entered
        return function

    return enter


def _with_room(function: Operator) -> Operator:
    @functools.wraps(function)
    def checked(node: Node, *values: Value) -> Value | tuple[Value, ...]:
        node.require_room(*(value.shape for value in values))
        return function(node, *values)

    return checked


def _of_floats(function: Operator) -> Operator:
    @functools.wraps(function)
    def checked(node: Node, x: Value, *others: Value | None) -> Value | tuple[Value, ...]:
        if not x.is_float:
            raise node.refuse(f"an input of type {x.host.dtype}", "float32 and float64")
        return function(node, x, *others)

    return checked
