"""The memory of the fake device: blocks, and pools that give them out and take them back, as CuPy's do."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

__all__ = ["Block", "Memory", "MemoryPointer", "Pool"]

UNIT = 512  # bytes: what CuPy's pools round up to


class Block:
    """Some bytes of one device. They are there as long as a pool or an array has them."""

    def __init__(self, world: Any, size: int) -> None:
        self.world = world
        self.device = world.device
        self.bytes = np.zeros(size, np.uint8)  # which takes no memory before it is touched
        self.start = self.bytes.ctypes.data
        self.used = 0  # bytes that were ever asked for
        world.blocks.add(self)

    @property
    def size(self) -> int:
        return self.bytes.size

    def spoil(self) -> None:
        """Make all bits ones, NaN for floats: what a new owner finds, and an old one that still reads."""
        if self.world.executes:
            self.bytes.fill(0xFF)


class Pool:
    """`cupy.cuda.MemoryPool`: used blocks and free ones; what is free is given out again, in the order of a stream.

    The default pool only counts what it has free. Its blocks are spoilt when they come back: in truth whoever asks next
    gets them. Those of a pool for one recording are reused by its later allocations alone, while the pool lives.
    """

    def __init__(self, world: Any, *, keeps: bool = True) -> None:
        self.world, self.keeps = world, keeps
        self.blocks: list[Block] = []  # all of them, if it keeps them
        self.free: list[Block] = []
        self._used = self._total = 0
        world.pools.add(self)

    def malloc(self, size: int) -> MemoryPointer:
        """Give out a block of a size, rounded up: a free one, else a new one."""
        rounded = -(-size // UNIT) * UNIT
        block = next((block for block in self.free if block.size == rounded), None)
        if block is not None:
            self.free.remove(block)
        else:
            block = Block(self.world, rounded)
            block.spoil()
            if self.keeps:
                self.blocks.append(block)
        self._used += rounded
        self._total = max(self._total, self._used) if not self.keeps else sum(one.size for one in self.blocks)
        return MemoryPointer(Memory(self, block, size), 0)

    def take_back(self, block: Block) -> None:
        """Note that nobody has a block any more."""
        self._used -= block.size
        if self.keeps:
            self.free.append(block)
        else:
            self.world.after_what_was_enqueued(block.spoil)

    def used_bytes(self) -> int:
        self.world.require_device()
        return self._used

    def total_bytes(self) -> int:
        self.world.require_device()
        return self._total

    def free_bytes(self) -> int:
        return self.total_bytes() - self.used_bytes()

    def n_free_blocks(self) -> int:
        return len(self.free)

    def free_all_blocks(self) -> None:
        self.world.require_device()
        self.blocks = [block for block in self.blocks if block not in self.free]
        self.free = []
        self._total = self._used


class Memory:
    """One allocation, which goes back to its pool when its last array is gone."""

    def __init__(self, pool: Pool, block: Block, size: int) -> None:
        self.block, self.device = block, block.device
        self.bytes = block.bytes[:size]
        block.used = max(block.used, size)
        self._pool = weakref.ref(pool)

    def __del__(self) -> None:
        pool = self._pool()
        if pool is not None:
            pool.take_back(self.block)
        else:
            self.block.spoil()  # given back to the device


class MemoryPointer:
    """`array.data`: an address, which arithmetic moves; `cupy.ndarray(..., memptr=)` takes it."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem = mem
        self.offset = offset
        self.ptr = mem.bytes.ctypes.data + offset
        self.device_id = mem.device

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.offset + offset)
