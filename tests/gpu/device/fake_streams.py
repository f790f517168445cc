"""Streams, events and graphs of the fake device.

A stream is a queue of work. The device may work off its queues in any order, but each from its beginning, and what the
default stream has comes before and after what blocking streams have, as it was enqueued; these share one queue. So that
a missing wait shows, one kind of queue is worked off at once, and the other not before something waits for it:
`world.deferred` says which.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

from .fake_array import World

__all__ = ["CUDARuntimeError", "add_streams"]

Work = Callable[[], object]

MESSAGES = {
    3: "cudaErrorInitializationError: initialization error",
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    400: "cudaErrorInvalidResourceHandle: invalid resource handle",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
    906: "cudaErrorStreamCaptureImplicit: operation would make the legacy stream depend on a capturing blocking stream",
}


class CUDARuntimeError(RuntimeError):
    """Raised by every call that needs a device which is not there, or that a capturing stream forbids."""

    def __init__(self, status: int) -> None:
        super().__init__(MESSAGES[status])
        self.status = status


class Queue:
    """Work that a device does in this order, of which some is done."""

    def __init__(self) -> None:
        self.waiting: list[Work] = []
        self.done = 0

    @property
    def end(self) -> int:
        """Number of all work that was ever enqueued."""
        return self.done + len(self.waiting)

    def work_off(self, end: int | None = None) -> None:
        """Do what was enqueued up to a moment, or all of it."""
        while self.waiting and (end is None or self.done < end):
            self.done += 1
            self.waiting.pop(0)()


def add_streams(world: World) -> tuple[type, type]:
    """Return the classes `Stream` and `Event` of a world, which gets its default stream."""
    world.streams = {}  # by device: those made current there, the last one on top
    world.known_streams = weakref.WeakValueDictionary()
    world.queues = weakref.WeakSet()
    default_queue = Queue()

    class Stream:
        null: Stream
        non_blocking = False

        def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
            if not null:
                world.require_device()
            # An address that is free again is used again, as CUDA may do.
            self.ptr = 0 if null else next(n for n in count(0x1000, 0x100) if n not in world.known_streams)
            self.device_id = -1 if null else world.device
            self.non_blocking = non_blocking
            self.queue = Queue() if non_blocking else default_queue
            self._recorded: list[Work] | None = None  # while it captures
            self._is_valid = True
            world.known_streams[self.ptr] = self
            world.queues.add(self.queue)

        def __del__(self) -> None:
            if self.non_blocking:  # what it has is still done, some time
                self.queue.work_off()

        def __enter__(self) -> Stream:
            self._require_its_device()
            world.streams.setdefault(world.device, [Stream.null]).append(self)
            return self

        def __exit__(self, *exc: object) -> None:
            device = world.device if self.device_id < 0 else self.device_id
            world.streams[device].pop()

        def use(self) -> Stream:
            self._require_its_device()
            world.streams.setdefault(world.device, [Stream.null])[-1] = self
            return self

        def _require_its_device(self) -> None:
            if self.device_id not in (-1, world.device):
                raise RuntimeError(
                    f"The device that the stream is created on ({self.device_id}) does not match with the current "
                    f"device ({world.device})"
                )

        def synchronize(self) -> None:
            world.require_device()
            world.stats.sync("Stream.synchronize()")
            self.queue.work_off()

        @property
        def done(self) -> bool:
            world.stats.sync("Stream.done")
            return not self.queue.waiting

        def record(self, event: Any = None) -> Any:
            event = event or Event()
            event.record(self)
            return event

        def wait_event(self, event: Any) -> None:
            world.require_device()
            event.work_off()  # at the latest: it could also be done now

        # --- graphs
        def take(self, work: Work, *, is_launch: bool = True) -> None:
            """Enqueue some work, or record it; what goes to another stream than the one that captures is not recorded.

            `is_launch` says whether it counts as one.
            """
            if self._recorded is not None:
                self._recorded.append(work)
                return
            if self.device_id not in (-1, world.device):
                raise CUDARuntimeError(400)
            blocking = [s for s in world.known_streams.values() if s.captures and not s.non_blocking]
            if self.ptr == 0 and blocking:
                raise CUDARuntimeError(906)
            if world.executes:
                self.queue.waiting.append(work)
                if (world.deferred == "default") == self.non_blocking:
                    self.queue.work_off()
            if is_launch:
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

        def __init__(self, recorded: list[Work]) -> None:
            self.recorded = recorded
            self.device = world.device

        def upload(self, stream: Stream | None = None) -> None:
            world.require_device()

        def launch(self, stream: Stream | None = None) -> None:
            if self.device != world.device:
                raise CUDARuntimeError(400)

            def replay() -> None:
                for work in self.recorded:
                    work()

            world.launch(replay, None if stream is None else stream.ptr)
            world.stats.graph_launches += 1

    class Event:
        def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
            world.require_device()
            self.time = 0.0
            self._place: tuple[Queue, int] | None = None

        def record(self, stream: Any = None) -> None:
            self.time = time.perf_counter()
            queue = (stream or world.stream_at(None)).queue
            self._place = queue, queue.end

        @property
        def done(self) -> bool:
            return self._place is None or self._place[0].done >= self._place[1]

        def work_off(self) -> None:
            """Do what comes before it."""
            if self._place is not None:
                self._place[0].work_off(self._place[1])

        def synchronize(self) -> None:
            world.stats.sync("Event.synchronize()")
            self.work_off()

    def during_capture(what: str) -> None:
        """Fail as CUDA does, which also spoils what was recorded; CuPy refuses transfers before that."""
        capturing = [stream for stream in world.known_streams.values() if stream.captures]
        for stream in capturing:
            stream._is_valid = False
        if capturing:
            raise CUDARuntimeError(900)

    world.stats.during_capture = during_capture
    world.default_stream = Stream.null = Stream(null=True)
    return Stream, Event
