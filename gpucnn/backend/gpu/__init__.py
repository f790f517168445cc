"""The GPU backend: CuPy arrays, cuBLAS for matrix products, and kernels of its own for the rest.

Begin with `activations`: each kernel is a record, and under it stands the function that launches it, which becomes a
method of `GpuBackend`. `records` says which two forms of kernels there are, `arrays` launches them. Kernels in which
threads work together are in the `.cu` files, and what several of these have in common is in the `.cuh` files.

Arrays given as `out` are C-contiguous. Nothing here waits for the device but `to_host`, and from its second call on an
operation allocates nothing. CuPy is imported when a GPU is asked for, not before.
"""

from __future__ import annotations

from typing import Any

from gpucnn.backend.assembly import with_operations
from gpucnn.backend.gpu import (
    activations,
    batches,
    convolution,
    dense,
    dropout,
    losses,
    normalization,
    pooling,
    sums,
    updates,
)
from gpucnn.backend.gpu.arrays import GpuArrays
from gpucnn.backend.gpu.convolution import ALGORITHMS, choose_algorithm
from gpucnn.backend.gpu.device import device_count
from gpucnn.errors import DeviceError, unknown_name

__all__ = ["GpuBackend", "device_count", "missing_gpu_reason"]


@with_operations(convolution, pooling, dense, activations, normalization, dropout, losses, updates, batches, sums)
class GpuBackend(GpuArrays):
    """CuPy arrays of one NVIDIA GPU, and the operations on them.

    Layers, losses, optimizers and the trainer make it the current device of their thread while they are called, and
    arrays are made on it. Who calls single operations on several GPUs does so `with backend.on_device():`.

    `convolution` is the algorithm of convolutions without groups: "columns" writes those of `im2col`, and cuBLAS
    multiplies them; "implicit" has kernels of its own, which need no memory for columns.
    """

    def __init__(self, float_dtype: Any = "float32", *, device: int = 0, convolution: str | None = None):
        if convolution not in (None, *ALGORITHMS):
            raise unknown_name("convolution", convolution, ALGORITHMS)
        super().__init__(float_dtype, device=device)
        self.convolution = choose_algorithm(self, convolution)

    def describe(self) -> str:
        return f"{super().describe().removesuffix(')')}, convolution {self.convolution})"


def missing_gpu_reason() -> str:
    """Return why no GPU can be used here; empty if one can."""
    try:
        GpuBackend()
    except DeviceError as error:
        return str(error)
    return ""
