"""Steps recorded as a CUDA graph do what they do one kernel at a time; each trap of recording is found or harmless."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from device.fixtures import fake_cupy, requires_compiler
from trainers import TRAINERS, random_split

from gpucnn import (
    SGD,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    Layer,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Softplus,
    Swish,
    Trainer,
    get_backend,
)
from gpucnn.backend.memory import Workspace
from gpucnn.data import DeviceDataset, Normalization
from gpucnn.errors import DeviceError
from gpucnn.execution.step_graphs import Replay
from gpucnn.optim.optimizers import Optimizer
from gpucnn.optim.schedules import Cosine, Linear

pytestmark = requires_compiler
SHAPE = (4, 4, 1)


cupy = fake_cupy  # under the name that the tests speak of


def small_trainer(
    *layers: Layer, optimizer: Optimizer | None = None, graph: bool = True
) -> tuple[Trainer, DeviceDataset]:
    """Return a trainer of a small network on the GPU, and its data: five batches of two, and one of one."""
    model = Sequential([Flatten(), Dense(6), ReLU(), *layers, Dense(10)])
    model.build(SHAPE, "gpu", seed=0)
    split = random_split(11, SHAPE)
    data = DeviceDataset(split, model.backend, Normalization(split.images))
    return Trainer(model, SoftmaxCrossEntropy(), optimizer or SGD(0.1, 0.9), batch_size=2, graph=graph), data


def weights(trainer) -> str:
    return trainer.model.weights_sha256()


def trained_alike(
    train: Callable[[Trainer, DeviceDataset], object],
    *layers: Callable[[], Layer],
    optimizer: Callable[[], Optimizer] = lambda: SGD(0.1, 0.9),
) -> None:
    """Check that a training ends at the same bits as a graph and eagerly."""
    hashes = []
    for graph in (True, False):
        trainer, data = small_trainer(*(layer() for layer in layers), optimizer=optimizer(), graph=graph)
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


@pytest.mark.parametrize("layer", [lambda: Dropout(0.2), lambda: Sequential([GroupNorm(2), Softplus(), Swish()])])
def test_trap_changed_buffer(layer: Callable[[], Layer], cupy: ModuleType) -> None:
    """A larger batch in the middle of an epoch gives the layers other buffers; the graph goes on with those it had."""

    def train(trainer: Trainer, data: DeviceDataset) -> None:
        def grow() -> None:
            trainer.model.predict(trainer.backend.zeros((50, *SHAPE)))
            trainer.model(trainer.backend.zeros((50, *SHAPE)), train=True)

        trainer.train_epoch(data, 0, at_batch(3, grow))

    trained_alike(train, layer)


def test_trap_freed_memory(cupy: ModuleType) -> None:
    """A recording keeps the arrays that it uses, so that the pool gives them to nobody else."""
    backend = small_trainer()[0].backend
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes()
    recordings = [backend.record(partial(backend.relu, backend.zeros((1000,)), out=backend.zeros((1000,))))]
    assert pool.used_bytes() == before + 2 * 4096
    recordings.clear()
    assert pool.used_bytes() == before


@pytest.mark.parametrize("of_another", [False, True])
def test_trap_buffer_that_grows(of_another: bool, cupy: ModuleType) -> None:
    """A recording keeps the buffers that it takes, also those that only functions of CuPy see, and of any backend."""
    backend = small_trainer()[0].backend
    workspace, y = Workspace(get_backend("gpu") if of_another else backend), backend.zeros((3,))
    workspace.take("a", (3,), "float32")[...] = 1
    recording = backend.record(lambda: cupy.add(workspace.take("a", (3,), "float32"), 1, out=y))
    workspace.take("a", (1000,), "float32")
    recording()
    assert y.get().tolist() == [2] * 3


def test_trap_python_scalar(cupy: ModuleType) -> None:
    """A plain number is recorded as it is; one that is changed between epochs counts from the next epoch on."""

    def train(trainer: Trainer, data: DeviceDataset) -> None:
        trainer.train_epoch(data, 0)
        trainer.optimizer.nesterov = True
        trainer.model.layers[3].rate = 0.6
        trainer.train_epoch(data, 1)

    trained_alike(train, lambda: Dropout(0.2))


@pytest.mark.parametrize("when", ["between epochs", "within an epoch"])
def test_hyper_parameters_count_at_once(when: str, cupy: ModuleType) -> None:
    """They lie on the device, where every step finds them."""

    def train(trainer: Trainer, data: DeviceDataset) -> None:
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

    def infer_shape(self, input_shape):
        return input_shape

    def forward(self, x, *, train):
        self.what(self.backend, x)
        return x

    def backward(self, dy, *, need_dx):
        return dy


TRAPS = {
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


class Own(Doing):
    """A layer of a user's own, `y = scale x`, which makes new arrays of all that it has, and averages its outputs."""

    def __init__(self, replaces: bool = False):
        super().__init__(lambda backend, x: None)
        self.replaces = replaces

    def bind(self, context):
        super().bind(context)
        self.mean, self.scale = context.backend.zeros((6,)), context.backend.zeros((6,)) + 2

    def state(self):
        return {"mean": self.mean}

    def forward(self, x, *, train):
        self.doubled = x * self.scale
        mean = 0.9 * self.mean + 0.1 * self.doubled.mean(axis=0)
        if self.replaces:
            self.mean = mean
        else:
            self.mean[...] = mean
        return self.doubled + 0

    def backward(self, dy, *, need_dx):
        return dy * self.scale + 0 * self.doubled


def test_layers_may_allocate(cupy: ModuleType) -> None:
    trained_alike(lambda trainer, data: [trainer.train_epoch(data, epoch) for epoch in range(2)], Own)


def test_memory_for_a_graph_goes_back_when_the_epoch_ends(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pools, make_pool = [], cupy.cuda.MemoryPool

    def noted_pool() -> Any:
        pools.append(weakref.ref(pool := make_pool()))
        return pool

    monkeypatch.setattr(cupy.cuda, "MemoryPool", noted_pool)
    trainer, data = small_trainer(Own(), GroupNorm(2))
    trainer.train_epoch(data, 0, at_batch(3, lambda: pools[0]().total_bytes() > 0 or pytest.fail("it took none")))
    trainer.evaluate(data)
    gc.collect()
    assert [pool() for pool in pools] == [None, None]


def test_trap_state_that_is_replaced(cupy: ModuleType) -> None:
    """A recording would go on reading the array that was there when it was made: so there is none, and that is said."""
    hashes = []
    for replaces in (True, False):
        trainer, data = small_trainer(Own(replaces))
        trainer.train_epoch(data, 0)
        assert trainer.replay.recorded == (not replaces)
        assert (
            "puts another array in the place of model.own1.mean, which it carries" in trainer.replay.reason
        ) == replaces
        hashes.append((weights(trainer), trainer.model.state_dict()["own1.mean"].tolist()))
    assert hashes[0] == hashes[1]
    assert any(hashes[0][1])


class OwnSGD(Optimizer):
    """Momentum by a user's own code: in an array that is replaced, or with a number that counts the steps."""

    hyperparameter_names = ()

    def __init__(self, way: str):
        self.way, self.clip_norm, self.learning_rate = way, None, 0.1

    def attach(self, arena, backend):
        super().attach(arena, backend)
        self.velocity, self.t, self.factors = arena.slot(), 0, [arena.slot() + 0.1]

    def _step(self, arena):
        if self.way == "replaces":
            self.velocity = 0.9 * self.velocity + arena.gradients
        else:
            self.velocity[...] = 0.9 * self.velocity + arena.gradients
        if self.way == "counts":
            self.t += 1
        arena.values[...] -= self.factors[0] / (1 + self.t) * self.velocity


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("replaces", "it reads OwnSGD.velocity before it puts another array there; write into the one that is there"),
        ("counts", "it changes OwnSGD.t from 1 to 2, which a graph would not see; keep it in an array"),
        ("writes", ""),
    ],
)
def test_trap_what_python_carries_from_step_to_step(way: str, reason: str, cupy: ModuleType) -> None:
    """A graph would go on with what there was when it was recorded; that is found, and said."""
    hashes = []
    for graph in (True, False):
        trainer, data = small_trainer(optimizer=OwnSGD(way), graph=graph)
        trainer.train_epoch(data, 0)
        assert trainer.replay.recorded == (graph and way == "writes")
        if graph:
            assert trainer.replay.reason.startswith("a step cannot become a graph: " if reason else "")
            assert reason in trainer.replay.reason
        hashes.append(weights(trainer))
    assert hashes[0] == hashes[1]


def test_trap_random_numbers_of_python(cupy: ModuleType) -> None:
    class Noisy(Own):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(0)

        def forward(self, x, *, train):
            return super().forward(x + float(self.rng.random()), train=train)

    results = []
    for graph in (True, False):
        noisy = Noisy()
        trainer, data = small_trainer(noisy, graph=graph)
        trainer.train_epoch(data, 0)
        results.append((weights(trainer), noisy.rng.random()))
        assert ("draws a random number in Python" in trainer.replay.reason) == graph
    assert results[0] == results[1]


def test_trap_array_in_a_list(cupy: ModuleType) -> None:
    def train(trainer: Trainer, data: DeviceDataset) -> None:
        def exchange() -> None:
            trainer.optimizer.factors[0] = trainer.optimizer.factors[0] + 0

        trainer.train_epoch(data, 0, at_batch(3, exchange))

    trained_alike(train, optimizer=lambda: OwnSGD("writes"))


class Late(Own):
    """Has something to carry along only from its second step on."""

    def forward(self, x, *, train):
        self.steps = (*getattr(self, "steps", ()), None)
        if len(self.steps) > 1 and not hasattr(self, "late"):
            self.late = x * 0
        return super().forward(x, train=train)

    def state(self):
        return super().state() | ({"late": self.late} if hasattr(self, "late") else {})


def test_trap_state_that_appears(cupy: ModuleType) -> None:
    trainer, data = small_trainer(Late())
    trainer.train_epoch(data, 0)
    assert "puts another array in the place of model.late1.late" in trainer.replay.reason


def test_trap_containers_of_a_recording_that_fails(cupy: ModuleType) -> None:
    """What a layer has put into lists and dictionaries meanwhile was never computed, and is not there."""

    class Caching(Own):
        def __init__(self):
            super().__init__()
            self.cache, self.sums = {}, []

        def forward(self, x, *, train):
            turn = len(self.sums) % 2
            self.cache.setdefault(turn, x[:1] * 0 + 1 + turn)
            self.sums.append(x.sum())
            return super().forward(x * self.cache[turn], train=train)

    results = []
    for graph in (True, False):
        caching = Caching()
        trainer, data = small_trainer(caching, Doing(lambda backend, x: float(x[0, 0])), graph=graph)
        trainer.train_epoch(data, 0)
        results.append((weights(trainer), [float(value) for value in caching.sums], sorted(caching.cache)))
    assert results[0] == results[1]
    assert len(results[0][1]) == 6


@pytest.mark.parametrize("change", ["clip_norm", "schedule", "another schedule"])
def test_hyper_parameters_that_change_what_a_step_does(change: str, cupy: ModuleType) -> None:
    """Clipping and schedules that begin within an epoch, where other operations make up a step."""

    def train(trainer: Trainer, data: DeviceDataset) -> None:
        def set_it() -> None:
            if change == "clip_norm":
                trainer.optimizer.clip_norm = 0.01
            else:
                trainer.optimizer.set_schedule(Cosine(), 3)

        if change == "another schedule":
            trainer.optimizer.set_schedule(Linear(), 20)
        trainer.train_epoch(data, 0, at_batch(3, set_it))

    trained_alike(train)


def test_data_go_when_they_are_no_longer_needed(cupy: ModuleType) -> None:
    trainer, data = small_trainer()
    trainer.train_epoch(data, 0)
    trainer.evaluate(data)
    gone = weakref.ref(data)
    del data
    gc.collect()
    assert gone() is None


def test_trap_exchanged_array(cupy: ModuleType) -> None:
    """What a layer has as an attribute lives as long as a graph, even if no operation of the backend ever sees it."""

    def train(trainer: Trainer, data: DeviceDataset) -> None:
        own = trainer.model.layers[3]

        def exchange() -> None:
            own.scale = None
            cupy.full((6,), 1000, "float32")  # what may lie there now
            own.scale = cupy.full((6,), 2, "float32")

        trainer.train_epoch(data, 0, at_batch(3, exchange))

    trained_alike(train, Own)


def test_trap_interruption(cupy: ModuleType) -> None:
    """Ctrl-C in a recording ends the capture: the stream is not destroyed while it captures, and the device goes on."""
    backend = small_trainer()[0].backend
    streams = []

    def work() -> None:
        streams.append(cupy.cuda.get_current_stream())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.record(work)
    assert not streams[0].captures
    assert backend.records
    assert backend.relu(backend.zeros((3,)) + 1).get().tolist() == [1] * 3


def test_trap_a_stream_that_is_gone(cupy: ModuleType) -> None:
    """After a recording cuBLAS does not go on to use its stream, not even where a new one has the same address."""
    backend = small_trainer()[0].backend
    x, y = backend.zeros((4, 4)) + 1, backend.zeros((4, 4))
    pointers = []

    def work() -> None:
        pointers.append(cupy.cuda.get_current_stream().ptr)
        backend.matmul(x, x, out=y)

    backend.record(work)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        work()
        assert y.get().tolist() == [[4] * 4] * 4
    assert pointers == [stream.ptr] * 2


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
