"""Layers with several inputs, and the containers that end in one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpucnn import Add, Concat, Conv2D, Dense, Identity, InputError, Parallel, ReLU, Residual, Sequential, get_backend

DEVICES = ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def images(channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 4, 3, channels)).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_add_alone(device: str) -> None:
    backend, xs, layer = get_backend(device), [images(5, seed) for seed in range(3)], Add()
    layer.build([(4, 3, 5)] * 3, backend)
    y = layer([backend.from_host(x) for x in xs], train=True)
    np.testing.assert_allclose(backend.to_host(y), xs[0] + xs[1] + xs[2], rtol=1e-6)
    dy = images(5, 3)
    for dx in layer.backpropagate(backend.from_host(dy)):
        np.testing.assert_array_equal(backend.to_host(dx), dy)


@pytest.mark.parametrize("device", DEVICES)
def test_concat_alone(device: str) -> None:
    backend, xs, layer = get_backend(device), [images(2, 0), images(1, 1), images(4, 2)], Concat()
    layer.build([x.shape[1:] for x in xs], backend)
    assert layer.output_shape == (4, 3, 7)
    y = layer([backend.from_host(x) for x in xs], train=True)
    np.testing.assert_array_equal(backend.to_host(y), np.concatenate(xs, axis=-1))
    dxs = layer.backpropagate(backend.from_host(np.concatenate(xs, axis=-1)))
    for dx, x in zip(dxs, xs, strict=True):
        np.testing.assert_array_equal(backend.to_host(dx), x)
    assert layer.backpropagate(y, need_dx=False) is None


def test_a_join_builds_itself_and_follows_its_inputs() -> None:
    layer = Add()
    assert layer([images(2, 0), images(2, 1)], train=True).dtype == np.float32
    assert layer.input_shape == ((4, 3, 2), (4, 3, 2))


def test_parallel_gives_its_input_to_every_branch() -> None:
    x, model = images(3, 0), Parallel([ReLU(), Identity(), Conv2D(2, 1)])
    y = model(x, train=True)
    np.testing.assert_array_equal(y[..., :3], np.maximum(x, 0))
    np.testing.assert_array_equal(y[..., 3:6], x)
    np.testing.assert_allclose(y[..., 6:], x @ model.branches[2].w.value[0, 0], rtol=1e-5, atol=1e-6)
    assert [name for name, _ in model.named_parameters()] == ["conv2d1.w", "conv2d1.b"]


def test_residual_is_a_sum_of_two_branches() -> None:
    x = images(3, 0)
    body = Conv2D(3, 3, padding=1)
    y = Residual(body)(x, train=True)
    np.testing.assert_allclose(y, body(x) + x, rtol=1e-6)


def test_without_need_dx_the_branches_still_have_gradients() -> None:
    model = Parallel([Conv2D(2, 1), Conv2D(3, 1)])
    y = model(images(3, 0), train=True)
    assert model.backpropagate(np.ones_like(y), need_dx=False) is None
    assert all(np.any(parameter.gradient) for parameter in model.parameters())


REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "one branch": (lambda: Parallel([ReLU()]), "Parallel: expected two branches or more, received 1"),
    "no join": (
        lambda: Parallel([ReLU(), ReLU()], ReLU()),
        "Parallel: join must be Concat() or Add(), received ReLU()",
    ),
    "sizes to add": (
        lambda: Add(name="sum").build([(4, 3, 2), (4, 3, 1)]),
        'Add "sum": cannot add samples of shapes (4, 3, 2) and (4, 3, 1); make them equal, for example by a 1x1',
    ),
    "sizes to concatenate": (
        lambda: Parallel([Conv2D(2, 3), Identity()], name="mixed").build((8, 8, 2)),
        'Parallel "mixed": cannot concatenate samples of shapes (6, 6, 2) and (8, 8, 2); make all sizes but the last',
    ),
    "one shape": (lambda: Add().build((4, 3, 2)), "Add: expected the shapes of two inputs or more, received (4, 3, 2)"),
    "shape of one input": (
        lambda: Add().build([(4, 3, 2)]),
        "Add: expected the shapes of two inputs or more, received [(4, 3, 2)]",
    ),
    "an array": (
        lambda: Add()(images(2, 0), train=True),
        "Add: expected a list of two arrays or more, received a numpy ndarray",
    ),
    "a list of one array": (
        lambda: Add()([images(2, 0)], train=True),
        "Add: expected a list of two arrays or more, received a list of 1",
    ),
    "no channels": (
        lambda: Concat()([np.zeros(3, np.float32)] * 2, train=True),
        "Concat: expected samples of shape (..., C), received (); reshape (N,) to (N, 1)",
    ),
    "a join in a row": (
        lambda: Sequential([Add()]).build((4, 3, 2)),
        'Add "add1": takes several inputs; give it to a Parallel as its join',
    ),
    "no list of branches": (lambda: Parallel(ReLU()), "Parallel: expected a list of layers, received ReLU(); put"),
    "no list of layers": (lambda: Sequential(ReLU()), "Sequential: expected a list of layers, received ReLU(); put"),
    "a third input": (
        lambda: _built(Add())([images(2, 0)] * 3, train=True),
        "Add: was built for 2 inputs, received 3",
    ),
    "a second input of another shape": (
        lambda: _built(Concat())([images(2, 0), images(3, 0)], train=True),
        "Concat: expected input 2 of shape (N, 4, 3, 2), received (2, 4, 3, 3)",
    ),
    "an empty batch": (
        lambda: _built(Add())([images(2, 0)[:0]] * 2, train=True),
        "Add: received an empty batch; give at least one sample",
    ),
    "a part alone": (
        lambda: Parallel([Dense(2), Identity()], Add()).join.build([(2,), (2,)]),
        'Add "add1": is a part of Parallel; build that instead',
    ),
}


def _built(join: Add | Concat) -> Add | Concat:
    join.build([(4, 3, 2), (4, 3, 2)], "cpu")
    return join


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    call, message = REFUSALS[case]
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(message)


def test_a_network_of_joins_trains_on_the_shapes_it_says() -> None:
    model = Sequential([Parallel([Conv2D(4, 1), Conv2D(4, 3, padding=1)]), Residual(Conv2D(8, 3, padding=1))])
    assert model.build((6, 5, 2), "cpu", max_batch=3) == (6, 5, 8)
    y = model(np.zeros((3, 6, 5, 2), np.float32), train=True)
    assert model.backpropagate(np.ones_like(y)).shape == (3, 6, 5, 2)
