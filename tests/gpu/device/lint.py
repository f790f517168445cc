"""What a fake device is given to launch, and which launches would be slow on a real one for no good reason.

`with cupy.launches.noted() as launches:` lists them, recorded or run; `Launch.fault` says what is wrong with one:

- too few blocks for its bytes. A launch that leaves more than an eighth of the multiprocessors without a block must not
  give any of the others much to move. What it moves is taken to be all of its array arguments, each array once however
  often the kernel reads it, and without the axes along which an array is repeated. That is the least, for a kernel that
  needs all of its arguments; so a launch of one block passes if its data are small. Of a table from which a kernel
  takes a part it is too much: a test that takes a batch must take it from a data set of one batch.
- a product with one row or column and a long sum, for which cuBLAS may take a kernel that gives each row to a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .variants import Variant, variant_of

__all__ = ["Launch", "Launches", "faults"]

FEW_BLOCKS = 132 - 132 // 8  # of an H100, which has 132 multiprocessors
BYTES_OF_A_BLOCK = 64 << 10
LONG_SUM = 8192
MAX_ELEMENTWISE_BLOCKS = 0x7FFFFFFF


@dataclass(frozen=True)
class Launch:
    """One launch; `product` is (m, n, k) of a matrix product, of whose blocks nothing is known."""

    name: str
    blocks: int
    threads: int
    nbytes: int
    product: tuple[int, int, int] | None = None
    variant: Variant | None = None

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if self.product:
            m, n, k = self.product
            is_slow = min(m, n) == 1 and k > LONG_SUM
            return (
                f"{self.name}: a product of {m} x {n} sums up {k:,} terms; use a kernel of its own" if is_slow else ""
            )
        if self.blocks >= FEW_BLOCKS or self.nbytes <= self.blocks * BYTES_OF_A_BLOCK:
            return ""
        each = self.nbytes // self.blocks
        return f"{self.name}: {self.blocks} blocks of {self.threads} threads, {each:,} bytes for each; use more blocks"


def faults(launches: Iterable[Launch]) -> list[str]:
    """Return what is wrong with any of them, each once."""
    return list(dict.fromkeys(launch.fault for launch in launches if launch.fault))


class Launches:
    """What one fake device is given to launch, for those who listen."""

    def __init__(self) -> None:
        self._lists: list[list[Launch]] = []

    @contextmanager
    def noted(self) -> Iterator[list[Launch]]:
        """List the launches of this block."""
        self._lists.append([])
        try:
            yield self._lists[-1]
        finally:
            self._lists.pop()

    def _note(self, launch: Launch) -> None:
        for listed in self._lists:
            listed.append(launch)

    def elementwise(self, program: Any, values: list[Any], size: int | None, block_size: int) -> None:
        """Note a launch as CuPy makes it: an element for each thread, `block_size` threads for each block."""
        if not self._lists:
            return
        total = int(np.prod(program.loop_shape(values, size), dtype=np.int64))
        blocks = min(MAX_ELEMENTWISE_BLOCKS, -(-total // block_size))
        variant = variant_of(program, values, size)
        self._note(Launch(program.record.name, blocks, min(block_size, total), bytes_of(values), variant=variant))

    def raw(self, name: str, grid: Iterable[int], block: Iterable[int], values: list[Any]) -> None:
        """Note the launch of a whole grid."""
        self._note(Launch(name, int(np.prod([*grid])), int(np.prod([*block])), bytes_of(values)))

    def product(self, name: str, m: int, n: int, k: int) -> None:
        """Note a matrix product."""
        self._note(Launch(name, 0, 0, 0, (m, n, k)))


def bytes_of(values: Iterable[Any]) -> int:
    """Return the bytes of all arrays, each memory once, without the axes along which an array is repeated."""
    found = {}
    for value in values:
        if isinstance(value, np.ndarray):
            own = [size for size, stride in zip(value.shape, value.strides, strict=True) if stride]
            found[value.ctypes.data, tuple(own)] = int(np.prod(own, dtype=np.int64)) * value.itemsize
    return sum(found.values())
