"""The two forms of a kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Block", "Elementwise"]


@dataclass(frozen=True)
class Elementwise:
    """Arguments of one `cupy.ElementwiseKernel`; sizes are int32 scalars, `raw` arrays are C-contiguous."""

    name: str
    inputs: str
    outputs: str
    body: str
    preamble: str = ""

    @cached_property
    def is_narrow(self) -> bool:
        """Whether it counts the elements of its outputs in 32 bits, which divide faster: `const int e = i`."""
        return re.search(r"\bint \w+ = [^;]*\bi\b", self.body) is not None


@dataclass(frozen=True)
class Block:
    """One `extern "C" __global__` function named `name`, launched with `threads` threads per block.

    `architecture` is the first that has its instructions: the compute capability, times ten.
    """

    name: str
    source: str
    threads: int = 256
    architecture: int = 75

    def code(self, element_type: str) -> str:
        """Return the source with `T` defined as `element_type` ("float" or "double")."""
        return f"typedef {element_type} T;\n{self.source}"
