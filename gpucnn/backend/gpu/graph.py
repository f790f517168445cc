"""CUDA graphs: what a stream is given to do, recorded once and then launched as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from gpucnn.backend.gpu.device import first_line
from gpucnn.errors import DeviceError

__all__ = ["Recording", "record_graph"]


class Recording:
    """A graph, and what it reads and writes: this memory must go to nobody else while it exists."""

    def __init__(self, graph: Any, on_device: Callable[[], contextlib.AbstractContextManager[Any]], memory: Any):
        self.graph, self._on_device, self._memory = graph, on_device, memory

    def __call__(self) -> None:
        """Enqueue all of it, in one launch, on the current stream of its device."""
        with self._on_device():
            self.graph.launch()


def record_graph(cuda: Any, work: Callable[[], None]) -> tuple[Any, Any]:
    """Return the graph of what `work` enqueues, without doing it, and the pool of the memory that it takes meanwhile.

    `cuda` is the module `cupy.cuda`. Work is recorded on a stream of its own, as CUDA records nothing on the default
    one; the graph can be launched on any. It writes to the same addresses in each run, also where `work` has long let
    go of an array: so the memory is of a pool that gives it to nobody else, and must live as long as the graph.
    """
    pool = cuda.MemoryPool()
    try:
        stream = cuda.Stream(non_blocking=True)
        with cuda.using_allocator(pool.malloc), stream:
            stream.begin_capture()
            try:
                work()
            except BaseException:  # KeyboardInterrupt too: a stream that captures must not be destroyed
                with contextlib.suppress(Exception):  # what was recorded is spoilt, and to end it raises
                    stream.end_capture()
                raise
            return stream.end_capture(), pool
    except Exception as error:
        reason = str(error) if isinstance(error, DeviceError) else first_line(error)
        raise DeviceError(f"a step cannot become a graph: {reason}") from error
