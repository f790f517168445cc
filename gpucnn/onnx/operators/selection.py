"""Parts of tensors, and tensors put together."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from gpucnn.errors import InputError
from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value, compute

Array = Any


@operator("Concat", any_type=True)
def concat(node: Node, *values: Value) -> Value:
    """All inputs, one after another along an axis."""
    axis = node["axis"] % values[0].rank
    node.require_room((sum(value.size for value in values),))
    return compute(lambda xp, order, *arrays: xp.concat(arrays, axis=order.index(axis)), *values)


@operator("Split", any_type=True)
def split(node: Node, x: Value, sizes: Value | None = None) -> tuple[Value, ...]:
    """Parts of x along an axis: of the sizes given, else of equal ones, the last of which may be smaller."""
    axis, given = node["axis"] % x.rank, node.integers("split", sizes)
    size, count = x.shape[axis], len(node.outputs)
    most = -(-size // count)
    stops = itertools.accumulate(given) if given else (min(most * part, size) for part in range(1, count + 1))
    bounds = itertools.pairwise([0, *stops])
    return tuple(_part(x, {axis: slice(start, stop)}) for start, stop in bounds)


@operator("Slice", any_type=True)
def slice_(
    node: Node,
    x: Value,
    starts: Value | None = None,
    ends: Value | None = None,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    """From `starts` to before `ends` along some axes, by steps."""
    starts, ends = node.integers("starts", starts), node.integers("ends", ends)
    axes = [axis % x.rank for axis in node.integers("axes", axes) or range(len(starts))]
    steps = node.integers("steps", steps) or [1] * len(starts)
    parts = zip(axes, starts, ends, steps, strict=True)
    return _part(x, {axis: _inside(slice(start, end, step), x.shape[axis]) for axis, start, end, step in parts})


def _inside(part: slice, size: int) -> slice:
    """Return the slice with its ends inside of an axis of this size."""
    start, stop, step = part.indices(size)
    return slice(start, None if stop < 0 else stop, step)


def _part(x: Value, parts: dict[int, slice]) -> Value:
    """Return a slice of x along some axes."""
    return compute(lambda xp, order, x: x[tuple(parts.get(axis, slice(None)) for axis in order)], x)


@operator("Gather", any_type=True)
def gather(node: Node, x: Value, indices: Value) -> Value:
    """Entries of x along an axis, by number; the axes of the numbers take its place."""
    axis = node["axis"] % x.rank
    size, numbers = x.shape[axis], indices.host.reshape(-1)
    if not np.all((-size <= numbers) & (numbers < size)):
        raise InputError(f"{node.label}: expected indices from {-size} to {size - 1}, received {numbers.tolist()}")
    shape = *x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]
    node.require_room(shape)
    return _take(x, numbers % size, axis).reshaped(shape)


def _take(x: Value, indices: np.ndarray, axis: int) -> Value:
    """Return the entries of x with these numbers along an axis."""
    where = x.backend.from_host(indices) if x.is_float else indices
    return compute(lambda xp, order, x: xp.take(x, where, axis=order.index(axis)), x)


@operator("Pad", any_type=True)
def pad(node: Node, x: Value, pads: Value | None = None, fill: Value | None = None, axes: Value | None = None) -> Value:
    """x with elements put before and after some axes, or taken off: a constant, or x's own by `mode`."""
    sizes = node.integers("pads", pads) or node["paddings"]
    axes = node.integers("axes", axes) or range(x.rank)
    number = (node["value"] or 0.0) if fill is None else fill.number
    middle = len(sizes) // 2
    shape = list(x.shape)
    for axis, before, after in zip(axes, sizes[:middle], sizes[middle:], strict=True):
        shape[axis] += max(before, 0) + max(after, 0)
    node.require_room(shape)
    for axis, before, after in zip(axes, sizes[:middle], sizes[middle:], strict=True):
        x = _pad_axis(x, axis % x.rank, before, after, node["mode"], number)
    return x


def _pad_axis(x: Value, axis: int, before: int, after: int, mode: str, fill: float) -> Value:
    """Pad one axis; negative sizes take off."""
    x = _part(x, {axis: slice(max(-before, 0), x.shape[axis] - max(-after, 0))})
    before, after = max(before, 0), max(after, 0)
    if before == after == 0:
        return x
    if mode != "constant":
        return _take(x, np.pad(np.arange(x.shape[axis]), (before, after), mode), axis)

    def padded(xp, order, x):
        def block(count: int) -> Array:
            sizes = [count if other == axis else size for other, size in zip(order, x.shape, strict=True)]
            return xp.full(tuple(sizes), fill, dtype=x.dtype)

        return xp.concat([block(before), x, block(after)], axis=order.index(axis))

    return compute(padded, x)
