"""The parts of the fake `cupy` that speak of devices: `cupy.cuda`, its runtime, streams, events and pools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from .fake_array import World
from .fake_memory import Pool
from .fake_streams import CUDARuntimeError, add_streams

__all__ = ["add_cuda"]

TOTAL_MEMORY = 80 * 2**30


def add_cuda(world: World, module: ModuleType) -> None:
    """Add `cuda`, `is_available`, `show_config` and the memory pools to the fake module."""
    world.no_device = CUDARuntimeError
    cuda = world.cuda = module.cuda = ModuleType("cupy.cuda")
    cuda.runtime = _make_runtime(world)
    cuda.Device = _make_device(world)
    cuda.Stream, cuda.Event = add_streams(world)
    cuda.get_current_stream = lambda: world.stream_at(None)
    cuda.MemoryPool = partial(Pool, world)
    cuda.using_allocator = partial(_using_allocator, world)
    cuda.get_elapsed_time = lambda start, end: (end.time - start.time) * 1e3
    cuda.is_available = module.is_available = lambda: world.device_count > 0
    module.get_default_memory_pool = lambda: world.default_pool
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
    runtime.deviceSynchronize = lambda: _synchronize(world, "deviceSynchronize()")
    runtime.memGetInfo = lambda: world.cuda.Device().mem_info
    return runtime


def _synchronize(world: World, what: str) -> None:
    world.stats.sync(what)
    for queue in list(world.queues):
        queue.work_off()


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
            _synchronize(world, "Device.synchronize()")

        @property
        def mem_info(self) -> tuple[int, int]:
            world.require_device(self.id)
            return TOTAL_MEMORY - sum(pool.total_bytes() for pool in world.pools), TOTAL_MEMORY

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


@contextmanager
def _using_allocator(world: World, allocator: Callable[[int], Any] | None = None) -> Iterator[None]:
    """Ask an allocator for all memory; None is that of the device itself."""
    world.allocators.append(allocator or world.default_pool.malloc)
    try:
        yield
    finally:
        world.allocators.pop()
