"""Products of matrices."""

from __future__ import annotations

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value


@operator("Gemm")
def gemm(node: Node, a: Value, b: Value, c: Value | None = None) -> Value:
    """`alpha a b + beta c`, with a and b transposed or not."""
    left = a.array((1, 0) if node["transA"] else None)
    right = b.array((1, 0) if node["transB"] else None)
    node.require_room((left.shape[0], 1), (1, right.shape[1]), () if c is None else c.shape)
    y = node.backend.matmul(left, right)
    y = y if node["alpha"] == 1 else node["alpha"] * y
    if c is None or node["beta"] == 0:
        return node.value(y)
    return node.value(y + (c.array() if node["beta"] == 1 else node["beta"] * c.array()))


@operator("MatMul")
def matmul(node: Node, a: Value, b: Value) -> Value:
    """`a b`, of matrices in the last two axes."""
    node.require_room((*a.shape[:-1], 1), (*b.shape[:-2], 1, *b.shape[-1:]))
    return node.value(node.backend.matmul(a.array(), b.array()))
