"""The parts of the fake `cupy` that hold data: counters, device memory and the array class."""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np

from .fake_memory import Block, Memory, MemoryPointer, Pool

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
    pinned_bytes: int = 0  # of the host, that transfers went through; CuPy keeps them


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
    """The state of one fake installation: devices, counters, streams and pools."""

    def __init__(self, device_count: int, order: str | int) -> None:
        self.device_count = device_count
        self.order = order  # in which emulated kernels run their threads
        self.executes = True  # else launches are counted, and nothing is computed
        self.deferred = "side"  # or "default": the streams whose work is done when something waits for it
        self.stats = Stats()
        self.device = 0
        self.process = 0  # that has used a device first
        self.array_class: type[FakeArray] = FakeArray
        self.no_device: type[Exception] = RuntimeError
        self.allocators: list[Callable[[int], MemoryPointer]] = []  # set by the program; the last one is asked
        self.blocks: weakref.WeakSet[Block] = weakref.WeakSet()
        self.pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self.default_pool = Pool(self, keeps=False)

    def require_device(self, device: int = 0) -> None:
        if self.device_count == 0:
            raise self.no_device(35)
        self.process = self.process or os.getpid()
        if self.process != os.getpid():  # it was forked from the one that has used the device
            raise self.no_device(3)
        if not 0 <= device < self.device_count:
            raise self.no_device(101)

    # ---- arrays
    def new(self, shape: Any, dtype: Any, order: str, what: str) -> FakeArray:
        """Make a device array of new memory, whose contents are whatever lay there; this is the only allocation."""
        self.require_device()
        layout = np.empty(shape, dtype, "F" if order == "F" else "C")
        allocate = self.allocators[-1] if self.allocators and layout.nbytes else self.default_pool.malloc
        memory = allocate(layout.nbytes).mem
        if layout.nbytes:
            self.stats.allocate(what, layout.nbytes)
        if layout.dtype == np.bool_ and self.executes:
            memory.bytes.fill(1)  # what else a bool of ones would be, NumPy does not say
        array = np.ndarray(layout.shape, layout.dtype, memory.bytes, 0, layout.strides)
        return self.array_class._wrap(array, memory)

    def own(self, array: np.ndarray, what: str) -> FakeArray:
        """Make a device array of the numbers of a NumPy array, which are there at once."""
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        made = self.new(array.shape, array.dtype, order, what)
        if self.executes:
            made._array[...] = array
        return made

    def result(self, compute: Callable[[], Any], what: str, order: str = "C") -> FakeArray:
        """Make the device array that one launch computes into new memory, in C order as CuPy does.

        Its shape is known only when it was computed, so that is done now; what was enqueued before comes first. While
        the stream captures, the numbers are of no account, and it is computed again whenever the graph is.
        """
        stream = self.stream_at(None)
        if not stream.captures:
            stream.queue.work_off()
        with np.errstate(all="ignore"):
            array = np.asarray(compute())
        order = "F" if order != "C" and array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        made = self.new(array.shape, array.dtype, order, what)
        if stream.captures:
            target = made._array
            stream.take(lambda: np.copyto(target, compute()))
        elif self.executes:
            made._array[...] = array
        if array.size and not stream.captures:
            self.stats.launch()
        return made

    def find(self, pointer: int, size: int, error: type[Exception]) -> tuple[Block, int]:
        """Return the block of the current device that contains these bytes, and where they begin in it."""
        for block in self.blocks:
            offset = pointer - block.start
            if block.device == self.device and offset >= 0 and offset + size <= block.used:
                return block, offset
        raise error(f"{size} bytes at {pointer:#x} are not in one piece of memory that is alive")

    # ---- work
    def launch(self, work: Callable[[], object], stream: int | None = None) -> None:
        """Enqueue some work, or record it if its stream captures; without a stream, on the current one."""
        self.stream_at(stream).take(work)

    def after_what_was_enqueued(self, work: Callable[[], object]) -> None:
        """Do something with memory that is given back when the work on it is done; it belongs to no recording."""
        stream = self.stream_at(None)
        queue = (self.default_stream if stream.captures else stream).queue
        if queue.waiting:
            queue.waiting.append(work)
        else:
            work()

    def stream_at(self, pointer: int | None) -> Any:
        """Return the stream with this pointer, or the current one."""
        if pointer is None:
            return self.streams.get(self.device, [self.default_stream])[-1]
        return self.known_streams[pointer]

    def send(self, array: np.ndarray, key: Any, host: np.ndarray) -> None:
        """Enqueue a copy of a host array, which may change from now on."""
        host = host.copy()
        self.stream_at(None).take(lambda: array.__setitem__(key, host), is_launch=False)

    def wait(self) -> None:
        """Work off the current stream, as a transfer to the host does."""
        self.stream_at(None).queue.work_off()

    def is_capturing(self) -> bool:
        """Whether some stream captures."""
        return any(stream.captures for stream in self.known_streams.values())


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
            return cls._world.new(shape, dtype, order, f"ndarray{tuple(np.atleast_1d(shape))}")
        array = np.ndarray(shape, dtype, memptr.mem.bytes, memptr.offset, strides, order)
        return cls._wrap(array, memptr.mem)

    @classmethod
    def _wrap(cls, array: np.ndarray, memory: Memory) -> FakeArray:
        self = object.__new__(cls)
        self._array, self._memory = array, memory
        return self

    def _view_or_copy(self, make: Callable[[], np.ndarray], what: str) -> FakeArray:
        """Wrap what NumPy makes of this array: a view is free, a copy is an allocation and a launch."""
        array = make()
        if array.size == 0 or np.may_share_memory(array, self._memory.bytes):
            return self._wrap(array, self._memory)
        return self._world.result(make, what)

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
        make = lambda: self._array.reshape(*shape, order=order)  # noqa: E731
        return self._view_or_copy(make, "reshape of a non-contiguous array")

    def ravel(self, order: str = "C") -> FakeArray:
        return self._view_or_copy(lambda: self._array.ravel(order), "ravel of a non-contiguous array")

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
            return self._world.result(lambda: self._array[key], "selection by an index array")
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
        self._world.send(self._array, plain, value)

    def fill(self, value: Any) -> None:
        value = unwrap(value, self._world)
        self._world.launch(lambda: self._array.fill(value))

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True):
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return self._world.result(lambda: self._array.astype(dtype, order), "astype", order)

    def copy(self, order: str = "C") -> FakeArray:
        return self._world.result(lambda: self._array.copy(order), "copy", order)

    def flatten(self, order: str = "C") -> FakeArray:
        return self._world.result(lambda: self._array.flatten(order), "flatten")

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
        self._world.wait()
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
        self._world.send(self._array, Ellipsis, arr)

    def _to_host(self, what: str) -> np.ndarray:
        self._world.stats.d2h(what, self.nbytes)
        self._world.wait()
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
