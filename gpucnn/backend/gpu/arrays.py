"""What the parts of the GPU backend share."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from gpucnn.backend.gpu.device import INSTALL, after_fork, device_count, first_line, import_cupy
from gpucnn.backend.gpu.gemm import Gemm
from gpucnn.backend.gpu.graph import Recording, record_graph
from gpucnn.backend.gpu.records import Block, Elementwise
from gpucnn.backend.reference import Backend
from gpucnn.errors import DeviceError, InputError

__all__ = ["Array", "GpuArrays", "check_indices", "compiled"]

Array = Any
C_TYPES = {"float32": "float", "float64": "double"}

INDEX_LIMIT = 2**31 - 2**14  # of elements that 32 bits count; a kernel may count a little beyond them


@functools.cache
def compiled(cupy: ModuleType, record: Elementwise | Block, element_type: str = "") -> Any:
    """Make a kernel of CuPy's from its record; CUDA compiles it when it is first launched."""
    if isinstance(record, Block):
        return cupy.RawKernel(record.code(element_type), record.name)
    return cupy.ElementwiseKernel(
        record.inputs, record.outputs, record.body, f"gpucnn_{record.name}", preamble=record.preamble
    )


def check_indices(elements: int, what: str, cure: str) -> None:
    """Refuse what a kernel cannot count in 32 bits."""
    if elements > INDEX_LIMIT:
        raise InputError(
            f"{what} is too large for one kernel: {elements:,} elements, of which it counts {INDEX_LIMIT:,}; {cure}"
        )


class GpuArrays(Backend):
    """CuPy arrays of one device, transfers, and kernel launches."""

    _probed: ClassVar[set[tuple[ModuleType, int]]] = set()  # devices that have been seen to compute
    _recording: ClassVar[threading.local] = threading.local()  # `kept`: arrays that a thread's recording uses

    def __init__(self, float_dtype: Any = "float32", *, device: int = 0):
        count = device_count()
        if device >= count:
            raise DeviceError(f"gpu:{device} is not there: the GPUs are gpu:0 to gpu:{count - 1}")
        super().__init__(float_dtype, xp=import_cupy())
        self.device = device
        self.name = f"gpu:{device}"
        self.constants: dict[Any, Array] = {}  # what operations have computed once, by what they choose as its key
        if (self.xp, device) not in self._probed:
            self._probe()
            self._probed.add((self.xp, device))

    def _probe(self) -> None:
        """Compute something with each library that is needed, so that a missing one is named now."""
        try:
            with self.on_device():
                square = self.zeros((2, 2))
                self.relu(self.matmul(square, square))
        except DeviceError:
            raise
        except Exception as error:
            raise DeviceError(
                f"CuPy finds {self.name} but cannot compute on it ({first_line(error)}); its CUDA libraries may be "
                f"missing: {INSTALL}"
            ) from error

    def on_device(self) -> AbstractContextManager[Any]:
        try:
            current = self.xp.cuda.runtime.getDevice()
        except Exception as error:
            if reason := after_fork(error):
                raise reason from error
            raise
        return nullcontext() if current == self.device else self.xp.cuda.Device(self.device)

    def describe(self) -> str:
        name = self.xp.cuda.runtime.getDeviceProperties(self.device)["name"]
        name = name.decode() if isinstance(name, bytes) else name
        rounded = "" if self.matmul_precision == self.precision else f"{self.matmul_precision} factors, "
        return f"{self.name} ({name}, CuPy {self.xp.__version__}; {rounded}{self.precision} arrays)"

    def free_bytes(self) -> int | None:
        with self.on_device():
            return self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes()

    def versions(self) -> dict[str, str]:
        return {"cupy": self.xp.__version__}

    # ---- arrays and transfers -------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        with self.on_device():
            return super().empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        with self.on_device():
            return super().zeros(shape, dtype)

    def from_host(self, array: np.ndarray, *, out: Array = None) -> Array:
        """As the reference. `cupy.asarray` would leave a copy of as many bytes in pinned memory of the host."""
        array = np.asarray(array)
        with self.on_device():
            if out is None:
                out = self.empty(array.shape, array.dtype.newbyteorder("="))
            host = np.asarray(np.broadcast_to(np.asarray(array, out.dtype), out.shape), order="C")
            if out.flags.c_contiguous:
                out.set(host)
            else:
                out[...] = self.from_host(host)
        return out

    def to_host(self, array: Array) -> np.ndarray:
        self.host_reads += 1
        with self.on_device():  # whose stream is waited for
            return array.get()

    def owns(self, array: object) -> bool:
        return isinstance(array, self.xp.ndarray) and array.device.id == self.device

    def memory_of(self, array: Array) -> int:
        return id(array.data.mem)

    def result(self, out: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype) if out is None else out

    # ---- launches -------------------------------------------------------------------------------------------------

    @property
    def records(self) -> bool:
        kept = getattr(self._recording, "kept", None)
        return kept is None and not self.xp.cuda.get_current_stream().is_capturing()

    def record(
        self, work: Callable[[], None], *, state: Callable[[], dict[str, Array]] = dict, keep: Iterable[Array] = ()
    ) -> Callable[[], None] | None:
        """As the reference: what `work` enqueues becomes one CUDA graph."""
        with self.on_device():
            before = state()
            self._recording.kept = kept = [*before.values(), *keep]
            try:
                graph, pool = record_graph(self.xp.cuda, work)
            finally:
                self._recording.kept = None
                Gemm.forget_streams()
        after = state()
        replaced = [
            name
            for name in {**before, **after}
            if name not in before or name not in after or before[name].data.ptr != after[name].data.ptr
        ]
        if replaced:
            raise DeviceError(
                f"a step cannot become a graph: it puts another array in the place of {', '.join(replaced)}, which it "
                f"carries from step to step; write into the one that is there: array[...] = value"
            )
        return Recording(graph, self.on_device, (pool, kept))

    def keep(self, *arrays: Any) -> None:
        kept = getattr(self._recording, "kept", None)  # of any backend: a step may use several
        if kept is not None:
            kept += arrays

    def run_elementwise(self, record: Elementwise, *arguments: Any, size: int | None = None) -> None:
        """Launch an elementwise kernel on its inputs and outputs."""
        if record.is_narrow:
            check_indices(arguments[-1].size, f"an array of {arguments[-1].shape}", "use a smaller batch")
        self.keep(*arguments)
        kernel = compiled(self.xp, record)
        if size is None:
            kernel(*arguments)
        else:
            kernel(*arguments, size=size)

    def launch(self, record: Block, grid: tuple[int, ...], *arguments: Any, dtype: Any = None) -> None:
        """Launch a grid of blocks, if it has any; without a dtype, the first argument's is what `T` stands for."""
        if 0 in grid:
            return  # CuPy would launch one block, which reads what is not there
        self.keep(*arguments)
        kernel = compiled(self.xp, record, C_TYPES[np.dtype(dtype or arguments[0].dtype).name])
        kernel(grid, (record.threads,), arguments)

    def contiguous(self, x: Array) -> Array:
        """Return x itself, or a C-contiguous copy of a view: kernels index flat memory."""
        return x if x.flags.c_contiguous else self.xp.ascontiguousarray(x)

    def map_elementwise(self, record: Elementwise, *arrays: Array, out: Array | None) -> Array:
        """Run a kernel from arrays of one shape to a new array or `out`."""
        out = self.result(out, arrays[0].shape, arrays[0].dtype)
        self.run_elementwise(record, *arrays, out)
        return out

    @functools.cached_property
    def gemm(self) -> Gemm:
        """cuBLAS with its workspace, which a layer without products spares."""
        return Gemm(self.xp, self.device)
