"""Networks whose batch is shared among threads give what one thread gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpucnn import (
    GELU,
    SGD,
    AdaptiveAveragePool2D,
    AveragePool2D,
    BatchNorm2D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    Layer,
    LeakyReLU,
    LpPool2D,
    MaxPool2D,
    Parallel,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
)
from gpucnn.backend import CpuBackend

SHAPE = (8, 7, 2)


def network() -> Sequential:
    """One with parameters in nested parts, and a different kind of layer in each place."""
    return Sequential(
        [
            *(Conv2D(4, 3, padding="same"), PReLU(), Residual(Sequential([Conv2D(4, 3, padding=1), GroupNorm(2)]))),
            *(
                Conv2DTranspose(3, 2, stride=2),
                ReLU(),
                MaxPool2D(2),
                Parallel([Conv2D(2, 1), AveragePool2D(3, stride=1, padding=1)]),
            ),
            *(GELU(), AdaptiveAveragePool2D((3, 2)), Flatten(), Dense(5)),
        ]
    )


def built(make: Callable[[], Sequential], threads: int) -> Sequential:
    model = make()
    model.build(SHAPE, CpuBackend("float64", threads=threads), seed=1)
    return model


def batch(N: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, *SHAPE))


def gradients(model: Sequential) -> dict[str, np.ndarray]:
    return {name: parameter.gradient.copy() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("N", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("threads", [2, 3])
def test_outputs_and_gradients_are_those_of_one_thread(threads: int, N: int) -> None:
    alone, together = built(network, 1), built(network, threads)
    assert alone.program.front is None
    assert together.program.front is not None
    x, dy = batch(N), np.random.default_rng(1).standard_normal((N, 5))
    np.testing.assert_allclose(together(x, train=True), alone(x, train=True), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(together.backpropagate(dy), alone.backpropagate(dy), rtol=1e-12, atol=1e-12)
    expected = gradients(alone)
    for name, gradient in gradients(together).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_batches_of_changing_size() -> None:
    alone, together = built(network, 1), built(network, 3)
    for seed, N in enumerate((5, 1, 8, 2, 8)):
        x = batch(N, seed)
        y = together(x, train=True)
        np.testing.assert_allclose(y, alone(x, train=True), rtol=1e-12, atol=1e-12)
        together.backpropagate(y, need_dx=False)
        alone.backpropagate(y, need_dx=False)
        expected = gradients(alone)
        for name, gradient in gradients(together).items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_weights_are_shared_however_they_change() -> None:
    alone, together, x = built(network, 1), built(network, 2), batch(4)
    for model in (alone, together):
        for parameter in model.parameters():
            parameter.value[...] *= 1.5
    np.testing.assert_allclose(together.predict(x), alone.predict(x), rtol=1e-12, atol=1e-12)
    together.load_state_dict(built(network, 1).state_dict())
    np.testing.assert_allclose(together.predict(x), built(network, 1).predict(x), rtol=1e-12, atol=1e-12)


def test_training_agrees_and_repeats() -> None:
    def train(threads: int) -> dict[str, np.ndarray]:
        model = built(network, threads)
        trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1, 0.9), batch_size=6)
        for seed in range(3):
            trainer.step(batch(6, seed), np.arange(6, dtype=np.int32) % 5)
        return model.state_dict()

    alone, first, second = train(1), train(3), train(3)
    for name, weights in alone.items():
        np.testing.assert_allclose(first[name], weights, rtol=1e-8, atol=1e-10, err_msg=name)
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_network_built_again_has_new_replicas() -> None:
    model = built(network, 3)
    before = model.program.front
    model.build(SHAPE, CpuBackend("float32", threads=2))
    assert model.program.front is not before
    assert len(model.program.front.segments) == 2
    assert model(batch(4).astype(np.float32), train=True).dtype == np.float32


def test_layers_that_compute_together_stay_together() -> None:
    """In training or in inference: threads share the samples up to a value that no fusion hides."""
    chain = lambda: [Conv2D(4, 1), ReLU(), Conv2D(4, 1), ReLU(), MaxPool2D(2), Conv2D(4, 1)]  # noqa: E731
    for behind, shared in (([BatchNorm2D()], 5), ([Dropout(0.5)], 6), ([ReLU(), Dropout(0.5)], 7)):
        model = Sequential([*chain(), *behind, Conv2D(2, 1)])
        model.build(SHAPE, CpuBackend(threads=2))
        assert [type(layer) for layer in model.program.front.segment.layers()] == [
            type(layer) for layer in model.layers[:shared]
        ]


@pytest.mark.parametrize("threads", [1, 3])
def test_settings_take_effect_on_all_threads(threads: int) -> None:
    """Whether they are changed before a pass, between two, or as weights."""

    def make(slope: float, p: float) -> Sequential:
        layers = [Conv2D(2, 3), LeakyReLU(slope), LpPool2D(2, stride=1, p=p), Flatten(), Dense(3)]
        model = Sequential(layers)
        model.build(SHAPE, CpuBackend("float64", threads=threads), seed=1)
        return model

    model, x = make(0.1, 2.0), batch(6)
    first = model(x)
    model.layers[1].slope, model.layers[2].p = 0.5, 3.0
    expected = make(0.5, 3.0)
    assert not np.array_equal(model(x), first)
    np.testing.assert_array_equal(model(x), expected(x))
    np.testing.assert_array_equal(model.predict(x), expected.predict(x))
    model(x, train=True)
    expected(x, train=True)
    dy = np.ones((6, 3))
    np.testing.assert_array_equal(model.backpropagate(dy), expected.backpropagate(dy))
    model.layers[0].w.value = 2 * model.layers[0].w.value
    expected.layers[0].w.value *= 2
    np.testing.assert_array_equal(model(x), expected(x))


class Custom(Layer):
    def infer_shape(self, input_shape):
        return input_shape

    def forward(self, x, *, train):
        return x - x.mean(axis=0)

    def backward(self, dy, *, need_dx):
        return dy - dy.mean(axis=0)


class Normalized(ReLU):
    """Derived from a layer that treats each sample by itself, which this one does not."""

    def forward(self, x, *, train):
        return super().forward(x - x.mean(axis=0), train=train)


@pytest.mark.parametrize(
    ("layer", "shared"),
    [
        (BatchNorm2D, 0),  # in inference the convolution before it takes it in
        (lambda: Dropout(0.5), 1),
        (Custom, 1),
        (Normalized, 1),
        (ReLU, 4),
        (lambda: Residual(BatchNorm2D()), 1),
        (lambda: Dense(3), 4),
        (lambda: Dense(20_000), 2),  # its matrix is shared by columns
        (lambda: Sequential([ReLU(), Custom()]), 2),
    ],
)
def test_what_needs_the_whole_batch_gets_it(layer: Callable[[], Layer], shared: int) -> None:
    def make() -> Sequential:
        flat = [Flatten(), layer()] if isinstance(layer(), Dense) else [layer(), Flatten()]
        return Sequential([Conv2D(2, 3), *flat, Dense(3)])

    alone, together, x = built(make, 1), built(make, 3), batch(6)
    front = together.program.front
    assert (len(front.segment.layers()) if front else 0) == shared
    np.testing.assert_allclose(together(x, train=True), alone(x, train=True), rtol=1e-12, atol=1e-12)
    dy = np.random.default_rng(1).standard_normal((6, 3))
    np.testing.assert_allclose(together.backpropagate(dy), alone.backpropagate(dy), rtol=1e-12, atol=1e-12)
    expected = gradients(alone)
    for name, gradient in gradients(together).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_part_has_no_shards_of_its_own() -> None:
    inner = Sequential([Conv2D(2, 3), ReLU()])
    model = Sequential([inner, Flatten(), Dense(3)])
    model.build(SHAPE, CpuBackend("float64", threads=2))
    assert model.program.front is not None
    assert inner.program.front is None
