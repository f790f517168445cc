"""Layers: their gradients, shapes and buffers, what they do alone, and every sentence they refuse with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from tolerances import assert_close

from gpucnn import (
    ELU,
    GELU,
    SELU,
    AdaptiveAveragePool2D,
    AdaptiveMaxPool2D,
    Add,
    Arctan,
    AveragePool2D,
    BatchNorm2D,
    BinaryStep,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    GroupNorm,
    HardSigmoid,
    Identity,
    InputError,
    Layer,
    LeakyReLU,
    LogSoftmax,
    LpPool2D,
    MaxPool2D,
    Parallel,
    PReLU,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Softplus,
    Swish,
    Tanh,
    ZeroPad2D,
    get_backend,
)
from gpucnn.gradcheck import check_layer, directional_error

# A step of 1e-6 in float64 leaves 1e-16/1e-6 = 1e-10 of rounding, times the size of the sum over all outputs; a wrong
# gradient is off by a tenth or more.
GRADIENT_ERROR = 1e-6
WRONG_GRADIENT = 1e-2
KINK_DISTANCE = 1e-2  # of inputs from zero and from each other: 1,000 times the largest step

DEVICES = ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def smooth_batch(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return values of either sign in a random order, no two nearer than `KINK_DISTANCE`, none near 0, float64."""
    size = int(np.prod(shape))
    values = (np.arange(size) - size // 2 + 0.5) * max(2.0 / size, 2 * KINK_DISTANCE)
    return np.random.default_rng(seed).permutation(values).reshape(shape)


IMAGES = (3, 7, 6, 2)
GRADIENT_CASES: dict[str, tuple[Callable[[], Layer], tuple[int, ...]]] = {
    "conv": (lambda: Conv2D(4, 3), IMAGES),
    "conv stride": (lambda: Conv2D(3, 3, stride=2), IMAGES),
    "conv stride beyond kernel": (lambda: Conv2D(3, 2, stride=3), IMAGES),
    "conv padding": (lambda: Conv2D(3, (3, 2), padding=(2, 1)), IMAGES),
    "conv padding per side": (lambda: Conv2D(3, 3, stride=(2, 1), padding=((0, 2), (1, 0))), IMAGES),
    "conv padding beyond kernel": (lambda: Conv2D(2, 2, padding=3), IMAGES),
    "conv same": (lambda: Conv2D(3, 4, padding="same"), IMAGES),
    "conv same stride": (lambda: Conv2D(3, 3, stride=2, padding="same"), IMAGES),
    "conv dilation": (lambda: Conv2D(3, (3, 2), dilation=(2, 3), padding=1), IMAGES),
    "conv dilation stride": (lambda: Conv2D(3, 2, stride=2, dilation=2), IMAGES),
    "conv no bias": (lambda: Conv2D(3, 3, bias=False), IMAGES),
    "conv 1x1": (lambda: Conv2D(3, 1), IMAGES),
    "conv whole image": (lambda: Conv2D(3, (7, 6)), IMAGES),
    "conv groups": (lambda: Conv2D(6, 3, stride=2, padding=1, groups=2), (3, 7, 6, 4)),
    "conv depthwise": (lambda: Conv2D(2, (3, 2), padding="same", dilation=(1, 2), groups=2), IMAGES),
    "conv depthwise multiplier": (lambda: Conv2D(4, 3, stride=(2, 1), groups=2, bias=False), IMAGES),
    "transpose": (lambda: Conv2DTranspose(3, 3), IMAGES),
    "transpose stride": (lambda: Conv2DTranspose(2, (3, 2), stride=(2, 3), padding=((1, 0), (0, 1))), IMAGES),
    "transpose all": (
        lambda: Conv2DTranspose(2, 3, stride=3, padding=1, dilation=2, bias=False, output_padding=(1, 2)),
        IMAGES,
    ),
    "transpose groups": (lambda: Conv2DTranspose(6, 3, stride=2, padding=1, groups=2, output_padding=1), (3, 5, 4, 4)),
    "transpose depthwise": (lambda: Conv2DTranspose(2, 2, stride=2, groups=2), IMAGES),
    "max pool": (lambda: MaxPool2D(2), IMAGES),
    "max pool overlapping": (lambda: MaxPool2D(3, stride=1, padding=1), IMAGES),
    "max pool gaps": (lambda: MaxPool2D(2, stride=3), IMAGES),
    "average pool": (lambda: AveragePool2D(2), IMAGES),
    "average pool without padding": (lambda: AveragePool2D(3, stride=2, padding=1), IMAGES),
    "average pool with padding": (lambda: AveragePool2D(3, stride=2, padding=1, count_include_pad=True), IMAGES),
    "max pool dilation": (lambda: MaxPool2D(2, stride=1, padding=1, dilation=2), IMAGES),
    "average pool dilation": (lambda: AveragePool2D((2, 3), dilation=(3, 2)), IMAGES),
    "lp pool dilation": (lambda: LpPool2D(2, stride=2, dilation=3), IMAGES),
    "max pool ceil": (lambda: MaxPool2D(3, stride=2, ceil_mode=True), (3, 8, 6, 2)),
    "average pool ceil": (
        lambda: AveragePool2D((3, 2), stride=3, padding=1, ceil_mode=True, count_include_pad=True),
        (3, 8, 6, 2),
    ),
    "lp pool ceil": (lambda: LpPool2D(3, stride=2, padding=((1, 0), (0, 1)), ceil_mode=True, p=3), IMAGES),
    "zero padding": (lambda: ZeroPad2D(((1, 0), (2, 3))), IMAGES),
    "reshape": (lambda: Reshape((2, 21, 2)), IMAGES),
    "reshape to one axis": (lambda: Reshape(84), IMAGES),
    "lp pool 1": (lambda: LpPool2D(2, p=1), IMAGES),
    "lp pool 2": (lambda: LpPool2D(3, stride=2, padding=1), IMAGES),
    "lp pool 3": (lambda: LpPool2D(2, stride=1, p=3), IMAGES),
    "batch norm": (BatchNorm2D, IMAGES),
    "batch norm flat": (lambda: BatchNorm2D(eps=0.1), (4, 7)),
    "group norm": (lambda: GroupNorm(2), (3, 7, 6, 4)),
    "group norm of one group": (lambda: GroupNorm(1, eps=0.1), IMAGES),
    "group norm flat": (lambda: GroupNorm(3), (4, 12)),
    "dense": (lambda: Dense(5), (4, 7)),
    "dense no bias": (lambda: Dense(5, bias=False), (4, 7)),
    "flatten": (Flatten, IMAGES),
    "relu": (ReLU, IMAGES),
    "sigmoid": (Sigmoid, (4, 7)),
    "tanh": (Tanh, IMAGES),
    "leaky relu": (lambda: LeakyReLU(0.1), IMAGES),
    "prelu": (PReLU, IMAGES),
    "prelu flat": (PReLU, (4, 7)),
    "elu": (lambda: ELU(0.7), IMAGES),
    "softplus": (Softplus, (4, 7)),
    "arctan": (Arctan, (4, 7)),
    "binary step": (BinaryStep, (4, 7)),
    "selu": (SELU, IMAGES),
    "swish": (Swish, (4, 7)),
    "gelu": (GELU, (4, 7)),
    "gelu approximate": (lambda: GELU(approximate=True), IMAGES),
    "hard sigmoid": (lambda: HardSigmoid(0.3), (4, 7)),
    "log softmax": (LogSoftmax, (4, 7)),
    "identity": (Identity, (4, 7)),
    "softmax": (Softmax, (4, 7)),
    "softmax over channels": (Softmax, IMAGES),
    "dropout": (lambda: Dropout(0.4), (4, 7)),
    "dropout 0": (lambda: Dropout(0.0), (4, 7)),
    "global average pool": (GlobalAveragePool2D, IMAGES),
    "global max pool": (GlobalMaxPool2D, IMAGES),
    "adaptive average pool": (lambda: AdaptiveAveragePool2D((3, 4)), IMAGES),
    "adaptive average pool to more": (lambda: AdaptiveAveragePool2D(9), IMAGES),
    "adaptive max pool": (lambda: AdaptiveMaxPool2D((4, 1)), IMAGES),
    "residual": (lambda: Residual(Sequential([Conv2D(2, 3, padding=1), Tanh(), Conv2D(2, 3, padding=1)])), IMAGES),
    "residual with shortcut": (
        lambda: Residual(
            Sequential(
                [
                    Conv2D(4, 3, stride=2, padding=1, bias=False),
                    BatchNorm2D(),
                    Tanh(),
                    Residual(Conv2D(4, 3, padding="same")),
                ]
            ),
            Conv2D(4, 1, stride=2),
        ),
        IMAGES,
    ),
    "parallel": (
        lambda: Parallel(
            [
                Conv2D(3, 1),
                Sequential([Conv2D(2, 3, padding=1), Tanh()]),
                AveragePool2D(3, stride=1, padding=1),
                Identity(),
            ]
        ),
        IMAGES,
    ),
    "parallel sum": (
        lambda: Parallel(
            [Conv2D(2, 1), Conv2D(2, 3, padding=1), Sequential([Parallel([Tanh(), Identity()], Add())])], Add()
        ),
        IMAGES,
    ),
    "relu behind": (  # with so many inputs to each sum that none is of zeros alone, where ReLU has a kink
        lambda: Sequential(
            [
                *(
                    Conv2D(8, 3),
                    ReLU(),
                    Residual(
                        Sequential([Conv2D(8, 3, stride=1, padding=1), ReLU(), Conv2D(8, 3, stride=1, padding=1)])
                    ),
                ),
                *(ReLU(), Residual(Sequential([Conv2D(8, 3, padding=1), ReLU()])), Conv2D(8, 2, groups=2), ReLU()),
                *(Flatten(), Dense(16), ReLU(), Dense(4), ReLU()),
            ]
        ),
        IMAGES,
    ),
    "network": (
        lambda: Sequential(
            [Conv2D(4, 3, padding="same"), Tanh(), AveragePool2D(2), Flatten(), Dropout(0.3), Dense(5), Sigmoid()]
        ),
        IMAGES,
    ),
}

# Every layer on one small batch: what makes it, and the shape of a sample.
ONE_OF_EACH = (
    *("conv", "conv no bias", "transpose", "batch norm", "max pool", "average pool", "lp pool 2", "dense", "flatten"),
    *("relu", "sigmoid", "tanh", "softmax", "dropout", "network", "residual", "parallel", "prelu", "elu", "arctan"),
    *("gelu", "group norm", "conv groups", "conv depthwise", "transpose groups", "max pool ceil", "global max pool"),
    *("global average pool", "adaptive average pool", "adaptive max pool"),
)
LAYERS = {name: GRADIENT_CASES[name] for name in ONE_OF_EACH}


def batch(shape: tuple[int, ...], dtype: str = "float32", seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(params=LAYERS)
def layer_and_shape(request: pytest.FixtureRequest) -> tuple[Layer, tuple[int, ...]]:
    make, shape = LAYERS[request.param]
    return make(), shape


# ---- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients(case: str, device: str) -> None:
    make, shape = GRADIENT_CASES[case]
    layer = make()
    errors = check_layer(layer, smooth_batch(shape), device=device)
    assert len(errors) == 1 + len(layer.parameters())
    assert max(errors.values()) < GRADIENT_ERROR, errors


class HalvedGradient(Tanh):
    def backward(self, dy, *, need_dx):
        return 0.5 * super().backward(dy, need_dx=need_dx)


class WrongFeature(Dense):
    """Gives the gradient of one weight to its neighbour."""

    def backward(self, dy, *, need_dx):
        dx = super().backward(dy, need_dx=need_dx)
        self.w.gradient[0] = np.roll(self.w.gradient[0], 1)
        return dx


class ForgottenBias(Conv2D):
    def backward(self, dy, *, need_dx):
        dx = super().backward(dy, need_dx=need_dx)
        self.b.gradient[...] = 0
        return dx


@pytest.mark.parametrize(
    ("layer", "shape", "wrong"),
    [(HalvedGradient(), (3, 4), "x"), (WrongFeature(4), (3, 5), "w"), (ForgottenBias(3, 2), IMAGES, "b")],
    ids=["x", "w", "b"],
)
def test_a_wrong_gradient_is_noticed(layer: Layer, shape: tuple[int, ...], wrong: str) -> None:
    errors = check_layer(layer, smooth_batch(shape))
    assert {name for name, error in errors.items() if error > GRADIENT_ERROR} == {wrong}
    assert errors[wrong] > WRONG_GRADIENT


def test_directional_error_is_relative() -> None:
    x = np.array([1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    assert directional_error(lambda x: float(np.sum(x**2)), x, 2 * x, rng) < GRADIENT_ERROR
    assert directional_error(lambda x: 1e9 * float(np.sum(x**2)), x, 2e9 * x, rng) < GRADIENT_ERROR
    assert directional_error(lambda x: 1e-9 * float(np.sum(x**2)), x, 4e-9 * x, rng) > WRONG_GRADIENT


def test_check_layer_leaves_the_weights_alone() -> None:
    layer, same = Dense(3), Dense(3)
    check_layer(layer, smooth_batch((2, 4)), seed=5)
    same.build((4,), get_backend("cpu", "float64"), seed=5)
    np.testing.assert_array_equal(layer.w.value, same.w.value)


@pytest.mark.parametrize("case", [case for case in GRADIENT_CASES if case.startswith("transpose")])
@pytest.mark.parametrize("device", DEVICES)
def test_transpose_by_loops(case: str, device: str) -> None:
    """Each input pixel, times the kernel, is added where the kernel's window would have met it."""
    make, shape = GRADIENT_CASES[case]
    layer, x, backend = make(), smooth_batch(shape), get_backend(device, "float64")
    layer.build(shape[1:], backend, seed=1)
    if layer.bias:
        layer.b.value[...] = 0.5
    w, (OH, OW, OC) = backend.to_host(layer.w.value), layer.output_shape
    expected = np.full((len(x), OH, OW, OC), 0.5 if layer.bias else 0.0)
    (SH, SW), (DH, DW), ((top, _), (left, _)) = layer.window.stride, layer.window.dilation, layer.window.padding
    for i, j, u, v in np.ndindex(*x.shape[1:3], *w.shape[:2]):
        row, column = i * SH + u * DH - top, j * SW + v * DW - left
        if 0 <= row < OH and 0 <= column < OW:
            for group in np.split(np.arange(x.shape[3]), layer.groups):
                first = group[0] // len(group) * w.shape[2]
                expected[:, row, column, first : first + w.shape[2]] += x[:, i, j, group] @ w[u, v][:, group].T
    assert_close(backend.to_host(layer(backend.from_host(x), train=True)), expected, "float64", terms=w.size)


def test_transpose_draws_by_its_own_fan() -> None:
    """An output of the transpose sums KH*KW*C terms, where C is the last axis of its kernels."""
    layer = Conv2DTranspose(5, 3)
    layer.build((4, 4, 400), get_backend("cpu", "float64"))
    assert layer.w.value.shape == (3, 3, 5, 400)
    assert layer.w.value.var() == pytest.approx(2 / (9 * 400), rel=0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_zero_padding_is_zero_whatever_lay_there(device: str) -> None:
    backend, x = get_backend(device, "float64"), smooth_batch(IMAGES)
    layer = ZeroPad2D(((1, 0), (2, 3)))
    layer.build(IMAGES[1:], backend)
    layer(backend.from_host(x), train=True)[...] = np.nan
    y = backend.to_host(layer(backend.from_host(x), train=True))
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (1, 0), (2, 3), (0, 0))))


def test_max_pool_ties_go_to_the_first() -> None:
    x = np.array([[1, 3, 2, 2], [3, 3, 2, 2]], np.float32).reshape(1, 2, 4, 1)
    for device in ("reference", "cpu"):
        pool = MaxPool2D(2)
        pool.build(x.shape[1:], device)
        np.testing.assert_array_equal(pool(x, train=True).ravel(), [3, 2])
        dx = pool.backpropagate(np.array([5, 7], np.float32).reshape(1, 1, 2, 1))
        np.testing.assert_array_equal(dx.reshape(2, 4), [[0, 5, 7, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("device", DEVICES)
def test_batch_norm_in_training_and_after_it(device: str) -> None:
    backend = get_backend(device, "float64")
    model = Sequential([BatchNorm2D(momentum=0.25)])
    model.build((3, 2), backend, max_batch=4)
    [norm] = model.layers
    np.testing.assert_array_equal(backend.to_host(norm.running), [[0, 0], [1, 1]])  # the warm-up left no trace
    x = np.random.default_rng(0).standard_normal((40, 3, 2)) * [1, 3] + [2, -1]
    y = backend.to_host(model(backend.from_host(x), train=True))
    np.testing.assert_allclose(y.mean(axis=(0, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(0, 1)), 1, rtol=1e-4)
    running = 0.75 * np.array([[0, 0], [1, 1]]) + 0.25 * np.stack([x.mean((0, 1)), x.var((0, 1), ddof=1)])
    np.testing.assert_allclose(backend.to_host(norm.running), running)
    expected = (x - running[0]) / np.sqrt(running[1] + 1e-5)
    np.testing.assert_allclose(backend.to_host(model.predict(backend.from_host(x))), expected)
    np.testing.assert_allclose(backend.to_host(norm.running), running)  # inference changes nothing
    assert list(model.state_dict()) == ["batchnorm2d1.gamma", "batchnorm2d1.beta", "batchnorm2d1.running"]


def test_dropout_drops_a_share_and_scales_the_rest() -> None:
    layer, x = Dropout(0.25), np.ones((50, 400), np.float32)
    y = layer(x, train=True).copy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(np.mean(y == 0) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / y.size)  # 5 sigma
    np.testing.assert_array_equal(layer.backpropagate(np.full_like(x, 3)), 3 * y)
    assert not np.array_equal(layer(x, train=True), y), "the same mask twice"
    layer.reset()
    np.testing.assert_array_equal(layer(x, train=True), y)
    np.testing.assert_array_equal(layer(x), x)


def test_dropout_layers_of_a_model_have_masks_of_their_own() -> None:
    model = Sequential([Dropout(0.5), Dropout(0.5)])
    model.build((2000,), "cpu")
    kept = np.mean(model(np.ones((1, 2000), np.float32), train=True) > 0)
    assert abs(kept - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2000)  # two equal masks would keep half


def test_a_seed_gives_the_same_masks_on_every_device() -> None:
    masks = []
    for device, seed in (("cpu", 3), ("reference", 3), ("cpu", 4)):
        layer = Dropout(0.5)
        layer.build((100,), device, seed=seed)
        masks.append(layer(np.ones((2, 100), np.float32), train=True).copy())
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


# ---- shapes -------------------------------------------------------------------------------------------------------

SHAPES = [
    (Conv2D(8, 3), (28, 28, 1), (26, 26, 8)),
    (Conv2D(8, (5, 3), stride=(2, 3), padding=(2, 0)), (28, 28, 3), (14, 9, 8)),
    (Conv2D(4, 3, padding="same"), (7, 9, 2), (7, 9, 4)),
    (Conv2D(4, 2, stride=2, padding="same"), (7, 9, 2), (4, 5, 4)),
    (Conv2D(4, 3, dilation=2), (7, 9, 2), (3, 5, 4)),
    (MaxPool2D(2), (7, 9, 5), (3, 4, 5)),
    (AveragePool2D(3, stride=2, padding=1), (7, 9, 5), (4, 5, 5)),
    (LpPool2D((1, 3), stride=1), (7, 9, 5), (7, 7, 5)),
    (Conv2D(6, 3, groups=2), (7, 9, 4), (5, 7, 6)),
    (Conv2DTranspose(6, 3, groups=2), (7, 9, 4), (9, 11, 6)),
    (MaxPool2D(2, ceil_mode=True), (7, 9, 5), (4, 5, 5)),
    (GlobalAveragePool2D(), (7, 9, 5), (5,)),
    (GlobalMaxPool2D(), (7, 9, 5), (5,)),
    (AdaptiveAveragePool2D(3), (7, 9, 5), (3, 3, 5)),
    (AdaptiveMaxPool2D((2, 11)), (7, 9, 5), (2, 11, 5)),
    (Dense(11), (6,), (11,)),
    (Flatten(), (3, 4, 5), (60,)),
    (ReLU(), (3, 4), (3, 4)),
    (Dropout(0.1), (3, 4, 5), (3, 4, 5)),
]


@pytest.mark.parametrize(("layer", "sample", "output"), SHAPES, ids=lambda value: getattr(value, "label", None))
def test_shapes(layer: Layer, sample: tuple[int, ...], output: tuple[int, ...]) -> None:
    assert layer.build(sample) == output == layer.output_shape
    x = np.zeros((3, *sample), np.float32)
    y = layer(x, train=True)
    assert y.shape == (3, *output)
    assert layer.backpropagate(np.zeros_like(y)).shape == x.shape


def test_parameter_shapes() -> None:
    conv, dense = Conv2D(8, (5, 3)), Dense(4)
    conv.build((9, 9, 2))
    dense.build((6,))
    assert [(p.name, p.value.shape, p.gradient.shape) for p in conv.parameters()] == [
        ("w", (5, 3, 2, 8), (5, 3, 2, 8)),
        ("b", (8,), (8,)),
    ]
    assert [(p.name, p.value.shape) for p in dense.parameters()] == [("w", (6, 4)), ("b", (4,))]
    assert not conv.b.value.any()
    assert not dense.b.value.any()


# ---- a layer alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("built", [False, True], ids=["on first array", "after build"])
def test_a_layer_alone(dtype: str, built: bool) -> None:
    conv = Conv2D(8, 3)
    if built:
        assert conv.build((28, 28, 1)) == (26, 26, 8)
    x = batch((2, 28, 28, 1), dtype)
    y = conv(x, train=True)
    assert y.shape == (2, 26, 26, 8)
    assert y.dtype == dtype == conv.w.value.dtype
    dx = conv.backpropagate(np.ones_like(y))
    assert dx.shape == x.shape
    assert dx.dtype == dtype == conv.w.gradient.dtype
    m, n, o = 4, 7, 3  # one output pixel by the definition
    expected = np.sum(x[1, m : m + 3, n : n + 3, :] * conv.w.value[..., o])
    assert_close(y[1, m, n, o], expected, dtype, terms=9)
    assert_close(conv.b.gradient, np.full(8, 2 * 26 * 26), dtype)


def test_a_layer_is_callable() -> None:
    dense = Dense(3)
    x = batch((2, 4))
    np.testing.assert_array_equal(dense(x).copy(), dense(x, train=True))


def test_weights_set_before_the_first_forward_survive_the_move_to_float64() -> None:
    dense = Dense(2)
    dense.build((3,))
    dense.w.value[...] = [[1, 2], [3, 4], [5, 6]]
    dense.b.value[...] = [10, 20]
    y = dense(np.ones((1, 3)), train=True)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, [[19, 32]])
    np.testing.assert_array_equal(dense.w.value, [[1, 2], [3, 4], [5, 6]])


def test_a_model_moves_to_float64_like_a_layer() -> None:
    model = Sequential([Dense(3), Tanh(), Dense(2)])
    model.build((4,), max_batch=2)
    before = model.state_dict()
    y = model(np.ones((2, 4)), train=True)
    assert y.dtype == np.float64
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert model.arena.values.dtype == np.float64
    assert all(np.shares_memory(parameter.value, model.arena.values) for parameter in model.parameters())


def test_after_the_first_forward_a_layer_stays_where_it_is() -> None:
    dense = Dense(2)
    dense(batch((1, 3)), train=True)
    with pytest.raises(InputError, match="expected input of dtype float32, received float64"):
        dense(batch((1, 3), "float64"), train=True)


def test_equal_seeds_give_equal_weights() -> None:
    values = []
    for seed in (1, 1, 2):
        dense = Dense(5)
        dense.build((4,), seed=seed)
        values.append(dense.w.value)
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


# ---- what forward and backward leave ------------------------------------------------------------------------------


def test_inputs_are_unchanged(layer_and_shape: tuple[Layer, tuple[int, ...]]) -> None:
    layer, shape = layer_and_shape
    x = batch(shape)
    x_before = x.copy()
    y = layer(x, train=True)
    dy = batch(y.shape, seed=2)
    dy_before = dy.copy()
    layer.backpropagate(dy)
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(dy, dy_before)


def test_read_only_inputs_are_welcome(layer_and_shape: tuple[Layer, tuple[int, ...]]) -> None:
    layer, shape = layer_and_shape
    x = batch(shape)
    x.flags.writeable = False
    dy = batch(layer(x, train=True).shape)
    dy.flags.writeable = False
    layer.backpropagate(dy)


def test_what_a_layer_returns_stays_what_it_is(layer_and_shape: tuple[Layer, tuple[int, ...]]) -> None:
    layer, shape = layer_and_shape
    x, other = batch(shape), batch(shape, seed=3)
    y = layer(x, train=True)
    dy = batch(y.shape)
    returned = [y, layer.backpropagate(dy), layer(other), layer(other, train=True), layer.backpropagate(dy)]
    kept = [array.copy() for array in returned]
    for array, copy in zip(returned, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.flags.c_contiguous
    for one, another in combinations([x, dy, other, *returned], 2):
        assert not np.shares_memory(one, another)


def test_flatten_passes_views_on_inside_a_network() -> None:
    layer, x = Flatten(), batch((2, 3, 4, 5))
    np.testing.assert_array_equal(layer(x), x.reshape(2, 60))
    assert np.shares_memory(x, layer.forward(x, train=False))


def test_without_need_dx_the_gradients_are_still_written(layer_and_shape: tuple[Layer, tuple[int, ...]]) -> None:
    layer, shape = layer_and_shape
    y = layer(batch(shape), train=True)
    dy = batch(y.shape)
    assert layer.backpropagate(dy) is not None
    expected = [parameter.gradient.copy() for parameter in layer.parameters()]
    for parameter in layer.parameters():
        parameter.gradient[...] = np.nan
    assert layer.backpropagate(dy, need_dx=False) is None
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        np.testing.assert_array_equal(parameter.gradient, gradient)
        assert gradient.any()


@pytest.mark.parametrize("case", LAYERS)
def test_batches_may_shrink_and_grow(case: str) -> None:
    make, shape = LAYERS[case]
    layer = make()
    layer.build(shape[1:], "cpu")
    for N in (3, 1, 5, 2, 5):
        fresh = make()
        fresh.build(shape[1:], "cpu")
        layer.reset()  # the dropout mask of a new layer
        x = batch((N, *shape[1:]), seed=N)
        y, expected = layer(x, train=True), fresh(x, train=True)
        assert_close(y, expected, "float32", terms=100)
        dy = batch(y.shape, seed=N + 10)
        assert_close(layer.backpropagate(dy), fresh.backpropagate(dy), "float32", terms=100)
        for parameter, other in zip(layer.parameters(), fresh.parameters(), strict=True):
            assert_close(parameter.gradient, other.gradient, "float32", terms=300)


def test_backward_overwrites_the_gradients_of_before() -> None:
    dense = Dense(2)
    dense(np.ones((1, 3), np.float32), train=True)
    for _ in range(2):
        dense.backpropagate(np.ones((1, 2), np.float32))
        np.testing.assert_array_equal(dense.w.gradient, np.ones((3, 2)))
        np.testing.assert_array_equal(dense.b.gradient, np.ones(2))
