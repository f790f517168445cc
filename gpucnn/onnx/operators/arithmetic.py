"""Arithmetic, element by element."""

from __future__ import annotations

import functools
import operator as python

import numpy as np

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value, compute, elementwise


@operator("Add", any_type=True, broadcasts=True)
def add(node: Node, a: Value, b: Value) -> Value:
    """`a + b`."""
    return elementwise(python.add, a, _aligned(node, a, b))


@operator("Sub", any_type=True, broadcasts=True)
def subtract(node: Node, a: Value, b: Value) -> Value:
    """`a - b`."""
    return elementwise(python.sub, a, _aligned(node, a, b))


@operator("Mul", any_type=True, broadcasts=True)
def multiply(node: Node, a: Value, b: Value) -> Value:
    """`a b`."""
    return elementwise(python.mul, a, _aligned(node, a, b))


@operator("Div", any_type=True, broadcasts=True)
def divide(node: Node, a: Value, b: Value) -> Value:
    """`a/b`; whole numbers are rounded towards 0."""
    return elementwise(python.truediv if a.is_float else _truncated, a, _aligned(node, a, b))


def _truncated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a - np.fmod(a, b)) // b


def _aligned(node: Node, a: Value, b: Value) -> Value:
    """Before version 7, `axis` says which axis of a is the first of b."""
    if node.version >= 7 or node["axis"] is None:
        return b
    return b.reshaped(b.shape + (1,) * (a.rank - b.rank - node["axis"] % a.rank))


@operator("Pow", broadcasts=True)
def power(node: Node, a: Value, b: Value) -> Value:
    """`a^b`."""
    exponent = b if b.is_float else node.on_host(b.host.astype(node.backend.precision))
    return elementwise(python.pow, a, _aligned(node, a, exponent))


@operator("Sum", broadcasts=True)
def total(node: Node, *values: Value) -> Value:
    """The sum of all inputs."""
    return functools.reduce(functools.partial(elementwise, python.add), values)


@operator("Max", any_type=True, broadcasts=True)
def maximum(node: Node, *values: Value) -> Value:
    """The largest of all inputs."""
    return functools.reduce(lambda a, b: compute(lambda xp, order, a, b: xp.maximum(a, b), a, b), values)


@operator("Min", any_type=True, broadcasts=True)
def minimum(node: Node, *values: Value) -> Value:
    """The smallest of all inputs."""
    return functools.reduce(lambda a, b: compute(lambda xp, order, a, b: xp.minimum(a, b), a, b), values)


@operator("Neg", any_type=True)
def negative(node: Node, x: Value) -> Value:
    """`-x`."""
    return elementwise(python.neg, x)


@operator("Abs", any_type=True)
def absolute(node: Node, x: Value) -> Value:
    """`|x|`."""
    return elementwise(abs, x)


@operator("Exp")
def exponential(node: Node, x: Value) -> Value:
    """`e^x`."""
    return elementwise(node.xp.exp, x)


@operator("Log")
def logarithm(node: Node, x: Value) -> Value:
    """`log x`."""
    return elementwise(node.xp.log, x)


@operator("Sqrt")
def square_root(node: Node, x: Value) -> Value:
    """The square root."""
    return elementwise(node.xp.sqrt, x)


@operator("Clip", any_type=True)
def clip(node: Node, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """x, held between two numbers, either of which may be left out; before version 11 they are attributes."""
    bounds = [value if value is None else value.number for value in (low, high)]
    if node.version < 11:
        bounds = [node["min"], node["max"]]
    if bounds == [None, None]:
        return x
    if None not in bounds:
        bounds[0] = min(bounds)  # the upper bound wins
    return compute(lambda xp, order, x: xp.clip(x, *bounds), x)


@operator("Identity", any_type=True)
def identity(node: Node, x: Value) -> Value:
    """x."""
    return x
