"""Images and kernels in gpucnn's layout, and the windows that a node's attributes describe.

ONNX has images (N, C, H, W) and kernels (OC, C/groups, KH, KW); gpucnn (N, H, W, C) and (KH, KW, C/groups, OC). Images
with one dimension, (N, C, W), are those of height 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpucnn.geometry import Pair, Window
from gpucnn.layers.window import Padding, fit_window
from gpucnn.onnx.node import Node
from gpucnn.onnx.values import Value, last

__all__ = ["from_images", "images", "kernels", "pads", "pair", "window"]

Array = Any

MAX_TAPS = 1 << 16


def images(node: Node, x: Value) -> Array:
    """Return (N, H, W, C) of a value (N, C, H, W) or (N, C, W)."""
    if x.rank not in (3, 4):
        raise node.refuse(f"an input of shape {x.shape}", "images of one or two dimensions, (N, C, W) or (N, C, H, W)")
    return _with_height(node, x.array(last(1, x.rank)), 1)


def from_images(node: Node, y: Array, rank: int) -> Value:
    """Return the value, (N, C, H, W) or (N, C, W) as the rank is 4 or 3, of images (N, H, W, C)."""
    if rank == 3:
        y = node.xp.reshape(y, (y.shape[0], *y.shape[2:]))
    return node.value(y, last(1, rank))


def kernels(node: Node, w: Value) -> Array:
    """Return (KH, KW, C/groups, OC) of a value (OC, C/groups, KH, KW) or (OC, C/groups, KW)."""
    return _with_height(node, w.array((*range(2, w.rank), 1, 0)), 0)


def _with_height(node: Node, array: Array, axis: int) -> Array:
    """Return a 4-D array of a 3-D one that has no rows."""
    if array.ndim == 4:
        return array
    return node.xp.reshape(array, (*array.shape[:axis], 1, *array.shape[axis:]))


def pair(sizes: Sequence[int] | None, default: int) -> Pair:
    """Return an attribute with a number for each dimension as (rows, columns)."""
    rows, columns = ([default] * 2 + list(sizes or ()))[-2:]
    return rows, columns


def pads(node: Node) -> tuple[Pair, Pair]:
    """Return the attribute `pads`, all beginnings before all ends, as ((top, bottom), (left, right))."""
    sizes = node["pads"] or []
    middle = len(sizes) // 2
    (top, left), (bottom, right) = pair(sizes[:middle], 0), pair(sizes[middle:], 0)
    return (top, bottom), (left, right)


def window(node: Node, pixels: Array, kernel: Pair) -> Window:
    """Return the window of a convolution or a pooling over images (N, H, W, C)."""
    N, H, W, C = pixels.shape
    if math.prod(kernel) > max(H * W, MAX_TAPS):
        raise node.refuse(f"a window of {kernel} on images of {(H, W)}", f"{MAX_TAPS:,} taps, or as many as pixels")
    padding: Padding = pads(node)
    if node["auto_pad"] != "NOTSET":
        padding = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}[node["auto_pad"]]
    stride, dilation = pair(node["strides"], 1), pair(node["dilations"], 1)
    found = fit_window(node.label, (H, W), kernel, stride, padding, dilation, ceil_mode=bool(node["ceil_mode"]))
    node.require_room((N, *(size + sum(ends) for size, ends in zip((H, W), found.padding, strict=True)), C))
    node.require_room((N, *found.output_size(H, W), found.taps, C))
    return found
