"""Cases of dropout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import oracles
from case import LAYOUTS, Case, Draw, Output, cases_of, fields


@cases_of
def dropout(dtype: str) -> Iterator[Case]:
    word = oracles.philox4x32((0, 0, 3, 0), (5, 6))[2]
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
