"""Losses of labels."""

from __future__ import annotations

from typing import Any

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value, last

Array = Any


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(node: Node, x: Value, labels: Value, weights: Value | None = None) -> Value:
    """`-weights[label] x[label]` of log probabilities x (N, C, ...) and labels (N, ...)."""
    return _likelihood_loss(node, x.array(last(1, x.rank)), labels, weights)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(node: Node, x: Value, labels: Value, weights: Value | None = None) -> tuple[Value, Value]:
    """`-weights[label] log softmax(x)[label]` of x (N, C, ...) and labels (N, ...), and the log probabilities."""
    order = last(1, x.rank)
    log_probabilities = node.backend.log_softmax(x.array(order))
    return _likelihood_loss(node, log_probabilities, labels, weights), node.value(log_probabilities, order)


def _likelihood_loss(node: Node, log_probabilities: Array, labels: Value, weights: Value | None) -> Value:
    """Return the losses (N, ...), their sum, or their mean by weight; labels of `ignore_index` weigh nothing."""
    xp, dtype = node.xp, log_probabilities.dtype
    classes, numbers = log_probabilities.shape[-1], labels.array()
    node.require_room(log_probabilities.shape, (*numbers.shape, 1), () if weights is None else weights.shape)
    is_label = numbers[..., None] == xp.arange(classes, dtype=numbers.dtype)
    weight = xp.ones((classes,), dtype=dtype) if weights is None else weights.array()
    weight = xp.sum(xp.where(is_label, weight, xp.zeros((), dtype=dtype)), axis=-1)
    if node["ignore_index"] is not None:
        weight = xp.where(numbers == node["ignore_index"], xp.zeros((), dtype=dtype), weight)
    losses = -weight * xp.sum(xp.where(is_label, log_probabilities, xp.zeros((), dtype=dtype)), axis=-1)
    if node["reduction"] == "none":
        return node.value(losses)
    total = xp.sum(losses)
    return node.value(total if node["reduction"] == "sum" else total / xp.sum(weight))
