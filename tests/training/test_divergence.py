"""A run that diverges says in which array NaN or infinity came first; no step is slower for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler

from gpucnn import (
    SGD,
    Conv2D,
    Dense,
    DivergedError,
    Flatten,
    Layer,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    get_backend,
)
from gpucnn.backend import CpuBackend
from gpucnn.data import DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization

SHAPE = (8, 8, 1)


@pytest.fixture(params=["reference", "one thread", "three threads", "gpu"])
def backend(request: pytest.FixtureRequest) -> Iterator:
    if request.param == "gpu":
        with installed_cupy(make_fake_cupy()):
            yield get_backend("gpu")
    elif request.param == "reference":
        yield get_backend("reference")
    else:
        yield CpuBackend(threads=1 if request.param == "one thread" else 3)


class Spoiled(Layer):
    """The identity, until the pass with a number divides by zero."""

    def __init__(self, forward: int = -1, backward: int = -1):
        super().__init__()
        self.forward_pass, self.backward_pass = forward, backward

    def infer_shape(self, input_shape):
        return input_shape

    def bind(self, context):
        super().bind(context)
        self.passes = self.backend.zeros((1,))  # on the device, so that who goes back in time counts again

    def state(self):
        return {"passes": self.passes}

    def forward(self, x, *, train):
        self.passes += 1
        return x / self.backend.cast(self.passes != self.forward_pass, x.dtype)

    def backward(self, dy, *, need_dx):
        return dy / self.backend.cast(self.passes != self.backward_pass, dy.dtype)


def make_trainer(backend, layers: list[Layer], rate: float = 0.01) -> tuple[Trainer, DeviceDataset]:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 255, (20, *SHAPE), dtype=np.uint8), rng.integers(0, 3, 20, dtype=np.int32))
    model = Sequential(layers)
    model.build(SHAPE, backend, seed=0)
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(rate), batch_size=4)
    return trainer, DeviceDataset(split, backend, Normalization(split.images))


def train(trainer: Trainer, data: DeviceDataset, epochs: int) -> None:
    for epoch in range(epochs):
        trainer.train_epoch(data, epoch)


def cause(backend, layers: list[Layer], rate: float = 0.01, *, epochs: int = 1) -> str:
    with pytest.raises(DivergedError) as error:
        train(*make_trainer(backend, layers, rate), epochs)
    return re.fullmatch(r"the loss became .*, which began in (.*); try a smaller learning rate", str(error.value))[1]


@requires_compiler
@pytest.mark.parametrize(
    ("spoiled", "array"), [({"forward": 3}, "the output of"), ({"backward": 3}, "the gradient in the input of")]
)
def test_the_first_array_is_named(spoiled: dict, array: str, backend) -> None:
    layers = [Conv2D(2, 3), ReLU(), MaxPool2D(2), Spoiled(**spoiled), Flatten(), Dense(3)]
    assert cause(backend, layers) == f'{array} Spoiled "spoiled1"'


@requires_compiler
def test_the_step_and_the_epoch_are_right(backend) -> None:
    trainer, data = make_trainer(backend, [Spoiled(forward=8), Flatten(), Dense(3)])
    trainer.train_epoch(data, 0)
    with pytest.raises(DivergedError, match=r"epoch 2, step 3, at learning rate 0\.01, which began in the output of S"):
        trainer.train_epoch(data, 1)


@requires_compiler
def test_a_learning_rate_that_is_too_high(backend) -> None:
    layers = [Conv2D(3, 3), ReLU(), Flatten(), Dense(8), ReLU(), Dense(3)]
    assert re.search("conv2d1|dense[12]|Conv2D|Dense", cause(backend, layers, 1e18, epochs=3))


def test_layers_inside_of_layers_are_named() -> None:
    body = Sequential([Conv2D(1, 3, padding=1), Spoiled(forward=2)])
    assert cause(get_backend("cpu"), [Residual(body), Flatten(), Dense(3)]) == 'the output of Spoiled "spoiled1"'


def test_weights_that_were_spoiled_before() -> None:
    trainer, data = make_trainer(get_backend("cpu"), [Flatten(), Dense(3, name="dense")])
    trainer.model.layers[1].w.value[2, 1] = np.inf
    with pytest.raises(DivergedError, match=r"which began in dense\.w at the start of the epoch"):
        trainer.train_epoch(data, 0)


def test_nothing_is_watched_afterwards() -> None:
    layers = [Conv2D(2, 3), ReLU(), Flatten(), Spoiled(forward=2), Dense(3)]
    trainer, data = make_trainer(get_backend("cpu"), layers)
    with pytest.raises(DivergedError):
        trainer.train_epoch(data, 0)
    program = trainer.model.program
    assert not any(segment.observer for segment in [program.whole, program.rest, *program.front.segments])
