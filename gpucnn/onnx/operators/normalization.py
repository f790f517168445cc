"""Normalization by mean and variance, and dropout."""

from __future__ import annotations

import zlib

import numpy as np

from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value, last

DEFAULT_RATIO = 0.5
WORD = 0xFFFFFFFF


@operator("BatchNormalization")
def batch_normalization(
    node: Node, x: Value, gamma: Value, beta: Value, mean: Value, variance: Value
) -> Value | tuple[Value, ...]:
    """Normalize each channel by its running moments or, in training, by the batch's.

    In training, what follows y are the new running moments and, before version 14, the batch's own.
    """
    if node["spatial"] == 0:
        raise node.refuse("spatial = 0", "1, one mean and one variance for each channel")
    training = node["training_mode"] if node.version >= 14 else len(node.outputs) > 1
    order, eps, backend = last(1, x.rank), node["epsilon"], node.backend
    node.require_room(x.array(order).shape, *(value.shape for value in (gamma, beta, mean, variance)))
    channels = gamma.array(), beta.array()
    running = node.xp.stack([mean.array(), variance.array()])
    if not training:
        return node.value(backend.batch_norm_inference(x.array(order), *channels, running, eps), order)
    batch = backend.zeros(running.shape)
    y, _ = backend.batch_norm(x.array(order), *channels, batch, 1.0, eps)  # with momentum 1 it stores the batch's own
    count = x.size // x.shape[1]
    batch[1, :] = batch[1, :] * (max(count - 1, 1) / count)  # ONNX keeps the biased variance
    running = node["momentum"] * running + (1.0 - node["momentum"]) * batch
    moments = [node.value(moment) for both in (running, batch) for moment in (both[0, :], both[1, :])]
    return (node.value(y, order), *moments)


@operator("GroupNormalization")
def group_normalization(node: Node, x: Value, gamma: Value, beta: Value) -> Value:
    """Normalize each group of channels of a sample."""
    return _by_groups(node, x, gamma, beta, node["num_groups"])


@operator("InstanceNormalization")
def instance_normalization(node: Node, x: Value, gamma: Value, beta: Value) -> Value:
    """Normalize each channel of a sample."""
    return _by_groups(node, x, gamma, beta, x.shape[1])


def _by_groups(node: Node, x: Value, gamma: Value, beta: Value, groups: int) -> Value:
    order = last(1, x.rank)
    node.require_room(x.array(order).shape, gamma.shape, beta.shape)
    y, _ = node.backend.group_norm(x.array(order), gamma.array(), beta.array(), groups, node["epsilon"])
    return node.value(y, order)


@operator("Dropout")
def dropout(node: Node, x: Value, ratio: Value | None = None, training: Value | None = None) -> tuple[Value, Value]:
    """Drop a share of the elements and scale the rest, in training; else x. The mask says what was kept.

    The masks are gpucnn's, the same on every device: from `seed`, and another at every run.
    """
    if not _is_training(node, training):
        ones = np.ones(x.shape, np.bool_ if node.version >= 10 else x.backend.precision)
        return x, node.on_host(ones)
    rate = node["ratio"] if node.version < 12 else DEFAULT_RATIO if ratio is None else ratio.number
    key = (node["seed"] or 0) & WORD, zlib.crc32(node.label.encode())
    counter = node.kept.setdefault("counter", node.backend.zeros((1,), node.xp.int64))
    y, mask = node.backend.dropout(x.array(x.order), rate, key, counter)
    return node.value(y, x.order), node.value(mask != 0, x.order)


def _is_training(node: Node, training: Value | None) -> bool:
    if node.version < 12:
        return node.version < 7 and not node["is_test"]
    return training is not None and bool(training.number)
