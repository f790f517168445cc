"""Convolution without columns: `implicit.cu` finds each element of the columns where it lies in the images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, check_indices
from gpucnn.backend.gpu.records import Block, kernel
from gpucnn.backend.gpu.windows import window_arguments
from gpucnn.geometry import Window

__all__ = [
    "DEPTH",
    "TILE",
    "dw_parts",
    "implicit_conv2d",
    "implicit_conv2d_dw",
    "implicit_conv2d_dx",
    "implicit_sizes",
    "lowest_capability",
]

TENSOR_CORES_SINCE = 80  # the first architecture that multiplies tf32 and bf16
TILE, DEPTH = 64, 16  # lines and steps of a tile
DW_BLOCKS = 1 << 9  # that share a kernel gradient; by the shapes alone, so that the parts are the same on every device
DW_WINDOWS = 1 << 6  # that one of them sums up, at least


def in_each_precision(function: str) -> dict[str, Block]:
    """Return the records of a kernel of `implicit.cu` by the precision of the factors."""

    def record(name: str, threads: int, *arithmetic: str, architecture: int = 75) -> Block:
        constants = {"TILE": TILE, "DEPTH": DEPTH, "THREADS": threads}
        options = {"function": function, "threads": threads, "architecture": architecture}
        return kernel(name, *arithmetic, "implicit.cu", **options, **constants)

    records = dict.fromkeys(("float32", "float64"), record(function, 256, "multiply_add.cuh"))
    for rounded in ("tf32", "bf16"):
        files = f"{rounded}.cuh", "tensor_cores.cuh"
        records[rounded] = record(f"{function}_{rounded}", 128, *files, architecture=TENSOR_CORES_SINCE)
    return records


def lowest_capability(self) -> int:
    """Return the compute capability, times ten, that the kernels need; 0 for those in the arrays' own dtype."""
    return 0 if self.matmul_precision == self.precision else TENSOR_CORES_SINCE


def implicit_sizes(x_shape: tuple[int, ...], OC: int, window: Window) -> tuple[int, ...]:
    """Return the scalars that the kernels take beside arrays, from N to DW."""
    check_indices(window.taps * max(x_shape[3], OC), f"a kernel of {window.kernel}", "use a smaller one")
    return x_shape[0], OC, *window_arguments(x_shape, window, OC)


CONV2D = in_each_precision("implicit_conv2d")


def implicit_conv2d(
    self, x: Array, w: Array, b: Array | None, sizes: tuple[int, ...], out: Array, *, relu: bool = False
) -> Array:
    """Convolve and add the bias; with `relu`, make what is negative zero."""
    arrays = self.contiguous(x), self.contiguous(w), None if b is None else self.contiguous(b), out
    _launch_tiles(self, CONV2D, out.shape, *arrays, *sizes, relu)
    return out


CONV2D_DX = in_each_precision("implicit_conv2d_dx")


def implicit_conv2d_dx(self, dy: Array, w: Array, sizes: tuple[int, ...], out: Array) -> Array:
    """Gather the gradient in the input."""
    _launch_tiles(self, CONV2D_DX, out.shape, self.contiguous(dy), self.contiguous(w), out, *sizes)
    return out


CONV2D_DW = in_each_precision("implicit_conv2d_dw")


def implicit_conv2d_dw(self, x: Array, dy: Array, sizes: tuple[int, ...], dw: Array) -> None:
    """Sum over the windows in parts, then over the parts."""
    count, windows = dw_parts(dw.shape, dy.size // dy.shape[-1])
    parts = self.scratch("dw", (count, dw.size), dw.dtype) if count > 1 else dw
    arrays = self.contiguous(x), self.contiguous(dy), parts
    _launch_tiles(self, CONV2D_DW, dw.shape, *arrays, *sizes, windows, parts=count)
    if count > 1:
        self.sum_rows(parts, out=dw.reshape(-1))


def _launch_tiles(self, records: dict[str, Block], shape: tuple[int, ...], *arguments: Any, parts: int = 1) -> None:
    """Launch a block for each tile of a result (..., columns), and for each part of its sums."""
    scalars = (np.int32(value) if isinstance(value, int) else value for value in arguments)
    self.launch(records[self.matmul_precision], (*_tile_counts(shape), parts), *scalars)


def dw_parts(w_shape: tuple[int, ...], windows: int) -> tuple[int, int]:
    """Return in how many parts a kernel gradient is summed up, and over how many windows each of them goes."""
    rows, columns = _tile_counts(w_shape)
    parts = max(1, min(DW_BLOCKS // (rows * columns), windows // DW_WINDOWS))
    each = -(-windows // (parts * DEPTH)) * DEPTH
    return -(-windows // each), each


def _tile_counts(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many tiles a matrix (..., columns) has, by its rows and by its columns."""
    *rows, columns = shape
    return -(-math.prod(rows) // TILE), -(-columns // TILE)
