"""When memory runs out: the layer, what was asked, what there is, and a batch that fits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler

from gpucnn import SGD, Adam, Conv2D, Dense, Flatten, GpucnnError, ReLU, Residual, Sequential, get_backend
from gpucnn.backend import Backend, CpuBackend
from gpucnn.backend import host_memory as host
from gpucnn.backend.reference import Backend as Reference
from gpucnn.errors import OutOfMemoryError
from gpucnn.execution.out_of_memory import SPARE

SHAPE = (16, 16, 3)


def network(backend: Backend) -> Sequential:
    model = Sequential([Conv2D(8, 3), ReLU(), Residual(Conv2D(8, 3, padding=1, name="inner")), Flatten(), Dense(10)])
    model.build(SHAPE, backend, seed=0)
    return model


@contextlib.contextmanager
def memory_of(backend: Backend, size: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no array of a backend take more than so many bytes, and let that be free."""

    def empty(self, shape, dtype=None):
        wanted = int(np.prod(shape)) * np.dtype(dtype or "float32").itemsize
        if wanted > size:
            raise MemoryError(f"Unable to allocate {wanted} bytes")
        return np.empty(shape, dtype or np.float32)

    with monkeypatch.context() as patch:
        patch.setattr(Reference, "empty", empty)
        patch.setattr(Reference, "free_bytes", lambda self: size)
        yield


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("train", [True, False])
def test_the_layer_is_named_and_a_batch_that_fits(threads: int, train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(CpuBackend(threads=threads))
    x = np.zeros((9000, *SHAPE), np.float32)
    with memory_of(model.backend, 18_000_000, monkeypatch), pytest.raises(OutOfMemoryError) as error:
        model(x, train=train)
    message = str(error.value)
    assert message.startswith('Conv2D "conv2d1": out of memory with a batch of 9,000 (Unable to allocate ')
    assert "; cpu has 18.0 MB left, where by plan a batch of " in message
    assert isinstance(error.value, (MemoryError, GpucnnError))
    fitting = int(message.rsplit(" ", 2)[1].replace(",", ""))
    assert 0 < fitting < 9000
    assert model.plan(fitting).peak <= SPARE * (18_000_000 + model.held_bytes())
    assert model.plan(2 * fitting).peak > SPARE * 18_000_000
    model(x[:10], train=True)  # and it goes on


def test_a_layer_inside_of_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sequential([ReLU(), Residual(Sequential([Conv2D(64, 3, padding=1, name="wide"), Conv2D(3, 1)]))])
    model.build(SHAPE, CpuBackend(threads=1))
    with memory_of(model.backend, 2_000_000, monkeypatch), pytest.raises(OutOfMemoryError, match='Conv2D "wide"'):
        model(np.zeros((100, *SHAPE), np.float32), train=True)


def test_the_backward_pass_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(CpuBackend(threads=1))
    y = model(np.zeros((200, *SHAPE), np.float32), train=True)
    with memory_of(model.backend, 300_000, monkeypatch), pytest.raises(OutOfMemoryError, match="a batch of 200"):
        model.backpropagate(np.ones_like(y))


def test_other_errors_are_left_alone() -> None:
    model = network(CpuBackend(threads=1))
    error = OutOfMemoryError("as it was")
    with pytest.raises(OutOfMemoryError, match="as it was"), model.explained(3):
        raise error


def test_a_step_is_refused_before_it_takes_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(CpuBackend(threads=2))
    monkeypatch.setattr(Reference, "free_bytes", lambda self: 20_000_000)
    model.require_memory(10, SGD())
    with pytest.raises(OutOfMemoryError) as error:
        model.require_memory(1000, SGD())
    message = str(error.value)
    assert message.startswith("Sequential: a batch of 1,000 takes ")
    assert " of them for what " in message
    assert "cpu has 20.0 MB left, where by plan a batch of " in message
    fitting = int(message.rsplit(" ", 2)[1])
    model.require_memory(fitting, SGD())
    with pytest.raises(OutOfMemoryError):
        model.require_memory(fitting + fitting // 32 + 1, SGD())
    assert fitting == model.largest_batch(1000, SGD())
    assert model.largest_batch(1000, Adam()) <= fitting
    assert model.largest_batch(5, SGD()) == 4
    monkeypatch.setattr(Reference, "free_bytes", lambda self: 1000)
    with pytest.raises(OutOfMemoryError, match="has 1.00 kB left, use a smaller batch or network"):
        model.require_memory(1, SGD())
    monkeypatch.setattr(Reference, "free_bytes", lambda self: None)  # it is not known
    model.require_memory(10**6, SGD())
    assert model.largest_batch(10**6) == 10**6 - 1


@requires_compiler
def test_a_gpu_without_memory() -> None:
    """What CuPy raises is a MemoryError too."""

    class OutOfMemory(MemoryError):
        pass

    with installed_cupy(make_fake_cupy()) as cupy:
        pool = cupy.get_default_memory_pool()

        def refuse(size: int) -> object:
            if size > 200_000:
                raise OutOfMemory(f"Out of memory allocating {size:,} bytes")
            return pool.malloc(size)

        model = network(get_backend("gpu"))
        x = model.backend.zeros((100, *SHAPE))
        with cupy.cuda.using_allocator(refuse), pytest.raises(OutOfMemoryError) as error:
            model(x, train=True)
    assert 'Conv2D "conv2d1": out of memory with a batch of 100 (Out of memory allocating ' in str(error.value)
    assert "gpu:0 has 85.9 GB left" in str(error.value)


def test_the_memory_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(host, "GROUP", tmp_path)
    assert host.available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   2000 kB\n")
    assert host.available_memory() == 2000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert host.available_memory() == 2000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert host.available_memory() == 4000
    (tmp_path / "meminfo").write_text("nothing\n")
    assert host.available_memory() == 4000
