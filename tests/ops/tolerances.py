"""How far two correct results may lie apart: every tolerance of the tests, each with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "DIFFERENCE_STEP",
    "FILTERED",
    "GRADIENT",
    "KEEP_RATE_SIGMAS",
    "ROUNDED_FACTOR",
    "assert_close",
    "tolerance",
]

# Elementary functions are right to 4 units in the last place on the CPU and to 8 in CUDA; a formula strings a
# few together, and e^x turns the rounding of an x of 10 into 10 units.
FUNCTION_UNITS = 32

# Rounding errors of a sum of n terms of either sign and size about 1, added in any order, stay below n units
# of the last place of 1; to these come the few of the terms themselves.
TERM_UNITS = 8

# Winograd's minimal filtering adds and subtracts values several times as large as the result: its rounding errors were
# six to eight times those of the plain sum, which `TERM_UNITS` bounds generously.
FILTERED = 8.0

# How far a factor of a product is moved at most, relatively, with p significant bits: 2^-p to the nearest, and twice
# that for a GPU that cuts bits off. A GPU may also leave a factor as exact as it was.
ROUNDED_FACTOR = {"float32": 0.0, "float64": 0.0, "tf32": 2.0**-10, "bf16": 2.0**-7}

# Central differences in float64: truncation h^2 and cancellation eps/h are equal at h = eps^(1/3) = 6e-6, and
# leave about h^2 = 4e-11 times the third derivative, which for the operations here stays below 1000.
DIFFERENCE_STEP = 6e-6
GRADIENT = {"rtol": 1e-7, "atol": 4e-8}

# One false alarm in 3.5 million draws; the seeds are fixed, so a passing test goes on passing.
KEEP_RATE_SIGMAS = 5.0


def tolerance(dtype: Any, terms: int = 1, scale: float = 1.0) -> dict[str, float]:
    """Tolerances of a result of `dtype` that sums `terms` values of size about `scale`."""
    unit = float(np.finfo(dtype).eps)
    return {"rtol": FUNCTION_UNITS * unit, "atol": (TERM_UNITS + terms) * unit * scale}


def assert_close(actual: Any, expected: Any, dtype: Any, terms: int = 1, scale: float = 1.0, name: str = "") -> None:
    """Compare a result computed in `dtype` with the expected one: integers exactly, NaN equal to NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape} instead of {expected.shape}"
    if actual.dtype.kind in "iub":
        np.testing.assert_array_equal(actual, expected, err_msg=name)
    else:
        np.testing.assert_allclose(actual, expected, **tolerance(dtype, terms, scale), err_msg=name)
