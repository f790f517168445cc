"""Layers, models, losses and optimizers show themselves as the call that makes them; containers are sequences."""

from __future__ import annotations

import re
from html import escape, unescape

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
from gpucnn.representation import html_table

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


def test_a_table_for_notebooks() -> None:
    rows = [("name", "kind", "size"), ("<i>", "a & b", 3), ("total", "", 3)]
    head, body, total = html_table(rows, left=2, totals=1, caption='"<b>"').splitlines()[2:-1]
    assert html_table(rows, caption='"<b>"').splitlines()[:2] == ["<table>", "<caption>&quot;&lt;b&gt;&quot;</caption>"]
    assert [row.count("<th") for row in (head, body, total)] == [3, 0, 3]
    assert body == (
        '<tr><td style="text-align: left">&lt;i&gt;</td><td style="text-align: left">a &amp; b</td>'
        '<td style="text-align: right">3</td></tr>'
    )


def cells(table: str) -> list[list[str]]:
    return [re.findall(r">([^<>]*)</t[dh]>", line) for line in table.splitlines() if line.startswith("<tr>")]


def test_a_layer_in_a_notebook() -> None:
    conv = Conv2D(4, (1, 2), stride=2, initializer="zeros", name="<b>")
    settings = [
        *(["Conv2D &quot;&lt;b&gt;&quot;", ""], ["filters", "4"], ["kernel_size", "(1, 2)"], ["stride", "2"]),
        *(["padding", "0"], ["dilation", "1"], ["bias", "True"], ["groups", "1"]),
        ["initializer", "&#x27;zeros&#x27;"],
    ]
    assert cells(conv._repr_html_()) == settings
    conv.build((8, 9, 3))
    assert cells(conv._repr_html_()) == [
        *settings,
        *(["input", "(8, 9, 3)"], ["output", "(4, 4, 4)"], ["parameter w", "(1, 2, 3, 4)"], ["parameter b", "(4,)"]),
    ]
    add = Add()
    add.build([(2,), (2,)])
    assert cells(add._repr_html_()) == [["Add", ""], ["input", "((2,), (2,))"], ["output", "(2,)"]]


def test_a_network_in_a_notebook() -> None:
    class Opaque(ReLU):
        def forward(self, x: np.ndarray, *, train: bool) -> np.ndarray:
            return super().forward(x, train=train)

    model = Sequential([Conv2D(4, 3, name="<b>"), Opaque(), Residual(ReLU()), Flatten(), Dense(10)])
    assert model._repr_html_() == f"<pre>{escape(repr(model))}</pre>" and "<b>" in repr(model)
    model.build((8, 8, 1))
    table = model._repr_html_()
    lines = [line.split() for line in model.summary().splitlines() if not line.startswith("-")]
    head, *rows, first, second = lines
    words = [unescape(" ".join(row)).split() for row in cells(table)]
    assert words == [head, *rows]
    caption = re.search("<caption>(.*)</caption>", table)
    assert caption is not None
    assert caption[1] == escape(f"{' '.join(first)}; {' '.join(second)}")
    assert [line.count("<th") for line in table.splitlines() if line.startswith("<tr>")] == [5, *[0] * 6, 5]
    assert model[2]._repr_html_() == "<pre>Residual(ReLU(), shortcut=Identity())</pre>"


def test_a_data_set_in_a_notebook() -> None:
    images = np.zeros((3, 4, 5, 1), np.uint8)
    halves = [data.Split(images, np.array(labels, np.int32)) for labels in ([0, 0, 0], [1, 0, 1])]
    table = data.Dataset("pets", *halves, ("cat", "<dog>"), 255)._repr_html_()
    assert cells(table) == [
        ["class", "train", "test"],
        ["cat", "3", "1"],
        ["&lt;dog&gt;", "0", "2"],
        ["total", "3", "3"],
    ]
    assert "<caption>pets: images of 4 x 5 x 1</caption>" in table


def test_a_split_is_a_sequence_of_samples() -> None:
    split = data.load("digits").test
    image, label = split[-1]
    assert np.array_equal(image, split.images[358]) and label == split.labels[358] and type(label) is int
    some = split[3:50:7]
    assert len(some) == 7 and np.array_equal(some.images, split.images[3:50:7])
    assert np.array_equal(some.labels, split.labels[3:50:7])
    assert some.images.flags.c_contiguous  # as of any split
    assert [label for _, label in some] == some.labels.tolist()
    assert all(np.array_equal(image, some[place][0]) for place, (image, _) in enumerate(some))
    with pytest.raises(IndexError):
        split[359]
    normalization = Normalization(data.load("digits").train.images)
    assert repr(normalization) == f"<Normalization: scale {normalization.scale}, shift {normalization.shift}>"
