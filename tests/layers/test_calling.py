"""One way to call: a layer infers unless it is told to train, and a change has an effect or is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from gpucnn import (
    ELU,
    SGD,
    BatchNorm2D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    HardSigmoid,
    InputError,
    Layer,
    LeakyReLU,
    LpPool2D,
    MaxPool2D,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
)
from gpucnn.backend import CpuBackend
from gpucnn.gradcheck import check_layer

SHAPE = (6, 6, 2)


def batch(N: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, *SHAPE)).astype(np.float32)


# ---- modes --------------------------------------------------------------------------------------------------------


def test_a_call_infers() -> None:
    """Dropout leaves everything, batch normalization uses its running moments, and nothing is kept."""
    x = batch()
    dropout, norm = Dropout(0.5), BatchNorm2D()
    np.testing.assert_array_equal(dropout(x), x)
    np.testing.assert_allclose(norm(x), x, rtol=1e-4)
    np.testing.assert_array_equal(norm.running, [[0, 0], [1, 1]])
    for layer in (dropout, norm):
        with pytest.raises(InputError, match="backpropagate needs a call with train=True before it"):
            layer.backpropagate(x)


def test_an_unbuilt_layer_says_so_to_who_calls_its_parts() -> None:
    with pytest.raises(InputError, match=r"^Conv2D: is not built yet; call it on an array, or call build$"):
        Conv2D(2, 3).backend  # noqa: B018


# ---- another library's order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "example"),
    [
        (lambda: Conv2D(1, 28, 5), "Conv2D(8, 3, stride=2)"),
        (lambda: Conv2DTranspose(1, 28, 5, 2), "Conv2DTranspose(8, 3, stride=2)"),
        (lambda: MaxPool2D(2, 2), "MaxPool2D(2, stride=2)"),
        (lambda: LpPool2D(2, 2, 1), "LpPool2D(2, stride=2)"),
        (lambda: Dense(128, 10), "Dense(10, bias=False)"),
    ],
)
def test_arguments_behind_the_size_have_names(make: Callable[[], Layer], example: str) -> None:
    with pytest.raises(InputError, match=f"name all further arguments, such as {re.escape(example)}"):
        make()


# ---- changes ------------------------------------------------------------------------------------------------------

CHANGES = {
    "slope": (lambda: LeakyReLU(0.1), "slope", 0.3, lambda: LeakyReLU(0.3)),
    "alpha": (ELU, "alpha", 0.5, lambda: ELU(0.5)),
    "p": (lambda: LpPool2D(2), "p", 3.0, lambda: LpPool2D(2, p=3.0)),
    "offset": (HardSigmoid, "offset", 0.25, lambda: HardSigmoid(offset=0.25)),
    "eps": (BatchNorm2D, "eps", 0.5, lambda: BatchNorm2D(eps=0.5)),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_changed_takes_effect(name: str, threads: int) -> None:
    make, setting, value, changed = CHANGES[name]

    def model(layer: Layer) -> Sequential:
        found = Sequential([Conv2D(2, 1), layer, Flatten(), Dense(3)])
        found.build(SHAPE, CpuBackend(threads=threads), seed=1)
        return found

    one, other, x = model(make()), model(changed()), batch()
    before = one.predict(x)
    setattr(one[1], setting, value)
    np.testing.assert_array_equal(one.predict(x), other.predict(x))
    assert not np.array_equal(one.predict(x), before)
    dy = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(one(x, train=True), other(x, train=True))
    np.testing.assert_array_equal(one.backpropagate(dy), other.backpropagate(dy))


def built() -> Sequential:
    model = Sequential([Conv2D(2, 3), LeakyReLU(), Flatten(), Dense(3)])
    model.build(SHAPE, "cpu", seed=1)
    return model


def set_value(model: Sequential, array: object) -> None:
    model[0].w.value = array


REFUSED = {
    "a bad value": (lambda model: setattr(model[1], "slope", "steep"), "slope must be a number"),
    "what the shapes depend on": (
        lambda model: setattr(model[0], "filters", 3),
        'Conv2D "conv2d1": filters is fixed when the layer is built; make a new layer with filters=...',
    ),
    "what there is not": (
        lambda model: setattr(model[0], "trainable", False),
        "Conv2D \"conv2d1\": does not have 'trainable' to set; no settings can be changed here",
    ),
    "a parameter": (
        lambda model: setattr(model[0], "w", np.zeros(3)),
        'Conv2D "conv2d1": w stays where it is; write into it: layer.w.value = array',
    ),
    "values of another shape": (
        lambda model: set_value(model, np.zeros((3, 3), np.float32)),
        "parameter w: expected a ndarray (3, 3, 2, 2), received ndarray (3, 3)",
    ),
    "no array": (
        lambda model: set_value(model, [1.0]),
        "parameter w: expected a ndarray (3, 3, 2, 2), received list ()",
    ),
    "a layer at a place": (lambda model: model.layers.__setitem__(-1, Dense(2)), "the layers of a network are fixed"),
    "one layer more": (lambda model: model.layers.append(Dense(2)), "the layers of a network are fixed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_changes_without_effect_are_refused(name: str) -> None:
    change, message = REFUSED[name]
    model, x = built(), batch()
    before = model.predict(x)
    with pytest.raises(InputError, match=re.escape(message)):
        change(model)
    np.testing.assert_array_equal(model.predict(x), before)


def test_weights_may_be_assigned() -> None:
    """They are written to where they are, which the optimizer trains and threads read."""
    model, x = built(), batch()
    weights, place = np.random.default_rng(1).standard_normal((3, 3, 2, 2)).astype(np.float32), model[0].w.value
    model[0].w.value = weights
    assert model[0].w.value is place
    np.testing.assert_array_equal(place, weights)
    model[0].w.value *= 2
    np.testing.assert_array_equal(place, 2 * weights)
    assert np.isfinite(model.predict(x)).all()


def test_before_it_is_built_everything_may_be_set() -> None:
    conv = Conv2D(2, 3)
    conv.filters, conv.comment = 5, "mine"
    assert conv(batch()).shape == (4, 4, 4, 5)
    fresh = Conv2D(2, 3)
    fresh.infer_shape(SHAPE)
    with pytest.raises(InputError, match="parameter w: has no array yet; build its layer first"):
        fresh.w.value = np.zeros((3, 3, 2, 2))


# ---- layers made of layers ----------------------------------------------------------------------------------------


class Gated(Layer):
    """`conv(x) sigmoid(gate(x))`-like: a class of a user's own with layers in its attributes."""

    def __init__(self, filters: int):
        super().__init__()
        self.conv = Conv2D(filters, 3, padding=1)
        self.gates = [Conv2D(filters, 1)]

    def infer_shape(self, input_shape):
        self.gates[0].set_input_shape(input_shape)
        return self.conv.set_input_shape(input_shape)

    def forward(self, x, *, train):
        self.value, self.gate = self.conv.forward(x, train=train), self.gates[0].forward(x, train=train)
        return self.value * self.gate

    def backward(self, dy, *, need_dx):
        dx = self.conv.backward(dy * self.gate, need_dx=need_dx)
        other = self.gates[0].backward(dy * self.value, need_dx=need_dx)
        return dx + other if need_dx else None


def test_the_parameters_of_inner_layers_are_found_and_their_gradients_are_right() -> None:
    errors = check_layer(Gated(3), batch().astype(np.float64))
    assert set(errors) == {"x", "conv.w", "conv.b", "gates.0.w", "gates.0.b"}
    assert max(errors.values()) < 1e-6


@pytest.mark.parametrize("threads", [1, 2])
def test_they_train(threads: int) -> None:
    model = Sequential([Conv2D(3, 1), Gated(3), ReLU(), Flatten(), Dense(3)])
    model.build(SHAPE, CpuBackend(threads=threads), seed=1)
    assert "gated1.gates.0.w" in model.state_dict()
    before = model.state_dict()
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1), batch_size=4)
    trainer.step(batch(), np.arange(4, dtype=np.int32) % 3)
    for name, value in model.state_dict().items():
        assert not np.array_equal(value, before[name]), name


def test_an_inner_layer_without_a_shape_is_named() -> None:
    class Forgetful(Gated):
        def infer_shape(self, input_shape):
            return self.conv.set_input_shape(input_shape)

    with pytest.raises(InputError, match=r"its part gates\.0 has no shape yet; call self\.gates\.0\.set_input_shape"):
        Forgetful(2)(batch())


# ---- the dry pass -------------------------------------------------------------------------------------------------


class Picky(Layer):
    """Refuses single samples, which the dry pass has."""

    def infer_shape(self, input_shape):
        return input_shape

    def forward(self, x, *, train):
        if len(x) < 2:
            raise ValueError("two samples or more")
        return x - x.mean(axis=0)

    def backward(self, dy, *, need_dx):
        return dy - dy.mean(axis=0)


def test_a_network_whose_dry_pass_fails_shares_no_memory_and_says_so() -> None:
    model = Sequential([Conv2D(2, 3), Picky(), ReLU(), Flatten(), Dense(3)])
    model.build(SHAPE, "cpu", seed=1)
    y = model(batch(), train=True)
    assert model.backpropagate(y).shape == (4, *SHAPE)
    assert (
        "nothing shares memory: a pass over one sample of zeros ended with ValueError: two samples" in model.summary()
    )


def test_what_is_not_seen_into_is_said() -> None:
    model = Sequential([Conv2D(2, 3), Gated(2), Flatten()])
    model.build(SHAPE, "cpu")
    assert 'not seen into, so what they receive and return shares no memory: Gated "gated1"' in model.summary()
