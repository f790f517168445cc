"""Pooling, over windows and over whole images."""

from __future__ import annotations

from typing import Any

from gpucnn.geometry import Window
from gpucnn.onnx.images import from_images, images, pair, window
from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value, last

Array = Any


@operator("MaxPool")
def max_pool(node: Node, x: Value) -> tuple[Value, ...]:
    """Largest pixel under each window, and where it lies among the elements of x."""
    pixels = images(node, x)
    geometry = _window(node, pixels)
    y, argmax = node.backend.max_pool2d(pixels, geometry)
    if len(node.outputs) == 1:
        return (from_images(node, y, x.rank),)
    return from_images(node, y, x.rank), from_images(node, _positions(node, argmax, pixels.shape, geometry), x.rank)


def _positions(node: Node, argmax: Array, shape: tuple[int, ...], geometry: Window) -> Array:
    """Return where in a tensor (N, C, H, W) the winning taps lie; columns first with `storage_order` 1."""
    xp, (N, H, W, C), (_, OH, OW, _) = node.xp, shape, argmax.shape
    (SH, SW), (DH, DW), ((top, _), (left, _)) = geometry.stride, geometry.dilation, geometry.padding

    def count(size: int, axis: int) -> Array:
        return xp.reshape(xp.arange(size, dtype=xp.int64), (1,) * axis + (size,) + (1,) * (3 - axis))

    taps = node.backend.cast(argmax, xp.int64)
    u, v = taps // geometry.kernel[1], taps % geometry.kernel[1]
    h, w = count(OH, 1) * SH + u * DH - top, count(OW, 2) * SW + v * DW - left
    pixel = h + w * H if node["storage_order"] else h * W + w
    return (count(N, 0) * C + count(C, 3)) * (H * W) + pixel


@operator("AveragePool")
def average_pool(node: Node, x: Value) -> Value:
    """Mean of the pixels under each window."""
    pixels = images(node, x)
    geometry = _window(node, pixels)
    counted = bool(node["count_include_pad"])
    return from_images(node, node.backend.average_pool2d(pixels, geometry, count_include_pad=counted), x.rank)


@operator("LpPool")
def lp_pool(node: Node, x: Value) -> Value:
    """`(sum |x|^p)^(1/p)` of the pixels under each window."""
    pixels = images(node, x)
    return from_images(node, node.backend.lp_pool2d(pixels, node["p"], _window(node, pixels)), x.rank)


def _window(node: Node, pixels: Array) -> Window:
    return window(node, pixels, pair(node["kernel_shape"], 1))


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Value) -> Value:
    """Largest pixel of each channel."""
    pixels = _one_row(node, x)
    y, _ = node.backend.adaptive_max_pool2d(pixels, (1, 1))
    return _one_pixel(node, y, x)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Value) -> Value:
    """Mean of each channel's pixels."""
    return _one_pixel(node, node.backend.adaptive_average_pool2d(_one_row(node, x), (1, 1)), x)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, x: Value) -> Value:
    """`(sum |x|^p)^(1/p)` of each channel's pixels."""
    pixels = _one_row(node, x)
    return _one_pixel(node, node.backend.lp_pool2d(pixels, node["p"], Window(pixels.shape[1:3])), x)


def _one_row(node: Node, x: Value) -> Array:
    """Return images (N, 1, pixels, C) of a value (N, C, ...) of any number of dimensions."""
    return node.xp.reshape(x.array(last(1, x.rank)), (x.shape[0], 1, -1, x.shape[1]))


def _one_pixel(node: Node, y: Array, x: Value) -> Value:
    """Return a value (N, C, 1, ...) of images (N, 1, 1, C)."""
    N, C = x.shape[:2]
    return node.value(node.xp.reshape(y, (N, *(1,) * (x.rank - 2), C)), last(1, x.rank))
