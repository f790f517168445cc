"""Matrix products by cuBLAS, through its C interface.

CuPy multiplies with cuBLAS too, but refuses to while a stream captures a CUDA graph, and takes the precision of float32
products from an environment variable. So the library is called here, on the stream of the caller and with a workspace
of its own: a call neither allocates nor waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from collections import defaultdict
from types import ModuleType
from typing import Any, ClassVar

from gpucnn.errors import DeviceError, InputError

__all__ = ["Gemm", "is_readable", "multiplies", "open_library"]

Array = Any

# Numbers of `library_types.h` and `cublas_api.h`.
ELEMENTS = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}  # CUDA_R_16F, 16BF, 32F, 64F
COMPUTE_32F, COMPUTE_64F = 68, 70
FAST = {"tf32": 77, "bf16": 75}  # COMPUTE_32F_FAST_TF32, FAST_16BF: float32 factors are rounded on their way
AS_IT_IS, TRANSPOSED = 0, 1  # CUBLAS_OP_N, OP_T
DEFAULT_ALGORITHM = -1
LARGEST = 2**31 - 1  # a size that cuBLAS takes

# alpha and beta: cuBLAS reads them when it is called, and `byref` keeps them until then.
ONE_AND_ZERO = {kind: (ctypes.byref(kind(1)), ctypes.byref(kind(0))) for kind in (ctypes.c_float, ctypes.c_double)}


@functools.cache
def open_library(cupy: ModuleType) -> Any:
    """Load the cuBLAS of CuPy's CUDA version: where NVIDIA's packages have it, else where the system finds it."""
    name = f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}"
    with contextlib.suppress(Exception):  # the attempt below says what is missing
        from cuda.pathfinder import load_nvidia_dynamic_lib

        path = load_nvidia_dynamic_lib("cublas").abs_path
        if name in path:
            return ctypes.CDLL(path)
    return ctypes.CDLL(name)


def _declare(library: Any) -> Any:
    """Give the functions that are called their types, as in `cublas_api.h`."""
    pointer, number = ctypes.c_void_p, ctypes.c_int
    matrix = [pointer, number, number]  # address, type of the elements, leading dimension
    library.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    product = [number] * 5 + [pointer] + matrix * 2 + [pointer] + matrix + [number] * 2
    library.cublasGemmEx.argtypes = [pointer, *product]
    library.cublasGetVersion_v2.argtypes = [pointer, ctypes.POINTER(number)]
    library.cublasGetStatusName.argtypes = [number]
    library.cublasGetStatusName.restype = ctypes.c_char_p
    return library


def multiplies(a: Array, b: Array) -> bool:
    """Whether `a @ b` is a product for cuBLAS: of two matrices, not empty, of one type of floats."""
    return a.ndim == b.ndim == 2 and a.dtype == b.dtype and _is_float(a.dtype) and a.size > 0 and b.size > 0


@functools.cache
def _is_float(dtype: Any) -> bool:
    return dtype.name in ELEMENTS


def is_readable(matrix: Array) -> bool:
    """Whether cuBLAS can read a matrix where it lies; if not, the caller copies it."""
    return _layout(matrix) is not None


def _layout(matrix: Array) -> tuple[int, int] | None:
    """Return whether a matrix of rows lies as it is or transposed, and its leading dimension; None if neither."""
    (rows, columns), (down, along), size = matrix.shape, matrix.strides, matrix.itemsize
    if step := _leading_dimension(rows, columns, down, along, size):
        return AS_IT_IS, step
    if step := _leading_dimension(columns, rows, along, down, size):
        return TRANSPOSED, step
    return None


def _leading_dimension(runs: int, width: int, step: int, stride: int, size: int) -> int:
    """Return how many elements lie from the start of a run of adjacent ones to the next; 0 if they are not adjacent."""
    if width > 1 and stride != size:
        return 0
    if runs == 1:
        return width
    return step // size if step >= width * size and step % size == 0 else 0


@functools.cache
def _types(factors: Any, results: Any, precision: str) -> tuple[Any, ...]:
    """Return what cuBLAS calls two dtypes and a precision, with alpha = 1 and beta = 0 of the type that it sums in."""
    allowed = {factors.name} if factors.name in ("float32", "float64") else {factors.name, "float32"}
    if factors.name not in ELEMENTS or results.name not in allowed:
        raise InputError(f"cuBLAS: products of {factors} in {results} are not supported; convert with astype")
    compute, kind = COMPUTE_32F, ctypes.c_float
    if factors.name == "float64":
        compute, kind = COMPUTE_64F, ctypes.c_double
    elif factors.name == "float32":
        compute = FAST.get(precision, COMPUTE_32F)
    return ELEMENTS[factors.name], ELEMENTS[results.name], compute, *ONE_AND_ZERO[kind]


class Gemm:
    """cuBLAS on one device: a handle and a workspace, for one thread and for work that runs in one order.

    A handle that is no longer needed passes to the next object. To destroy it would mean to wait for the device, at a
    moment that the garbage collector chooses, and to spoil a graph that is being captured then.

    Attributes
    ----------
    workspace : bytes on the device that kernels may use; a graph that contains products needs them as long as it lives
    """

    _idle: ClassVar[dict[tuple[Any, int], list[Any]]] = defaultdict(list)  # handles by library and device
    _all: ClassVar[weakref.WeakSet[Gemm]] = weakref.WeakSet()

    def __init__(self, cupy: ModuleType, device: int):
        self._cuda = cupy.cuda
        self._library = _declare(open_library(cupy))
        self._stream: int | None = None  # that the handle is known to use
        self._all.add(self)
        with cupy.cuda.Device(device) as this:
            self.workspace = cupy.empty(((32 if int(this.compute_capability) >= 90 else 8) << 20,), "uint8")
            self._handle = self._take_handle(device)

    def _take_handle(self, device: int) -> ctypes.c_void_p:
        idle = self._idle[self._library, device]
        try:
            handle = idle.pop()
        except IndexError:
            handle = ctypes.c_void_p()
            self._check(self._library.cublasCreate_v2(ctypes.byref(handle)), "a new handle")
        weakref.finalize(self, idle.append, handle).atexit = False
        return handle

    def version(self) -> int:
        """Return the version of cuBLAS: 130200 is 13.2.0."""
        found = ctypes.c_int()
        self._check(self._library.cublasGetVersion_v2(self._handle, ctypes.byref(found)), "its version")
        return found.value

    def multiply(self, a: Array, b: Array, out: Array, precision: str = "float32") -> None:
        """Enqueue `out = a @ b`: (M, K), (K, N) -> (M, N).

        Each of the three may have rows further apart than they are wide; a and b may also be transposed views. Floats
        of 64, 32 or 16 bits; those of 16 are summed in float32, which `out` may be too. float32 factors are rounded to
        the `precision` "tf32" or "bf16" if that is asked for. `out` must not overlap a or b.
        """
        (M, K), (rows, N) = a.shape, b.shape
        layouts = _layout(a), _layout(b), _layout(out)
        if rows != K or out.shape != (M, N) or a.dtype != b.dtype or min(M, N, K) < 1:
            raise InputError(f"cuBLAS: expected (M, K) @ (K, N) -> (M, N) of one dtype, received {_named(a, b, out)}")
        if None in layouts or layouts[2][0] == TRANSPOSED:
            raise InputError(f"cuBLAS: cannot read or write with strides {a.strides}, {b.strides} and {out.strides}")
        (a_order, a_step), (b_order, b_step), (_, out_step) = layouts
        if max(M, N, K, a_step, b_step, out_step) > LARGEST:
            raise InputError(f"cuBLAS: sizes and strides end at {LARGEST:,}, received {_named(a, b, out)}")
        factor, result, compute, one, zero = _types(a.dtype, out.dtype, precision)
        self._follow_stream()
        # cuBLAS counts along columns first: to it rows are columns, and it is asked for out^T = b^T a^T
        status = self._library.cublasGemmEx(
            *(self._handle, b_order, a_order, N, M, K, one),
            *(b.data.ptr, factor, b_step, a.data.ptr, factor, a_step),
            *(zero, out.data.ptr, result, out_step, compute, DEFAULT_ALGORITHM),
        )
        if status:
            self._check(status, f"{_named(a, b, out)} in {precision}")

    def _follow_stream(self) -> None:
        """Have the handle enqueue on the caller's stream; a new stream takes the workspace away, so it is set again."""
        stream = self._cuda.get_current_stream().ptr
        if stream != self._stream:
            self._stream = None
            self._check(self._library.cublasSetStream_v2(self._handle, stream), "a stream")
            status = self._library.cublasSetWorkspace_v2(self._handle, self.workspace.data.ptr, self.workspace.nbytes)
            self._check(status, "its workspace")
            self._stream = stream

    def forget_stream(self) -> None:
        """Ask for the stream anew with the next product."""
        self._stream = None

    @classmethod
    def forget_streams(cls) -> None:
        """Have all handles ask for their streams anew: one that they know may end, and another get its address."""
        for unit in list(cls._all):
            unit.forget_stream()

    def _check(self, status: int, what: str) -> None:
        if status:
            name = self._library.cublasGetStatusName(status).decode()
            raise DeviceError(f"cuBLAS: {what}: {name}; see in nvidia-smi whether the GPU is well and has memory left")


def _named(a: Array, b: Array, out: Array) -> str:
    """Say what is multiplied."""
    return f"{a.shape} {a.dtype} @ {b.shape} {b.dtype} -> {out.shape} {out.dtype}"
