"""Activations, each by the backend's operation; along the axis that they name where they have one."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value, elementwise, last


@operator("Relu")
def relu(node: Node, x: Value) -> Value:
    """`max(x, 0)`."""
    return elementwise(node.backend.relu, x)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Value) -> Value:
    """x, times `alpha` where negative."""
    return elementwise(lambda x: node.backend.leaky_relu(x, node["alpha"]), x)


@operator("PRelu", broadcasts=True)
def prelu(node: Node, x: Value, slope: Value) -> Value:
    """x, times its slope where negative; before version 7 there is one slope, or one for each channel."""
    if node.version < 7 and slope.size > 1:
        slope = slope.reshaped((slope.size,) + (1,) * (x.rank - 2))
    return elementwise(node.backend.leaky_relu, x, slope)


@operator("Elu")
def elu(node: Node, x: Value) -> Value:
    """x, or `alpha (e^x - 1)` where negative."""
    return elementwise(lambda x: node.backend.elu(x, node["alpha"]), x)


@operator("Selu")
def selu(node: Node, x: Value) -> Value:
    """`gamma elu(x, alpha)`."""
    return elementwise(lambda x: node["gamma"] * node.backend.elu(x, node["alpha"]), x)


@operator("Gelu")
def gelu(node: Node, x: Value) -> Value:
    """`x Phi(x)`, exactly or by tanh."""
    return elementwise(lambda x: node.backend.gelu(x, node["approximate"] == "tanh"), x)


@operator("Sigmoid")
def sigmoid(node: Node, x: Value) -> Value:
    """`1/(1 + e^-x)`."""
    return elementwise(node.backend.sigmoid, x)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Value) -> Value:
    """`alpha x + beta`, held between 0 and 1."""
    return elementwise(lambda x: node.backend.hard_sigmoid(x, node["alpha"], node["beta"]), x)


@operator("Tanh")
def tanh(node: Node, x: Value) -> Value:
    """The hyperbolic tangent."""
    return elementwise(node.backend.tanh, x)


@operator("Atan")
def arctan(node: Node, x: Value) -> Value:
    """The inverse tangent."""
    return elementwise(node.backend.arctan, x)


@operator("Softplus")
def softplus(node: Node, x: Value) -> Value:
    """`log(1 + e^x)`."""
    return elementwise(node.backend.softplus, x)


@operator("Softmax")
def softmax(node: Node, x: Value) -> Value:
    """`e^x / sum e^x` along an axis."""
    return _along_axis(node, node.backend.softmax, x)


@operator("LogSoftmax")
def log_softmax(node: Node, x: Value) -> Value:
    """`x - log sum e^x` along an axis."""
    return _along_axis(node, node.backend.log_softmax, x)


def _along_axis(node: Node, function: Callable, x: Value) -> Value:
    """Apply a function of the last axis along the node's; before version 13 along it and all after it, as one."""
    axis = node["axis"] % x.rank
    if node.version < 13:
        rows = x.reshaped((math.prod(x.shape[:axis]), -1))
        return node.value(function(rows.array())).reshaped(x.shape)
    order = last(axis, x.rank)
    return node.value(function(x.array(order)), order)
