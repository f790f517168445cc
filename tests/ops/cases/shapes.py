"""Cases of operations that only move numbers."""

from __future__ import annotations

from collections.abc import Iterator

from case import LAYOUTS, Case, Draw, Output, cases_of, fields

from cases.convolution import border
from gpucnn.geometry import Window


@cases_of
def concat(dtype: str) -> Iterator[Case]:
    """Forward, and backward the gradient of each input."""
    kinds = {"maps": ((2, 3, 4), (3, 1, 2)), "rows": ((5,), (2, 6)), "one": ((3, 2), (4,)), "batch": ((0, 2), (1, 2))}
    for label, (shape, channels) in (kinds | dict.fromkeys(LAYOUTS, kinds["maps"])).items():
        draw, further = Draw(f"concat {label}", dtype), {"layouts": label} if label in LAYOUTS else {}
        arrays, total = [draw.normal(*shape, C) for C in channels], sum(channels)
        outputs = {"out": Output((*shape, total), dtype)}
        yield Case("concat", label, dtype, {"arrays": arrays}, outputs, **fields(further, "arrays"))
        for number, C in enumerate(channels):
            arguments = {"x": draw.normal(*shape, total), "first": sum(channels[:number])}
            outputs = {"out": Output((*shape, C), dtype)}
            yield Case("slice_channels", f"{label} {number}", dtype, arguments, outputs, **fields(further, "x"))


@cases_of
def zero_pad2d(dtype: str) -> Iterator[Case]:
    borders = {"all around": border(1, 1, 1, 1), "uneven": border(0, 2, 3, 1), "none": border(0, 0, 0, 0)}
    for label, padding in (borders | dict.fromkeys(LAYOUTS, borders["uneven"])).items():
        draw, further = Draw(f"zero_pad2d {label}", dtype), {"layouts": label} if label in LAYOUTS else {}
        window, x_shape = Window((1, 1), padding=padding), (2, 4, 3, 2)
        y_shape = 2, *window.padded_size(4, 3), 2
        arguments, outputs = {"x": draw.normal(*x_shape), "window": window}, {"out": Output(y_shape, dtype)}
        yield Case("zero_pad2d", label, dtype, arguments, outputs, **fields(further, "x"))
        arguments = {"dy": draw.normal(*y_shape), "x_shape": x_shape, "window": window}
        outputs = {"out": Output(x_shape, dtype)}
        yield Case("zero_pad2d_dx", label, dtype, arguments, outputs, **fields(further, "dy"))
