"""CUDA sources of the GPU backend, as data: importable, compiled and tested without CuPy and without a GPU.

Two forms. An `Elementwise` record holds the arguments of `cupy.ElementwiseKernel`: its body computes one
output element, at the flat index `i`. A `Block` record holds a whole `__global__` function for
`cupy.RawKernel`, for the few operations in which threads work together; its source is written for an
element type called `T`, which the backend defines as float or double in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Block", "Elementwise"]


@dataclass(frozen=True)
class Elementwise:
    """Arguments of one `cupy.ElementwiseKernel`; sizes are int32 scalars, `raw` arrays are C-contiguous."""

    name: str
    inputs: str
    outputs: str
    body: str
    preamble: str = ""


@dataclass(frozen=True)
class Block:
    """One `extern "C" __global__` function named `name`, launched with `threads` threads per block."""

    name: str
    source: str
    threads: int = 256

    def code(self, element_type: str) -> str:
        """Return the source with `T` defined as `element_type` ("float" or "double")."""
        return f"typedef {element_type} T;\n{self.source}"
