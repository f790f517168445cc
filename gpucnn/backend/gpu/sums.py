"""Sums of products, by cuBLAS, of arrays, and of the rows of a matrix, in two stages: `sums.cu` says how."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.gpu.arrays import Array, check_indices
from gpucnn.backend.gpu.gemm import is_readable, multiplies
from gpucnn.backend.gpu.records import Block, Elementwise, kernel

__all__ = ["add", "add_bias", "finish", "matmul", "sum_rows"]

MAX_PARTIALS = 1 << 10  # results of as many blocks that one block of 256 threads makes one result of
EACH = MAX_PARTIALS // 256  # of those that a thread takes at most, one of each 256 of them
# How sums over rows are shared: by the shape alone, so that they are the same on every device.
CHANNELS = 1 << 8  # columns that a block of threads takes at most, one for each of its threads
ELEMENTS = 1 << 12  # that a block reduces, at least
FEW_ROWS, FEW_COLUMNS = 1 << 9, 1 << 4  # that a block sums up at once: narrow, so that there are many of them
ENOUGH_BLOCKS = 1 << 10  # of those; where the columns make more of them, they are wider


def matmul(self, a: Array, b: Array, *, out: Array = None) -> Array:
    """As the reference, by cuBLAS; what is not for it by CuPy, and the factors of a stack are not rounded."""
    if not multiplies(a, b):
        return self.xp.matmul(a, b, out=out)
    a, b = (x if is_readable(x) else self.xp.ascontiguousarray(x) for x in (a, b))
    out = self.result(out, (len(a), b.shape[1]), a.dtype)
    self.keep(a, b, out, self.gemm.workspace)
    self.gemm.multiply(a, b, out, self.matmul_precision)
    return out


ADD = Elementwise("add", "T a, T b", "T y", "y = a + b")


def add(self, a: Array, b: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    return self.map_elementwise(ADD, a, b, out=out)


ADD_BIAS = Elementwise(
    "add_bias",
    "raw T b, int32 OC, bool relu",
    "T y",
    "const int e = i; const T sum = y + b[e % OC]; y = relu && sum <= T(0) ? T(0) : sum",
)


def finish(self, y: Array, b: Array | None, relu: bool) -> Array:
    """As the reference, in place and in one kernel."""
    if b is None:
        return self.relu(y, out=y) if relu else y
    self.run_elementwise(ADD_BIAS, self.contiguous(b), len(b), relu, y)
    return y


def add_bias(self, x: Array, b: Array, *, out: Array = None) -> Array:
    """As the reference, in one kernel where `out` is x."""
    out = self.result(out, x.shape, x.dtype)
    if out is not x:
        out[...] = x
    return self.finish(out, b, relu=False)


PARTIAL_SUMS = kernel("partial_sums", "reductions.cuh", "sums.cu")
ADD_PARTIALS = kernel("add_partials", "reductions.cuh", "sums.cu", EACH=EACH)


def sum_rows(self, rows: Array, *, out: Array = None) -> Array:
    """As the reference, in a fixed order: few rows in one launch, more of them in two. No factor is rounded."""
    (M, C), out = rows.shape, self.result(out, rows.shape[1:], rows.dtype)
    if M <= FEW_ROWS:
        columns = 1 << min(CHANNELS, max(FEW_COLUMNS, C // ENOUGH_BLOCKS)).bit_length() - 1
        sizes = map(np.int32, (M, C, M, columns))
        self.launch(PARTIAL_SUMS, (-(-C // columns), 1), self.contiguous(rows), out, *sizes)
        return out
    partials, _, _ = reduce_rows(self, PARTIAL_SUMS, 1, rows)
    self.launch(ADD_PARTIALS, (C,), partials, out, None, np.int32(partials.shape[2]))
    return out


def reduce_rows(self, record: Block, count: int, *arrays: Array) -> tuple[Array, np.int32, np.int32]:
    """Reduce blocks of rows of (..., C) to `count` numbers for each channel.

    Return those, (count, C, blocks), with M and how many rows a block takes.
    """
    first, C = arrays[0], arrays[0].shape[-1]
    columns = max(1, min(C, CHANNELS))
    M = first.size // max(1, C)
    check_indices(M, f"an array of {first.shape}", "use a smaller batch")
    rows = max(1, ELEMENTS // columns, -(-M // MAX_PARTIALS))
    grid = -(-C // columns), -(-M // rows)
    partials = self.scratch("partials", (count, C, grid[1]), first.dtype)
    M, C, rows, columns = map(np.int32, (M, C, rows, columns))
    self.launch(record, grid, *map(self.contiguous, arrays), partials, M, C, rows, columns)
    return partials, M, rows
