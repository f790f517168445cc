"""Cases of batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from case import Case, Draw, Output, cases_of


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
