"""What every part of a backend builds on: an array module, transfers, scratch memory, and sums of products."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gpucnn.backend.host_memory import available_memory
from gpucnn.backend.memory import Workspace
from gpucnn.geometry import Window

__all__ = ["Array", "Arrays"]

Array = Any  # numpy.ndarray, cupy.ndarray, or another array of the Python array API standard

SIGNIFICANT_BITS = {"tf32": 11, "bf16": 8}  # of the 24 of float32, the leading one included


class Arrays:
    """The arrays of one device; `Backend` adds the operations."""

    name = "reference"
    threads = 1  # that share a batch

    def __init__(self, float_dtype: Any = "float32", *, xp: Any = np):
        self.xp = xp
        self.matmul_precision = float_dtype if float_dtype in SIGNIFICANT_BITS else np.dtype(float_dtype).name
        self.precision = "float32" if self.matmul_precision in SIGNIFICANT_BITS else self.matmul_precision
        self.float_dtype = getattr(xp, self.precision)
        self.host_reads = 0
        self.workspace = Workspace(weakref.proxy(self))  # no cycle: its memory goes back when the backend does

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"

    def on_device(self) -> AbstractContextManager[Any]:
        """Return a context in which this device is the calling thread's current one, where there is such a thing.

        Afterwards the one of before is it again.
        """
        return nullcontext()

    def limit_blas_threads(self) -> AbstractContextManager[Any]:
        """Return a context for many operations in a row, which spares each of them what can be done once.

        This device is the current one in it.
        """
        return self.on_device()

    def describe(self) -> str:
        """Return the device's name and what computes on it, for people."""
        return f"{self.name} ({self.xp.__name__} {self.xp.__version__})"

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that this device needs beside NumPy."""
        return {}

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Return a new array of unspecified contents."""
        return self.xp.empty(shape, dtype=dtype or self.float_dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Return a new array of zeros."""
        return self.xp.zeros(shape, dtype=dtype or self.float_dtype)

    def from_host(self, array: np.ndarray, *, out: Array = None) -> Array:
        """Copy a NumPy array to this device, into `out` (converted to its dtype) or into a new array."""
        return self.store(self.xp.asarray(array, dtype=None if out is None else out.dtype, copy=True), out)

    def to_host(self, array: Array) -> np.ndarray:
        """Copy an array of this device to a new NumPy array: the one operation that waits for the device."""
        self.host_reads += 1
        return np.array(array)

    def owns(self, array: object) -> bool:
        """Whether `array` is an array of this device."""
        return type(array).__module__.partition(".")[0] == self.xp.__name__.partition(".")[0]

    @property
    def tells_views(self) -> bool:
        """Whether `memory_of` tells views of one array from others."""
        return self.xp.__name__ in ("numpy", "cupy")

    def memory_of(self, array: Array) -> int:
        """Return a number that an array has in common with its views alone, as long as it lives."""
        while getattr(array, "base", None) is not None:
            array = array.base
        return id(array)

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an intermediate array, for overrides that allocate nothing; it lasts until the next operation."""
        return self.workspace.take(name, shape, dtype)

    def conv2d_workspace(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], window: Window, *, train: bool
    ) -> int:
        """Return the bytes that `conv2d`, and in training its gradients, hold at their peak beside their arguments.

        The reference has columns (N*OH*OW, KH*KW*C), and beside them the padded images that they are copied from or
        added to, a second set where groups are separated, or the products (N*OH*OW, OC) without and with bias.
        """
        (N, H, W, C), OC, rows = x_shape, w_shape[-1], x_shape[0] * math.prod(window.output_size(*x_shape[1:3]))
        columns = rows * window.taps * C
        padded = N * math.prod(window.padded_size(H, W)) * C
        separated = columns if w_shape[2] < C else 0
        beside = max(padded, separated, 2 * rows * OC, math.prod(w_shape) if train else 0)
        return (columns + beside) * np.dtype(self.precision).itemsize

    def free_bytes(self) -> int | None:
        """Return how much memory of the device new arrays can take, or None if that is not known."""
        return available_memory()

    records = False  # whether `record` can be called now

    def record(
        self, work: Callable[[], None], *, state: Callable[[], dict[str, Array]] = dict, keep: Iterable[Array] = ()
    ) -> Callable[[], None] | None:
        """Return a function that does again at one stroke what `work` has the device do, or None: there is no such.

        `work` is called, but what it enqueues is only recorded, with the arrays and the numbers of now; it must have
        run once before. It may make new arrays, which always get the memory that they had when it was recorded.
        `state` returns those that it carries from one time to the next, by name, and `keep` are others that it may
        use: they live as long as the recording, with all that operations and buffers have to do with.

        Raises `DeviceError` if it waits for the device, copies to or from the host, or replaces an array of `state`.
        """
        return None

    def keep(self, *arrays: Any) -> None:
        """Let arrays live as long as what is being recorded now, if anything is."""

    def rehearsal(self) -> Any:
        """Return a backend on which a network may run once to show what its operations hold, or None: they say so."""
        return None

    def together(self, operations: Iterable[int]) -> int:
        """Return what operations one after another hold of such bytes: the most, as each leaves its own to the next."""
        return max(operations, default=0)

    def result(self, out: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return `out`, or where it is None a new array."""
        return self.empty(shape, dtype) if out is None else out

    def store(self, result: Array, out: Array | None) -> Array:
        """Copy what was computed into `out`, or where that is None return it as it is."""
        if out is None:
            return result
        out[...] = result
        return out

    def cast(self, x: Array, dtype: Any) -> Array:
        """Return a copy of x in another dtype."""
        return self.xp.astype(x, dtype) if hasattr(self.xp, "astype") else x.astype(dtype)  # NumPy 2.0 has no astype
