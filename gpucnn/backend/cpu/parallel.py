"""The CPU backend on several threads: each computes a part as one thread computes the whole."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpucnn.backend.cpu.arrays import Array
from gpucnn.backend.cpu.serial import SerialCpuBackend
from gpucnn.backend.cpu.threads import ThreadPool, core_count
from gpucnn.checks import integer
from gpucnn.geometry import Window

__all__ = ["CpuBackend"]

# Bytes of an array from which on it is worth sharing: telling a thread takes some 40 microseconds, half of them to wake
# it, and the threads wait for each other's Python; one alone computes this much of a convolution, a pooling, and a
# single pass meanwhile.
CONVOLUTION, POOLING, PASS = 1 << 18, 1 << 20, 1 << 22

MAX_THREADS = 1024
KEYWORD = inspect.Parameter.KEYWORD_ONLY


def shared(name: str, *rows: str, least: int = PASS) -> Callable:
    """Return an operation of which each thread computes some rows: samples of a batch, or elements of an arena.

    `rows` are the arguments that have these rows, results (which are keywords) among them; a row of a result must
    depend on those alone. The first of them has at least `least` bytes, else the thread that calls computes all.
    """
    operation = getattr(SerialCpuBackend, name)
    _, *parameters = inspect.signature(operation).parameters.values()
    order = [parameter.name for parameter in parameters]
    results = [parameter.name for parameter in parameters if parameter.kind == KEYWORD and parameter.name in rows]

    @functools.wraps(operation)
    def share(self: CpuBackend, *arguments: Any, **keywords: Any) -> Any:
        if self.threads == 1:
            return operation(self, *arguments, **keywords)
        given = dict(zip(order, arguments, strict=False)) | keywords
        if not self._is_worth_sharing(given[rows[0]], least) or any(given.get(row) is None for row in rows):
            return operation(self, *arguments, **keywords)

        def job(worker: SerialCpuBackend, part: slice) -> Callable[[], Any]:
            own = given | {row: given[row][part] for row in rows}
            if "x_shape" in own:
                own["x_shape"] = (part.stop - part.start, *own["x_shape"][1:])
            return functools.partial(operation, worker, **own)

        self.run(list(map(job, self.workers, self.parts(len(given[rows[0]])))))
        returned = tuple(given[result] for result in results)
        return returned if len(returned) > 1 else next(iter(returned), None)

    return share


class CpuBackend(SerialCpuBackend):
    """NumPy arrays; operations on large ones are shared by threads, as many as there are cores unless given.

    Matrix products are by the BLAS that NumPy was built with, which uses one thread while several work here.
    """

    def __init__(self, float_dtype: Any = "float32", *, threads: int | None = None):
        super().__init__(float_dtype)
        self.threads = core_count() if threads is None else integer(threads, "threads", least=1, most=MAX_THREADS)
        self.shares_everything = False  # for tests: small arrays too
        self._pool = ThreadPool(self.threads)
        self.workers = [SerialCpuBackend(float_dtype) for _ in range(self.threads)]

    def describe(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{super().describe().removesuffix(')')}, {threads})"

    def limit_blas_threads(self) -> AbstractContextManager[Any]:
        """Hold BLAS to one thread: here several share the work."""
        return self._pool.limit_blas_threads()

    def _is_worth_sharing(self, array: Array, least: int) -> bool:
        return self.threads > 1 and len(array) > 0 and (array.nbytes >= least or self.shares_everything)

    def parts(self, rows: int) -> list[slice]:
        """Share rows evenly among the threads, fewer if there are fewer rows."""
        count = min(rows, self.threads)
        return [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]

    def run(self, jobs: Sequence[Callable[[], object]]) -> None:
        """Do at most one job for each thread side by side; who computes with a backend takes one of `workers`."""
        self._pool.run(jobs)

    conv2d = shared("conv2d", "x", "out", least=CONVOLUTION)
    conv2d_dx = shared("conv2d_dx", "dy", "out", least=CONVOLUTION)
    max_pool2d = shared("max_pool2d", "x", "out", "argmax", least=POOLING)
    max_pool2d_dx = shared("max_pool2d_dx", "dy", "argmax", "out", least=POOLING)
    average_pool2d = shared("average_pool2d", "x", "out", least=POOLING)
    average_pool2d_dx = shared("average_pool2d_dx", "dy", "out", least=POOLING)
    lp_pool2d = shared("lp_pool2d", "x", "out", least=POOLING)
    lp_pool2d_dx = shared("lp_pool2d_dx", "dy", "x", "y", "out", least=POOLING)
    add = shared("add", "a", "b", "out")
    relu = shared("relu", "x", "out")
    relu_dx = shared("relu_dx", "dy", "y", "out")
    sigmoid = shared("sigmoid", "x", "out", least=POOLING)
    sigmoid_dx = shared("sigmoid_dx", "dy", "y", "out")
    tanh = shared("tanh", "x", "out", least=POOLING)
    tanh_dx = shared("tanh_dx", "dy", "y", "out")
    gelu = shared("gelu", "x", "out", least=POOLING)
    gelu_dx = shared("gelu_dx", "dy", "x", "out", least=POOLING)
    batch_norm_inference = shared("batch_norm_inference", "x", "out")
    dropout_dx = shared("dropout_dx", "dy", "mask", "out")
    sgd_step = shared("sgd_step", "w", "g", "v")
    rmsprop_step = shared("rmsprop_step", "w", "g", "v", "b")
    adagrad_step = shared("adagrad_step", "w", "g", "v")
    _adam_update = shared("_adam_update", "w", "g", "m", "v")

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As one thread, each for some of the images; their parts are added in the order of the batch."""
        if not self._is_worth_sharing(dy, CONVOLUTION):
            super().conv2d_dw_db(x, dy, window, dw=dw, db=db)
            return
        images = self.parts(len(x))
        gradients = self._gradients(dw, db, len(images))
        self.run(
            [
                functools.partial(worker.conv2d_dw_db, x[part], dy[part], window, dw=own_dw, db=own_db)
                for worker, part, (own_dw, own_db) in zip(self.workers, images, gradients, strict=False)
            ]
        )
        for more_dw, more_db in gradients[1:]:
            np.add(dw, more_dw, out=dw)
            if db is not None:
                np.add(db, more_db, out=db)

    def _gradients(self, dw: Array, db: Array | None, count: int) -> list[tuple[Array, Array | None]]:
        """Return memory for the gradients of so many parts of a batch; the first has the results' own."""

        def like(name: str, array: Array | None) -> Array | None:
            return None if array is None else self.scratch(name, array.shape, array.dtype)

        return [(dw, db), *((like(f"dw{number}", dw), like(f"db{number}", db)) for number in range(1, count))]

    def splits(self, matrix: Array) -> bool:
        """Whether the threads share products with a matrix by its columns."""
        return self._is_worth_sharing(matrix, POOLING)

    def _product(self, rows: Array, matrix: Array, out: Array | None) -> Array:
        """As one thread, each for some of the columns: so each reads its own part of the matrix alone."""
        if not self.splits(matrix):
            return super()._product(rows, matrix, out)
        out = self._result(out, (len(rows), matrix.shape[1]), rows.dtype)
        columns = self.parts(matrix.shape[1])
        self.run([functools.partial(np.matmul, rows, matrix[:, part], out=out[:, part]) for part in columns])
        return out

    def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
        """As one thread, each for some rows of dw."""
        if not self.splits(dw):
            super().dense_dw_db(x, dy, dw=dw, db=db)
            return
        self.run([functools.partial(np.matmul, x[:, rows].T, dy, out=dw[rows]) for rows in self.parts(len(dw))])
        if db is not None:
            self.sum_rows(dy, out=db)
