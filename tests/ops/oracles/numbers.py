"""Arrays of float64, and a function of numbers on each element."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

Array = np.ndarray


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float64)


def indices(array: Array) -> Iterator[tuple[int, ...]]:
    return product(*map(range, array.shape))


def each(function: Callable[..., float], *arrays: Array) -> Array:
    """Apply a function of numbers to every element."""
    y = zeros(*arrays[0].shape)
    for i in indices(y):
        y[i] = function(*(float(array[i]) for array in arrays))
    return y
