"""Steps recorded as a CUDA graph do what they do one kernel at a time; each trap of recording is found or harmless."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from device.fixtures import fake_cupy, requires_compiler
from trainers import TRAINERS, random_split

from gpucnn import SGD, Dense, Dropout, Flatten, GroupNorm, Layer, ReLU, Sequential, SoftmaxCrossEntropy, Trainer
from gpucnn.data import Normalization, ResidentSplit
from gpucnn.errors import DeviceError
from gpucnn.replay import Replay

pytestmark = requires_compiler
SHAPE = (4, 4, 1)


cupy = fake_cupy  # under the name that the tests speak of


def small_trainer(*layers: Layer, graph: bool = True) -> tuple[Trainer, ResidentSplit]:
    """Return a trainer of a small network on the GPU, and its data: five batches of two, and one of one."""
    model = Sequential([Flatten(), Dense(6), ReLU(), *layers, Dense(10)])
    model.build(SHAPE, "gpu", seed=0)
    split = random_split(11, SHAPE)
    data = ResidentSplit(split, model.backend, Normalization(split.images))
    return Trainer(model, SoftmaxCrossEntropy(), SGD(0.1, 0.9), batch_size=2, graph=graph), data


def weights(trainer) -> str:
    return trainer.model.weights_sha256()


def trained_alike(train: Callable[[Trainer, ResidentSplit], object], *layers: Callable[[], Layer]) -> None:
    """Check that a training ends at the same bits as a graph and eagerly."""
    hashes = []
    for graph in (True, False):
        trainer, data = small_trainer(*(layer() for layer in layers), graph=graph)
        train(trainer, data)
        assert bool(trainer.replay.recorded) == graph, trainer.replay.reason
        hashes.append(weights(trainer))
    assert hashes[0] == hashes[1]


def at_batch(number: int, do: Callable[[], object]) -> Callable[[int], None]:
    """Return an `on_batch` that does something after the batch with a number, counted from 1."""
    batches = []

    def on_batch(N: int) -> None:
        batches.append(N)
        if len(batches) == number:
            do()

    return on_batch


# ---- what is gained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINERS)
def test_replay_equals_eager_bit_for_bit(name: str, cupy: ModuleType) -> None:
    results = []
    for graph in (True, False):
        trainer, data = TRAINERS[name]("gpu")
        trainer.graph = graph
        metrics = [trainer.train_epoch(data, epoch) for epoch in range(3)]
        results.append((weights(trainer), metrics, trainer.evaluate(data)))
        assert trainer.replay.recorded == graph, trainer.replay.reason
    assert results[0] == results[1]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_is_one_launch(name: str, cupy: ModuleType) -> None:
    """The first of each batch size runs as it is; the second is recorded, and replayed like all that follow."""
    trainer, data = TRAINERS[name]("gpu")
    trainer.train_epoch(data, 0)
    data.shuffle(np.random.default_rng(0), 0)
    replay = Replay(trainer.backend)
    step = lambda: trainer._next_step(data, 4)  # noqa: E731
    replay.run(4, step)
    with cupy.stats.step() as counts:
        replay.run(4, step)
    assert (counts.launches, counts.graph_launches) == (1, 1)


def test_an_epoch_reads_once_and_allocates_nothing(cupy: ModuleType) -> None:
    trainer, data = small_trainer()
    trainer.train_epoch(data, 0)
    with cupy.stats.counting() as counts:
        trainer.train_epoch(data, 1)
    assert (counts.d2h_copies, counts.h2d_copies, counts.allocations) == (1, 1, 0)
    assert counts.graph_launches == 4  # of six steps


# ---- traps ---------------------------------------------------------------------------------------------------------


def test_trap_changed_shape(cupy: ModuleType) -> None:
    """The last, smaller batch of an epoch runs as it is: a graph is for one batch size."""
    trainer, data = small_trainer()
    metrics = trainer.train_epoch(data, 0)
    assert metrics.samples == data.samples == 11
    assert trainer.replay.recorded == 1


def test_trap_changed_buffer(cupy: ModuleType) -> None:
    """A larger batch in the middle of an epoch gives the layers other buffers; the graph goes on with those it had."""

    def train(trainer: Trainer, data: ResidentSplit) -> None:
        def grow() -> None:
            trainer.model.predict(trainer.backend.zeros((50, *SHAPE)))
            trainer.model.forward(trainer.backend.zeros((50, *SHAPE)))

        trainer.train_epoch(data, 0, at_batch(3, grow))

    trained_alike(train)


def test_trap_freed_memory(cupy: ModuleType) -> None:
    """A recording keeps the arrays that it uses, so that the pool gives them to nobody else."""
    backend = small_trainer()[0].backend
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes()
    recordings = [backend.record(partial(backend.relu, backend.zeros((1000,)), out=backend.zeros((1000,))))]
    assert pool.used_bytes() == before + 2 * 4096
    recordings.clear()
    assert pool.used_bytes() == before


def test_trap_python_scalar(cupy: ModuleType) -> None:
    """A plain number is recorded as it is; one that is changed between epochs counts from the next epoch on."""

    def train(trainer: Trainer, data: ResidentSplit) -> None:
        trainer.train_epoch(data, 0)
        trainer.optimizer.nesterov = True
        trainer.model.layers[3].rate = 0.6
        trainer.train_epoch(data, 1)

    trained_alike(train, lambda: Dropout(0.2))


@pytest.mark.parametrize("when", ["between epochs", "within an epoch"])
def test_hyper_parameters_count_at_once(when: str, cupy: ModuleType) -> None:
    """They lie on the device, where every step finds them."""

    def train(trainer: Trainer, data: ResidentSplit) -> None:
        slow_down = at_batch(3, partial(setattr, trainer.optimizer, "learning_rate", 0.01))
        trainer.train_epoch(data, 0, slow_down if when == "within an epoch" else None)
        trainer.optimizer.momentum = 0.5
        trainer.train_epoch(data, 1)

    trained_alike(train)


class Doing(Layer):
    """The identity, which does something beside."""

    def __init__(self, what: Callable[[Any, Any], object]):
        super().__init__()
        self.what = what

    def infer(self, input_shape):
        return input_shape

    def _forward(self, x, train):
        self.what(self.backend, x)
        return x

    def _backward(self, dy, need_dx):
        return dy


TRAPS = {
    "allocation": (lambda backend, x: backend.zeros((3,)), r"it allocates 12 bytes in each run; use layers, losses"),
    "temporary": (lambda backend, x: x + 1, r"it allocates \d+ bytes in each run"),
    "synchronisation": (lambda backend, x: backend.xp.cuda.Device().synchronize(), "cudaErrorStreamCaptureUnsupported"),
    "scalar read": (lambda backend, x: float(x[0, 0]), "cudaErrorStreamCaptureUnsupported"),
    "copy to the host": (lambda backend, x: backend.to_host(x), "cudaErrorStreamCaptureUnsupported"),
    "copy to the device": (
        lambda backend, x: backend.from_host(np.zeros(x.shape), out=x[...]),
        "cudaErrorStreamCaptureUnsupported",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_trap(trap: str, cupy: ModuleType) -> None:
    """What a capture forbids leaves the steps to run kernel by kernel, to the same end, and is given as the reason."""
    what, reason = TRAPS[trap]
    hashes = []
    for graph in (True, False):
        trainer, data = small_trainer(Doing(what), graph=graph)
        trainer.train_epoch(data, 0)
        hashes.append(weights(trainer))
        assert trainer.replay.recorded == 0
        if graph:
            assert trainer.replay.reason.startswith("a step cannot become a graph: ")
            with pytest.raises(DeviceError, match=reason):
                raise DeviceError(trainer.replay.reason)
    assert hashes[0] == hashes[1]


def test_trap_operations_without_an_override(cupy: ModuleType) -> None:
    trainer, data = small_trainer(GroupNorm(2))
    trainer.train_epoch(data, 0)
    assert "allocates" in trainer.replay.reason


def test_trap_default_stream(cupy: ModuleType) -> None:
    """The default stream captures nothing, so a step is recorded on another and replayed on the caller's."""
    backend = small_trainer()[0].backend
    x, y = backend.zeros((4, 4)), backend.zeros((4, 4))
    streams = []

    def work() -> None:
        streams.append(cupy.cuda.get_current_stream())
        backend.matmul(x, x, out=y)
        backend.relu(y, out=y)

    work()
    with cupy.stats.counting() as counts:
        recording = backend.record(work)
    assert counts.launches == 0  # nothing went to the default stream, where it would have run at once
    assert streams[0] is cupy.cuda.Stream.null is cupy.cuda.get_current_stream()
    assert streams[1].non_blocking
    x[...] = 2
    recording()
    assert y.get().tolist() == [[16] * 4] * 4


def test_a_failed_recording_changes_nothing(cupy: ModuleType) -> None:
    """The device does nothing of it, and the next step runs."""
    backend = small_trainer()[0].backend
    x = backend.zeros((3,))

    def work() -> None:
        backend.relu(x, out=x)
        raise ValueError("as it happens")

    x[...] = -1
    with pytest.raises(DeviceError, match="a step cannot become a graph: ValueError: as it happens"):
        backend.record(work)
    assert x.get().tolist() == [-1] * 3
    assert backend.relu(x).get().tolist() == [0] * 3


def test_a_cpu_runs_its_steps_as_they_are() -> None:
    trainer, data = TRAINERS["lenet5"]("cpu")
    trainer.train_epoch(data, 0)
    assert (trainer.replay.recorded, trainer.replay.reason) == (0, "")
