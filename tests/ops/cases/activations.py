"""Cases of activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracles
from case import LAYOUTS, Case, Draw, Output, cases_of, fields


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
            y = getattr(oracles, operation)(x).astype(dtype)
            arguments, further = {"dy": draw.normal(*x.shape), "y": y}, fields(further, "dy", "y")
            yield Case(f"{operation}_dx", label, dtype, arguments, out, terms=terms, **further)
        if operation != "softmax":
            x = draw.normal(3, 5)
            x[0, 0] = x[2, 3] = np.nan
            yield Case(operation, "NaN", dtype, {"x": x}, {"out": Output(x.shape, dtype)}, smooth=False)
    x = np.array([[np.inf, -np.inf, np.nan, 1.0, -1.0, 0.0, -0.0]], dtype)
    for operation in ("relu", "sigmoid"):
        yield Case(operation, "infinities", dtype, {"x": x}, {"out": Output(x.shape, dtype)}, smooth=False)


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
        ("gelu", {"approximate": False}, "x"),
        ("gelu", {"approximate": True}, "x"),
        ("hard_sigmoid", {"slope": 0.2, "offset": 0.5}, "y"),
        ("log_softmax", {}, "y"),
    ):
        draw = Draw(f"{operation} {settings}", dtype)
        for label, x, further in activation_inputs(draw):
            label = " ".join([label, *map(str, settings.values())])
            out = {"out": Output(x.shape, dtype)}
            yield Case(operation, label, dtype, {"x": x, **settings}, out, **fields(further, "x"))
            given = x if known == "x" else getattr(oracles, operation)(x, **settings).astype(dtype)
            arguments = {"dy": draw.normal(*x.shape), known: given, **settings}
            yield Case(f"{operation}_dx", label, dtype, arguments, out, **fields(further, "dy", known))
    x = np.array([[np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0]], dtype)
    for approximate in (False, True):
        given, out = {"x": x, "approximate": approximate}, {"out": Output(x.shape, dtype)}
        label = f"limits {approximate}"
        yield Case("gelu", label, dtype, given, out, smooth=False)
        yield Case("gelu_dx", label, dtype, {"dy": np.full_like(x, 0.7), **given}, out, smooth=False)
    draw = Draw("prelu", dtype)
    for shape in ((5, 4), (2, 3, 5, 4), (1, 1)):
        x, dy, slope = draw.normal(*shape), draw.normal(*shape), draw.normal(shape[-1])
        label, out = f"slopes {shape}", {"out": Output(shape, dtype)}
        yield Case("leaky_relu", label, dtype, {"x": x, "slope": slope}, out)
        yield Case("leaky_relu_dx", label, dtype, {"dy": dy, "x": x, "slope": slope}, out)
        outputs = {"dslope": Output(shape[-1:], dtype)}
        yield Case("prelu_dslope", label, dtype, {"dy": dy, "x": x}, outputs, terms=x.size)
