"""Cases of lowering and convolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from case import LAYOUTS, Case, Draw, Output, cases_of, fields
from tolerances import FILTERED

from gpucnn.geometry import Window
from gpucnn.layers.window import fit_window


def border(top: int, bottom: int, left: int, right: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (top, bottom), (left, right)


WINDOWS = {
    "3x3": ((5, 7), Window((3, 3))),
    "1x1": ((4, 3), Window((1, 1))),
    "one pixel": ((1, 1), Window((1, 1))),
    "one row": ((1, 6), Window((1, 3))),
    "whole image": ((4, 3), Window((4, 3))),
    "whole padded image": ((3, 2), Window((5, 3), padding=border(1, 1, 0, 1))),
    "stride 2": ((7, 5), Window((3, 3), (2, 2))),
    "stride 2, pixels left over": ((6, 8), Window((3, 3), (2, 2))),
    "stride over kernel": ((8, 9), Window((2, 2), (3, 3))),
    "1x1, stride 2": ((5, 4), Window((1, 1), (2, 2))),
    "2x2, stride 2": ((6, 4), Window((2, 2), (2, 2))),
    "unequal strides": ((7, 8), Window((3, 2), (1, 3))),
    "padding 1": ((5, 4), Window((3, 3), padding=border(1, 1, 1, 1))),
    "1x1, padding 1": ((3, 2), Window((1, 1), padding=border(1, 1, 1, 1))),
    "asymmetric padding": ((4, 5), Window((2, 3), padding=border(0, 1, 2, 0))),
    "padding over kernel": ((3, 2), Window((2, 2), padding=border(3, 2, 0, 4))),
    "same, stride 2": ((6, 5), fit_window("", (6, 5), 3, 2, "same")),
    "same, 4x4": ((5, 3), fit_window("", (5, 3), 4, 1, "same")),
    "dilation 2": ((7, 6), Window((3, 2), dilation=(2, 2))),
    "unequal dilations": ((5, 7), Window((2, 3), dilation=(1, 3))),
    "dilation, stride and padding": ((6, 7), Window((2, 3), (2, 1), border(1, 2, 2, 1), (3, 2))),
    "overhang": ((5, 6), Window((2, 3), (2, 2), overhang=(1, 1))),
    "overhang beside padding": ((6, 5), Window((3, 3), (3, 2), border(1, 0, 0, 1), overhang=(2, 1))),
    "overhang, dilation and padding": ((8, 8), Window((2, 3), (3, 2), border(0, 1, 1, 1), (3, 2), (1, 1))),
    "overhang at stride 1": ((4, 5), Window((3, 2), padding=border(1, 0, 0, 1), overhang=(1, 0))),
    "overhang over kernel": ((4, 3), Window((3, 2), padding=border(1, 2, 0, 1), overhang=(1, 0))),
    "ceil mode": ((6, 4), fit_window("", (6, 4), (3, 2), 2, ((1, 0), (0, 1)), ceil_mode=True)),
}
MIN_CHANNELS = {"one": (1, 1, 1), "one channel": (3, 1, 2), "one map": (2, 3, 1), "one image": (1, 5, 2)}
# Kernels and images of the widths, and channels as many, that a CPU convolves with fewer multiplications.
FILTERED_SHAPES = {
    "3x3": ((2, 5, 4, 10), 12, Window((3, 3), padding=border(1, 1, 1, 1))),
    "no padding": ((2, 4, 6, 12), 10, Window((3, 3))),
    "1 pixel more than tiles": ((3, 3, 5, 10), 10, Window((3, 3), padding=border(1, 1, 1, 1))),
    "2 pixels more than tiles": ((1, 4, 10, 10), 11, Window((2, 3), padding=border(1, 0, 1, 1))),
    "3 pixels more than tiles": ((2, 3, 7, 10), 10, Window((1, 3), padding=border(0, 0, 0, 2))),
    "4 wide": ((2, 6, 8, 7), 8, Window((3, 4), padding=border(2, 0, 3, 1))),
    "5 wide": ((2, 6, 9, 6), 7, Window((5, 5), padding=border(2, 2, 2, 2))),
    "padding over kernel": ((1, 3, 3, 6), 6, Window((2, 5), padding=border(3, 2, 5, 6))),
}
# Images whose rows are long and even, and few maps: a CPU computes two pixels at once.
PAIRED_SHAPES = {
    "3x3": ((2, 4, 20, 2), 3, Window((3, 3), padding=border(1, 1, 1, 1))),
    "stride 2": ((1, 5, 45, 2), 4, Window((2, 4), (1, 2), border(1, 0, 0, 1))),
    "stride over kernel": ((1, 4, 67, 1), 2, Window((2, 2), (2, 3))),
}
# What leaves tiles of 64 by 64, and of 16 steps, partly empty, or needs more than one of them in a direction.
TILED_SHAPES = {
    "one column too many": ((1, 4, 5, 5), 65, Window((3, 2), (2, 1), border(1, 0, 0, 1))),
    "one row and one column too many": ((1, 5, 13, 66), 65, Window((1, 1))),
    "one channel, one map": ((3, 9, 10, 1), 1, Window((5, 5), padding=border(2, 2, 2, 2))),
    "many steps": ((1, 5, 6, 17), 7, Window((3, 3), padding=border(0, 1, 1, 2))),
    "stride 3 over kernel": ((1, 11, 10, 5), 7, Window((2, 2), (3, 3))),
    "unequal strides": ((2, 10, 12, 3), 10, Window((3, 3), (2, 3), border(2, 1, 0, 3), (2, 2))),
    "many windows": ((3, 14, 13, 1), 3, Window((3, 3), padding=border(1, 1, 1, 1))),
}
LARGE_FILTERED = {
    "many images": ((61, 14, 13, 16), 16, Window((5, 5), padding=border(2, 2, 2, 2))),
    "many channels": ((3, 4, 5, 160), 96, Window((3, 3), padding=border(1, 1, 1, 1))),
}
# Each way to convolve on some backend, with a ReLU behind it.
RECTIFIED = ("3x3", "2 groups", "depthwise", "strided", "filtered, 3x3", "filtered, 1 pixel more than tiles")
RECTIFIED += ("pairs, 3x3", "large batch of 17", "large 1x1", "large groups, stride 2", "filtered, many images")
SHAPE_WINDOW = "dilation, stride and padding"


def convolutions() -> Iterator[tuple[str, tuple[int, ...], int, Window, dict[str, Any]]]:
    """What every operation of a convolution gets: (label, x's shape, OC, window, further fields)."""
    for label, (size, window) in WINDOWS.items():
        yield label, (2, *size, 3), 4, window, {}
    size, window = WINDOWS[SHAPE_WINDOW]
    for label, (N, C, OC) in MIN_CHANNELS.items():
        yield label, (N, *size, C), OC, window, {}
    for layout in LAYOUTS:
        yield layout, (2, *size, 3), 4, window, {"layouts": layout}
    window, large = Window((3, 3), padding=border(1, 1, 1, 1)), {"large": True}
    yield "more channels", (1, 9, 8, 16), 8, window, {}
    for N in (1, 2, 17, 33):  # implementations that work in chunks meet partial ones
        yield f"batch of {N}", (N, 5, 4, 2), 3, window, {}
        yield f"large batch of {N}", (N, 28, 27, 8), 16, Window((5, 3), padding=border(2, 2, 1, 1)), large
    for label, (x_shape, OC, window) in FILTERED_SHAPES.items():
        yield f"filtered, {label}", x_shape, OC, window, {"scale": FILTERED}
    for layout in LAYOUTS:
        x_shape, OC, window = FILTERED_SHAPES["1 pixel more than tiles"]
        yield f"filtered, {layout}", x_shape, OC, window, {"scale": FILTERED, "layouts": layout}
    for label, (x_shape, OC, window) in PAIRED_SHAPES.items():
        yield f"pairs, {label}", x_shape, OC, window, {}
    for label, (x_shape, OC, window) in TILED_SHAPES.items():
        yield f"tiles, {label}", x_shape, OC, window, {}
    for label, (x_shape, OC, window) in LARGE_FILTERED.items():
        yield f"filtered, {label}", x_shape, OC, window, {"scale": FILTERED, **large}
    yield "large stride 2", (17, 29, 28, 8), 16, Window((3, 3), (2, 2), border(0, 1, 0, 1)), large
    yield "large 1x1", (33, 28, 28, 16), 8, Window((1, 1)), large


def grouped() -> Iterator[tuple[str, tuple[int, ...], int, int, Window, dict[str, Any]]]:
    """Convolutions with groups: (label, x's shape, OC, groups, window, further fields)."""
    same, (size, window) = Window((3, 3), padding=border(1, 1, 1, 1)), WINDOWS[SHAPE_WINDOW]
    kinds = {"2 groups": (4, 6, 2), "depthwise": (3, 3, 3), "depthwise, multiplier 2": (3, 6, 3)}
    kinds["one filter each"] = (6, 3, 3)
    for kind, (C, OC, groups) in kinds.items():
        yield kind, (2, 5, 4, C), OC, groups, same, {}
        yield f"{kind}, {SHAPE_WINDOW}", (2, *size, C), OC, groups, window, {}
        for layout in LAYOUTS:
            yield f"{kind}, {layout}", (2, *size, C), OC, groups, window, {"layouts": layout}
    yield "many weights", (17, 5, 4, 96), 48, 2, same, {"large": True}
    for kind, (C, OC, groups) in {"groups": (16, 8, 4), "depthwise": (32, 32, 32)}.items():
        for stride in (1, 2):
            strided = replace(same, stride=(stride, stride))
            yield f"large {kind}, stride {stride}", (17, 28, 27, C), OC, groups, strided, {"large": True}


@cases_of
def im2col(dtype: str) -> Iterator[Case]:
    for label, x_shape, _, window, further in convolutions():
        N, H, W, C = x_shape
        rows = N * np.prod(window.output_size(H, W), dtype=int)
        columns = Output((int(rows), window.taps * C), dtype)
        draw = Draw(f"im2col {label}", dtype)
        image = {"x": draw.normal(*x_shape), "window": window}
        yield Case("im2col", label, dtype, image, {"out": columns}, **fields(further, "x"))
        arguments = {"columns": draw.normal(*columns.shape), "x_shape": x_shape, "window": window}
        outputs = {"out": Output(x_shape, dtype)}
        further = fields(further, "columns")
        yield Case("col2im", label, dtype, arguments, outputs, terms=window.taps, **further)


@cases_of
def conv2d(dtype: str) -> Iterator[Case]:
    plain = ((label, x_shape, OC, 1, *rest) for label, x_shape, OC, *rest in convolutions())
    for label, x_shape, OC, groups, window, further in chain(plain, grouped()):
        N, H, W, C = x_shape
        draw = Draw(f"conv2d {label}", dtype)
        x, w, b = draw.normal(*x_shape), draw.normal(*window.kernel, C // groups, OC), draw.normal(OC)
        y = Output((N, *window.output_size(H, W), OC), dtype)
        dy, dw, db = draw.normal(*y.shape), Output(w.shape, dtype), Output(b.shape, dtype)

        arguments, outputs = {"x": x, "w": w, "b": b, "window": window}, {"out": y}
        more = {"terms": window.taps * C // groups + 1, **fields(further, "x", "w", "b")}
        yield Case("conv2d", label, dtype, arguments, outputs, **more)
        if label in ("3x3", "2 groups", "depthwise"):
            yield Case("conv2d", f"{label}, no bias", dtype, {**arguments, "b": None}, outputs, **more)
        if label in RECTIFIED:
            arguments, more = {**arguments, "relu": True}, {**more, "smooth": False}
            yield Case("conv2d", f"{label}, rectified", dtype, arguments, outputs, **more)
            yield Case("conv2d", f"{label}, no bias, rectified", dtype, {**arguments, "b": None}, outputs, **more)

        arguments = {"dy": dy, "w": w, "x_shape": x_shape, "window": window}
        more = {"terms": window.taps * OC // groups, **fields(further, "dy", "w")}
        yield Case("conv2d_dx", label, dtype, arguments, {"out": Output(x_shape, dtype)}, **more)

        arguments = {"x": x, "dy": dy, "window": window}
        more = {"terms": dy.size // OC, **fields(further, "x", "dy")}
        yield Case("conv2d_dw_db", label, dtype, arguments, {"dw": dw, "db": db}, **more)
        if label in ("3x3", "2 groups", "depthwise"):
            yield Case("conv2d_dw_db", f"{label}, no bias", dtype, {**arguments, "db": None}, {"dw": dw}, **more)


@cases_of
def rectified_conv2d(dtype: str) -> Iterator[Case]:
    """Zeros of both signs, what is rounded to them, infinities and NaN before a ReLU."""
    w, tiny = np.array([1, 1e-9], dtype).reshape(1, 1, 1, 2), np.finfo(dtype).smallest_subnormal
    biases = {"few": np.array([-1, 1], dtype), "zeros": np.array([0.0, -0.0], dtype), "no bias": None}
    for kind, C in (("one channel", 1), ("depthwise", 2)):  # no sum is of two products, of which both may be infinite
        x, y = Draw(f"rectified {kind}", dtype).few(2, 5, 4, C), Output((2, 5, 4, 2), dtype)
        x[0, 2, 3] = x[1, 0, 0] = np.nan
        x[0, 0, 1], x[1, 4, 2], x[0, 1, 1], x[1, 1, 1] = np.inf, -np.inf, tiny, -tiny
        for label, b in biases.items():
            arguments = {"x": x, "w": w, "b": b, "window": Window((1, 1)), "relu": True}
            yield Case("conv2d", f"rectified, {kind}, {label}", dtype, arguments, {"out": y}, smooth=False)
