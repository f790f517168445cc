"""Cases of pooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracles
from case import LAYOUTS, Case, Draw, Output, cases_of, fields

from cases.convolution import MIN_CHANNELS, SHAPE_WINDOW, WINDOWS, border
from gpucnn.geometry import Window


def pools() -> Iterator[tuple[str, tuple[int, ...], Window, dict[str, Any]]]:
    for label, (size, window) in WINDOWS.items():
        yield label, (2, *size, 3), window, {}
    size, window = WINDOWS[SHAPE_WINDOW]
    for label, (N, C, _) in MIN_CHANNELS.items():
        yield label, (N, *size, C), window, {}
    for layout in LAYOUTS:
        yield layout, (2, *size, 3), window, {"layouts": layout}
    yield "255 taps", (1, 15, 18, 1), Window((15, 17)), {}
    yield "256 taps", (1, 16, 17, 1), Window((16, 16)), {}
    yield "289 taps", (1, 18, 17, 1), Window((17, 17)), {}
    yield "batch of 33", (33, 5, 4, 2), Window((2, 2), (2, 2), border(1, 0, 0, 1)), {}
    yield "large 2x2", (33, 28, 28, 16), Window((2, 2), (2, 2)), {"large": True}
    yield "large 3x3, stride 2", (17, 29, 28, 8), Window((3, 3), (2, 2), border(1, 1, 1, 1)), {"large": True}


def output_shape(x_shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
    N, H, W, C = x_shape
    return N, *window.output_size(H, W), C


def special_pixels(draw: Draw) -> Iterator[tuple[str, np.ndarray]]:
    """Images that a maximum finds hard."""
    yield "ties", draw.few(2, 7, 6, 3)
    x = draw.normal(2, 7, 6, 3)
    x[0, 2, 3, 0] = x[1, 0, 0, 1] = x[1, 6, 5, 2] = np.nan
    yield "NaN", x
    x = draw.normal(2, 7, 6, 3)
    x[0, 2:5, 1:4, 0] = np.nan
    x[0, :, :, 1] = np.nan
    yield "several NaN", x
    yield "all negative", -10 - abs(draw.normal(2, 7, 6, 3))
    x = draw.normal(2, 7, 6, 3)
    x[0, 2:6, 1:4, 0] = -np.inf
    x[1, 3, 3, 1] = np.inf
    yield "infinities", x


def meets_pixels(x_shape: tuple[int, ...], window: Window) -> bool:
    """Whether there is a pixel under every window: the maximum of none is -inf."""
    return bool(oracles.pool_counts(window, x_shape[1], x_shape[2], count_include_pad=False).all())


def max_pool_case(
    label: str, x: np.ndarray, window: Window, further: dict[str, Any], relu: bool = False
) -> Iterator[Case]:
    dtype = x.dtype.name
    shape, winner = output_shape(x.shape, window), "uint8" if window.taps <= 255 else "int32"
    if not meets_pixels(x.shape, window):
        further = {**further, "smooth": False}
    outputs = {"out": Output(shape, dtype), "argmax": Output(shape, winner)}
    arguments = {"x": x, "window": window, "relu": relu}
    yield Case("max_pool2d", label, dtype, arguments, outputs, **fields(further, "x"))
    draw = Draw(f"max_pool2d_dx {label}", dtype)
    if further.get("large"):
        argmax = draw.random.integers(0, window.taps, shape).astype(winner)
    else:
        argmax = oracles.max_pool2d(x, window, relu)[1].astype(winner)
    arguments = {"dy": draw.normal(*shape), "argmax": argmax, "x_shape": x.shape, "window": window}
    outputs, further = {"out": Output(x.shape, dtype)}, fields(further, "dy", "argmax")
    yield Case("max_pool2d_dx", label, dtype, arguments, outputs, terms=window.taps, **further)


@cases_of
def max_pool2d(dtype: str) -> Iterator[Case]:
    for label, x_shape, window, further in pools():
        x = Draw(f"max_pool2d {label}", dtype).normal(*x_shape)
        yield from max_pool_case(label, x, window, further)
    for label in ("stride 2", "padding 1", "255 taps", "256 taps"):
        x_shape, window = next((x_shape, window) for name, x_shape, window, _ in pools() if name == label)
        x = Draw(f"max_pool2d {label}", dtype).normal(*x_shape) - 1
        yield from max_pool_case(f"{label}, rectified", x, window, {"smooth": False}, relu=True)
    for label, x in special_pixels(Draw("max_pool2d", dtype)):
        for window in (Window((3, 2), (2, 1), border(1, 1, 0, 1)), Window((2, 2), (2, 2))):
            KH, KW = window.kernel
            yield from max_pool_case(f"{KH}x{KW}, {label}", x, window, {"smooth": False})
            yield from max_pool_case(f"{KH}x{KW}, {label}, rectified", x, window, {"smooth": False}, relu=True)


@cases_of
def average_pool2d(dtype: str) -> Iterator[Case]:
    for label, x_shape, window, further in pools():
        for count_include_pad in (False, True):
            title = f"{label}{', padding counts' if count_include_pad else ''}"
            draw, shape = Draw(f"average_pool2d {label}", dtype), output_shape(x_shape, window)
            how = {"window": window, "count_include_pad": count_include_pad}
            arguments, outputs = {"x": draw.normal(*x_shape), **how}, {"out": Output(shape, dtype)}
            more = {"terms": window.taps}
            yield Case("average_pool2d", title, dtype, arguments, outputs, **more, **fields(further, "x"))
            arguments = {"dy": draw.normal(*shape), "x_shape": x_shape, **how}
            outputs = {"out": Output(x_shape, dtype)}
            yield Case("average_pool2d_dx", title, dtype, arguments, outputs, **more, **fields(further, "dy"))


@cases_of
def lp_pool2d(dtype: str) -> Iterator[Case]:
    choices = [(label, *rest, 2.0, "normal") for label, *rest in pools()]
    window = WINDOWS["padding 1"][1]
    choices += [(f"p = {p}", (2, 5, 4, 3), window, {}, p, "normal") for p in (1.0, 1.5, 3.0, 4.0)]
    choices += [(f"p = {p}, ties", (2, 6, 4, 3), window, {"smooth": False}, p, "few") for p in (1.0, 2.0, 3.0)]
    zero_window = WINDOWS["2x2, stride 2"][1]
    choices += [("all zero", (1, 4, 4, 2), zero_window, {"smooth": False}, p, "zero") for p in (2.0, 3.0)]
    for label, x_shape, window, further, p, kind in choices:
        draw = Draw(f"lp_pool2d {label}", dtype)
        x = draw.normal(*x_shape) if kind == "normal" else draw.few(*x_shape)
        x = x * 0 if kind == "zero" else x
        shape = output_shape(x_shape, window)
        label = f"{label} {p}" if kind == "zero" else label
        arguments, outputs = {"x": x, "p": p, "window": window}, {"out": Output(shape, dtype)}
        more = {"terms": window.taps, "scale": 4.0}
        yield Case("lp_pool2d", label, dtype, arguments, outputs, **more, **fields(further, "x"))
        y = draw.uniform(*shape) * 10 if further.get("large") else oracles.lp_pool2d(x, p, window).astype(dtype)
        arguments = {"dy": draw.normal(*shape), "x": x, "y": y, "p": p, "window": window}
        outputs, further = {"out": Output(x_shape, dtype)}, fields(further, "dy", "x", "y")
        yield Case("lp_pool2d_dx", label, dtype, arguments, outputs, **more, **further)
