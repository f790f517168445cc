"""Inputs for every operation, and one way to run them on any backend.

`CASES` is a list of `Case`. Adding an operation means one generator in the file of its topic, decorated
with `@cases_of`, and one oracle of the same name in `oracles`.
"""

from __future__ import annotations

from case import CASES, ELEMENT_LOSSES, RESULTS, Case, Draw, Output, run, sentinel

from cases import (
    activations,
    adaptive,
    batches,
    convolution,
    dense,
    dropout,
    losses,
    normalization,
    pooling,
    shapes,
    updates,
)
from cases.convolution import WINDOWS, border

__all__ = [
    "CASES",
    "ELEMENT_LOSSES",
    "OPERATIONS",
    "RESULTS",
    "WINDOWS",
    "Case",
    "Draw",
    "Output",
    "border",
    "run",
    "sentinel",
]

OPERATIONS = sorted({case.operation for case in CASES})
