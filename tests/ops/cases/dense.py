"""Cases of the fully connected layer and of plain sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from case import LAYOUTS, Case, Draw, Output, cases_of, fields


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
def rectified_dense(dtype: str) -> Iterator[Case]:
    """A ReLU behind it; of one input with zeros of both signs, infinities and NaN, so that no sum is of two of them."""
    for label, (N, inputs, outputs) in {"few": (6, 4, 3), "special": (9, 1, 2), "large": (65, 300, 130)}.items():
        draw = Draw(f"rectified dense {label}", dtype)
        x, w, b = draw.few(N, inputs), draw.normal(inputs, outputs), draw.few(outputs)
        if label == "special":
            x[:4, 0], b[...] = [np.nan, np.inf, -np.inf, -0.0], -0.0
        arguments, y = {"x": x, "w": w, "b": b, "relu": True}, {"out": Output((N, outputs), dtype)}
        more = {"terms": inputs + 1, "smooth": False, "large": label == "large"}
        yield Case("dense", f"rectified, {label}", dtype, arguments, y, **more)
        yield Case("dense", f"rectified, {label}, no bias", dtype, {**arguments, "b": None}, y, **more)


@cases_of
def add(dtype: str) -> Iterator[Case]:
    for shape in ((7,), (2, 3, 5, 4), (1, 1)):
        for layout in (None, *LAYOUTS):
            draw, out = Draw(f"add {shape} {layout}", dtype), {"out": Output(shape, dtype)}
            more = {"layouts": {"a": layout}} if layout else {}
            label = f"{shape} {layout or ''}".strip()
            yield Case("add", label, dtype, {"a": draw.normal(*shape), "b": draw.normal(*shape)}, out, **more)


@cases_of
def add_bias(dtype: str) -> Iterator[Case]:
    for shape in ((2, 3, 5, 4), (6, 3), (1, 1), (0, 2, 2, 3)):
        for layout in (None, *LAYOUTS):
            draw, out = Draw(f"add_bias {shape} {layout}", dtype), {"out": Output(shape, dtype)}
            more = {"layouts": {"x": layout}} if layout else {}
            label = f"{shape} {layout or ''}".strip()
            yield Case("add_bias", label, dtype, {"x": draw.normal(*shape), "b": draw.normal(shape[-1])}, out, **more)


@cases_of
def sum_rows(dtype: str) -> Iterator[Case]:
    """Among them what a GPU sums up in one launch or in two, in one block of rows or columns or in several."""
    wide = (2, 1000), (19, 1000)
    for shape in ((0, 4), (1, 1), (1, 5), (7, 1), (33, 6), (512, 17), (513, 3), (600, 257), (5000, 1), *wide):
        rows, out = Draw(f"sum_rows {shape}", dtype).normal(*shape), {"out": Output(shape[1:], dtype)}
        more = {"terms": shape[0], "large": shape[0] * shape[1] > 9000}
        yield Case("sum_rows", f"{shape}", dtype, {"rows": rows}, out, **more)
        for layout in LAYOUTS if shape[0] < 600 else ():
            yield Case("sum_rows", f"{shape} {layout}", dtype, {"rows": rows}, out, layouts={"rows": layout}, **more)
