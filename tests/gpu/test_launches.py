"""No launch of a step leaves a large device idle: what `device.lint` says of the zoo, and of bad launches."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy
from device.lint import faults
from parts import zoo_trainer

from gpucnn import get_backend
from gpucnn.backend.gpu.convolution import ALGORITHMS
from gpucnn.zoo import MODELS


@pytest.fixture
def cp():
    with installed_cupy(make_fake_cupy(executes=False)) as module:
        yield module


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("batch", [64, 512])
@pytest.mark.parametrize("name", MODELS)
def test_no_launch_of_the_zoo_is_slow_for_no_reason(name: str, batch: int, algorithm: str, cp: ModuleType) -> None:
    """Of a training step and of an evaluation, on a data set of one batch."""
    trainer, data = zoo_trainer(name, get_backend("gpu", convolution=algorithm), batch)
    with cp.launches.noted() as launches:
        trainer.train_epoch(data, 0)
        trained = len(launches)
        trainer.evaluate(data)
    assert 0 < trained < len(launches)
    assert faults(launches) == []


# ---- the lint itself ----------------------------------------------------------------------------------------------

KB = 1 << 10
BLOCK = 'extern "C" __global__ void one(const float* x, float* y, int n) {}'


def raw(cp: ModuleType, blocks: int, nbytes: int, written: int = 0) -> None:
    x, y = cp.empty(nbytes // 4, np.float32), cp.empty(written // 4, np.float32) if written else None
    cp.RawKernel(BLOCK, "one")((blocks,), (256,), (x, x if y is None else y, np.int32(1)))


def elementwise(cp: ModuleType, elements: int, nbytes: int) -> None:
    """A loop over few elements, each of which takes much of a table."""
    kernel = cp.ElementwiseKernel("raw float32 table", "float32 y", "y = table[i]", "few")
    kernel(cp.empty(nbytes // 4, np.float32), cp.empty(elements, np.float32))


def product(cp: ModuleType, m: int, n: int, k: int) -> None:
    get_backend("gpu").matmul(cp.empty((m, k), np.float32), cp.empty((k, n), np.float32))


BAD = {
    "one block": lambda cp: raw(cp, 1, 65 * KB),
    "one block writes": lambda cp: raw(cp, 1, 33 * KB, 33 * KB),
    "many blocks of much": lambda cp: raw(cp, 115, 115 * 65 * KB),
    "few elements": lambda cp: elementwise(cp, 100 * 128, 100 * 65 * KB),
    "one row": lambda cp: product(cp, 1, 64, 8193),
    "one column": lambda cp: product(cp, 64, 1, 8193),
}
GOOD = {
    "one block of little": lambda cp: raw(cp, 1, 64 * KB),
    "the same array twice": lambda cp: raw(cp, 1, 40 * KB),
    "a block for almost each multiprocessor": lambda cp: raw(cp, 116, 116 * 65 * KB),
    "many elements": lambda cp: elementwise(cp, 116 * 128, 116 * 65 * KB),
    "a short sum": lambda cp: product(cp, 1, 64, 8192),
    "two rows": lambda cp: product(cp, 2, 64, 100_000),
}


def noted(cp: ModuleType, work: Callable, recorded: bool) -> list:
    with cp.launches.noted() as launches:
        if recorded:
            stream = cp.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                work(cp)
                stream.end_capture()
        else:
            work(cp)
    return launches


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", ["one block", "few elements"])
def test_what_is_recorded_is_noted_too(name: str, recorded: bool, cp: ModuleType) -> None:
    assert len(faults(noted(cp, BAD[name], recorded))) == 1


@pytest.mark.parametrize("name", BAD)
def test_a_bad_launch_is_found(name: str, cp: ModuleType) -> None:
    (fault,) = faults(noted(cp, BAD[name], False))
    assert fault.startswith(("one: ", "few: ", "cublasGemmEx: "))


@pytest.mark.parametrize("name", GOOD)
def test_a_good_launch_passes(name: str, cp: ModuleType) -> None:
    launches = noted(cp, GOOD[name], False)
    assert launches
    assert faults(launches) == []


def test_what_is_counted(cp: ModuleType) -> None:
    """Blocks and threads as CuPy launches them; a repeated axis costs no bytes, a slice only its own."""
    kernel = cp.ElementwiseKernel("float32 x, float32 b", "float32 y", "y = x + b", "sum")
    x = cp.empty((300, 10), np.float32)
    with cp.launches.noted() as launches:
        kernel(x[:, ::2], cp.empty(5, np.float32), cp.empty((300, 5), np.float32))
        kernel(cp.broadcast_to(x[:, :1], (300, 5)), 1.0, cp.empty((300, 5), np.float32))
        kernel(x[:1, :3], 1.0, cp.empty((1, 3), np.float32))
        cp.RawKernel(BLOCK, "one")((0, 3), (32, 2), (x[0], x[1], np.int32(1)))
        kernel(x[:0], 1.0, x[:0])  # launches nothing
    found = [(launch.name, launch.blocks, launch.threads, launch.nbytes) for launch in launches]
    assert found == [("sum", 12, 128, 4 * 3005), ("sum", 12, 128, 4 * 1800), ("sum", 1, 3, 24), ("one", 3, 64, 80)]


def test_nothing_is_kept_when_nobody_listens(cp: ModuleType) -> None:
    with cp.launches.noted() as outer:
        raw(cp, 1, 4)
        with cp.launches.noted() as inner:
            raw(cp, 1, 4)
    raw(cp, 1, 4)
    assert (len(outer), len(inner)) == (2, 1)
