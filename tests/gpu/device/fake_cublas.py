"""A strict fake of the library cuBLAS: what `gpucnn.backend.gpu.gemm` calls, on the memory of the fake device.

Arguments are checked by ctypes, as for the real library. Where that would read or write out of bounds, or do something
else than was meant, the fake raises `CublasMisuse`. Products are computed when the stream gets to them, on what their
pointers then point to.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .fake_array import World

__all__ = ["CublasMisuse", "FakeCublas", "round_bits"]

STATUS = {1: b"CUBLAS_STATUS_NOT_INITIALIZED", 13: b"CUBLAS_STATUS_EXECUTION_FAILED"}
NUMPY_TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: np.uint16}  # CUDA_R_32F, 64F, 16F; bits of 16BF
MANTISSA_BITS = {75: 7, 77: 10}  # of factors with COMPUTE_32F_FAST_16BF, FAST_TF32
SCALARS = {68: ctypes.c_float, 70: ctypes.c_double, 75: ctypes.c_float, 77: ctypes.c_float}  # by compute type
ALLOWED = {(0, 0, 68), (0, 0, 75), (0, 0, 77), (1, 1, 70), (2, 2, 68), (2, 0, 68), (14, 14, 68), (14, 0, 68)}
BF16 = 14


class CublasMisuse(AssertionError):
    """The real library would fail here, or harm."""


def round_bits(x: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Round float32 to fewer bits of mantissa, to the nearest, ties to even, by adding to its bit pattern."""
    dropped = 23 - mantissa_bits
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = bits + np.uint32((1 << (dropped - 1)) - 1) + ((bits >> np.uint32(dropped)) & np.uint32(1))
    rounded &= np.uint32(~((1 << dropped) - 1) & 0xFFFFFFFF)
    return np.where(np.isfinite(x), rounded, bits).astype(np.uint32).view(np.float32)


class Function:
    """A function of a library: checks and converts its arguments by `argtypes`, which the program declares."""

    restype: Any = ctypes.c_int
    argtypes: list[Any]

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work = work

    def __call__(self, *arguments: Any) -> Any:
        for kind, argument in zip(self.argtypes, arguments, strict=True):
            kind.from_param(argument)
            if kind is ctypes.c_int and not -(2**31) <= argument < 2**31:
                raise CublasMisuse(f"{argument} does not fit an int, and ctypes cuts it off")
        return self.work(*(a.value if isinstance(a, ctypes.c_void_p) else a for a in arguments))


@dataclass
class Handle:
    """What the library knows of a handle."""

    device: int
    stream: weakref.ref | None = None
    workspace: tuple[int, int] | None = None  # address and bytes, forgotten with each new stream


@dataclass(frozen=True)
class Matrix:
    """A column-major matrix in the memory of the device."""

    pointer: int
    kind: int
    leading: int
    rows: int
    columns: int

    def of(self, world: World) -> np.ndarray:
        """Return it as it lies in memory that is alive."""
        if self.leading < self.rows:
            raise CublasMisuse(f"leading dimension {self.leading} of a matrix of {self.rows} rows")
        dtype = np.dtype(NUMPY_TYPES[self.kind])
        size = ((self.columns - 1) * self.leading + self.rows) * dtype.itemsize
        block, offset = world.find(self.pointer, size, CublasMisuse)
        strides = (dtype.itemsize, self.leading * dtype.itemsize)
        return np.ndarray((self.rows, self.columns), dtype, block.bytes, offset, strides)

    def values(self, world: World) -> np.ndarray:
        """Return its numbers; those of 16 bits as float32, in which they are multiplied."""
        matrix = self.of(world)
        if self.kind == BF16:
            return (matrix.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return matrix.astype(np.float32) if matrix.dtype == np.float16 else matrix


class FakeCublas:
    """The library, for one fake world.

    Attributes
    ----------
    failing : what functions answer, by their names, instead of doing their work
    calls : names of the functions called so far
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.handles: dict[int, Handle] = {}
        self.failing: dict[str, int] = {}
        self.calls: list[str] = []
        for name in ("Create_v2", "GetVersion_v2", "SetStream_v2", "SetWorkspace_v2", "GemmEx"):
            setattr(self, f"cublas{name}", Function(self._noted(f"cublas{name}")))
        self.cublasGetStatusName = Function(STATUS.__getitem__)

    def _noted(self, name: str) -> Callable[..., int]:
        work = getattr(self, f"_{name}")

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return self.failing.get(name) or work(*arguments)

        return call

    def _cublasCreate_v2(self, handle: Any) -> int:
        self.world.stats.sync("cublasCreate()")
        handle._obj.value = 1 + len(self.handles)
        self.handles[handle._obj.value] = Handle(self.world.device)
        return 0

    def _cublasGetVersion_v2(self, handle: int, version: Any) -> int:
        version._obj.value = 130200
        return 0

    def _cublasSetStream_v2(self, handle: int, stream: int) -> int:
        self.handles[handle].stream, self.handles[handle].workspace = weakref.ref(self.world.stream_at(stream)), None
        return 0

    def _cublasSetWorkspace_v2(self, handle: int, pointer: int, size: int) -> int:
        self.world.find(pointer, size, CublasMisuse)
        self.handles[handle].workspace = pointer, size
        return 0

    def _cublasGemmEx(
        self, handle, a_order, b_order, m, n, k, alpha, a, a_kind, a_leading, b, b_kind, b_leading,
        beta, c, c_kind, c_leading, compute, algorithm,
    ) -> int:  # fmt: skip
        """Multiply as `cublas_api.h` says: `C = alpha op(A) op(B) + beta C`, column-major, op(A) of m x k."""
        if (a_kind, c_kind, compute) not in ALLOWED or b_kind != a_kind or algorithm != -1:
            raise CublasMisuse(f"no product of {a_kind} and {b_kind} to {c_kind} in {compute}, algorithm {algorithm}")
        factors = [
            Matrix(a, a_kind, a_leading, *((k, m) if a_order else (m, k))),
            Matrix(b, b_kind, b_leading, *((n, k) if b_order else (k, n))),
        ]
        result, transposed = Matrix(c, c_kind, c_leading, m, n), (a_order, b_order)
        if min(m, n, k) < 1 or not {a_order, b_order} <= {0, 1}:
            raise CublasMisuse(f"sizes {m}, {n}, {k}, operations {transposed}")
        numbers = [_host_scalar(scalar, SCALARS[compute]) for scalar in (alpha, beta)]
        stream, workspace = self._ready(handle)
        used = [self.world.find(*workspace, CublasMisuse), *(matrix.of(self.world) for matrix in (*factors, result))]
        self.world.launches.product("cublasGemmEx", m, n, k)

        def work(alive: Any = None if stream.captures else used) -> None:
            """Multiply. A graph keeps none of the memory that it uses; else the pool waits until it was used."""
            self.world.find(*workspace, CublasMisuse)
            _multiply(self.world, factors, transposed, result, numbers, MANTISSA_BITS.get(compute))

        self.world.launch(work, stream.ptr)
        return 0

    def _ready(self, handle: int) -> tuple[Any, tuple[int, int]]:
        """Return the stream and the workspace of a handle that has both."""
        state = self.handles[handle]
        if state.stream is None or state.workspace is None:
            raise CublasMisuse("the handle has no stream, or no workspace since its stream was set")
        if state.device != self.world.device:
            raise CublasMisuse(f"a handle of device {state.device}, while {self.world.device} is the current one")
        if (stream := state.stream()) is None:
            raise CublasMisuse("the handle enqueues on a stream that is gone")
        return stream, state.workspace


def _host_scalar(argument: Any, kind: type) -> float:
    """Return alpha or beta: of an object that is alive, which a bare address would not show."""
    if not isinstance(getattr(argument, "_obj", None), kind):
        raise CublasMisuse(f"expected byref() of a {kind.__name__} for alpha and beta, received {argument!r}")
    return argument._obj.value


def _multiply(
    world: World,
    factors: list[Matrix],
    transposed: tuple[int, int],
    result: Matrix,
    numbers: list[float],
    mantissa_bits: int | None,
) -> None:
    target = result.of(world)
    if any(np.may_share_memory(factor.of(world), target) for factor in factors):
        raise CublasMisuse("the result overlaps a factor")
    values = [factor.values(world) for factor in factors]
    if mantissa_bits is not None:
        values = [round_bits(value, mantissa_bits) for value in values]
    a, b = (value.T if turned else value for value, turned in zip(values, transposed, strict=True))
    alpha, beta = numbers
    product = alpha * (a @ b)
    if beta:
        product += beta * result.values(world)
    if result.kind == BF16:
        product = (round_bits(product, 7).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    target[...] = product
