"""What the parts of the CPU backend share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend.reference import Backend
from gpucnn.errors import InputError

__all__ = ["BLOCK", "Array", "CpuArrays", "blocks"]

Array = np.ndarray

BLOCK = 1 << 16  # elements at a time in optimizers, Philox and ReLU


class CpuArrays(Backend):
    """NumPy arrays, and sums and products of them in place."""

    name = "cpu"

    def __init__(self, float_dtype: Any = "float32"):
        super().__init__(float_dtype)
        if self.matmul_precision != self.precision:
            raise InputError(
                f"products in {self.matmul_precision} are for a GPU, and for the device reference, which shows what "
                "they do to a training; use float32 or float64 on a CPU"
            )
        self._ones: dict[np.dtype, Array] = {}
        self._zeros: dict[np.dtype, Array] = {}
        self._ramp = np.arange(0, dtype=np.uint64)

    def _count_to(self, count: int) -> Array:
        """Return 0, 1, .., count - 1 as uint64."""
        if len(self._ramp) < count:
            self._ramp = np.arange(count, dtype=np.uint64)
        return self._ramp[:count]

    def _result(self, out: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.empty(shape, dtype) if out is None else out

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def add(self, a: Array, b: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return np.add(a, b, out=out)

    def add_bias(self, x: Array, b: Array, *, out: Array = None) -> Array:
        """As the reference, on whole samples, as NumPy is slow on rows of a few channels."""
        out = self._result(out, x.shape, x.dtype)
        sample = self.scratch("bias", x.shape[1:], x.dtype)
        np.copyto(sample, b)
        samples = (len(x), sample.size)
        np.add(x.reshape(samples), sample.reshape(-1), out=out.reshape(samples))
        return out

    def sum_rows(self, rows: Array, *, out: Array = None) -> Array:
        """As the reference, as a matrix product with ones: faster there than `sum`, and more exact."""
        ones = self._ones.get(rows.dtype)
        if ones is None or len(ones) < len(rows):
            ones = self._ones[rows.dtype] = np.ones(len(rows), rows.dtype)
        return np.matmul(ones[: len(rows)], rows, out=out)

    def _finish(self, y: Array, b: Array | None, relu: bool) -> Array:
        """As the reference, in place."""
        if b is not None:
            self.add_bias(y, b, out=y)
        return self._clip(y, y) if relu else y

    def _clip(self, x: Array, out: Array) -> Array:
        """Write max(x, 0), beside an array of zeros: with a number NumPy uses no vector instructions here."""
        if x.dtype not in self._zeros:
            self._zeros[x.dtype] = np.zeros(BLOCK, x.dtype)
        zeros, x, y = self._zeros[x.dtype], x.reshape(-1), out.reshape(-1)
        for block in blocks(x.size):
            np.maximum(x[block], zeros[: block.stop - block.start], out=y[block])
        return out

    def _keep(self, x: Array, mask: Array, out: Array) -> Array:
        """Write x where the mask is set, else 0, by its bits: as fast as a product, and exact for inf and NaN.

        `out` may be x: NumPy then widens the mask in small blocks, where there is no room for it.
        """
        integer = np.int32 if x.dtype == np.float32 else np.int64
        mask = mask.view(np.int8)
        np.negative(mask, out=mask)  # 0 or -1: no bit or all bits
        bits, x = out.view(integer), np.ascontiguousarray(x).view(integer)
        if not np.may_share_memory(bits, x):
            np.copyto(bits, mask)
            mask = bits
        np.bitwise_and(mask, x, out=bits)
        return out


def blocks(size: int) -> Iterator[slice]:
    """Split a flat array into slices of `BLOCK` elements."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))
