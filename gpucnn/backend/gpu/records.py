"""Kernels as data: importable, compiled and tested without CuPy and without a GPU.

There are two forms. An `Elementwise` record holds the arguments of `cupy.ElementwiseKernel`: its body computes one
output element, at the flat index `i`. A `Block` record holds a whole `__global__` function for `cupy.RawKernel`, for
the few operations in which threads work together; its source stands in a `.cu` file beside this one and is written for
an element type called `T`. Each record stands in the file of its topic, next to the functions that launch it.

No kernel uses atomics: gradients are gathered by the element that receives them, and sums are made in a fixed order, so
that two runs give the same bits. Sizes are named as in `gpucnn.geometry`; `top` and `left` are the padding.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import import_module, resources
from pkgutil import iter_modules

__all__ = ["Block", "Elementwise", "all_records", "kernel", "source"]

KERNEL = re.compile(
    r'^extern "C" __global__ void (?:__launch_bounds__\(\w+\) )?(\w+)\(.*?^}\n', re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Elementwise:
    """Arguments of one `cupy.ElementwiseKernel`; sizes are int32 scalars, `raw` arrays are C-contiguous."""

    name: str
    inputs: str
    outputs: str
    body: str
    preamble: str = ""

    @functools.cached_property
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


@functools.cache
def source(*files: str) -> str:
    """Return the text of some files of this folder, one after another."""
    return "\n".join(resources.files(__package__).joinpath(file).read_text("utf-8") for file in files)


def kernel(
    name: str,
    *files: str,
    function: str = "",
    threads: int = 256,
    architecture: int = 75,
    **constants: int,
) -> Block:
    """Return the record of a function in the last of some files, which are put one after another.

    The files' other kernels are left out. The function gets the name of the record if that is another one. `constants`
    are the numbers that the files name without defining them.
    """
    function = function or name
    code = KERNEL.sub(lambda found: found[0] if found[1] == function else "", source(*files))
    defined = "".join(f"enum {{ {constant} = {value} }};\n" for constant, value in constants.items())
    return Block(name, defined + code.replace(f" {function}(", f" {name}("), threads, architecture)


def all_records() -> dict[str, Elementwise | Block]:
    """Return every kernel of this package by its name."""
    topics = iter_modules(import_module(__package__).__path__)
    values = [value for topic in topics for value in vars(import_module(f"{__package__}.{topic.name}")).values()]
    values += [record for value in values if isinstance(value, dict) for record in value.values()]
    return {value.name: value for value in values if isinstance(value, Elementwise | Block)}
