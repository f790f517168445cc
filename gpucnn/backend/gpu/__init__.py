"""The GPU backend: CuPy arrays, cuBLAS for matrix products, and the kernels of `gpucnn.backend.kernels` for the rest.

Arrays given as `out` are C-contiguous. Nothing here waits for the device but `to_host`, and from its second call on an
operation allocates nothing. CuPy is imported when a GPU is asked for, not before.
"""

from __future__ import annotations

from gpucnn.backend.gpu.activations import GpuActivations
from gpucnn.backend.gpu.batches import GpuBatches
from gpucnn.backend.gpu.convolution import GpuConvolution
from gpucnn.backend.gpu.dense import GpuDense
from gpucnn.backend.gpu.device import device_count
from gpucnn.backend.gpu.dropout import GpuDropout
from gpucnn.backend.gpu.losses import GpuLosses
from gpucnn.backend.gpu.normalization import GpuNormalization
from gpucnn.backend.gpu.pooling import GpuPooling
from gpucnn.backend.gpu.updates import GpuUpdates
from gpucnn.errors import DeviceError

__all__ = ["GpuBackend", "device_count", "missing_gpu_reason"]


class GpuBackend(
    GpuPooling,
    GpuConvolution,
    GpuDense,
    GpuActivations,
    GpuNormalization,
    GpuDropout,
    GpuLosses,
    GpuUpdates,
    GpuBatches,
):
    """CuPy arrays of one NVIDIA GPU.

    Layers, losses, optimizers and the trainer make it the current device of their thread while they are called, and
    arrays are made on it. Who calls single operations on several GPUs does so `with backend.on_device():`.
    """


def missing_gpu_reason() -> str:
    """Return why no GPU can be used here; empty if one can."""
    try:
        GpuBackend()
    except DeviceError as error:
        return str(error)
    return ""
