"""CUDA graphs: what a stream is given to do, recorded once and then launched as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NoReturn

from gpucnn.backend.gpu.device import first_line
from gpucnn.errors import DeviceError

__all__ = ["Recording", "record_graph"]


class Recording:
    """A graph, and the arrays that it reads and writes: their memory must go to nobody else while it exists."""

    def __init__(self, graph: Any, arrays: list[Any]):
        self.graph, self.arrays = graph, arrays

    def __call__(self) -> None:
        """Enqueue all of it, in one launch, on the current stream."""
        self.graph.launch()


def record_graph(cuda: Any, work: Callable[[], None]) -> Any:
    """Return the graph of what `work` enqueues, without doing it; `cuda` is the module `cupy.cuda`.

    It is recorded on a stream of its own, as CUDA records nothing on the default one, and can be launched on any.
    Memory that `work` took would go back to CuPy's pool when it ends, and to someone else while the graph writes to it;
    so it may take none.
    """
    stream = cuda.Stream(non_blocking=True)
    with cuda.using_allocator(_refuse), stream:
        try:
            stream.begin_capture()
            work()
            return stream.end_capture()
        except Exception as error:
            with contextlib.suppress(Exception):  # what was recorded is spoilt, and to end it raises
                stream.end_capture()
            reason = str(error) if isinstance(error, DeviceError) else first_line(error)
            raise DeviceError(f"a step cannot become a graph: {reason}") from error


def _refuse(size: int) -> NoReturn:
    raise DeviceError(
        f"it allocates {size:,} bytes in each run; use layers, losses and optimizers that write into buffers"
    )
