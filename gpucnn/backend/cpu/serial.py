"""The reference's operations in NumPy on one thread, without allocating, in pieces that stay in the cache.

Each override gives the reference's results, faster: it writes into `out` with ufuncs, and keeps its intermediate
arrays in the backend's workspace, so that from the second call on nothing is allocated. Arrays given as `out` are
C-contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.assembly import with_operations
from gpucnn.backend.cpu import shapes
from gpucnn.backend.cpu.activations import CpuActivations
from gpucnn.backend.cpu.batches import CpuBatches
from gpucnn.backend.cpu.convolution import CpuConvolution
from gpucnn.backend.cpu.dense import CpuDense
from gpucnn.backend.cpu.dropout import CpuDropout
from gpucnn.backend.cpu.losses import CpuLosses
from gpucnn.backend.cpu.normalization import CpuNormalization
from gpucnn.backend.cpu.pooling import CpuPooling
from gpucnn.backend.cpu.updates import CpuUpdates

__all__ = ["SerialCpuBackend"]


@with_operations(shapes)
class SerialCpuBackend(
    CpuPooling,
    CpuConvolution,
    CpuDense,
    CpuActivations,
    CpuNormalization,
    CpuDropout,
    CpuLosses,
    CpuUpdates,
    CpuBatches,
):
    """The operations on one thread."""

    def rehearsal(self) -> Any:
        """As the reference: what operations hold is bounded by the cache, and much of it they share."""
        return SerialCpuBackend(self.float_dtype)

    def held_bytes(self) -> int:
        """Return the bytes of what the operations keep for their next call."""
        lowered = (array for lowering in self._lowerings.values() for array in vars(lowering).values())
        kept = self._padded, self._counts, self._ones, self._zeros
        arrays = [*(array for arrays in kept for array in arrays.values()), self._ramp, *lowered]
        own = {id(array): array.nbytes for array in arrays if isinstance(array, np.ndarray) and array.base is None}
        return self.workspace.nbytes + sum(own.values())
