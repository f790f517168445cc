"""The reference's operations in NumPy on one thread, without allocating, in pieces that stay in the cache.

Each override gives the reference's results, faster: it writes into `out` with ufuncs, and keeps its intermediate
arrays in the backend's workspace, so that from the second call on nothing is allocated. Arrays given as `out` are
C-contiguous.
"""

from __future__ import annotations

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
