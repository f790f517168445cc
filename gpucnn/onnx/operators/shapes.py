"""Shapes: the same elements under other axes, and constants."""

from __future__ import annotations

import math

import numpy as np

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.types import array_of, dtype_of
from gpucnn.onnx.values import FLOATS, Value

NUMBERS = {"value_int": "int64", "value_ints": "int64", "value_float": "float32", "value_floats": "float32"}


@operator("Constant", any_type=True)
def constant(node: Node) -> Value:
    """A tensor that the node carries."""
    for name, dtype in NUMBERS.items():
        if node[name] is not None:
            return node.on_host(np.asarray(node[name], dtype))
    if node["value"] is None:
        raise node.refuse("a constant of text or a sparse one", "value, value_int(s) and value_float(s)")
    return node.on_host(array_of(node["value"], node.label))


@operator("Shape", any_type=True)
def shape(node: Node, x: Value) -> Value:
    """The sizes of x, of the axes from `start` to `end`."""
    return node.on_host(np.asarray(x.shape[node["start"] : node["end"]], np.int64))


@operator("Cast", any_type=True)
def cast(node: Node, x: Value) -> Value:
    """x in another type; one of floats to floats stays as it is, in the backend's precision."""
    dtype = dtype_of(node["to"], node.label)
    return x if x.is_float and dtype.name in FLOATS else node.on_host(x.host.astype(dtype))


@operator("Reshape", any_type=True)
def reshape(node: Node, x: Value, sizes: Value | None = None) -> Value:
    """x in another shape, where -1 is what is left and 0, unless `allowzero`, the size that x has there."""
    wanted = node.integers("shape", sizes)
    if not node["allowzero"]:
        wanted = [size or x.shape[axis] for axis, size in enumerate(wanted)]
    return x.reshaped(wanted)


@operator("Flatten", any_type=True)
def flatten(node: Node, x: Value) -> Value:
    """A matrix: the axes before `axis`, and the others."""
    axis = node["axis"] + (x.rank if node["axis"] < 0 else 0)
    return x.reshaped((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Transpose", any_type=True)
def transpose(node: Node, x: Value) -> Value:
    """x with its axes in another order, the reverse one unless given."""
    return x.transposed(tuple(node["perm"] or reversed(range(x.rank))))


@operator("Squeeze", any_type=True)
def squeeze(node: Node, x: Value, axes: Value | None = None) -> Value:
    """x without axes of size 1: those given, or all."""
    given = node.integers("axes", axes)
    if given is None:
        return x.reshaped([size for size in x.shape if size != 1])
    dropped = {axis % x.rank for axis in given}
    return x.reshaped([size for axis, size in enumerate(x.shape) if axis not in dropped])


@operator("Unsqueeze", any_type=True)
def unsqueeze(node: Node, x: Value, axes: Value | None = None) -> Value:
    """x with axes of size 1 put in; they are counted in the result."""
    given = node.integers("axes", axes)
    rank = x.rank + len(given)
    added = {axis % rank for axis in given}
    sizes = iter(x.shape)
    return x.reshaped([1 if axis in added else next(sizes) for axis in range(rank)])
