"""Indices near 2^31: kernels on arrays of gigabytes that are hardly touched, at the first and the last elements alone.

The arrays lie in memory that is promised and not there until it is written. Every kernel here treats one image after
another, so that what it makes of the last image of a huge batch is what the reference makes of that image alone.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from device.emulator import ElementwiseProgram
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler
from tolerances import assert_close

from gpucnn import InputError, get_backend
from gpucnn.backend import philox
from gpucnn.backend.gpu.arrays import INDEX_LIMIT
from gpucnn.backend.gpu.grouped import gradient_parts
from gpucnn.backend.gpu.records import Block, Elementwise
from gpucnn.backend.reference import Backend
from gpucnn.data.augmentation import Augmentation
from gpucnn.geometry import Window

pytestmark = [
    requires_compiler,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux promises memory without having it"),
]

NORESERVE = 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
H, W, C = 4, 8, 16  # of an image
IMAGE = H * W * C
ALIKE = Window((3, 3), padding=((1, 1), (1, 1)))
HALVES = Window((2, 2), stride=(2, 2))


def sparse(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Return zeros whose memory is there when something is written."""
    size = math.prod(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    memory = mmap.mmap(-1, size * np.dtype(dtype).itemsize, flags=flags)
    return np.frombuffer(memory, dtype, size).reshape(shape)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 2, shape).astype("float32")


def filled(N: int, *shape: int) -> np.ndarray:
    """Return N images, of which the first and the last are not empty."""
    x = sparse(N, *shape)
    x[0], x[-1] = numbers(2, *shape)
    return x


reference = Backend("float32")


class Chosen:
    """A GPU backend on NumPy's arrays, of whose elementwise kernels some elements are run, and nothing else is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        with installed_cupy(make_fake_cupy(executes=False)):
            self.backend = get_backend("gpu")
        self.images = 0
        self.indices: list[int] = []
        self.written: tuple = ()
        monkeypatch.setattr("gpucnn.backend.gpu.arrays.compiled", self._compiled)
        monkeypatch.setattr(self.backend, "sum_rows", lambda *_, **__: None)
        monkeypatch.setattr(self.backend, "pool_counts", reference.pool_counts)
        monkeypatch.setattr(self.backend, "scratch", lambda name, shape, dtype: sparse(*shape))

    def _compiled(self, cupy: ModuleType, record: Elementwise | Block, element_type: str = "") -> Callable:
        return partial(self._run, ElementwiseProgram(record)) if isinstance(record, Elementwise) else lambda *_: None

    def _run(self, program: ElementwiseProgram, *arguments: Any, size: int | None = None) -> None:
        total = math.prod(program.loop_shape(arguments, size))
        if total < self.images:  # a counter
            return
        one = total // self.images
        within = sorted({0, 1, one - 2, one - 1, *np.linspace(0, one - 1, 20, dtype=int).tolist()})
        self.indices = [first + k for first in (0, total - one) for k in within]
        program(*arguments, size=size, indices=self.indices)
        self.written = arguments[len(program.inputs) :]

    def run(self, images: int, operation: str, *arguments: Any, **further: Any) -> None:
        self.images = images
        getattr(self.backend, operation)(*arguments, **further)


# ---- what every operation makes of the first and the last image ---------------------------------------------------


@dataclass(frozen=True)
class Giant:
    """An operation on N images; `elements` of one in the largest array that a kernel addresses.

    `run` runs it on a huge batch, and returns the results of the first and the last image and the reference's.
    """

    elements: int
    run: Callable[[Chosen, int], tuple[np.ndarray, np.ndarray]]


def ends(array: np.ndarray) -> np.ndarray:
    return array[[0, -1]]


def im2col(chosen: Chosen, N: int) -> tuple:
    x, columns = filled(N, H, W, C), sparse(N * H * W, 9 * C)
    chosen.run(N, "im2col", x, ALIKE, out=columns)
    return columns.reshape(N, -1), reference.im2col(ends(x), ALIKE).reshape(2, -1)


def col2im(chosen: Chosen, N: int) -> tuple:
    columns, x = filled(N, H * W * 9 * C), sparse(N, H, W, C)
    chosen.run(N, "col2im", columns.reshape(-1, 9 * C), x.shape, ALIKE, out=x)
    return x, reference.col2im(ends(columns).reshape(-1, 9 * C), (2, H, W, C), ALIKE)


def pool(operation: str, *settings: Any) -> Callable:
    def run(chosen: Chosen, N: int) -> tuple:
        x, y = filled(N, H, W, C), sparse(N, H // 2, W // 2, C)
        further = {"argmax": sparse(*y.shape, dtype="uint8")} if operation == "max_pool2d" else {}
        chosen.run(N, operation, x, *settings, HALVES, out=y, **further)
        wanted = getattr(reference, operation)(ends(x), *settings, HALVES)
        return y, wanted[0] if operation == "max_pool2d" else wanted

    return run


def max_pool_dx(chosen: Chosen, N: int) -> tuple:
    dy, argmax, dx = filled(N, H // 2, W // 2, C), sparse(N, H // 2, W // 2, C, dtype="uint8"), sparse(N, H, W, C)
    argmax[[0, -1]] = np.random.default_rng(1).integers(0, 4, (2, *argmax.shape[1:]))
    chosen.run(N, "max_pool2d_dx", dy, argmax, dx.shape, HALVES, out=dx)
    return dx, reference.max_pool2d_dx(ends(dy), ends(argmax), (2, H, W, C), HALVES)


def average_pool_dx(chosen: Chosen, N: int) -> tuple:
    dy, dx = filled(N, H // 2, W // 2, C), sparse(N, H, W, C)
    chosen.run(N, "average_pool2d_dx", dy, dx.shape, HALVES, out=dx)
    return dx, reference.average_pool2d_dx(ends(dy), (2, H, W, C), HALVES)


def lp_pool_dx(chosen: Chosen, N: int) -> tuple:
    dy, y = filled(N, H // 2, W // 2, C), filled(N, H // 2, W // 2, C)
    x, dx = filled(N, H, W, C), sparse(N, H, W, C)
    chosen.run(N, "lp_pool2d_dx", dy, x, y, 3.0, HALVES, out=dx)
    return dx, reference.lp_pool2d_dx(ends(dy), ends(x), ends(y), 3.0, HALVES)


GROUPED = numbers(3, 3, C // 4, C)


def grouped(chosen: Chosen, N: int) -> tuple:
    x, y = filled(N, H, W, C), sparse(N, H, W, C)
    chosen.run(N, "conv2d", x, GROUPED, None, ALIKE, out=y)
    return y, reference.conv2d(ends(x), GROUPED, None, ALIKE)


def grouped_dx(chosen: Chosen, N: int) -> tuple:
    dy, dx = filled(N, H, W, C), sparse(N, H, W, C)
    chosen.run(N, "conv2d_dx", dy, GROUPED, dx.shape, ALIKE, out=dx)
    return dx, reference.conv2d_dx(ends(dy), GROUPED, (2, H, W, C), ALIKE)


def grouped_dw(chosen: Chosen, N: int) -> tuple:
    """The parts of a gradient, of which the first sums up the first image and the last the last one."""
    parts = gradient_parts(N, GROUPED.size)
    N -= N % parts if N * IMAGE <= INDEX_LIMIT else N % parts - parts
    x, dy, dw = filled(N, H, W, C), filled(N, H, W, C), np.empty_like(GROUPED)
    chosen.run(parts, "conv2d_dw_db", x, dy, ALIKE, dw=dw, db=None)
    wanted = np.empty((2, *dw.shape), dw.dtype)
    for image, part in zip((0, -1), wanted, strict=True):
        reference.conv2d_dw_db(x[image][None], dy[image][None], ALIKE, dw=part, db=None)
    return chosen.written[0], wanted


def add_bias(chosen: Chosen, N: int) -> tuple:
    y, b = filled(N, H, W, C), numbers(C)
    wanted = reference.relu(ends(y) + b)
    chosen.run(N, "finish", y, b, True)
    return y, wanted


def one_hot(chosen: Chosen, N: int) -> tuple:
    labels, out = sparse(N, dtype="int32"), sparse(N, IMAGE)
    labels[0], labels[-1] = 1, IMAGE - 2
    out[[0, -1]] = 5
    chosen.run(N, "one_hot", labels, out=out)
    return out, reference.one_hot(ends(labels), out=np.empty((2, IMAGE), np.float32))


def dropout(chosen: Chosen, N: int) -> tuple:
    x, key, counter = filled(N, IMAGE), (5, 6), np.array([3])
    out, mask = sparse(N, IMAGE), sparse(N, IMAGE, dtype="uint8")
    chosen.run(N, "dropout", x, 0.5, key, counter, out=out, mask=mask)
    first = np.array([0, x.size - IMAGE], np.uint64)[:, None] // np.uint64(4) + np.arange(IMAGE // 4, dtype=np.uint64)
    zero = np.zeros_like(first)
    words = np.stack(philox.philox4x32((first, zero, zero + np.uint64(3), zero), key), axis=-1).reshape(2, IMAGE)
    chosen.indices = [4 * i + k for i in chosen.indices for k in range(4)]  # an index is of four elements
    return out, np.where(words >= philox.threshold(0.5), 2 * ends(x), 0).astype("float32")


def gather(augmentation: Augmentation | None) -> Callable:
    def run(chosen: Chosen, N: int) -> tuple:
        order, cursor, labels = sparse(N + 7, dtype="int32"), np.array([7]), sparse(N + 9, dtype="int32")
        images = sparse(N + 9, H, W, C, dtype="uint8")  # of more than 2^31 bytes, too
        order[7], order[-1] = 3, N + 8
        images[[3, N + 8]] = np.random.default_rng(0).integers(1, 256, (2, H, W, C))
        scale, shift, epoch = numbers(C), numbers(C), np.array([4])
        further = {"augmentation": augmentation, "key": (1, 2), "epoch": epoch}
        x, y = sparse(N, H, W, C), sparse(N, dtype="int32")
        chosen.run(N, "gather_batch", images, labels, order, cursor, scale, shift, x=x, y=y, **further)
        wanted = np.empty((2, H, W, C), np.float32)
        for place, one in zip((7, N + 6), wanted, strict=True):
            given = images, labels, order, np.array([place]), scale, shift
            reference.gather_batch(*given, x=one[None], y=np.empty(1, np.int32), **further)
        return x, wanted

    return run


GIANTS = {
    "im2col": Giant(9 * IMAGE, im2col),
    "col2im": Giant(9 * IMAGE, col2im),
    "max pooling": Giant(IMAGE, pool("max_pool2d")),
    "max pooling, backward": Giant(IMAGE, max_pool_dx),
    "average pooling": Giant(IMAGE, pool("average_pool2d")),
    "average pooling, backward": Giant(IMAGE, average_pool_dx),
    "Lp pooling": Giant(IMAGE, pool("lp_pool2d", 3.0)),
    "Lp pooling, backward": Giant(IMAGE, lp_pool_dx),
    "groups": Giant(IMAGE, grouped),
    "groups, backward": Giant(IMAGE, grouped_dx),
    "groups, kernel gradient": Giant(IMAGE, grouped_dw),
    "bias": Giant(IMAGE, add_bias),
    "one hot": Giant(IMAGE, one_hot),
    "dropout": Giant(IMAGE, dropout),
    "gather": Giant(IMAGE, gather(None)),
    "augment": Giant(IMAGE, gather(Augmentation(1, flip=True))),
}


def compare(chosen: Chosen, giant: Giant, N: int) -> None:
    result, wanted = (array.reshape(len(array), -1) for array in giant.run(chosen, N))
    places = {0: 0, len(result) - 1: 1}
    compared = []
    for index in chosen.indices:
        image, element = divmod(index, result.shape[1])
        if image in places:
            expected = wanted[places[image], element]
            assert_close(result[image, element], expected, "float32", 64, 8.0, f"at {index}")
            compared.append(expected)
    assert len(compared) >= 4
    assert np.any(compared)  # of zeros, which all memory holds, it would say nothing


@pytest.mark.parametrize("name", GIANTS)
def test_the_largest_that_is_let_through_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    giant = GIANTS[name]
    compare(Chosen(monkeypatch), giant, INDEX_LIMIT // giant.elements)


@pytest.mark.parametrize("name", GIANTS)
def test_beyond_it_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first elements that 32 bits do not reach: the emulation sees them go astray."""
    giant = GIANTS[name]
    monkeypatch.setattr("gpucnn.backend.gpu.arrays.INDEX_LIMIT", 2**40)
    with pytest.raises((AssertionError, IndexError, OverflowError)):
        compare(Chosen(monkeypatch), giant, 2**31 // giant.elements + 1)


@pytest.mark.parametrize("name", GIANTS)
def test_beyond_it_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    giant = GIANTS[name]
    with pytest.raises(InputError, match="too large for one kernel"):
        giant.run(Chosen(monkeypatch), INDEX_LIMIT // giant.elements + 1)
