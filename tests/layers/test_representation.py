"""Layers, models, losses and optimizers show themselves as the call that makes them; containers are sequences."""

from __future__ import annotations

import numpy as np
import parts
import pytest

import gpucnn
from gpucnn import (
    SGD,
    Add,
    AveragePool2D,
    Conv2D,
    Dense,
    Flatten,
    Layer,
    MaxPool2D,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    data,
    get_backend,
    zoo,
)
from gpucnn.data import DeviceDataset, Normalization

CALLS = [
    "Conv2D(8, 3)",
    "Conv2D(8, (3, 5), stride=2, padding='same', bias=False, groups=2)",
    "Conv2D(8, 3, initializer='glorot_uniform', name='first')",
    "MaxPool2D(2)",
    "MaxPool2D(3, stride=2, padding=1)",
    "Dense(10)",
    "ReLU()",
    "PReLU()",
    "LeakyReLU(slope=0.2)",
    "Reshape((4, 4))",
    "BatchNorm2D(momentum=0.2)",
    "GroupNorm(4)",
    "Dropout(0.5)",
    "SoftmaxCrossEntropy()",
    "SoftmaxCrossEntropy(class_weights=(1.0, 2.0), ignored_label=-1, reduction='sum')",
    "Huber(delta=2.0)",
    "SGD(learning_rate=0.05, momentum=0.9, nesterov=True)",
    "AdamW(weight_decay=0.1, clip_norm=1.0)",
    "WeightAverage(decay=0.9)",
    "Cosine(end=0.1)",
]
SCOPE = {
    name: vars(module)[name] for module in (gpucnn.optim.schedules, gpucnn.losses, gpucnn) for name in module.__all__
}


@pytest.mark.parametrize("call", CALLS)
def test_a_part_shows_the_call_that_makes_it(call: str) -> None:
    name, _, rest = call.partition("(")
    assert repr(made(call)) == call
    assert name in SCOPE and rest


def made(call: str) -> object:
    """Make the thing of a call that was written above."""
    return eval(call, dict(SCOPE))


@pytest.mark.parametrize("name", [*parts.LAYERS, *parts.LOSSES, *parts.OPTIMIZERS])
def test_what_it_shows_makes_an_equal_one(name: str) -> None:
    """Of every part of the library, before and after it is built."""
    part = (parts.LAYERS | parts.LOSSES | parts.OPTIMIZERS)[name]()
    shown = repr(part)
    assert "..." not in shown
    assert repr(made(shown)) == shown
    if isinstance(part, Layer):
        parts.network(part).build(parts.SHAPE, "cpu", max_batch=2)
        assert repr(part) == shown


def test_networks_show_their_layers() -> None:
    model = Sequential([Conv2D(6, 5), ReLU(), Parallel([MaxPool2D(2), AveragePool2D(2)], Add()), Flatten(), Dense(10)])
    expected = """\
Sequential([
    Conv2D(6, 5),
    ReLU(),
    Parallel([
        MaxPool2D(2),
        AveragePool2D(2),
    ], join=Add()),
    Flatten(),
    Dense(10),
])"""
    assert repr(model) == expected
    model.build((12, 12, 1), "cpu")
    assert repr(model) == expected
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1), batch_size=32)
    assert repr(trainer) == f"Trainer({expected}, SoftmaxCrossEntropy(), SGD(learning_rate=0.1), batch_size=32)"


@pytest.mark.parametrize("name", zoo.MODELS)
def test_networks_of_the_zoo(name: str) -> None:
    shown = repr(zoo.get_recipe(name).model(10))
    assert repr(made(shown)) == shown


def test_classes_of_a_users_own() -> None:
    class Named(Sequential):
        def __init__(self, filters: int, *more: int, bias: bool = True, **options: int):
            super().__init__([Conv2D(filters, 3, bias=bias)])

    class Plain(Layer):
        pass

    assert [repr(Named(4)), repr(Named(4, bias=False)), repr(Plain()), repr(Plain("mine"))] == [
        *("Named(...)", "Named(...)", "Plain()", "Plain(name='mine')")
    ]


def test_long_arguments_are_cut() -> None:
    assert len(repr(SoftmaxCrossEntropy(class_weights=range(1000)))) < 120


def test_data_and_devices() -> None:
    digits, backend = data.load("digits"), get_backend("cpu", threads=1)
    assert repr(digits.train) == "<Split: 1,438 images of 8 x 8 x 1>"
    assert repr(digits).startswith("<Dataset digits: 10 classes, <Split: 1,438 images")
    split = DeviceDataset(digits.test, backend, Normalization(digits.train.images))
    assert repr(split) == "<DeviceDataset: 359 images of 8 x 8 x 1 on cpu>"
    assert repr(backend) == f"<CpuBackend cpu (numpy {np.__version__}, 1 thread)>"
    assert (len(digits.train), len(digits.test), len(split)) == (1438, 359, 359)


def test_containers_are_sequences() -> None:
    layers = [Conv2D(4, 3), ReLU(), Dense(10)]
    model = Sequential(layers)
    assert len(model) == 3
    assert [*model] == layers
    assert model[0] is layers[0] and model[-1] is layers[2]
    assert model[1:] == layers[1:]
    with pytest.raises(IndexError):
        model[3]
    block = Residual(Conv2D(4, 1))
    assert len(block) == 3 and block[0] is block.body
