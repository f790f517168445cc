"""The parts of the fake `cupy` that hold data: counters, device memory and the array class."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["Counts", "FakeArray", "ForbiddenInStep", "Memory", "MemoryPointer", "Stats", "World", "unwrap"]


class ForbiddenInStep(AssertionError):
    """A transfer, a synchronisation or an allocation happened where none may."""


@dataclass
class Counts:
    """What was done; copies and bytes are counted per transfer."""

    launches: int = 0
    graph_launches: int = 0
    syncs: int = 0
    h2d_copies: int = 0
    h2d_bytes: int = 0
    d2h_copies: int = 0
    d2h_bytes: int = 0
    allocations: int = 0
    allocated_bytes: int = 0


@dataclass
class Stats(Counts):
    """Counters of one fake device world; inside `step()` only launches are allowed, while a stream captures too."""

    _depth: int = 0
    during_capture: Callable[[str], None] = lambda what: None  # raises what CUDA does if a stream captures

    def launch(self) -> None:
        self.launches += 1

    def sync(self, what: str) -> None:
        self.during_capture(what)
        self._check("synchronisation", what)
        self.syncs += 1

    def h2d(self, what: str, nbytes: int) -> None:
        self.during_capture(what)
        self._check("host-to-device transfer", what)
        self.h2d_copies += 1
        self.h2d_bytes += nbytes

    def d2h(self, what: str, nbytes: int) -> None:
        """Count a transfer to the host, which also waits for the device."""
        self.during_capture(what)
        self._check("device-to-host transfer", what)
        self.d2h_copies += 1
        self.d2h_bytes += nbytes
        self.syncs += 1

    def allocate(self, what: str, nbytes: int) -> None:
        self._check("allocation", f"{what} ({nbytes} bytes)")
        self.allocations += 1
        self.allocated_bytes += nbytes

    def _check(self, kind: str, what: str) -> None:
        if self._depth:
            raise ForbiddenInStep(f"{kind} in a step: {what}")

    def reset(self) -> None:
        for field in fields(Counts):
            setattr(self, field.name, 0)

    @contextmanager
    def step(self) -> Iterator[Counts]:
        """Raise ForbiddenInStep at any transfer, synchronisation or allocation; give the counts."""
        with self.counting() as counts:
            self._depth += 1
            try:
                yield counts
            finally:
                self._depth -= 1

    forbid = step

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Allow everything, and give the counts of this block when it ends."""
        before = {field.name: getattr(self, field.name) for field in fields(Counts)}
        counts = Counts()
        try:
            yield counts
        finally:
            for name, value in before.items():
                setattr(counts, name, getattr(self, name) - value)


class World:
    """The state of one fake installation: devices, counters and the pool."""

    def __init__(self, device_count: int, order: str | int) -> None:
        self.device_count = device_count
        self.order = order  # in which emulated kernels run their threads
        self.executes = True  # else launches are counted, and nothing is computed
        self.stats = Stats()
        self.device = 0
        self.used_bytes = 0
        self.total_bytes = 0
        self.array_class: type[FakeArray] = FakeArray
        self.no_device: type[Exception] = RuntimeError
        self.allocators: list[Callable[[int], Any]] = []  # set by the program; the last one is asked
        self.memories: weakref.WeakSet[Memory] = weakref.WeakSet()

    def require_device(self, device: int = 0) -> None:
        if self.device_count == 0:
            raise self.no_device(35)
        if not 0 <= device < self.device_count:
            raise self.no_device(101)

    def own(self, array: np.ndarray, what: str) -> FakeArray:
        """Make a device array of a NumPy array that nobody else holds; this is the only allocation."""
        self.require_device()
        if array.nbytes:
            if self.allocators:
                self.allocators[-1](array.nbytes)
            self.stats.allocate(what, array.nbytes)
        return self.array_class._wrap(array, Memory(self, array))

    def find(self, pointer: int, size: int, error: type[Exception]) -> tuple[Memory, int]:
        """Return the memory of the current device that contains these bytes, and where they begin in it."""
        for memory in self.memories:
            offset = pointer - memory.bytes.ctypes.data
            if memory.device == self.device and offset >= 0 and offset + size <= memory.bytes.size:
                return memory, offset
        raise error(f"{size} bytes at {pointer:#x} are not in one piece of memory that is alive")

    def launch(self, work: Callable[[], object], stream: int | None = None) -> None:
        """Do some work of the device now, or record it if its stream captures; without a stream, the current one."""
        self.stream_at(stream).take(work)

    def stream_at(self, pointer: int | None) -> Any:
        """Return the stream with this pointer, or the current one."""
        return self.streams[-1] if pointer is None else self.known_streams[pointer]

    def is_capturing(self) -> bool:
        """Whether some stream captures."""
        return any(stream.captures for stream in self.known_streams.values())

    def result(self, array: Any, what: str, order: str = "C") -> FakeArray:
        """Make the device array that one launch computed into new memory, in C order as CuPy does."""
        array = np.asarray(array)
        if array.base is not None or (order == "C" and not array.flags.c_contiguous):
            array = array.copy(order)
        made = self.own(array, what)
        if array.size:
            if self.is_capturing():
                raise NotImplementedError(f"the fake records no operation that allocates: {what}")
            self.stats.launch()
        return made


class Memory:
    """One allocation, given back to the pool when its last array is gone."""

    def __init__(self, world: World, array: np.ndarray) -> None:
        self.world = world
        self.device = world.device
        self.bytes = array.ravel(order="K").view(np.uint8)
        self.rounded = -(-array.nbytes // 512) * 512
        world.memories.add(self)
        world.used_bytes += self.rounded
        world.total_bytes = max(world.total_bytes, world.used_bytes)

    def __del__(self) -> None:
        self.world.used_bytes -= self.rounded


class MemoryPointer:
    """`array.data`: an address, which arithmetic moves; `cupy.ndarray(..., memptr=)` takes it."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem = mem
        self.offset = offset
        self.ptr = mem.bytes.ctypes.data + offset
        self.device_id = mem.device

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.offset + offset)


def unwrap(value: Any, world: World) -> Any:
    """Return the NumPy value of an argument of a device function; host arrays and lists are refused."""
    if isinstance(value, FakeArray):
        if value._memory.device != world.device:
            raise ValueError(
                f"The device where the array resides ({value._memory.device}) is different from "
                f"the current device ({world.device})."
            )
        return value._array
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _key(key: Any, world: World) -> tuple[Any, bool, bool]:
    """Return an index for NumPy, whether it selects by arrays, and whether one of them is a mask."""
    items = key if isinstance(key, tuple) else (key,)
    arrays = [item for item in items if isinstance(item, FakeArray)]
    if any(isinstance(item, (np.ndarray, list)) for item in items):
        raise TypeError("a host array as the index of a device array is an implicit transfer")
    plain = tuple(unwrap(item, world) if isinstance(item, FakeArray) else item for item in items)
    if not arrays and Ellipsis not in plain:
        plain = (*plain, Ellipsis)  # so that NumPy gives a 0-d view and not a scalar
    return plain, bool(arrays), any(a.dtype == np.bool_ for a in arrays)


class FakeArray:
    """A NumPy array behind the interface of `cupy.ndarray`; nothing converts to the host unasked."""

    __slots__ = ("__weakref__", "_array", "_memory")
    __array_ufunc__ = None  # NumPy operators give way to ours
    __hash__ = None
    _world: World

    def __new__(
        cls,
        shape: Any,
        dtype: Any = float,
        memptr: Any = None,
        strides: Any = None,
        order: str = "C",
    ) -> FakeArray:
        if memptr is None:
            array = np.empty(shape, dtype, order=order)
            if cls._world.executes:  # else what nobody computes needs no memory behind its addresses
                array.reshape(-1, order="A").view(np.uint8).fill(1 if array.dtype.kind == "b" else 0xFF)
            return cls._world.own(array, f"ndarray{tuple(np.shape(array))}")
        array = np.ndarray(shape, dtype, memptr.mem.bytes, memptr.offset, strides, order)
        return cls._wrap(array, memptr.mem)

    @classmethod
    def _wrap(cls, array: np.ndarray, memory: Memory) -> FakeArray:
        self = object.__new__(cls)
        self._array, self._memory = array, memory
        return self

    def _view_or_copy(self, array: np.ndarray, what: str) -> FakeArray:
        """Wrap what NumPy made of this array: a view is free, a copy is an allocation and a launch."""
        if array.size == 0 or np.may_share_memory(array, self._memory.bytes):
            return self._wrap(array, self._memory)
        return self._world.result(array, what)

    # --- what costs nothing
    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    nbytes = property(lambda self: self._array.nbytes)
    itemsize = property(lambda self: self._array.itemsize)
    strides = property(lambda self: self._array.strides)
    T = property(lambda self: self._wrap(self._array.T, self._memory))
    device = property(lambda self: self._world.cuda.Device(self._memory.device))
    base = property(lambda self: self if self._array.base is not None else None)

    @property
    def flags(self) -> SimpleNamespace:
        flags = self._array.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata)

    @property
    def data(self) -> MemoryPointer:
        start = self._memory.bytes.ctypes.data
        return MemoryPointer(self._memory, self._array.ctypes.data - start if self.size else 0)

    def __len__(self) -> int:
        return len(self._array)

    def reshape(self, *shape: Any, order: str = "C") -> FakeArray:
        array = self._array.reshape(*shape, order=order)
        return self._view_or_copy(array, "reshape of a non-contiguous array")

    def ravel(self, order: str = "C") -> FakeArray:
        return self._view_or_copy(self._array.ravel(order), "ravel of a non-contiguous array")

    def transpose(self, *axes: Any) -> FakeArray:
        return self._wrap(self._array.transpose(*axes), self._memory)

    def swapaxes(self, a: int, b: int) -> FakeArray:
        return self._wrap(self._array.swapaxes(a, b), self._memory)

    def squeeze(self, axis: Any = None) -> FakeArray:
        return self._wrap(self._array.squeeze(axis), self._memory)

    def view(self, dtype: Any = None) -> FakeArray:
        return self._wrap(self._array.view(dtype or self.dtype), self._memory)

    def __getitem__(self, key: Any) -> FakeArray:
        key, by_arrays, by_mask = _key(key, self._world)
        if by_mask:
            self._world.stats.sync("selection by a boolean mask")
        if by_arrays:
            return self._world.result(self._array[key], "selection by an index array")
        return self._wrap(self._array[key], self._memory)

    # --- launches
    def __setitem__(self, key: Any, value: Any) -> None:
        plain, _, _ = _key(key, self._world)
        if isinstance(value, np.ndarray):
            return self._set_from_host(key, plain, value)
        value = unwrap(value, self._world)
        self._world.launch(lambda: self._array.__setitem__(plain, value))
        return None

    def _set_from_host(self, key: Any, plain: Any, value: np.ndarray) -> None:
        """Assign a host array: straight into a whole contiguous array, else by way of a temporary array."""
        if isinstance(key, slice) and key == slice(None):
            if value.shape != self.shape or value.dtype != self.dtype:
                raise ValueError(
                    "copying a numpy.ndarray to a cupy.ndarray by empty slice assignment must "
                    "ensure arrays have same shape and dtype"
                )
        else:
            self._world.stats.allocate("assignment of a host array", value.nbytes)
            self._world.stats.launch()
        self._world.stats.h2d("assignment of a host array", value.nbytes)
        self._array[plain] = value

    def fill(self, value: Any) -> None:
        value = unwrap(value, self._world)
        self._world.launch(lambda: self._array.fill(value))

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True):
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return self._world.result(self._array.astype(dtype, order), "astype", order)

    def copy(self, order: str = "C") -> FakeArray:
        return self._world.result(self._array.copy(order), "copy", order)

    def flatten(self, order: str = "C") -> FakeArray:
        return self._world.result(self._array.flatten(order), "flatten")

    def __copy__(self) -> FakeArray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> FakeArray:
        return self.copy()

    # --- transfers and synchronisation
    def get(self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True):
        if out is not None and (not isinstance(out, np.ndarray) or out.dtype != self.dtype):
            received = getattr(out, "dtype", type(out))
            raise TypeError(f"{received} array cannot be obtained from {self.dtype} array")
        if out is not None and out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        if not (self._array.flags.c_contiguous or self._array.flags.f_contiguous):
            self._world.stats.allocate("get() of a non-contiguous array", self.nbytes)
        self._world.stats.d2h("get()", self.nbytes)
        if out is None:
            return self._array.copy(order)
        out[...] = self._array
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._array.flags.c_contiguous or self._array.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        self._world.stats.h2d("set()", self.nbytes)
        self._array[...] = arr

    def _to_host(self, what: str) -> np.ndarray:
        self._world.stats.d2h(what, self.nbytes)
        return self._array

    def item(self, *args: Any) -> Any:
        return self._to_host("item()").item(*args)

    def tolist(self) -> Any:
        return self._to_host("tolist()").tolist()

    def __float__(self) -> float:
        return float(self._to_host("float()").reshape(())[()])

    def __int__(self) -> int:
        return int(self._to_host("int()").reshape(())[()])

    def __index__(self) -> int:
        return operator.index(self._to_host("use as an index").reshape(())[()])

    def __bool__(self) -> bool:
        return bool(self._to_host("bool()"))

    def __repr__(self) -> str:
        return repr(self._to_host("repr() or str()"))

    # --- what is refused
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called with a device array; use the backend's array module")

    def __iter__(self) -> Any:
        raise TypeError("iteration over a device array makes one array per row; index or slice it instead")

    def __reduce__(self) -> Any:
        raise TypeError("a device array cannot be pickled here; transfer it to the host first")
