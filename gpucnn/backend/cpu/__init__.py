"""The CPU backend: NumPy, on all cores.

Each override gives the reference's results, faster: it writes into `out` with ufuncs, a piece at a time that stays in
the cache, and keeps intermediate arrays in the backend's workspace, so that from the second call on nothing is
allocated. Arrays given as `out` are C-contiguous.

Begin with `activations`: its functions become methods of `CpuBackend`. `sharing` says how threads share an operation,
`arrays` what they do it with, `blocks` has what most topics use. A convolution begins in `convolution`, which chooses
among `winograd`, `depthwise` and the matrix products of `lowering`.
"""

from __future__ import annotations

from gpucnn.backend.assembly import with_operations
from gpucnn.backend.cpu import (
    activations,
    batches,
    convolution,
    dense,
    dropout,
    losses,
    normalization,
    pooling,
    shapes,
    sums,
    updates,
    windows,
)
from gpucnn.backend.cpu.arrays import CpuArrays

__all__ = ["CpuBackend"]


@with_operations(sums, windows, convolution, pooling, shapes, dense, activations, normalization, dropout)
@with_operations(losses, updates, batches)
class CpuBackend(CpuArrays):
    """NumPy arrays and the operations on them; large arrays are shared by threads, as many as cores unless given.

    Matrix products are by the BLAS that NumPy was built with, which uses one thread while several work here.
    """
