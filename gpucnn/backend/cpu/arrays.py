"""The arrays of the CPU, what operations keep for their next call, and the threads that share them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpucnn.backend.cpu.threads import ThreadPool, core_count
from gpucnn.backend.reference import Backend
from gpucnn.checks import integer
from gpucnn.errors import InputError

__all__ = ["CpuArrays"]

MAX_THREADS = 1024
MIN_MATRIX = 1 << 20  # bytes from which on threads share the products with a matrix


class CpuArrays(Backend):
    """NumPy arrays, and threads.

    Attributes
    ----------
    threads : how many share an operation on large arrays
    workers : backends of one thread each, for the jobs of `run`; none where there is one thread
    shares_everything : for tests, share small arrays too
    cache : what operations keep from call to call, by a key that begins with its name: arrays, or what has `nbytes`
    """

    name = "cpu"

    def __init__(self, float_dtype: Any = "float32", *, threads: int | None = None):
        super().__init__(float_dtype)
        if self.matmul_precision != self.precision:
            raise InputError(
                f"products in {self.matmul_precision} are for a GPU, and for the device reference, which shows what "
                "they do to a training; use float32 or float64 on a CPU"
            )
        self.threads = core_count() if threads is None else integer(threads, "threads", least=1, most=MAX_THREADS)
        self.shares_everything = False
        self._pool = ThreadPool(self.threads)
        self.workers = [type(self)(float_dtype, threads=1) for _ in range(self.threads)] if self.threads > 1 else []
        self.cache: dict[Hashable, Any] = {}

    def describe(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{super().describe().removesuffix(')')}, {threads})"

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    # ---- memory ---------------------------------------------------------------------------------------------------

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` returned for a key, made once."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def rehearsal(self) -> Any:
        """As the reference: what operations hold is bounded by the cache, and much of it they share."""
        return type(self)(self.float_dtype, threads=1)

    def held_bytes(self) -> int:
        """Return the bytes of what the operations keep for their next call."""
        return self.workspace.nbytes + sum(kept.nbytes for kept in self.cache.values())

    # ---- threads --------------------------------------------------------------------------------------------------

    def limit_blas_threads(self) -> AbstractContextManager[Any]:
        """Hold BLAS to one thread: here several share the work."""
        return self._pool.limit_blas_threads()

    def shares(self, array: np.ndarray, min_bytes: int) -> bool:
        """Whether there are threads to share an array, and it is large enough."""
        return self.threads > 1 and len(array) > 0 and (array.nbytes >= min_bytes or self.shares_everything)

    def splits(self, matrix: np.ndarray) -> bool:
        """Whether the threads share products with a matrix by its columns."""
        return self.shares(matrix, MIN_MATRIX)

    def parts(self, rows: int) -> list[slice]:
        """Share rows evenly among the threads, fewer if there are fewer rows."""
        count = min(rows, self.threads)
        return [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]

    def run(self, jobs: Sequence[Callable[[], object]]) -> None:
        """Do at most one job for each thread side by side; who computes with a backend takes one of `workers`."""
        self._pool.run(jobs)
