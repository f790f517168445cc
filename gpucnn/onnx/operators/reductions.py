"""Reductions along axes."""

from __future__ import annotations

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value, compute


@operator("ReduceMean")
def reduce_mean(node: Node, x: Value, axes: Value | None = None) -> Value:
    """The mean along axes."""
    return _reduce(node, "mean", x, axes)


@operator("ReduceSum")
def reduce_sum(node: Node, x: Value, axes: Value | None = None) -> Value:
    """The sum along axes."""
    return _reduce(node, "sum", x, axes)


def _reduce(node: Node, function: str, x: Value, axes: Value | None) -> Value:
    """Apply the array module's function of this name along axes, or along all of them if none are given."""
    given = node.integers("axes", axes)
    if not given and node["noop_with_empty_axes"]:
        return x
    along = {axis % x.rank for axis in given or range(x.rank)}

    def reduced(xp, order, x):
        return getattr(xp, function)(x, axis=tuple(order.index(axis) for axis in along), keepdims=True)

    y = compute(reduced, x)
    return y if node["keepdims"] else y.reshaped([size for axis, size in enumerate(x.shape) if axis not in along])
