"""`Sequential` and the models by name: names, counts, state, warm-up, and that a step allocates nothing."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from gpucnn import (
    SGD,
    AveragePool2D,
    BatchNorm2D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    InputError,
    Layer,
    LpPool2D,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
    Trainer,
    get_backend,
    zoo,
)
from gpucnn.backend import CpuBackend
from gpucnn.data import Augmentation, DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization
from gpucnn.gradcheck import check_layer
from gpucnn.losses import Loss, get_loss
from gpucnn.optim.optimizers import get_optimizer

# Python's own short-lived objects (tuples, slices, views: one for each of the 49 taps of a global pooling) in one
# operation; they do not grow with the batch, while the smallest array of a batch, one float32 for each sample, grows by
# more than this from the small batch to the large.
MAX_BYTES_OF_OBJECTS = 12000
MAX_BYTES_OF_GROWTH = 1000
# NumPy converts dtypes through buffers of a fixed number of elements; few, so that they do not hide an array.
CONVERSION_ELEMENTS = 64


def small(**settings) -> Sequential:
    model = Sequential([Conv2D(2, 3, name="first"), ReLU(), MaxPool2D(2), Flatten(), Dropout(0.5), Dense(3)])
    model.build((6, 6, 1), "cpu", **settings)
    return model


# ---- names --------------------------------------------------------------------------------------------------------


def test_layers_are_named_by_kind_and_place() -> None:
    model = Sequential([Conv2D(2, 3), ReLU(), Conv2D(2, 3), ReLU(name="mine"), ReLU(), Flatten(), Dense(2)])
    names = [layer.name for layer in model.layers]
    assert names == ["conv2d1", "relu1", "conv2d2", "mine", "relu3", "flatten1", "dense1"]
    model.build((8, 8, 1))
    assert [name for name, _ in model.named_parameters()] == [
        *("conv2d1.w", "conv2d1.b", "conv2d2.w", "conv2d2.b", "dense1.w", "dense1.b"),
    ]


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(InputError) as error:
        Sequential([Dense(3, name="a"), ReLU(), Dense(3, name="a")])
    assert str(error.value) == "Sequential: 2 layers are named 'a'; give each its own name"


def test_a_name_with_a_dot_is_refused() -> None:
    """Else it may be the name of a part: here there would be two parameters "a.b.w"."""
    with pytest.raises(InputError) as error:
        Sequential([Dense(3, name="a.b"), Sequential([Dense(3, name="b")], name="a")])
    assert str(error.value) == "Sequential: 'a.b' has a dot, which joins the names of parts; use another name"


def test_a_layer_twice_is_refused() -> None:
    relu = ReLU()
    with pytest.raises(InputError) as error:
        Sequential([Dense(3), relu, Dense(3), relu])
    assert str(error.value) == "Sequential: ReLU has its place already; make a new layer for each place"


def test_empty_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential: expected at least one layer, received none"):
        Sequential([])


def test_errors_name_the_layer_in_the_model() -> None:
    model = Sequential([Conv2D(2, 3), ReLU(), Conv2D(2, 9, name="second")], name="net")
    with pytest.raises(InputError, match='^Conv2D "second": kernel 9x9 does not fit input 6x6'):
        model.build((8, 8, 1))
    with pytest.raises(InputError, match='^Sequential "net": max_batch must be an integer of at least 0, received -1'):
        model.build((20, 20, 1), max_batch=-1)
    model.build((20, 20, 1), "cpu")
    with pytest.raises(InputError, match=r'^Sequential "net": expected input of shape \(N, 20, 20, 1\)'):
        model(np.zeros((1, 8, 8, 1), np.float32), train=True)


def test_a_model_in_a_model() -> None:
    """Equal layers in the inner and the outer model share neither buffers nor names."""
    model = Sequential([Sequential([Dense(5), Tanh()]), Dense(5), Tanh(), Sequential([Dense(5), Tanh()]), Dense(2)])
    errors = check_layer(model, np.random.default_rng(0).standard_normal((3, 4)))
    assert len(errors) == 1 + len(model.parameters())
    assert max(errors.values()) < 1e-6, errors
    assert len(model.state_dict()) == len(model.parameters()) == 8


# ---- summary and counts -------------------------------------------------------------------------------------------


def test_summary() -> None:
    """Of each sample last argmax and a mask of a byte each, and two outputs; ReLU is a part of the pooling."""
    assert small().summary().splitlines() == [
        "layer       kind       output     parameters  kept per sample",
        "-------------------------------------------------------------",
        "input                  6 x 6 x 1                             ",
        "first       Conv2D     4 x 4 x 2          20                -",
        "relu1       ReLU       4 x 4 x 2           -                -",
        "maxpool2d1  MaxPool2D  2 x 2 x 2           -              8 B",
        "flatten1    Flatten    8                   -                -",
        "dropout1    Dropout    8                   -             40 B",
        "dense1      Dense      3                  27             12 B",
        "-------------------------------------------------------------",
        "total                                     47             60 B",
        "buffers per sample: 220 B in training, 160 B of them shared; 180 B in inference",
    ]


def test_summary_needs_shapes() -> None:
    with pytest.raises(InputError, match="Sequential: has no shapes yet; call build first"):
        Sequential([Dense(3)]).summary()


# Each layer by hand: KH*KW*C*OC + OC, or I*O + O.
COUNTS = {
    "paper": (28, 1, (25 * 1 * 16 + 16) + (14 * 14 * 16 * 128 + 128) + (128 * 64 + 64) + (64 * 10 + 10)),
    "lenet5": (28, 1, 156 + 2_416 + 48_120 + 10_164 + 850),
    "mnist": (28, 1, (25 * 32 + 32) + (25 * 32 * 64 + 64) + (7 * 7 * 64 * 512 + 512) + (512 * 10 + 10)),
    "vgg": (
        *(32, 3),
        *[
            (27 * 32 + 32) + (288 * 32 + 32) + (288 * 64 + 64) + (576 * 64 + 64) + (576 * 128 + 128)
            + (1152 * 128 + 128) + (4 * 4 * 128 * 256 + 256) + (256 * 10 + 10)
        ],
    ),
    "resnet20": (
        *(32, 3),
        (27 * 16 + 32) + 3 * 2 * (144 * 16 + 32)
        + (144 * 32 + 64) + (16 * 32 + 64) + 5 * (288 * 32 + 64)
        + (288 * 64 + 128) + (32 * 64 + 128) + 5 * (576 * 64 + 128) + (64 * 10 + 10),
    ),
    "resnet18": (
        *(32, 3),
        (27 * 64 + 128) + 4 * (576 * 64 + 128)
        + (576 * 128 + 256) + (64 * 128 + 256) + 3 * (1152 * 128 + 256)
        + (1152 * 256 + 512) + (128 * 256 + 512) + 3 * (2304 * 256 + 512)
        + (2304 * 512 + 1024) + (256 * 512 + 1024) + 3 * (4608 * 512 + 1024) + (512 * 10 + 10),
    ),
}  # fmt: skip


def test_every_model_has_a_count() -> None:
    assert set(COUNTS) == set(zoo.MODELS)
    assert COUNTS["lenet5"][2] == 61_706


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    size, channels, count = COUNTS[name]
    model = zoo.get_recipe(name).model(10)
    assert model.build((size, size, channels)) == (10,)
    assert sum(parameter.size for parameter in model.parameters()) == count
    total = next(line for line in model.summary().splitlines() if line.startswith("total"))
    assert total.split()[1] == f"{count:,}"
    assert model.name == name


@pytest.mark.parametrize("name", zoo.MODELS)
def test_models_take_any_number_of_classes(name: str) -> None:
    assert zoo.get_recipe(name).model(7).build((32, 32, 3)) == (7,)


def test_an_unknown_model() -> None:
    with pytest.raises(InputError, match="unknown model 'lenet': did you mean 'lenet5'"):
        zoo.get_recipe("lenet")


# ---- running ------------------------------------------------------------------------------------------------------


def test_predict_keeps_nothing_for_backward() -> None:
    model, x = small(), np.ones((2, 6, 6, 1), np.float32)
    first = model.predict(x).copy()
    np.testing.assert_array_equal(model.predict(x), first)  # no dropout
    assert not model.state_dict()["dropout1.counter"].any()
    with pytest.raises(InputError, match="backpropagate needs a call with train=True before it"):
        model.backpropagate(np.zeros((2, 3), np.float32))


def test_need_dx_reaches_the_first_layer_only() -> None:
    model, x = small(), np.random.default_rng(0).standard_normal((2, 6, 6, 1)).astype(np.float32)
    dy = np.ones((2, 3), np.float32)
    model(x, train=True)
    dx = model.backpropagate(dy)
    assert dx.shape == x.shape
    gradients = model.arena.gradients.copy()
    assert model.backpropagate(dy, need_dx=False) is None
    np.testing.assert_array_equal(model.arena.gradients, gradients)
    assert gradients.any()


# ---- state --------------------------------------------------------------------------------------------------------


def test_state_round_trip() -> None:
    model, x = small(seed=1), np.ones((2, 6, 6, 1), np.float32)
    model(x, train=True)  # advances the counter of the dropout
    state = model.state_dict()
    assert set(state) == {"first.w", "first.b", "dense1.w", "dense1.b", "dropout1.counter"}
    assert state["dropout1.counter"].tolist() == [1]
    expected = model(x, train=True).copy()
    model.arena.values[...] = 0
    assert state["first.w"].any(), "state_dict copies"
    other = small(seed=1)  # the masks of dropout come from the seed
    other.arena.values[...] = np.nan
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(x, train=True), expected)
    for name, value in state.items():
        if name != "dropout1.counter":
            np.testing.assert_array_equal(other.state_dict()[name], value)


def test_state_goes_to_another_device_and_precision() -> None:
    model = small()
    other = Sequential([Conv2D(2, 3, name="first"), ReLU(), MaxPool2D(2), Flatten(), Dropout(0.5), Dense(3)])
    other.build((6, 6, 1), get_backend("reference", "float64"), seed=8)
    other.load_state_dict(model.state_dict())
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, model.state_dict()[name])
    assert other.state_dict()["first.w"].dtype == np.float64


def without(state: dict, *names: str) -> dict:
    return {name: value for name, value in state.items() if name not in names}


BAD_STATES = [
    (lambda state: without(state, "first.b", "dense1.w"), "Sequential: the state lacks dense1.w, first.b"),
    (
        lambda state: {**state, "dense2.w": state["dense1.w"]},
        "Sequential: the state has dense2.w, which this model does not have",
    ),
    (
        lambda state: {**state, "dense1.w": state["dense1.w"].T},
        "Sequential: dense1.w is (8, 3) here and (3, 8) in the state",
    ),
    (
        lambda state: {**state, "dropout1.counter": np.zeros(2, np.int64)},
        "Sequential: dropout1.counter is (1,) here and (2,) in the state",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_STATES)
def test_bad_states_change_nothing(spoil, message: str) -> None:
    model = small(seed=1)
    before = model.state_dict()
    with pytest.raises(InputError) as error:
        model.load_state_dict(spoil({name: value + 1 for name, value in before.items()}))
    assert str(error.value) == message
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_weights_sha256() -> None:
    model = small(seed=1)
    digest = hashlib.sha256()
    for name, shape in (("first.w", (3, 3, 1, 2)), ("first.b", (2,)), ("dense1.w", (8, 3)), ("dense1.b", (3,))):
        digest.update(f"{name} {shape} float32\n".encode())
        digest.update(model.state_dict()[name].astype("<f4").tobytes())
    assert model.weights_sha256() == digest.hexdigest()
    assert small(seed=1).weights_sha256() == model.weights_sha256()
    assert small(seed=2).weights_sha256() != model.weights_sha256()
    model.layers[-1].b.value[2] = np.nextafter(np.float32(0), np.float32(1))
    assert small(seed=1).weights_sha256() != model.weights_sha256()


# ---- warm-up ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_the_dry_pass_leaves_no_trace(device: str) -> None:
    models = []
    for max_batch in (0, 5):
        model = Sequential([Conv2D(2, 3), ReLU(), MaxPool2D(2), Flatten(), Dropout(0.5), Dense(3)])
        model.build((6, 6, 1), device, max_batch=max_batch, seed=4)
        models.append(model)
    without, warm = models
    assert warm.weights_sha256() == without.weights_sha256()
    for name, value in without.state_dict().items():
        np.testing.assert_array_equal(warm.state_dict()[name], value)
    assert not warm.backend.to_host(warm.arena.gradients).any()
    with pytest.raises(InputError, match="backpropagate needs a call with train=True"):
        warm.backpropagate(warm.backend.zeros((5, 3)))
    x = np.random.default_rng(0).standard_normal((4, 6, 6, 1)).astype(np.float32)
    outputs = [model.backend.to_host(model(model.backend.from_host(x), train=True)) for model in models]
    np.testing.assert_array_equal(*outputs)


def test_larger_batches_than_max_batch_are_possible() -> None:
    model, plain = small(max_batch=2), small()
    x = np.random.default_rng(0).standard_normal((7, 6, 6, 1)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(x), plain.predict(x))


# ---- memory -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_conversion_buffers():
    """Make NumPy's conversion buffers small, whose size is fixed, so that what grows with the batch stands out."""
    size = np.setbufsize(CONVERSION_ELEMENTS)
    yield
    np.setbufsize(size)


def make_trainer(name: str, batch_size: int, steps: int, threads: int = 1) -> tuple[Trainer, DeviceDataset]:
    """Return a trainer of a model by name, with random images for so many steps, all of them augmented."""
    recipe, backend, rng = zoo.get_recipe(name), CpuBackend(threads=threads), np.random.default_rng(0)
    model = recipe.model(10)
    model.build((28, 28, 1), backend, max_batch=batch_size)
    optimizer = get_optimizer(recipe.optimizer, recipe.learning_rate / 50)  # small: noise must not make it diverge
    trainer = Trainer(model, get_loss(recipe.loss), optimizer, batch_size=batch_size)
    images = rng.integers(0, 256, (steps * batch_size, 28, 28, 1), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, len(images), dtype=np.int32))
    return trainer, DeviceDataset(split, backend, Normalization(images), Augmentation(2, flip=True))


def bytes_of_a_step(step: Callable[[], None]) -> tuple[int, int]:
    """Return how much memory a step takes beyond what it had, and how much in arrays five steps have kept.

    The least of five: now and then a table of the interpreter grows, while what a step allocates is in each of them.
    """
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    step()
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(5):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            step()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        kept = tracemalloc.take_snapshot().filter_traces([arrays]).traces
    finally:
        tracemalloc.stop()
    return min(peaks), sum(trace.size for trace in kept)


def make_step(layers: list[Layer], loss: Loss, N: int) -> Callable[[], None]:
    """Return a training step of some layers on one batch, with every option of SGD."""
    model, backend, optimizer = (
        Sequential(layers),
        CpuBackend(threads=1),
        SGD(0.01, 0.9, nesterov=True, weight_decay=0.1),
    )
    model.build((8, 8, 2), backend, max_batch=N)
    loss.build(backend)
    optimizer.attach(model.arena, backend)
    totals, labels = np.zeros(4), np.zeros(N, np.int32)
    x = np.random.default_rng(0).standard_normal((N, 8, 8, 2)).astype(np.float32)

    def step() -> None:
        loss.forward(model.forward(x, train=True), labels, totals=totals)
        model.backward(loss.backward(), need_dx=True)
        optimizer.step()

    return step


def check_memory(small_step: Callable[[], None], large_step: Callable[[], None], threads: int = 1) -> None:
    """Check that a step keeps no array, needs next to nothing, and with a large batch no more than with a small."""
    (small_peak, small_kept), (large_peak, large_kept) = map(bytes_of_a_step, (small_step, large_step))
    assert max(small_kept, large_kept) < MAX_BYTES_OF_GROWTH
    assert max(small_peak, large_peak) < threads * MAX_BYTES_OF_OBJECTS
    assert large_peak - small_peak < MAX_BYTES_OF_GROWTH


@pytest.mark.usefixtures("small_conversion_buffers")
@pytest.mark.parametrize(
    ("name", "larger"), [("paper", 400), ("lenet5", 400), ("mnist", 48), ("vgg", 48), ("resnet20", 48)]
)
def test_a_step_on_the_cpu_allocates_no_array(name: str, larger: int) -> None:
    def make_step_of_model(batch_size: int) -> Callable[[], None]:
        trainer, data = make_trainer(name, batch_size, steps=6)
        return lambda: trainer.step(*data.next_batch(batch_size))

    check_memory(make_step_of_model(16), make_step_of_model(larger))


@pytest.mark.usefixtures("small_conversion_buffers")
@pytest.mark.parametrize(("name", "larger"), [("lenet5", 400), ("resnet20", 48)])
def test_sharing_among_threads_allocates_no_array_either(name: str, larger: int) -> None:
    """The batch in lenet5, operations in resnet20; one job after another, so that no chance decides what coincides."""

    def make_step_of_model(batch_size: int) -> Callable[[], None]:
        trainer, data = make_trainer(name, batch_size, steps=6, threads=3)
        trainer.backend.shares_everything = True
        trainer.backend.run = lambda jobs: [job() for job in jobs]
        return lambda: trainer.step(*data.next_batch(batch_size))

    check_memory(make_step_of_model(16), make_step_of_model(larger), threads=3)


@pytest.mark.usefixtures("small_conversion_buffers")
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"])
@pytest.mark.parametrize("layers", [
    lambda: [Conv2D(4, 3, stride=2, padding="same"), Tanh(), Flatten(), Dense(20)],
    lambda: [Conv2D(4, 3, dilation=2, bias=False), Sigmoid(), Flatten(), Softmax()],
    lambda: [MaxPool2D(3, stride=2, padding=1), Flatten(), Dense(20)],
    lambda: [AveragePool2D(3, stride=1, padding=1), LpPool2D(2), LpPool2D(2, p=3), Flatten()],
    lambda: [Dropout(0.5), Flatten(), Dense(20)],
    lambda: [Conv2D(4, 3), BatchNorm2D(), Flatten(), Dense(20)],
    lambda: [Conv2D(4, 3), ReLU(), Conv2D(8, 3), ReLU(), Flatten(), Dense(20), ReLU()],
], ids=["strided", "dilated", "max pool", "pools", "dropout", "batch norm", "relu"])  # fmt: skip
def test_other_layers_and_losses_allocate_no_array_either(layers: Callable[[], list[Layer]], loss: str) -> None:
    check_memory(make_step(layers(), get_loss(loss), 16), make_step(layers(), get_loss(loss), 512))


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_relu_and_max_pooling_are_one_to_the_bit(device: str) -> None:
    """`Sequential` does both at once; the layers one after another do it as written. Zeros and ties are frequent."""
    rng = np.random.default_rng(0)
    x, dy = (rng.integers(-2, 3, size).astype(np.float32) for size in ((5, 8, 8, 3), (5, 4, 4, 3)))
    relu, pool = ReLU(), MaxPool2D(3, stride=2, padding=1)
    model = Sequential([ReLU(), MaxPool2D(3, stride=2, padding=1)])
    model.build((8, 8, 3), device)
    relu.build((8, 8, 3), device)
    pool.build((8, 8, 3), device)
    np.testing.assert_array_equal(model(x, train=True), pool(relu(x, train=True), train=True))
    np.testing.assert_array_equal(model.backpropagate(dy), relu.backpropagate(pool.backpropagate(dy)))


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize("make", [
    lambda: Conv2D(4, 3, padding=1),
    lambda: Conv2D(8, 3, padding=1, bias=False),
    lambda: Conv2D(8, 3, padding=1, groups=4),
    lambda: Conv2D(8, 3, padding=1, groups=8),
    lambda: Dense(5),
], ids=["conv", "filtered", "groups", "depthwise", "dense"])  # fmt: skip
def test_a_layer_and_the_relu_behind_it_are_one_to_the_bit(make: Callable[[], Layer], device: str) -> None:
    """`Sequential` does both at once; the layers one after another do it as written, and called alone no ReLU."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 12) if isinstance(make(), Dense) else (5, 7, 6, 8)).astype(np.float32)
    layer, relu, model = make(), ReLU(), Sequential([make(), ReLU()])
    for built in (layer, model):
        built.build(x.shape[1:], get_backend(device, threads=1 if device == "cpu" else None))
    for parameter, value in zip(layer.parameters(), model.parameters(), strict=True):
        value.value[...] = parameter.value[...] = rng.standard_normal(parameter.shape)
    y = layer(x, train=True)
    assert y.min() < 0
    y, dy = relu(y, train=True), rng.standard_normal(y.shape).astype(np.float32)
    assert model.predict(x).tobytes() == model(x, train=True).tobytes() == y.tobytes()
    assert model.backpropagate(dy).tobytes() == layer.backpropagate(relu.backpropagate(dy)).tobytes()
    for parameter, value in zip(layer.parameters(), model.parameters(), strict=True):
        assert value.gradient.tobytes() == parameter.gradient.tobytes()
    np.testing.assert_array_equal(model.layers[0](x, train=True), layer(x, train=True))


@pytest.mark.parametrize("redefines", [False, True])
def test_a_subclass_is_fused_unless_it_redefines_something(redefines: bool) -> None:
    """It may compute something else than the class that it is derived from."""

    def derived(kind: type[Layer]) -> type[Layer]:
        return type("Odd", (kind,), {"forward": lambda self, x, *, train: x} if redefines else {"colour": "blue"})

    for first, arguments in ((Conv2D, (4, 3)), (Dense, (4,))):
        for pair in ((derived(first), ReLU), (first, derived(ReLU))):
            model = Sequential([pair[0](*arguments), pair[1]()])
            model.build((6, 6, 2) if first is Conv2D else (6,), "cpu")
            assert len(model.program.whole.steps[True]) == 1 + redefines


# Networks, and a shape that only their last layers refuse, when the first have already taken it.
REBUILT = {
    "sequential": ([Conv2D(2, 3), ReLU(), Residual(Conv2D(2, 3, padding=1)), MaxPool2D(4), Flatten()], (5, 5, 1)),
    "batch norm": ([Residual(Sequential([BatchNorm2D(), Conv2D(3, 5, padding=2)])), Conv2D(3, 3, stride=2)], (2, 2, 3)),
    "transpose": ([Conv2DTranspose(2, 3, padding=2), Conv2D(3, 2)], (3, 3, 1)),
}


@pytest.mark.parametrize("name", REBUILT)
def test_a_refused_build_changes_nothing(name: str) -> None:
    layers, refused = REBUILT[name]
    model, x = Sequential(layers), np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
    model.build((8, 8, 3), "cpu", seed=1)
    y = model(x, train=True).copy()
    dx = model.backpropagate(y).copy()
    for shape in (refused, (8, 8)):
        with pytest.raises(InputError):
            model.build(shape, "cpu", seed=2)
    np.testing.assert_array_equal(model(x, train=True), y)
    np.testing.assert_array_equal(model.backpropagate(y), dx)
