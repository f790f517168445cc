"""The parts of the fake `cupy` that speak of devices: `cupy.cuda`, its runtime, streams, events and pools."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from .fake_array import World

__all__ = ["add_cuda"]

MESSAGES = {
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
    906: "cudaErrorStreamCaptureImplicit: operation would make the legacy stream depend on a capturing blocking stream",
}
TOTAL_MEMORY = 80 * 2**30


class CUDARuntimeError(RuntimeError):
    """Raised by every call that needs a device which is not there, or that a capturing stream forbids."""

    def __init__(self, status: int) -> None:
        super().__init__(MESSAGES[status])
        self.status = status


def add_cuda(world: World, module: ModuleType) -> None:
    """Add `cuda`, `is_available`, `show_config` and the memory pools to the fake module."""
    world.no_device = CUDARuntimeError
    cuda = world.cuda = module.cuda = ModuleType("cupy.cuda")
    cuda.runtime = _make_runtime(world)
    cuda.Device = _make_device(world)
    cuda.Stream, cuda.Event = _make_stream_and_event(world)
    cuda.get_current_stream = lambda: world.streams[-1]
    cuda.using_allocator = partial(_using_allocator, world)
    cuda.get_elapsed_time = lambda start, end: (end.time - start.time) * 1e3
    cuda.is_available = module.is_available = lambda: world.device_count > 0
    pool = _Pool(world)
    module.get_default_memory_pool = lambda: pool
    module.show_config = lambda: print(
        f"CuPy Version : {module.__version__} (fake)\nDevices      : {world.device_count}"
    )


def _make_runtime(world: World) -> ModuleType:
    runtime = ModuleType("cupy.cuda.runtime")

    def get_device_count() -> int:
        world.require_device()
        return world.device_count

    def get_device() -> int:
        world.require_device()
        return world.device

    def set_device(device: int) -> None:
        world.require_device(device)
        world.device = device

    def get_device_properties(device: int) -> dict[str, Any]:
        world.require_device(device)
        return {
            "name": b"Fake GPU",
            "major": 9,
            "minor": 0,
            "multiProcessorCount": 132,
            "warpSize": 32,
            "totalGlobalMem": TOTAL_MEMORY,
            "maxThreadsPerBlock": 1024,
            "sharedMemPerBlock": 49152,
        }

    runtime.CUDARuntimeError = CUDARuntimeError
    runtime.getDeviceCount, runtime.getDevice, runtime.setDevice = get_device_count, get_device, set_device
    runtime.getDeviceProperties = get_device_properties
    runtime.runtimeGetVersion = lambda: 12090
    runtime.driverGetVersion = lambda: 12090 if world.device_count else 0
    runtime.deviceSynchronize = lambda: world.stats.sync("deviceSynchronize()")
    runtime.memGetInfo = lambda: world.cuda.Device().mem_info
    return runtime


def _make_device(world: World) -> type:
    class Device:
        def __init__(self, device: int | None = None) -> None:
            self.id = world.device if device is None else int(device)
            self._previous: list[int] = []

        def use(self) -> Device:
            world.require_device(self.id)
            world.device = self.id
            return self

        def __enter__(self) -> Device:
            self._previous.append(world.device)
            return self.use()

        def __exit__(self, *exc: object) -> None:
            world.device = self._previous.pop()

        def synchronize(self) -> None:
            world.require_device(self.id)
            world.stats.sync("Device.synchronize()")

        @property
        def mem_info(self) -> tuple[int, int]:
            world.require_device(self.id)
            return TOTAL_MEMORY - world.total_bytes, TOTAL_MEMORY

        @property
        def compute_capability(self) -> str:
            world.require_device(self.id)
            return "90"

        def __int__(self) -> int:
            return self.id

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Device) and other.id == self.id

        def __hash__(self) -> int:
            return self.id

        def __repr__(self) -> str:
            return f"<CUDA Device {self.id}>"

    return Device


def _make_stream_and_event(world: World) -> tuple[type, type]:
    class Stream:
        null: Stream

        def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
            if not null:
                world.require_device()
            self.ptr = 0 if null else id(self)
            self.non_blocking = non_blocking
            self._recorded: list | None = None  # while it captures
            self._is_valid = True
            world.known_streams[self.ptr] = self

        def __enter__(self) -> Stream:
            world.streams.append(self)
            return self

        def __exit__(self, *exc: object) -> None:
            world.streams.pop()

        def use(self) -> Stream:
            world.streams[-1] = self
            return self

        def synchronize(self) -> None:
            world.require_device()
            world.stats.sync("Stream.synchronize()")

        @property
        def done(self) -> bool:
            world.stats.sync("Stream.done")
            return True

        def record(self, event: Any = None) -> Any:
            event = event or Event()
            event.record(self)
            return event

        def wait_event(self, event: Any) -> None:
            world.require_device()

        # --- graphs
        def take(self, work: Callable[[], object]) -> None:
            """Do some work, or record it; what goes to another stream than the one that captures is not recorded."""
            if self._recorded is not None:
                self._recorded.append(work)
                return
            blocking = [s for s in world.known_streams.values() if s.captures and not s.non_blocking]
            if self.ptr == 0 and blocking:
                raise CUDARuntimeError(906)
            if world.executes:
                work()
            world.stats.launch()

        @property
        def captures(self) -> bool:
            return self._recorded is not None

        def is_capturing(self) -> bool:
            if self.captures and not self._is_valid:
                raise CUDARuntimeError(901)
            return self.captures

        def begin_capture(self, mode: Any = None) -> None:
            if self.ptr == 0 or self.captures:
                raise CUDARuntimeError(900)
            self._recorded, self._is_valid = [], True

        def end_capture(self) -> Graph:
            recorded, self._recorded = self._recorded, None
            if recorded is None or not self._is_valid:
                raise CUDARuntimeError(901)
            return Graph(recorded)

    class Graph:
        """What a stream recorded, with the addresses and the scalars of then."""

        def __init__(self, recorded: list) -> None:
            self.recorded = recorded

        def upload(self, stream: Stream | None = None) -> None:
            world.require_device()

        def launch(self, stream: Stream | None = None) -> None:
            def replay() -> None:
                for work in self.recorded:
                    work()

            world.launch(replay, None if stream is None else stream.ptr)
            world.stats.graph_launches += 1

    def during_capture(what: str) -> None:
        """Fail as CUDA does, which also spoils what was recorded; CuPy refuses transfers before that."""
        capturing = [stream for stream in world.known_streams.values() if stream.captures]
        for stream in capturing:
            stream._is_valid = False
        if capturing:
            raise CUDARuntimeError(900)

    world.stats.during_capture = during_capture
    world.known_streams = weakref.WeakValueDictionary()

    class Event:
        def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
            world.require_device()
            self.time = 0.0
            self.done = True

        def record(self, stream: Any = None) -> None:
            self.time = time.perf_counter()

        def synchronize(self) -> None:
            world.stats.sync("Event.synchronize()")

    Stream.null = Stream(null=True)
    world.streams = [Stream.null]
    return Stream, Event


@contextmanager
def _using_allocator(world: World, allocator: Callable[[int], Any] | None = None) -> Iterator[None]:
    """Ask an allocator for all memory; the fake takes none of its own from it, but what it raises is raised."""
    world.allocators.append(allocator or (lambda size: None))
    try:
        yield
    finally:
        world.allocators.pop()


class _Pool:
    """The default memory pool: it keeps every block it ever had, in units of 512 bytes, as CuPy's does."""

    def __init__(self, world: World) -> None:
        self._world = world

    def used_bytes(self) -> int:
        self._world.require_device()
        return self._world.used_bytes

    def total_bytes(self) -> int:
        self._world.require_device()
        return self._world.total_bytes

    def free_bytes(self) -> int:
        return self.total_bytes() - self.used_bytes()

    def free_all_blocks(self) -> None:
        self._world.require_device()
        self._world.total_bytes = self._world.used_bytes
