"""Every layer, loss and optimizer becomes a CUDA graph: a step of training or of a test is one launch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np
import parts
import pytest
from device.fixtures import fake_cupy, requires_compiler
from trainers import random_split

from gpucnn import get_backend, layers, losses
from gpucnn.data import DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization
from gpucnn.layers import BatchNorm2D, Conv2D, Dense, Flatten, GroupNorm, Layer
from gpucnn.losses import Loss
from gpucnn.model import Sequential
from gpucnn.optim.optimizers import SGD, Optimizer
from gpucnn.training.trainer import Trainer

pytestmark = requires_compiler
cupy = fake_cupy  # under the name that the tests speak of

SHAPE = (6, 6, 2)
BATCH = 4


def check_graphs(
    cupy: ModuleType,
    layer: Callable[[], Layer] = layers.ReLU,
    loss: Callable[[], Loss] = losses.SoftmaxCrossEntropy,
    optimizer: Callable[[], Optimizer] = SGD,
    options: Callable[[], dict] = dict,
) -> None:
    """Check that steps and tests are recorded, are one launch, and have the bits of those that are not."""
    results = []
    for graph in (True, False):
        made = layer(), loss(), optimizer(), get_backend("gpu")
        trainer, data = parts.trainer_of(*made, BATCH, samples=5 * BATCH // 2, graph=graph, **options())
        metrics = [trainer.train_epoch(data, epoch) for epoch in range(2)]
        assert (trainer.replay.recorded > 0) == graph, trainer.replay.reason
        metrics.append(trainer.evaluate(data))
        assert (trainer.test_replay.recorded > 0) == graph, trainer.test_replay.reason
        results.append((metrics, trainer.model.weights_sha256()))
    assert results[0] == results[1]
    for work in (partial(trainer._next_step, data, BATCH), partial(trainer._next_test, data, BATCH)):
        data.rewind()
        work()
        recording = trainer.backend.record(work)
        with cupy.stats.step() as counts:
            recording()
        assert (counts.launches, counts.graph_launches) == (1, 1)


@pytest.mark.parametrize("name", parts.LAYERS)
def test_layers(name: str, cupy: ModuleType) -> None:
    check_graphs(cupy, layer=parts.LAYERS[name])


@pytest.mark.parametrize("name", parts.LOSSES)
def test_losses(name: str, cupy: ModuleType) -> None:
    """All that take class labels, which are what a data set has."""
    check_graphs(cupy, loss=parts.LOSSES[name])


@pytest.mark.parametrize("name", parts.OPTIMIZERS)
def test_optimizers(name: str, cupy: ModuleType) -> None:
    check_graphs(cupy, optimizer=parts.OPTIMIZERS[name])


@pytest.mark.parametrize("name", parts.OPTIONS)
def test_options(name: str, cupy: ModuleType) -> None:
    check_graphs(cupy, options=parts.OPTIONS[name])


def test_a_loss_of_sums(cupy: ModuleType) -> None:
    check_graphs(cupy, loss=partial(losses.Hinge, reduction="sum"))


def test_a_loss_of_targets_that_are_no_labels(cupy: ModuleType) -> None:
    loss, backend = losses.MeanAbsolutePercentageError(), get_backend("gpu")
    outputs, targets = (backend.from_host(np.full((4, 10), value, "float32")) for value in (3, 2))
    totals = backend.zeros((4,), "float64")
    work = partial(loss.forward, outputs, targets, totals=totals)
    work()
    recording = backend.record(work)
    recording()
    np.testing.assert_allclose(totals.get(), [2 * 4 * 50, 8, 8, 8])


# ---- inference -----------------------------------------------------------------------------------------------------


def network_on_gpu(*made: Layer) -> Sequential:
    network = Sequential([Conv2D(4, 3), BatchNorm2D(), *made, GroupNorm(2), Flatten(), Dense(3)])
    network.build(SHAPE, "gpu", seed=0)
    return network


def images(N: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, *SHAPE), dtype=np.float32)


def check_inferences(network: Sequential, *batches: np.ndarray) -> None:
    """Compare `predict`, whatever has been recorded, with a pass that is not."""
    for batch in batches:
        x = network.backend.from_host(batch)
        found = network.backend.to_host(network.predict(x))
        np.testing.assert_array_equal(found, network.backend.to_host(network(x)))


def test_an_inference_is_a_copy_and_a_launch(cupy: ModuleType) -> None:
    network = network_on_gpu()
    x = network.backend.from_host(images(5))
    for _ in range(2):
        network.predict(x)
    with cupy.stats.step() as counts:
        network._inferences.run(network, x)  # of which `predict` returns a copy
    assert (counts.launches, counts.graph_launches) == (2, 1)
    check_inferences(network, images(5, seed=1), images(5, seed=2))


def test_inferences_of_many_sizes(cupy: ModuleType) -> None:
    """Buffers that grow with a larger batch leave those that a recording has alone; only a few are kept."""
    network = network_on_gpu()
    check_inferences(network, *(images(N, seed) for seed in range(3) for N in (3, 3, 9, 4, 3, 9, 1, 2, 5, 4, 9, 3)))
    assert len(network._inferences._arrays) <= 4
    assert len(network._inferences.replay._recordings) <= 4


def change_layer(network: Sequential) -> None:
    network.layers[2].slope = 0.5


def change_weights(network: Sequential) -> None:
    network.layers[0].w.value *= 2


def exchange_weights(network: Sequential) -> None:
    network.layers[0].w.value = network.layers[0].w.value * 2


def train(network: Sequential) -> None:
    split = Split(random_split(8, SHAPE).images, np.arange(8, dtype=np.int32) % 3)
    data = DeviceDataset(split, network.backend, Normalization(split.images))
    Trainer(network, losses.MeanSquaredError(), SGD(0.01), batch_size=4).train_epoch(data, 0)


def load(network: Sequential) -> None:
    network.load_state_dict({name: value + 1 for name, value in network.state_dict().items()})


def build_again(network: Sequential) -> None:
    network.build(SHAPE, network.backend, seed=1)


class Scaled(Layer):
    """`y = f(scale x)`, with all that a user may exchange."""

    def infer_shape(self, input_shape):
        return input_shape

    def bind(self, context):
        super().bind(context)
        self.scale, self.share = context.backend.zeros((4,)) + 2, np.float32(0.5)
        self.numbers, self.tables, self.function = [1.0], {"one": context.backend.zeros((4,))}, abs

    def forward(self, x, *, train):
        self.seen = x * self.scale
        return self.function(self.seen * self.share * self.numbers[0] + self.tables["one"])


def exchange_running(network: Sequential) -> None:
    network.layers[1].running = network.layers[1].running * 2 + 1


def exchange_array(network: Sequential) -> None:
    network.layers[2].scale = network.layers[2].scale * 3


def exchange_number(network: Sequential) -> None:
    network.layers[2].share = np.float32(0.25)


def exchange_in_a_list(network: Sequential) -> None:
    network.layers[2].numbers[0] = 3.0


def exchange_in_a_dictionary(network: Sequential) -> None:
    network.layers[2].tables["one"] = network.backend.zeros((4,)) + 1


def exchange_function(network: Sequential) -> None:
    network.layers[2].function = lambda x: x * x


def exchange_method(network: Sequential) -> None:
    layer = network.layers[2]
    layer.forward = lambda x, *, train: x * 0


OWN_CHANGES = [exchange_running, exchange_array, exchange_number, exchange_in_a_list, exchange_in_a_dictionary]
OWN_CHANGES += [exchange_function, exchange_method]
CHANGES = [change_layer, change_weights, exchange_weights, train, load, build_again]


@pytest.mark.parametrize("change", [*CHANGES, *OWN_CHANGES])
def test_changes_take_effect(change: Callable[[Sequential], None], cupy: ModuleType) -> None:
    network = network_on_gpu(Scaled() if change in OWN_CHANGES else layers.LeakyReLU(0.1))
    x = images(4)
    check_inferences(network, x, x, x)
    before = network.backend.to_host(network.predict(network.backend.from_host(x)))
    change(network)
    for _ in range(3):
        after = network.backend.to_host(network.predict(network.backend.from_host(x)))
        assert not np.array_equal(after, before)
        check_inferences(network, x)


def test_training_in_between_needs_no_new_recording(cupy: ModuleType) -> None:
    """What layers keep for their backward pass is no change."""
    network = network_on_gpu(layers.ReLU(), layers.Dropout(0.5))
    x = network.backend.from_host(images(4))
    replays = []
    for _ in range(5):
        network.backpropagate(network(x, train=True))
        for _ in range(3):
            network.predict(x)
        replays.append(network._inferences.replay)
    assert replays[-3] is replays[-2] is replays[-1]
    assert replays[-1].recorded == 1


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_forward_pass_of_a_users_own_is_what_is_predicted(device: str, cupy: ModuleType) -> None:
    class Halved(Sequential):
        def forward(self, x, *, train=True):
            return super().forward(x / 2, train=train)

    network = Halved([Flatten(), Dense(3)])
    network.build(SHAPE, device, seed=0)
    check_inferences(network, *[images(4)] * 3)


def test_an_inference_in_a_recording_is_a_part_of_it(cupy: ModuleType) -> None:
    network = network_on_gpu()
    x, y = network.backend.from_host(images(4)), network.backend.empty((4, 3))

    def work() -> None:
        y[...] = network.predict(x)

    work()
    recording = network.backend.record(work)
    y[...] = 0
    recording()
    np.testing.assert_array_equal(y.get(), network(x).get())
