"""Convolution without columns: kernels that find each element of the columns where they need it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, GpuArrays
from gpucnn.backend.kernels import Block
from gpucnn.backend.kernels import implicit as kernels

__all__ = ["GpuImplicit"]

DW_BLOCKS = 1 << 9  # that share a kernel gradient; by the shapes alone, so that the parts are the same on every device
DW_WINDOWS = 1 << 6  # that one of them sums up, at least


class GpuImplicit(GpuArrays):
    """Part of `GpuBackend`; `sizes` are the scalars that `kernels.SIZES` names, results are C-contiguous."""

    def _least_capability(self) -> int:
        """Return the compute capability, times ten, that the kernels need; 0 for those in the arrays' own dtype."""
        return 0 if self.matmul_precision == self.precision else kernels.CONV2D[self.matmul_precision].architecture

    def _implicit_conv2d(
        self, x: Array, w: Array, b: Array | None, sizes: tuple[int, ...], out: Array, *, relu: bool = False
    ) -> Array:
        """Convolve and add the bias; with `relu`, make what is negative zero."""
        arrays = self._contiguous(x), self._contiguous(w), None if b is None else self._contiguous(b), out
        self._tiles(kernels.CONV2D, out.shape, *arrays, *sizes, relu)
        return out

    def _implicit_conv2d_dx(self, dy: Array, w: Array, sizes: tuple[int, ...], out: Array) -> Array:
        self._tiles(kernels.CONV2D_DX, out.shape, self._contiguous(dy), self._contiguous(w), out, *sizes)
        return out

    def _implicit_conv2d_dw(self, x: Array, dy: Array, sizes: tuple[int, ...], dw: Array) -> None:
        """Sum over the windows in parts, then over the parts."""
        count, windows = self._dw_parts(dw.shape, dy.size // dy.shape[-1])
        parts = self.scratch("dw", (count, dw.size), dw.dtype) if count > 1 else dw
        arrays = self._contiguous(x), self._contiguous(dy), parts
        self._tiles(kernels.CONV2D_DW, dw.shape, *arrays, *sizes, windows, parts=count)
        if count > 1:
            self.sum_rows(parts, out=dw.reshape(-1))

    def _tiles(self, records: dict[str, Block], shape: tuple[int, ...], *arguments: Any, parts: int = 1) -> None:
        """Launch a block for each tile of a result (..., columns), and for each part of its sums."""
        scalars = (np.int32(value) if isinstance(value, int) else value for value in arguments)
        self._launch(records[self.matmul_precision], (*_tile_counts(shape), parts), *scalars)

    @staticmethod
    def _dw_parts(w_shape: tuple[int, ...], windows: int) -> tuple[int, int]:
        """Return in how many parts a kernel gradient is summed up, and over how many windows each of them goes."""
        rows, columns = _tile_counts(w_shape)
        parts = max(1, min(DW_BLOCKS // (rows * columns), windows // DW_WINDOWS))
        each = -(-windows // (parts * kernels.DEPTH)) * kernels.DEPTH
        return -(-windows // each), each


def _tile_counts(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many tiles a matrix (..., columns) has, by its rows and by its columns."""
    *rows, columns = shape
    return -(-math.prod(rows) // kernels.TILE), -(-columns // kernels.TILE)
