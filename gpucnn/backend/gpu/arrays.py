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
from gpucnn.backend.gpu.gemm import Gemm, is_readable, multiplies
from gpucnn.backend.gpu.graph import Recording, record_graph
from gpucnn.backend.kernels import Block, Elementwise, sums
from gpucnn.backend.kernels.reductions import MAX_PARTIALS
from gpucnn.backend.reference import Backend
from gpucnn.errors import DeviceError, InputError

__all__ = ["Array", "GpuArrays", "check_indices"]

Array = Any
C_TYPES = {"float32": "float", "float64": "double"}

INDEX_LIMIT = 2**31 - 2**14  # of elements that 32 bits count; a kernel may count a little beyond them
# How sums over rows are shared: by the shape alone, so that they are the same on every device.
CHANNELS = 1 << 8  # columns that a block of threads takes at most, one for each of its threads
ELEMENTS = 1 << 12  # that a block reduces, at least
FEW_ROWS, FEW_COLUMNS = 1 << 9, 1 << 4  # that a block sums up at once: narrow, so that there are many of them
ENOUGH_BLOCKS = 1 << 10  # of those; where the columns make more of them, they are wider


@functools.cache
def _compiled(cupy: ModuleType, record: Elementwise | Block, element_type: str = "") -> Any:
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

    def _result(self, out: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
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

    def _run(self, record: Elementwise, *arguments: Any, size: int | None = None) -> None:
        """Launch an elementwise kernel on its inputs and outputs."""
        if record.is_narrow:
            check_indices(arguments[-1].size, f"an array of {arguments[-1].shape}", "use a smaller batch")
        self.keep(*arguments)
        kernel = _compiled(self.xp, record)
        if size is None:
            kernel(*arguments)
        else:
            kernel(*arguments, size=size)

    def _launch(self, record: Block, grid: tuple[int, ...], *arguments: Any, dtype: Any = None) -> None:
        """Launch a grid of blocks, if it has any; without a dtype, the first argument's is what `T` stands for."""
        if 0 in grid:
            return  # CuPy would launch one block, which reads what is not there
        self.keep(*arguments)
        kernel = _compiled(self.xp, record, C_TYPES[np.dtype(dtype or arguments[0].dtype).name])
        kernel(grid, (record.threads,), arguments)

    def _contiguous(self, x: Array) -> Array:
        """Return x itself, or a C-contiguous copy of a view: kernels index flat memory."""
        return x if x.flags.c_contiguous else self.xp.ascontiguousarray(x)

    def _map(self, record: Elementwise, *arrays: Array, out: Array | None) -> Array:
        """Run a kernel from arrays of one shape to a new array or `out`."""
        out = self._result(out, arrays[0].shape, arrays[0].dtype)
        self._run(record, *arrays, out)
        return out

    # ---- sums and products ----------------------------------------------------------------------------------------

    @functools.cached_property
    def _gemm(self) -> Gemm:
        """cuBLAS with its workspace, which a layer without products spares."""
        return Gemm(self.xp, self.device)

    def matmul(self, a: Array, b: Array, *, out: Array = None) -> Array:
        """As the reference, by cuBLAS; what is not for it by CuPy, and the factors of a stack are not rounded."""
        if not multiplies(a, b):
            return self.xp.matmul(a, b, out=out)
        a, b = (x if is_readable(x) else self.xp.ascontiguousarray(x) for x in (a, b))
        out = self._result(out, (len(a), b.shape[1]), a.dtype)
        self.keep(a, b, out, self._gemm.workspace)
        self._gemm.multiply(a, b, out, self.matmul_precision)
        return out

    def add(self, a: Array, b: Array, *, out: Array = None) -> Array:
        """As the reference, in one kernel."""
        return self._map(sums.ADD, a, b, out=out)

    def _finish(self, y: Array, b: Array | None, relu: bool) -> Array:
        """As the reference, in place and in one kernel."""
        if b is None:
            return self.relu(y, out=y) if relu else y
        self._run(sums.ADD_BIAS, self._contiguous(b), len(b), relu, y)
        return y

    def sum_rows(self, rows: Array, *, out: Array = None) -> Array:
        """As the reference, in a fixed order: few rows in one launch, more of them in two. No factor is rounded."""
        (M, C), out = rows.shape, self._result(out, rows.shape[1:], rows.dtype)
        if M <= FEW_ROWS:
            columns = 1 << min(CHANNELS, max(FEW_COLUMNS, C // ENOUGH_BLOCKS)).bit_length() - 1
            sizes = map(np.int32, (M, C, M, columns))
            self._launch(sums.PARTIAL_SUMS, (-(-C // columns), 1), self._contiguous(rows), out, *sizes)
            return out
        partials, _, _ = self._partials(sums.PARTIAL_SUMS, 1, rows)
        self._launch(sums.ADD_PARTIALS, (C,), partials, out, None, np.int32(partials.shape[2]))
        return out

    def _partials(self, record: Block, count: int, *arrays: Array) -> tuple[Array, np.int32, np.int32]:
        """Reduce blocks of rows of (..., C) to `count` numbers for each channel.

        Return those, (count, C, blocks), with M and how many rows a block takes.
        """
        first, C = arrays[0], arrays[0].shape[-1]
        columns = max(1, min(C, CHANNELS))
        M = first.size // max(1, C)
        check_indices(M, f"an array of {first.shape}", "use a smaller batch")
        rows = max(1, ELEMENTS // columns, -(-M // MAX_PARTIALS))
        grid = -(-C // columns), -(-M // rows)
        partials = self.scratch("partials", (count, C, grid[1]), first.dtype)
        M, C, rows, columns = map(np.int32, (M, C, rows, columns))
        self._launch(record, grid, *map(self._contiguous, arrays), partials, M, C, rows, columns)
        return partials, M, rows
