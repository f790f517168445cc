"""Inputs for every operation, and one way to run them on any backend.

`CASES` is a list of `Case`. Adding an operation means one generator here, decorated with `@cases_of`, and one
oracle of the same name in `loops.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import loops
import numpy as np
from case import CASES, ELEMENT_LOSSES, LAYOUTS, RESULTS, TOTALS, Case, Draw, Output, cases_of, fields, run, sentinel

from gpucnn.geometry import Window

__all__ = ["CASES", "ELEMENT_LOSSES", "OPERATIONS", "RESULTS", "Case", "Draw", "Output", "border", "run", "sentinel"]


# ---- windows -----------------------------------------------------------------------------------------------


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
    "same, stride 2": ((6, 5), Window.fit("", (6, 5), 3, 2, "same")),
    "same, 4x4": ((5, 3), Window.fit("", (5, 3), 4, 1, "same")),
    "dilation 2": ((7, 6), Window((3, 2), dilation=(2, 2))),
    "unequal dilations": ((5, 7), Window((2, 3), dilation=(1, 3))),
    "dilation, stride and padding": ((6, 7), Window((2, 3), (2, 1), border(1, 2, 2, 1), (3, 2))),
}
LEAST_CHANNELS = {"one": (1, 1, 1), "one channel": (3, 1, 2), "one map": (2, 3, 1), "one image": (1, 5, 2)}
SHAPE_WINDOW = "dilation, stride and padding"


def convolutions() -> Iterator[tuple[str, tuple[int, ...], int, Window, dict[str, Any]]]:
    """What every operation of a convolution gets: (label, x's shape, OC, window, further fields)."""
    for label, (size, window) in WINDOWS.items():
        yield label, (2, *size, 3), 4, window, {}
    size, window = WINDOWS[SHAPE_WINDOW]
    for label, (N, C, OC) in LEAST_CHANNELS.items():
        yield label, (N, *size, C), OC, window, {}
    for layout in LAYOUTS:
        yield layout, (2, *size, 3), 4, window, {"layouts": layout}
    window, large = Window((3, 3), padding=border(1, 1, 1, 1)), {"large": True}
    yield "more channels", (1, 9, 8, 16), 8, window, {}
    for N in (1, 2, 17, 33):  # implementations that work in chunks meet partial ones
        yield f"batch of {N}", (N, 5, 4, 2), 3, window, {}
        yield f"large batch of {N}", (N, 28, 27, 8), 16, Window((5, 3), padding=border(2, 2, 1, 1)), large
    yield "large stride 2", (17, 29, 28, 8), 16, Window((3, 3), (2, 2), border(0, 1, 0, 1)), large
    yield "large 1x1", (33, 28, 28, 16), 8, Window((1, 1)), large


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
    for label, x_shape, OC, window, further in convolutions():
        N, H, W, C = x_shape
        draw = Draw(f"conv2d {label}", dtype)
        x, w, b = draw.normal(*x_shape), draw.normal(*window.kernel, C, OC), draw.normal(OC)
        y = Output((N, *window.output_size(H, W), OC), dtype)
        dy, dw, db = draw.normal(*y.shape), Output(w.shape, dtype), Output(b.shape, dtype)

        arguments, outputs = {"x": x, "w": w, "b": b, "window": window}, {"out": y}
        more = {"terms": window.taps * C + 1, **fields(further, "x", "w", "b")}
        yield Case("conv2d", label, dtype, arguments, outputs, **more)
        if label == "3x3":
            yield Case("conv2d", "no bias", dtype, {**arguments, "b": None}, outputs, **more)

        arguments = {"dy": dy, "w": w, "x_shape": x_shape, "window": window}
        more = {"terms": window.taps * OC, **fields(further, "dy", "w")}
        yield Case("conv2d_dx", label, dtype, arguments, {"out": Output(x_shape, dtype)}, **more)

        arguments = {"x": x, "dy": dy, "window": window}
        more = {"terms": dy.size // OC, **fields(further, "x", "dy")}
        yield Case("conv2d_dw_db", label, dtype, arguments, {"dw": dw, "db": db}, **more)
        if label == "3x3":
            yield Case("conv2d_dw_db", "no bias", dtype, {**arguments, "db": None}, {"dw": dw}, **more)


# ---- pooling -----------------------------------------------------------------------------------------------


def pools() -> Iterator[tuple[str, tuple[int, ...], Window, dict[str, Any]]]:
    for label, (size, window) in WINDOWS.items():
        yield label, (2, *size, 3), window, {}
    size, window = WINDOWS[SHAPE_WINDOW]
    for label, (N, C, _) in LEAST_CHANNELS.items():
        yield label, (N, *size, C), window, {}
    for layout in LAYOUTS:
        yield layout, (2, *size, 3), window, {"layouts": layout}
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
    return bool(loops.pool_counts(window, x_shape[1], x_shape[2], count_include_pad=False).all())


def max_pool_case(label: str, x: np.ndarray, window: Window, further: dict[str, Any]) -> Iterator[Case]:
    dtype = x.dtype.name
    shape, winner = output_shape(x.shape, window), "uint8" if window.taps <= 256 else "int32"
    if not meets_pixels(x.shape, window):
        further = {**further, "smooth": False}
    outputs = {"out": Output(shape, dtype), "winners": Output(shape, winner)}
    yield Case("max_pool2d", label, dtype, {"x": x, "window": window}, outputs, **fields(further, "x"))
    draw = Draw(f"max_pool2d_dx {label}", dtype)
    if further.get("large"):
        winners = draw.random.integers(0, window.taps, shape).astype(winner)
    else:
        winners = loops.max_pool2d(x, window)[1].astype(winner)
    arguments = {"dy": draw.normal(*shape), "winners": winners, "x_shape": x.shape, "window": window}
    outputs, further = {"out": Output(x.shape, dtype)}, fields(further, "dy", "winners")
    yield Case("max_pool2d_dx", label, dtype, arguments, outputs, terms=window.taps, **further)


@cases_of
def max_pool2d(dtype: str) -> Iterator[Case]:
    for label, x_shape, window, further in pools():
        x = Draw(f"max_pool2d {label}", dtype).normal(*x_shape)
        yield from max_pool_case(label, x, window, further)
    for label, x in special_pixels(Draw("max_pool2d", dtype)):
        for window in (Window((3, 2), (2, 1), border(1, 1, 0, 1)), Window((2, 2), (2, 2))):
            KH, KW = window.kernel
            yield from max_pool_case(f"{KH}x{KW}, {label}", x, window, {"smooth": False})


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
        y = draw.uniform(*shape) * 10 if further.get("large") else loops.lp_pool2d(x, p, window).astype(dtype)
        arguments = {"dy": draw.normal(*shape), "x": x, "y": y, "p": p, "window": window}
        outputs, further = {"out": Output(x_shape, dtype)}, fields(further, "dy", "x", "y")
        yield Case("lp_pool2d_dx", label, dtype, arguments, outputs, **more, **further)


# ---- fully connected ---------------------------------------------------------------------------------------


@cases_of
def dense(dtype: str) -> Iterator[Case]:
    shapes = {"5x7x3": (5, 7, 3), "one sample": (1, 6, 4), "one input": (3, 1, 4), "one output": (4, 5, 1)}
    shapes |= {
        "one of each": (1, 1, 1),
        "strided": (4, 6, 3),
        "transposed": (4, 6, 3),
        "large": (65, 300, 130),
    }
    for label, (N, inputs, outputs) in shapes.items():
        draw = Draw(f"dense {label}", dtype)
        x, w, b = draw.normal(N, inputs), draw.normal(inputs, outputs), draw.normal(outputs)
        dy = draw.normal(N, outputs)
        y, dx = {"out": Output((N, outputs), dtype)}, {"out": Output((N, inputs), dtype)}
        gradients = {"dw": Output(w.shape, dtype), "db": Output(b.shape, dtype)}
        further = {"layouts": label} if label in LAYOUTS else {"large": label == "large"}

        more = {"terms": inputs, **fields(further, "a", "b")}
        yield Case("matmul", label, dtype, {"a": x, "b": w}, y, **more)
        more = {"terms": inputs + 1, **fields(further, "x", "w", "b")}
        yield Case("dense", label, dtype, {"x": x, "w": w, "b": b}, y, **more)
        more = {"terms": outputs, **fields(further, "dy", "w")}
        yield Case("dense_dx", label, dtype, {"dy": dy, "w": w}, dx, **more)
        more = {"terms": N, **fields(further, "x", "dy")}
        yield Case("dense_dw_db", label, dtype, {"x": x, "dy": dy}, gradients, **more)
        if label == "5x7x3":
            yield Case("dense", "no bias", dtype, {"x": x, "w": w, "b": None}, y, terms=inputs)
            gradients = {"dw": gradients["dw"]}
            yield Case("dense_dw_db", "no bias", dtype, {"x": x, "dy": dy, "db": None}, gradients, terms=N)


@cases_of
def add(dtype: str) -> Iterator[Case]:
    for shape in ((7,), (2, 3, 5, 4), (1, 1)):
        for layout in (None, *LAYOUTS):
            draw, out = Draw(f"add {shape} {layout}", dtype), {"out": Output(shape, dtype)}
            more = {"layouts": {"a": layout}} if layout else {}
            label = f"{shape} {layout or ''}".strip()
            yield Case("add", label, dtype, {"a": draw.normal(*shape), "b": draw.normal(*shape)}, out, **more)


@cases_of
def sum_rows(dtype: str) -> Iterator[Case]:
    for shape in ((1, 1), (1, 5), (7, 1), (33, 6)):
        rows, out = Draw(f"sum_rows {shape}", dtype).normal(*shape), {"out": Output(shape[1:], dtype)}
        yield Case("sum_rows", f"{shape}", dtype, {"rows": rows}, out, terms=shape[0])
        for layout in LAYOUTS:
            yield Case(
                "sum_rows", f"{shape} {layout}", dtype, {"rows": rows}, out, layouts={"rows": layout}, terms=shape[0]
            )


# ---- activations -------------------------------------------------------------------------------------------


def activation_inputs(draw: Draw) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    yield "flat", draw.normal(7), {}
    yield "rows", draw.normal(5, 9), {}
    yield "images", draw.normal(2, 3, 5, 4), {}
    yield "one number", draw.normal(1, 1), {}
    yield "ties and signed zeros", draw.few(4, 6), {"smooth": False}
    yield "wide", 30 * draw.normal(3, 8), {"smooth": False}
    extreme = [[-1e4, 1e4, 0.0, -0.0], [-89.0, 89.0, -709.0, 710.0]]
    yield "extreme", np.array(extreme, draw.dtype), {"smooth": False}
    for layout in LAYOUTS:
        yield layout, draw.normal(4, 5, 3), {"layouts": layout}


@cases_of
def activations(dtype: str) -> Iterator[Case]:
    for operation in ("relu", "sigmoid", "tanh", "softmax"):
        draw = Draw(operation, dtype)
        for label, x, further in activation_inputs(draw):
            out, terms = {"out": Output(x.shape, dtype)}, x.shape[-1]
            yield Case(operation, label, dtype, {"x": x}, out, terms=terms, **fields(further, "x"))
            y = getattr(loops, operation)(x).astype(dtype)
            arguments, further = {"dy": draw.normal(*x.shape), "y": y}, fields(further, "dy", "y")
            yield Case(f"{operation}_dx", label, dtype, arguments, out, terms=terms, **further)
        if operation != "softmax":
            x = draw.normal(3, 5)
            x[0, 0] = x[2, 3] = np.nan
            yield Case(operation, "NaN", dtype, {"x": x}, {"out": Output(x.shape, dtype)}, smooth=False)
    x = np.array([[np.inf, -np.inf, np.nan, 1.0, -1.0, 0.0, -0.0]], dtype)
    yield Case("relu", "infinities", dtype, {"x": x}, {"out": Output(x.shape, dtype)}, smooth=False)


@cases_of
def further_activations(dtype: str) -> Iterator[Case]:
    """Those with settings, and those whose derivative is a function of the input."""
    for operation, settings, known in (
        ("leaky_relu", {"slope": 0.01}, "x"),
        ("leaky_relu", {"slope": 0.0}, "x"),
        ("elu", {"alpha": 1.0}, "y"),
        ("elu", {"alpha": 0.3}, "y"),
        ("softplus", {}, "x"),
        ("arctan", {}, "x"),
        ("binary_step", {}, "x"),
        ("selu", {}, "y"),
        ("swish", {}, "x"),
        ("hard_sigmoid", {"slope": 0.2, "offset": 0.5}, "y"),
        ("log_softmax", {}, "y"),
    ):
        draw = Draw(f"{operation} {settings}", dtype)
        for label, x, further in activation_inputs(draw):
            label = " ".join([label, *map(str, settings.values())])
            out = {"out": Output(x.shape, dtype)}
            yield Case(operation, label, dtype, {"x": x, **settings}, out, **fields(further, "x"))
            given = x if known == "x" else getattr(loops, operation)(x, **settings).astype(dtype)
            arguments = {"dy": draw.normal(*x.shape), known: given, **settings}
            yield Case(f"{operation}_dx", label, dtype, arguments, out, **fields(further, "dy", known))
    draw = Draw("prelu", dtype)
    for shape in ((5, 4), (2, 3, 5, 4), (1, 1)):
        x, dy, slope = draw.normal(*shape), draw.normal(*shape), draw.normal(shape[-1])
        label, out = f"slopes {shape}", {"out": Output(shape, dtype)}
        yield Case("leaky_relu", label, dtype, {"x": x, "slope": slope}, out)
        yield Case("leaky_relu_dx", label, dtype, {"dy": dy, "x": x, "slope": slope}, out)
        outputs = {"dslope": Output(shape[-1:], dtype)}
        yield Case("prelu_dslope", label, dtype, {"dy": dy, "x": x}, outputs, terms=x.size)


# ---- normalization -----------------------------------------------------------------------------------------


@cases_of
def batch_norm(dtype: str) -> Iterator[Case]:
    for shape in ((6, 4), (2, 3, 5, 4), (1, 2, 2, 1), (9, 1)):
        for layout in (None, *LAYOUTS):
            draw, C = Draw(f"batch_norm {shape} {layout}", dtype), shape[-1:]
            label = f"{shape} {layout or ''}".strip()
            x, gamma, beta = 2 + draw.normal(*shape), draw.normal(*C), draw.normal(*C)
            running = np.stack([draw.normal(*C), abs(draw.normal(*C))])
            scale = {"gamma": gamma, "beta": beta, "running": running}
            further = {"layouts": dict.fromkeys(("x", "dy"), layout)} if layout else {}
            more = {"terms": x.size, "scale": 8.0, **fields({"layouts": layout} if layout else {}, "x")}
            outputs = {"out": Output(shape, dtype), "moments": Output((2, *C), dtype)}
            given = {"x": x, **scale, "momentum": 0.3, "eps": 1e-3}
            yield Case("batch_norm", label, dtype, given, outputs, changed=("running",), **more)
            given, out = {"x": x, **scale, "eps": 1e-3}, {"out": Output(shape, dtype)}
            yield Case("batch_norm_inference", label, dtype, given, out, **more)
            moments = loops.batch_norm(x, gamma, beta, running, 0.3, 1e-3)[1].astype(dtype)
            given = {"dy": draw.normal(*shape), "x": x, "gamma": gamma, "moments": moments}
            outputs = {"out": Output(shape, dtype), "dgamma": Output(C, dtype), "dbeta": Output(C, dtype)}
            yield Case("batch_norm_dx", label, dtype, given, outputs, terms=x.size, scale=8.0, **further)


# ---- regularization ----------------------------------------------------------------------------------------


@cases_of
def dropout(dtype: str) -> Iterator[Case]:
    word = loops.philox4x32((0, 0, 3, 0), (5, 6))[2]
    choices = [
        ("rate of a word", (2, 5), word / 2**32, (5, 6), 3),  # element 2 is just kept
        ("half", (4, 9), 0.5, (1, 2), 0),
        ("a tenth", (3, 4, 5, 2), 0.1, (0xDEADBEEF, 0xFFFFFFFF), 7),
        ("most", (101,), 0.9, (0, 0), 12345),
        ("none", (3, 5), 0.0, (5, 6), 3),
        ("one number", (1,), 0.3, (7, 8), 1),
        ("last counter", (2, 11), 0.4, (9, 10), 2**32 - 1),
        ("strided", (3, 4, 5), 0.4, (11, 12), 2),
        ("transposed", (3, 4, 5), 0.4, (11, 12), 2),
    ]
    for label, shape, rate, key, step in choices:
        draw = Draw(f"dropout {label}", dtype)
        outputs = {"out": Output(shape, dtype), "mask": Output(shape, "uint8")}
        further = {"layouts": label} if label in LAYOUTS else {}
        arguments = {
            "x": draw.normal(*shape),
            "rate": rate,
            "key": key,
            "counter": np.array([step], np.int64),
        }
        more = {"changed": ("counter",), **fields(further, "x")}
        yield Case("dropout", label, dtype, arguments, outputs, **more)
        mask = draw.random.integers(0, 2, shape).astype(np.uint8)
        arguments, further = (
            {"dy": draw.normal(*shape), "mask": mask, "rate": rate},
            fields(further, "dy", "mask"),
        )
        yield Case("dropout_dx", label, dtype, arguments, {"out": Output(shape, dtype)}, **further)


# ---- losses ------------------------------------------------------------------------------------------------


def loss_inputs(draw: Draw) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    yield "6x5", draw.normal(6, 5), {}
    yield "one sample", draw.normal(1, 4), {}
    yield "one class", draw.normal(3, 1), {}
    yield "two classes", draw.normal(33, 2), {}
    yield "ties", draw.few(12, 4), {"smooth": False}
    yield "wide", 30 * draw.normal(7, 10), {"smooth": False, "scale": 100.0}
    extreme = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [3.0, 1e4, -1e4]]
    yield "extreme", np.array(extreme, draw.dtype), {"smooth": False}
    for layout in LAYOUTS:
        yield layout, draw.normal(5, 4), {"layouts": layout}


def loss_case(operation: str, label: str, given: dict, further: dict, totals: Any = TOTALS) -> Iterator[Case]:
    """Yield the case with all results, and once for all the case without gradient and totals."""
    outputs = next(iter(given.values()))
    dtype, N = outputs.dtype.name, outputs.shape[0]
    loss, dx = Output((), dtype), Output(outputs.shape, dtype)
    arguments = {**given, "totals": np.array(totals, np.float64)}
    more = {"terms": outputs.size, **fields(further, *given)}
    yield Case(operation, label, dtype, arguments, {"loss": loss, "dx": dx}, changed=("totals",), **more)
    if label == "6x5":
        yield Case(operation, "loss alone", dtype, given, {"loss": loss}, terms=N)
        yield Case(operation, "no totals", dtype, given, {"loss": loss, "dx": dx}, terms=N)


@cases_of
def losses(dtype: str) -> Iterator[Case]:
    draw = Draw("losses", dtype)
    for label, logits, further in loss_inputs(draw):
        N, K = logits.shape
        labels = draw.labels(N, K)
        yield from loss_case("softmax_cross_entropy", label, {"logits": logits, "labels": labels}, further)
        targets = draw.uniform(N, K)
        yield from loss_case("sigmoid_cross_entropy", label, {"logits": logits, "targets": targets}, further)
        if label != "extreme":
            yield from loss_case("mean_squared_error", label, {"outputs": logits, "targets": targets}, further)
            for operation in ("squared_error", "absolute_error", "mean_absolute_error"):
                yield from loss_case(operation, label, {"outputs": logits, "targets": targets}, further)
            away_from_zero = {"outputs": logits, "targets": targets + np.asarray(0.5, dtype)}
            yield from loss_case("mean_absolute_percentage_error", label, away_from_zero, further)
            above_minus_one = {"outputs": abs(logits), "targets": targets}
            yield from loss_case("mean_squared_log_error", label, above_minus_one, further)
        given = {"logits": logits, "targets": np.eye(K, dtype=dtype)[labels]}
        yield from loss_case("sigmoid_cross_entropy", f"{label}, one-hot", given, further)
    given = {"logits": draw.normal(3, 4), "labels": draw.labels(3, 4).astype(np.int64)}
    yield from loss_case("softmax_cross_entropy", "int64 labels", given, {})
    given = {"outputs": draw.normal(3, 4), "targets": draw.normal(3, 4)}
    yield from loss_case("mean_squared_error", "diverged before", given, {}, (np.inf, 3.0, 8.0, 5.0))
    given = {"outputs": draw.normal(3, 4), "targets": draw.normal(3, 4)}
    given["outputs"][1, 2] = np.inf
    yield from loss_case("mean_squared_error", "diverges", given, {"smooth": False})


# ---- optimizers --------------------------------------------------------------------------------------------


@cases_of
def optimizers(dtype: str) -> Iterator[Case]:
    hypers = {"plain": (0.1, 0.0, 0.0), "momentum": (0.1, 0.9, 0.0), "momentum and decay": (0.05, 0.8, 0.3)}
    for label, hyper in hypers.items():
        for nesterov in (False, True):
            title = f"{label}{', Nesterov' if nesterov else ''}"
            draw = Draw(f"sgd_step {title}", dtype)
            arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37)}
            arguments |= {"hyper": np.array(hyper, dtype), "nesterov": nesterov}
            yield Case("sgd_step", title, dtype, arguments, {}, changed=("w", "v"))
    hypers = {"usual": (0.01, 0.9, 0.999, 1e-8, 0.0), "decay": (0.1, 0.8, 0.95, 1e-3, 0.2)}
    for label, hyper in hypers.items():
        for step in (0, 1, 10):
            draw, size = Draw(f"adam_step {label} {step}", dtype), 37
            moments = (draw.normal(size), draw.normal(size) ** 2) if step else (np.zeros(size, dtype),) * 2
            arguments = {
                "w": draw.normal(size),
                "g": draw.normal(size),
                "m": moments[0],
                "v": moments[1].copy(),
            }
            for name in "wg" if step == 0 else "wgmv":
                arguments[name][5] = 0.0  # the gaps of an arena hold zeros and keep them
            powers = np.array([hyper[1] ** step, hyper[2] ** step], dtype)
            arguments |= {"powers": powers, "hyper": np.array(hyper, dtype)}
            title = f"{label}, step {step}"
            for decoupled in (False, True):
                more, how = ("decoupled, ", {"decoupled": True}) if decoupled else ("", {})
                given = {name: value.copy() for name, value in arguments.items()} | how
                yield Case("adam_step", more + title, dtype, given, {}, changed=("w", "m", "v", "powers"))
    hypers = {"usual": (0.01, 0.99, 1e-8, 0.0, 0.0), "all": (0.1, 0.8, 1e-3, 0.7, 0.2)}
    for label, hyper in hypers.items():
        draw = Draw(f"rmsprop_step {label}", dtype)
        arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37) ** 2, "b": draw.normal(37)}
        arguments["hyper"] = np.array(hyper, dtype)
        yield Case("rmsprop_step", label, dtype, arguments, {}, changed=("w", "v", "b"))
    for label, hyper in {"usual": (0.01, 1e-10, 0.0), "decay": (0.1, 1e-3, 0.2)}.items():
        draw = Draw(f"adagrad_step {label}", dtype)
        arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37) ** 2}
        yield Case("adagrad_step", label, dtype, arguments | {"hyper": np.array(hyper, dtype)}, {}, changed=("w", "v"))


# ---- data --------------------------------------------------------------------------------------------------


@cases_of
def gather_batch(dtype: str) -> Iterator[Case]:
    choices = {"first": ((9, 4, 5, 3), 4, 0), "last": ((9, 4, 5, 3), 4, 5), "one": ((5, 3, 2, 1), 1, 2)}
    choices |= {"all": ((6, 2, 2, 2), 6, 0)}
    for label, (images, N, cursor) in choices.items():
        draw = Draw(f"gather_batch {label}", dtype)
        samples, C = images[0], images[3]
        arguments = {
            "images": draw.random.integers(0, 256, images).astype(np.uint8),
            "labels": draw.labels(samples, 10),
            "order": draw.random.permutation(samples).astype(np.int32),
            "cursor": np.array([cursor], np.int64),
            "scale": draw.uniform(C) / 100,
            "shift": draw.normal(C),
        }
        outputs = {"x": Output((N, *images[1:]), dtype), "y": Output((N,), "int32")}
        yield Case("gather_batch", label, dtype, arguments, outputs, changed=("cursor",), terms=2, scale=4.0)


@cases_of
def one_hot(dtype: str) -> Iterator[Case]:
    for N, K in ((7, 5), (1, 1), (1, 4), (33, 10)):
        draw = Draw(f"one_hot {N} {K}", dtype)
        yield Case("one_hot", f"{N}x{K}", dtype, {"labels": draw.labels(N, K)}, {"out": Output((N, K), dtype)})


OPERATIONS = sorted({case.operation for case in CASES})
