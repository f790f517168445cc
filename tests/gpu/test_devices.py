"""Several GPUs in one program, processes that were forked, and what a transfer leaves behind."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import fake_cupy, installed_cupy, requires_compiler
from trainers import kitchen_sink, random_split

from gpucnn import SGD, Conv2D, Dense, Dropout, Flatten, Sequential, SoftmaxCrossEntropy, WeightAverage, get_backend
from gpucnn.backend import Backend
from gpucnn.data import DeviceDataset, Normalization
from gpucnn.errors import DeviceError
from gpucnn.losses import Huber

pytestmark = requires_compiler
cupy = fake_cupy  # under the name that the tests speak of

# ---- several GPUs --------------------------------------------------------------------------------------------------


@pytest.fixture
def two() -> Iterator[ModuleType]:
    """A fake `cupy` with two devices, of which gpu:0 is the current one."""
    with installed_cupy(make_fake_cupy(device_count=2)) as module:
        yield module


def model_on(backend: Backend) -> Sequential:
    model = Sequential([Conv2D(2, 2), Dropout(0.5), Conv2D(10, 2), Flatten(), Dense(10)])
    model.build((4, 4, 1), backend, max_batch=2, seed=0)
    return model


def build(backend: Backend) -> None:
    model_on(backend)


def forward_and_backward(backend: Backend) -> None:
    model = model_on(backend)
    y = model(backend.zeros((2, 4, 4, 1)), train=True)
    model.backpropagate(y)


def predict(backend: Backend) -> None:
    model = model_on(backend)
    for _ in range(4):
        model.predict(backend.zeros((2, 4, 4, 1)))


def state(backend: Backend) -> None:
    model = model_on(backend)
    model.load_state_dict(model.state_dict())
    model.weights_sha256()


def losses(backend: Backend) -> None:
    outputs, labels = backend.zeros((2, 10)), backend.zeros((2,), "int32")
    for loss in (SoftmaxCrossEntropy(), SoftmaxCrossEntropy(class_weights=range(10)), Huber(reduction="sum")):
        loss.forward(outputs, labels)
        loss.backward()


def update(backend: Backend) -> None:
    model, optimizer, average = model_on(backend), SGD(0.1, clip_norm=1.0), WeightAverage(0.5)
    optimizer.attach(model.arena, backend)
    average.attach(model.arena, backend)
    optimizer.step()
    average.update()
    with average.applied():
        pass
    average.apply()


def train(backend: Backend) -> None:
    trainer, data = kitchen_sink(backend)
    trainer.train_epoch(data, 0)
    trainer.evaluate(data)
    assert trainer.replay.recorded and trainer.test_replay.recorded


def read_data(backend: Backend) -> None:
    split = random_split(5, (4, 4, 1))
    data = DeviceDataset(split, backend, Normalization(split.images))
    data.shuffle(np.random.default_rng(0), 0)
    data.next_batch(3)


def record(backend: Backend) -> None:
    x = backend.zeros((3,))
    with backend.on_device():
        backend.relu(x, out=x)
    backend.record(lambda: backend.relu(x, out=x))()


def measure(backend: Backend) -> None:
    backend.free_bytes()
    backend.describe()
    backend.to_host(backend.from_host(np.ones(3)))


CALLS = [build, forward_and_backward, predict, state, losses, update, train, read_data, record, measure]


@pytest.mark.parametrize("call", CALLS)
def test_the_current_device_is_that_of_before(call: Callable[[Backend], None], two: ModuleType) -> None:
    """Whatever computes on gpu:1, arrays that a program makes afterwards are where they were made before."""
    backend = get_backend("gpu:1")
    assert two.zeros(3).device.id == 0
    call(backend)
    assert two.zeros(3).device.id == 0
    with two.cuda.Device(1):
        call(get_backend("gpu:0"))
        assert two.zeros(3).device.id == 1


def test_transfers_wait_for_the_streams_of_their_own_device(two: ModuleType) -> None:
    """A stream of gpu:0 that is current says nothing of the work on gpu:1."""
    backend = get_backend("gpu:1")
    with two.cuda.Device(1):
        side = two.cuda.Stream(non_blocking=True)
    dense = Dense(3)
    with two.cuda.Stream(non_blocking=True), two.cuda.Device(1), side, two.cuda.Device(0):
        x = backend.from_host(np.ones((2, 4), "float32"))
        y = backend.to_host(dense(x, train=True))
    np.testing.assert_allclose(y, np.ones((2, 4)) @ backend.to_host(dense.w.value), rtol=1e-6)


def test_arrays_are_made_on_the_device_of_their_backend(two: ModuleType) -> None:
    backend = get_backend("gpu:1")
    arrays = backend.zeros((3,)), backend.empty((3,)), backend.from_host(np.ones(3))
    assert [array.device.id for array in arrays] == [1, 1, 1]


# ---- processes -----------------------------------------------------------------------------------------------------


def test_after_a_fork_the_reason_is_named(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA calls it an initialization error: neither a driver nor a library is missing."""
    dense = Dense(3)
    x = cupy.ones((2, 4), "float32")
    dense(x, train=True)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in a child
    for call in (lambda: get_backend("gpu"), lambda: dense(x, train=True), lambda: dense.backend.zeros((3,))):
        with pytest.raises(DeviceError, match=r'forked after its parent had used it .*get_context\("spawn"\)'):
            call()
    assert get_backend("auto").name == "cpu"


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cpu", "reference"])
def test_the_memory_of_a_backend_goes_with_it(device: str, cupy: ModuleType) -> None:
    """At once, not when the garbage collector comes: the workspace of cuBLAS alone is 32 MiB on a large GPU."""
    gc.collect()
    gc.disable()
    try:
        used = cupy.get_default_memory_pool().used_bytes()
        for _ in range(3):
            backend = get_backend(device)
            dense = Dense(3)
            dense.build((4,), backend)
            dense.backpropagate(dense(backend.zeros((2, 4)), train=True))
            gone = weakref.ref(backend)
            del dense, backend
            assert gone() is None
        assert cupy.get_default_memory_pool().used_bytes() == used
    finally:
        gc.enable()


# ---- transfers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", ">f4", "uint8", "int64", "bool"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_transfers(shape: tuple[int, ...], dtype: str, cupy: ModuleType) -> None:
    """Arrays of any layout arrive, and no copy of as many bytes stays in pinned memory of the host."""
    backend = get_backend("gpu")
    host = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for array in (host, host.T, np.asfortranarray(host)):
        there = backend.from_host(array)
        np.testing.assert_array_equal(backend.to_host(there), array)
        assert there.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(backend.to_host(backend.from_host(array, out=there)), array)
    column = backend.zeros((5, 2))[:, 0]
    for values in (np.arange(5.0), np.array(3.0)):  # what is not in one piece, and what is one number
        backend.from_host(values, out=column)
        np.testing.assert_array_equal(backend.to_host(column), np.broadcast_to(values, 5))
    assert cupy.stats.pinned_bytes == 0
    cupy.asarray(np.ones(1000))
    assert cupy.stats.pinned_bytes == 8000
