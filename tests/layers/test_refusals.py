"""What layers, models, losses and the trainer refuse, and the one sentence with which they do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpucnn import (
    GELU,
    SGD,
    AdaptiveMaxPool2D,
    AveragePool2D,
    BatchNorm2D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    DeviceError,
    Dropout,
    GroupNorm,
    InputError,
    Layer,
    LpPool2D,
    MaxPool2D,
    MeanSquaredError,
    PReLU,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
)


def conv(name: str = "conv1", **settings) -> Conv2D:
    layer = Conv2D(4, 3, name=name, **settings)
    layer.build((8, 8, 2), "cpu")
    return layer


def after_forward(train: bool = True) -> Conv2D:
    layer = conv()
    layer(np.zeros((5, 8, 8, 2), np.float32), train=train)
    return layer


def trained() -> tuple[Sequential, Trainer]:
    model = Sequential([Dense(2)])
    model.build((3,))
    return model, Trainer(model, SoftmaxCrossEntropy(), SGD(0.1), batch_size=2)


def softmax_loss(logits, labels) -> None:
    loss = SoftmaxCrossEntropy()
    loss.forward(np.zeros((2, 3)), np.array([0, 1]))
    loss.forward(logits, labels)


REFUSALS = {
    "groups that do not divide the channels": (
        lambda: GroupNorm(4, name="g").build((5, 5, 6)),
        'GroupNorm "g": 6 channels cannot be divided into 4 equal groups; use a number of groups that divides 6',
    ),
    "numbers to normalize": (
        lambda: BatchNorm2D(name="b")(np.zeros(5, np.float32), train=True),
        'BatchNorm2D "b": expected samples of shape (..., C), received (); reshape (N,) to (N, 1)',
    ),
    "numbers to normalize in groups": (
        lambda: GroupNorm(1)(np.zeros(5, np.float32), train=True),
        "GroupNorm: expected samples of shape (..., C), received (); reshape (N,) to (N, 1)",
    ),
    "numbers without a slope": (
        lambda: PReLU()(np.zeros(5, np.float32), train=True),
        "PReLU: expected samples of shape (..., C), received (); reshape (N,) to (N, 1)",
    ),
    "PyTorch's word for an exact GELU": (
        lambda: GELU("none"),
        "GELU: approximate must be True or False, received 'none'",
    ),
    "a size of text": (
        lambda: Reshape((2, "3")),
        "Reshape: each size of shape must be an integer of at least 1, received '3'",
    ),
    "transpose padding unknown": (
        lambda: Conv2DTranspose(1, 3, padding="full").build((4, 4, 1)),
        "Conv2DTranspose: padding must be an integer, a pair or \"valid\", received 'full'",
    ),
    "no groups": (
        lambda: GroupNorm(0),
        "GroupNorm: groups must be an integer of at least 1, received 0",
    ),
    "groups that do not divide the filters": (
        lambda: Conv2D(6, 3, groups=4, name="c"),
        'Conv2D "c": 6 filters cannot be divided into 4 equal groups; use a number of groups that divides both the '
        "channels of the input and the filters",
    ),
    "groups of a convolution that do not divide the channels": (
        lambda: Conv2D(8, 3, groups=4, name="c").build((5, 5, 6)),
        'Conv2D "c": 6 channels cannot be divided into 4 equal groups; use a number of groups that divides both',
    ),
    "groups of a transpose that do not divide the channels": (
        lambda: Conv2DTranspose(8, 3, groups=4).build((5, 5, 6)),
        "Conv2DTranspose: 6 channels cannot be divided into 4 equal groups; use a number of groups that divides both",
    ),
    "a convolution of no groups": (
        lambda: Conv2D(8, 3, groups=0),
        "Conv2D: groups must be an integer of at least 1, received 0",
    ),
    "an output of size 0": (
        lambda: AdaptiveMaxPool2D((0, 2)),
        "AdaptiveMaxPool2D: output_size must be an integer of at least 1, received 0",
    ),
    "not an image to pool adaptively": (
        lambda: AdaptiveMaxPool2D(2).build((8, 8)),
        "AdaptiveMaxPool2D: expected images of shape (H, W, C), received samples of shape (8, 8)",
    ),
    "rounding up to a window around the image": (
        lambda: MaxPool2D((2, 1), stride=3, padding=((1, 0), (0, 0)), dilation=(5, 1), ceil_mode=True).build((3, 4, 1)),
        "MaxPool2D: with padding ((1, 0), (0, 0)) a window of (2, 1) lies wholly in the padding of an input 3x4",
    ),
    "no inputs": (
        lambda: Dense(2, name="d").build((0,)),
        'Dense "d": each size of input_shape must be an integer of at least 1, received 0',
    ),
    "no channels": (
        lambda: Conv2D(3, 2).build((5, 5, 0)),
        "Conv2D: each size of input_shape must be an integer of at least 1, received 0",
    ),
    "a shape of text": (
        lambda: Dense(2).build("4"),
        "Dense: each size of input_shape must be an integer of at least 1, received '4'",
    ),
    "rate of text": (
        lambda: Dropout("a"),
        "Dropout: rate must be a number of at least 0 and below 1, received 'a'",
    ),
    "p of text": (
        lambda: LpPool2D(2, p="2"),
        "LpPool2D: p must be a number of at least 1 and finite, received '2'",
    ),
    "weights before build": (
        lambda: Sequential([Dense(2)]).state_dict(),
        "Sequential: has no weights yet; call build first",
    ),
    "hash before build": (
        lambda: Sequential([Dense(2)], name="net").weights_sha256(),
        'Sequential "net": has no weights yet; call build first',
    ),
    "a class as a layer": (
        lambda: Sequential([Dense]),
        "Sequential: expected layers, such as ReLU(), received <class",
    ),
    "labels in a list": (
        lambda: softmax_loss(np.zeros((2, 3)), [0, 1]),
        "SoftmaxCrossEntropy: computes on cpu, but received a numpy ndarray and a builtins list; move both there",
    ),
    "labels above the classes": (
        lambda: softmax_loss(np.zeros((2, 3)), np.array([0, 3])),
        "SoftmaxCrossEntropy: labels must be 0 to 2 for 3 outputs, received 0 to 3",
    ),
    "labels below 0": (
        lambda: softmax_loss(np.zeros((2, 3)), np.array([-1, 2])),
        "SoftmaxCrossEntropy: labels must be 0 to 2 for 3 outputs, received -1 to 2",
    ),
    "targets of another precision": (
        lambda: MeanSquaredError().forward(np.zeros((2, 3)), np.zeros((2, 3), np.float32)),
        "MeanSquaredError: expected targets of dtype float64, received float32; use astype",
    ),
    "an empty batch": (
        lambda: conv()(np.zeros((0, 8, 8, 2), np.float32), train=True),
        'Conv2D "conv1": received an empty batch; give at least one sample',
    ),
    "a part built alone": (
        lambda: trained()[0].layers[0].build((3,)),
        'Dense "dense1": is a part of Sequential; build that instead',
    ),
    "a part given another precision": (
        lambda: trained()[0].layers[0](np.zeros((1, 3)), train=True),
        'Dense "dense1": expected input of dtype float32, received float64',
    ),
    "a part of two models": (
        lambda: Sequential([trained()[0].layers[0]]),
        'Sequential: Dense "dense1" has its place already; make a new layer for each place',
    ),
    "a part nested and not": (
        lambda: (lambda layer: Sequential([Sequential([layer]), layer]))(ReLU()),
        'Sequential: ReLU "relu1" has its place already; make a new layer for each place',
    ),
    "labels of floats": (
        lambda: softmax_loss(np.zeros((2, 3)), np.zeros(2)),
        "SoftmaxCrossEntropy: expected integer class labels, received float64; convert with astype",
    ),
    "another precision after training began": (
        lambda: trained()[0].predict(np.ones((2, 3))),
        "Sequential: expected input of dtype float32, received float64",
    ),
    "padding of three sides": (
        lambda: Conv2D(1, 3, padding=((1, 2, 3), (0, 0))).build((5, 5, 1)),
        "Conv2D: padding must be ((top, bottom), (left, right)), received ((1, 2, 3), (0, 0))",
    ),
    "channels": (
        lambda: conv()(np.zeros((5, 8, 8, 3), np.float32), train=True),
        'Conv2D "conv1": expected input of shape (N, 8, 8, 2), received (5, 8, 8, 3); reshape it, or build the layer '
        "for that shape",
    ),
    "rank": (
        lambda: conv()(np.zeros((8, 8, 2), np.float32), train=True),
        'Conv2D "conv1": expected input of shape (N, 8, 8, 2), received (8, 8, 2)',
    ),
    "rank 0": (
        lambda: conv()(np.zeros((), np.float32), train=True),
        'Conv2D "conv1": expected input of shape (N, 8, 8, 2), received ()',
    ),
    "not an image": (
        lambda: Conv2D(4, 3, name="c").build((8, 8)),
        'Conv2D "c": expected images of shape (H, W, C), received samples of shape (8, 8); use channels last, and one '
        "channel axis even for grey images",
    ),
    "not an image to pool": (
        lambda: MaxPool2D(2)(np.zeros((5, 8, 8), np.float32), train=True),
        "MaxPool2D: expected images of shape (H, W, C), received samples of shape (8, 8)",
    ),
    "not flat": (
        lambda: Dense(3, name="d").build((4, 4, 2)),
        'Dense "d": expected flat samples of shape (I,), received (4, 4, 2); put Flatten() before it',
    ),
    "dtype": (
        lambda: conv()(np.zeros((5, 8, 8, 2)), train=True),
        'Conv2D "conv1": expected input of dtype float32, received float64; convert it with astype, or build the '
        "layer for that precision",
    ),
    "dtype of dy": (
        lambda: after_forward().backpropagate(np.zeros((5, 6, 6, 4))),
        'Conv2D "conv1": expected dy of dtype float32, received float64',
    ),
    "float16": (
        lambda: Dense(3)(np.zeros((2, 4), np.float16), train=True),
        "Dense: expected floats (float32 or float64), received float16; convert with astype",
    ),
    "integers": (
        lambda: Dense(3)(np.zeros((2, 4), np.int64), train=True),
        "Dense: expected floats (float32 or float64), received int64; convert with astype",
    ),
    "integers when built": (
        lambda: conv()(np.zeros((5, 8, 8, 2), np.uint8), train=True),
        'Conv2D "conv1": expected input of dtype float32, received uint8',
    ),
    "a list": (
        lambda: Dense(3)([[1.0, 2.0]], train=True),
        "Dense: expected a NumPy or CuPy array, received list",
    ),
    "dy a list": (
        lambda: after_forward().backpropagate([1.0]),
        'Conv2D "conv1": built on cpu, but its dy is a builtins list',
    ),
    "backward first": (
        lambda: conv().backpropagate(np.zeros((5, 6, 6, 4), np.float32)),
        'Conv2D "conv1": backpropagate needs a call with train=True before it',
    ),
    "backward of a new layer": (
        lambda: Dense(3).backpropagate(np.zeros((5, 3), np.float32)),
        "Dense: backpropagate needs a call with train=True before it",
    ),
    "backward after train=False": (
        lambda: after_forward(train=False).backpropagate(np.zeros((5, 6, 6, 4), np.float32)),
        'Conv2D "conv1": backpropagate needs a call with train=True before it',
    ),
    "dy of wrong shape": (
        lambda: after_forward().backpropagate(np.zeros((5, 6, 6, 3), np.float32)),
        'Conv2D "conv1": expected dy of shape (5, 6, 6, 4), received (5, 6, 6, 3)',
    ),
    "dy of another batch": (
        lambda: after_forward().backpropagate(np.zeros((4, 6, 6, 4), np.float32)),
        'Conv2D "conv1": expected dy of shape (5, 6, 6, 4), received (4, 6, 6, 4)',
    ),
    "padding as large as the window": (
        lambda: MaxPool2D(2, padding=2, name="p").build((8, 8, 1)),
        'MaxPool2D "p": with padding ((2, 2), (2, 2)) a window of (2, 2) lies wholly in the padding of an input 8x8; '
        "use less padding or a larger kernel",
    ),
    "padding on one side": (
        lambda: AveragePool2D((4, 3), padding=((0, 0), (0, 3))).build((8, 9, 1)),
        "AveragePool2D: with padding ((0, 0), (0, 3)) a window of (4, 3) lies wholly in the padding of an input 8x9",
    ),
    "taps on both sides of the image": (
        lambda: MaxPool2D(2, stride=1, padding=1, dilation=3).build((1, 4, 1)),
        "MaxPool2D: kernel 2x2 dilated by (3, 3) does not fit input 1x4",
    ),
    "taps around the image": (
        lambda: MaxPool2D(2, stride=1, padding=1, dilation=2).build((1, 4, 1)),
        "MaxPool2D: with padding ((1, 1), (1, 1)) a window of (2, 2) lies wholly in the padding of an input 1x4",
    ),
    "transpose same": (
        lambda: Conv2DTranspose(1, 3, padding="same").build((4, 4, 1)),
        "Conv2DTranspose: padding must be an integer, a pair or \"valid\", received 'same'",
    ),
    "transpose output padding": (
        lambda: Conv2DTranspose(1, 3, stride=2, output_padding=(1, 2)).build((4, 4, 1)),
        "Conv2DTranspose: output_padding (1, 2) must be less than the stride (2, 2)",
    ),
    "transpose of nothing": (
        lambda: Conv2DTranspose(1, 3, padding=2).build((2, 4, 1)),
        "Conv2DTranspose: padding ((2, 2), (2, 2)) leaves an output of 0x2; use less",
    ),
    "a residual of two shapes": (
        lambda: Residual(Conv2D(3, 3)).build((8, 8, 3)),
        "Residual: cannot add samples of shapes (6, 6, 3) and (8, 8, 3); make them equal, for example by a 1x1",
    ),
    "a shape of other size": (
        lambda: Reshape((3, 3)).build((4, 2)),
        "Reshape: cannot make (3, 3) (9 elements) of samples of shape (4, 2) (8)",
    ),
    "rate 1": (lambda: Dropout(1.0), "Dropout: rate must be a number of at least 0 and below 1, received 1.0"),
    "rate -0.1": (
        lambda: Dropout(-0.1, name="d"),
        'Dropout "d": rate must be a number of at least 0 and below 1, received -0.1',
    ),
    "rate NaN": (
        lambda: Dropout(float("nan")),
        "Dropout: rate must be a number of at least 0 and below 1, received nan",
    ),
    "p 0.5": (
        lambda: LpPool2D(2, p=0.5),
        "LpPool2D: p must be a number of at least 1 and finite, received 0.5",
    ),
    "p inf": (
        lambda: LpPool2D(2, p=float("inf")),
        "LpPool2D: p must be a number of at least 1 and finite, received inf",
    ),
    "filters 0": (lambda: Conv2D(0, 3), "Conv2D: filters must be an integer of at least 1, received 0"),
    "filters 2.5": (lambda: Conv2D(2.5, 3), "Conv2D: filters must be an integer of at least 1, received 2.5"),
    "units 0": (lambda: Dense(0, name="out"), 'Dense "out": units must be an integer of at least 1, received 0'),
    "kernel 0": (
        lambda: Conv2D(4, (3, 0)).build((8, 8, 1)),
        "Conv2D: kernel_size must be an integer of at least 1, received 0",
    ),
    "stride 0": (
        lambda: MaxPool2D(2, stride=0).build((8, 8, 1)),
        "MaxPool2D: stride must be an integer of at least 1, received 0",
    ),
    "kernel too large": (
        lambda: Conv2D(4, 5, name="conv1").build((3, 4, 1)),
        'Conv2D "conv1": kernel 5x5 does not fit input 3x4 (OH = (3 + 0 + 0 - 5)//1 + 1 = -1); use a smaller kernel, '
        "more padding or a larger input",
    ),
    "padding unknown": (
        lambda: Conv2D(4, 3, padding="full").build((8, 8, 1)),
        'Conv2D: padding must be "same", "same_lower", "valid", an integer or a pair, received \'full\'',
    ),
    "initializer of a convolution": (
        lambda: Conv2D(4, 3, initializer="he_norml"),
        "unknown initializer 'he_norml': did you mean 'he_normal'?",
    ),
    "initializer of a dense layer": (
        lambda: Dense(4, initializer="glorot-uniform"),
        "unknown initializer 'glorot-uniform': did you mean 'glorot_uniform'?",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    call, message = REFUSALS[case]
    with pytest.raises((InputError, DeviceError)) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "build", [lambda layer: layer.build((2,), "cpu"), lambda layer: layer(np.zeros((1, 2), np.float32), train=True)]
)
def test_a_list_is_refused_by_a_built_layer(build: Callable) -> None:
    layer = Dense(3, name="out")
    build(layer)
    with pytest.raises((InputError, DeviceError), match='Dense "out": .* list'):
        layer([[1.0, 2.0]], train=True)


class DeviceArray:
    """Stands for an array of a GPU: only its type's module tells where it is."""

    dtype, shape, ndim = np.dtype("float32"), (5, 8, 8, 2), 4


DeviceArray.__module__ = "cupy"
DeviceArray.__qualname__ = DeviceArray.__name__ = "ndarray"


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_mixing_devices(device: str) -> None:
    layer = Conv2D(4, 3, name="conv1")
    layer.build((8, 8, 2), device)
    message = (
        f'Conv2D "conv1": built on {device}, but its input is a cupy ndarray; move the array there with '
        "backend.from_host/to_host, or build the layer on the array's device"
    )
    with pytest.raises(DeviceError) as error:
        layer(DeviceArray(), train=True)
    assert str(error.value) == message
    layer(np.zeros((5, 8, 8, 2), np.float32), train=True)
    with pytest.raises(DeviceError) as error:
        layer.backpropagate(DeviceArray())
    assert str(error.value) == message.replace("its input", "its dy")


def test_the_base_class_computes_nothing() -> None:
    with pytest.raises(NotImplementedError):
        Layer().infer_shape((3,))


def test_nothing_to_reset_or_list_before_build() -> None:
    layer = Dropout(0.5)
    layer.reset()
    assert layer.state() == {}
    assert Sequential([Dense(2), layer]).parameters() == []


def test_numbers_of_numpy_are_numbers() -> None:
    assert SGD(np.float32(0.5)).learning_rate == 0.5


@pytest.mark.parametrize(
    ("layer", "shape", "refused"),
    [
        (Conv2D(4, 3), (8, 8, 2), (2, 2, 2)),
        (Conv2D(4, 3, stride=2, padding="same", groups=2), (8, 8, 2), (7, 7, 3)),
        (MaxPool2D(2, stride=2, padding="same_lower", dilation=3), (8, 8, 2), (1, 4, 2)),
        (GroupNorm(2), (8, 8, 2), (8, 8, 3)),
    ],
)
def test_a_refused_build_changes_nothing(layer: Layer, shape: tuple, refused: tuple) -> None:
    x = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    layer.build(shape, "cpu")
    y = layer(x, train=True).copy()
    with pytest.raises(InputError):
        layer.build(refused, "cpu")
    np.testing.assert_array_equal(layer(x, train=True), y)


def test_a_refused_state_changes_nothing() -> None:
    model, _ = trained()
    before = model.state_dict()
    with pytest.raises(InputError, match="the state holds something other than numbers"):
        model.load_state_dict({"dense1.w": np.ones((3, 2)), "dense1.b": np.array(["a", "b"])})
    np.testing.assert_array_equal(model.state_dict()["dense1.w"], before["dense1.w"])


def test_a_move_keeps_the_state() -> None:
    layer = Dropout(0.5)
    layer.build((3,))
    layer.counter[...] = 7
    layer(np.ones((2, 3)), train=True)
    assert int(layer.counter[0]) == 8


def test_names_that_were_given_are_not_given_again() -> None:
    assert [layer.name for layer in Sequential([ReLU(), ReLU(name="relu1")]).layers] == ["relu2", "relu1"]
