"""CUDA sources of the GPU backend, as data: importable, compiled and tested without CuPy and without a GPU.

Two forms. An `Elementwise` record holds the arguments of `cupy.ElementwiseKernel`: its body computes one
output element, at the flat index `i`. A `Block` record holds a whole `__global__` function for
`cupy.RawKernel`, for the few operations in which threads work together; its source is written for an
element type called `T`, which the backend defines as float or double in front of it.

No kernel uses atomics: gradients are gathered by the element that receives them, and sums are made in a fixed order, so
that two runs give the same bits. Sizes are named as in `gpucnn.geometry`; `top` and `left` are the padding.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from gpucnn.backend.kernels.records import Block, Elementwise

__all__ = ["Block", "Elementwise", "all_records"]


def all_records() -> dict[str, Elementwise | Block]:
    """Return every kernel by the name that it has in its module."""
    modules = (import_module(f"{__name__}.{topic.name}") for topic in iter_modules(__path__))
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, (Elementwise, Block))
    }
