"""Convolution and its transpose."""

from __future__ import annotations

from gpucnn.errors import InputError
from gpucnn.geometry import Pair, Window
from gpucnn.onnx.images import from_images, images, kernels, pads, pair, window
from gpucnn.onnx.node import Node
from gpucnn.onnx.operators.table import operator
from gpucnn.onnx.values import Value


@operator("Conv")
def conv(node: Node, x: Value, w: Value, b: Value | None = None) -> Value:
    """Convolve x (N, C, H, W) with kernels (OC, C/groups, KH, KW), and add the bias (OC,)."""
    pixels, taps = images(node, x), kernels(node, w)
    N, H, W, C = pixels.shape
    _check_channels(node, C, taps.shape[2] * node["group"])
    geometry = window(node, pixels, taps.shape[:2])
    node.require_room((N, *geometry.output_size(H, W), taps.shape[3]))
    bias = None if b is None else b.array()
    return from_images(node, node.backend.conv2d(pixels, taps, bias, geometry), x.rank)


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Value, w: Value, b: Value | None = None) -> Value:
    """Do with x (N, C, H, W) what a convolution does with gradients; kernels (C, OC/groups, KH, KW), bias (OC,)."""
    pixels, taps = images(node, x), kernels(node, w)
    N, H, W, C = pixels.shape
    _check_channels(node, C, taps.shape[3])
    geometry, size = _transposed_window(node, (H, W), taps.shape[:2])
    shape = N, *size, taps.shape[2] * node["group"]
    node.require_room(shape)
    y = node.backend.conv2d_dx(pixels, taps, shape, geometry)
    return from_images(node, y if b is None else y + b.array(), x.rank)


def _check_channels(node: Node, received: int, expected: int) -> None:
    if received != expected:
        raise InputError(
            f"{node.label}: the kernels, in {node['group']} groups, expect {expected} channels; received {received}"
        )


def _transposed_window(node: Node, size: Pair, kernel: Pair) -> tuple[Window, Pair]:
    """Return the window of the convolution that is transposed, and the size of the output."""
    stride, dilation = pair(node["strides"], 1), pair(node["dilations"], 1)
    full = Window(kernel, stride, dilation=dilation).input_size(*size)  # with nothing taken off
    more = pair(node["output_padding"], 0)
    output = _given_output(node, size, stride)
    if output is None:
        befores, afters = zip(*pads(node), strict=True)
        output = tuple(f + m - before - after for f, m, before, after in zip(full, more, befores, afters, strict=True))
    else:
        surplus = [max(f + m - o, 0) for f, m, o in zip(full, more, output, strict=True)]
        befores = [s // 2 if node["auto_pad"] == "SAME_UPPER" else s - s // 2 for s in surplus]
    ends = [f - before - o for f, before, o in zip(full, befores, output, strict=True)]  # below 0: rows are added
    if min(output) < 1 or any(-end >= step for end, step in zip(ends, stride, strict=True)):
        raise node.refuse(f"an output of {output} for an input of {size}", "one with less added than the stride")
    rows, columns = ((before, max(end, 0)) for before, end in zip(befores, ends, strict=True))
    return Window(kernel, stride, (rows, columns), dilation), output


def _given_output(node: Node, size: Pair, stride: Pair) -> Pair | None:
    """Return the output's size where the node gives it instead of padding."""
    if node["output_shape"]:
        return pair(node["output_shape"], 1)
    if node["auto_pad"].startswith("SAME"):
        return size[0] * stride[0], size[1] * stride[1]
    return None
