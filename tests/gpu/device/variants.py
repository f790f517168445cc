"""For which of a kernel's variants CuPy would compile: it makes one for each kind of arguments that it meets.

`variant_of` follows `ElementwiseKernel.__call__` of CuPy 14.2 (`cupy/_core/_kernel.pyx`): arrays are broadcast, then
axes that lie one behind the other become one; what is left of types, axes and contiguity makes the variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Argument", "Variant", "variant_of"]

MAX_BYTES_OF_32_BITS = 1 << 31  # that CuPy addresses by 32-bit indices


@dataclass(frozen=True)
class Argument:
    """What CuPy looks at in one argument; a scalar, already converted, has no axes."""

    dtype: str
    is_array: bool
    ndim: int = 0
    contiguous: bool = True
    index_32_bits: bool = True


@dataclass(frozen=True)
class Variant:
    """One variant of an elementwise kernel: its source, its arguments, and over what it loops."""

    name: str
    inputs: str
    outputs: str
    body: str
    preamble: str
    arguments: tuple[Argument, ...]
    ndim: int
    index_32_bits: bool


def variant_of(program: Any, values: Sequence[Any], size: int | None) -> Variant:
    """Return the variant that a call of an `ElementwiseProgram` with these arguments, outputs included, would take."""
    shape = program.loop_shape(values, size)
    looped = {
        k: np.broadcast_to(value, shape) if value.shape != shape else value
        for k, (parameter, value) in enumerate(zip(program.parameters, values, strict=True))
        if isinstance(value, np.ndarray) and not parameter.raw
    }
    ndim, axes = reduced(list(looped.values()), shape)
    types = program.resolve_types(values)
    arguments = [
        _argument(value, dtype, axes if k in looped else None)
        for k, (value, dtype) in enumerate(zip([looped.get(k, v) for k, v in enumerate(values)], types, strict=True))
    ]
    record = program.record
    fits = int(np.prod(shape, dtype=np.int64)) <= MAX_BYTES_OF_32_BITS
    return Variant(
        record.name, record.inputs, record.outputs, record.body, record.preamble, tuple(arguments), ndim, fits
    )


def _argument(value: Any, dtype: np.dtype, axes: int | None) -> Argument:
    if not isinstance(value, np.ndarray):
        return Argument(dtype.name, False)
    contiguous = value.flags.c_contiguous
    fits = value.size * value.itemsize <= MAX_BYTES_OF_32_BITS
    return Argument(dtype.name, True, value.ndim if axes is None else axes, contiguous, fits)


def reduced(arrays: list[np.ndarray], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many axes the loop and its arrays have left when those that can be walked as one are joined."""
    ndim = len(shape)
    strided = [array for array in arrays if not array.flags.c_contiguous]
    if ndim <= 1 or not arrays or (strided and ndim == 2):
        return ndim, ndim
    if not strided:
        return 1, 1
    kept, sizes, last = 0, list(shape), -1
    for axis in range(ndim):
        if sizes[axis] == 1:
            continue
        if last >= 0:
            if all(array.strides[axis] * sizes[axis] == array.strides[last] for array in strided):
                sizes[axis] *= sizes[last]
            else:
                kept += 1
        last = axis
    kept += last >= 0
    return kept, kept
