"""Cases of pooling to an output of a given size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import oracles
from case import LAYOUTS, Case, Draw, Output, cases_of, fields

from cases.pooling import special_pixels

BINS = {  # (H, W), (OH, OW)
    "bins of 2x3": ((4, 9), (2, 3)),
    "bins that overlap": ((5, 7), (3, 4)),
    "more bins than pixels": ((3, 2), (5, 4)),
    "one bin": ((4, 3), (1, 1)),
    "a bin for each pixel": ((3, 4), (3, 4)),
    "one pixel": ((1, 1), (2, 3)),
}


def adaptive_pools() -> Iterator[tuple[str, tuple[int, ...], tuple[int, int], dict[str, Any]]]:
    for label, (size, outputs) in BINS.items():
        yield label, (2, *size, 3), outputs, {}
    for layout in LAYOUTS:
        yield layout, (2, 5, 7, 3), (3, 4), {"layouts": layout}
    yield "batch of 33", (33, 5, 4, 2), (2, 3), {}


@cases_of
def adaptive_average_pool2d(dtype: str) -> Iterator[Case]:
    for label, x_shape, size, further in adaptive_pools():
        draw, y = Draw(f"adaptive_average_pool2d {label}", dtype), Output((x_shape[0], *size, x_shape[3]), dtype)
        arguments, more = {"x": draw.normal(*x_shape), "size": size}, {"terms": x_shape[1] * x_shape[2]}
        yield Case("adaptive_average_pool2d", label, dtype, arguments, {"out": y}, **more, **fields(further, "x"))
        arguments, dx = {"dy": draw.normal(*y.shape), "x_shape": x_shape}, {"out": Output(x_shape, dtype)}
        more = {"terms": size[0] * size[1]}
        yield Case("adaptive_average_pool2d_dx", label, dtype, arguments, dx, **more, **fields(further, "dy"))


def max_case(label: str, x: np.ndarray, size: tuple[int, int], further: dict[str, Any]) -> Iterator[Case]:
    dtype, shape = x.dtype.name, (x.shape[0], *size, x.shape[3])
    outputs = {"out": Output(shape, dtype), "argmax": Output(shape, "int32")}
    yield Case("adaptive_max_pool2d", label, dtype, {"x": x, "size": size}, outputs, **fields(further, "x"))
    argmax = oracles.adaptive_max_pool2d(x, size)[1].astype("int32")
    dy = Draw(f"adaptive_max_pool2d_dx {label}", dtype).normal(*shape)
    arguments, dx = {"dy": dy, "argmax": argmax, "x_shape": x.shape}, {"out": Output(x.shape, dtype)}
    more = {"terms": size[0] * size[1], **fields(further, "dy", "argmax")}
    yield Case("adaptive_max_pool2d_dx", label, dtype, arguments, dx, **more)


@cases_of
def adaptive_max_pool2d(dtype: str) -> Iterator[Case]:
    for label, x_shape, size, further in adaptive_pools():
        yield from max_case(label, Draw(f"adaptive_max_pool2d {label}", dtype).normal(*x_shape), size, further)
    for label, x in special_pixels(Draw("adaptive_max_pool2d", dtype)):
        yield from max_case(label, x, (3, 4), {"smooth": False})
