"""Normalization: batch normalization folded into the convolution before it, groups, and statistics far from zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler
from tolerances import assert_close

from gpucnn import BatchNorm2D, Conv2D, GroupNorm, ReLU, Residual, Sequential, get_backend
from gpucnn.backend.gpu.sums import MAX_PARTIALS
from gpucnn.backend.reference import Backend

N, IMAGE, FILTERS = 8, (6, 5, 4), 6


def batch(seed: int, shape: tuple[int, ...] = (N, *IMAGE)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def normalized_model(backend: Backend, **settings) -> Sequential:
    """A convolution and its batch normalization, none of whose arrays is as at first."""
    model = Sequential([Conv2D(FILTERS, 3, padding=1, **settings), BatchNorm2D(momentum=0.5), ReLU()])
    model.build(IMAGE, backend, seed=3)
    for seed, (_, parameter) in enumerate(model.named_parameters()):
        backend.from_host(1 + batch(seed, parameter.shape) / 2, out=parameter.value)
    for seed in range(3):
        model(backend.from_host(3 + 2 * batch(seed)), train=True)
    return model


def by_parts(model: Sequential, x: np.ndarray) -> np.ndarray:
    """What the layers of `normalized_model` infer one after another, in float64."""
    conv, norm, _ = model.layers
    arrays = {name: array.astype("float64") for name, array in model.state_dict().items()}
    w, b, gamma, beta, running = (
        arrays.get(name)
        for name in ("conv2d1.w", "conv2d1.b", "batchnorm2d1.gamma", "batchnorm2d1.beta", "batchnorm2d1.running")
    )
    y = Backend("float64").conv2d(x.astype("float64"), w, b, conv.window)
    return np.maximum((y - running[0]) / np.sqrt(running[1] + norm.eps) * gamma + beta, 0)


def forbid(layer, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_args, **_options) -> None:
        raise AssertionError(f"{layer.__name__}: {method} was called")

    monkeypatch.setattr(layer, method, called)


# ---- folding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"groups": 2}, {"groups": 2, "bias": False}], ids=str)
def test_inference_folds_a_batch_norm_into_the_convolution_before_it(
    settings: dict, backend_name: str, make_backend: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, x = make_backend(backend_name, "float32"), batch(7)
    model = normalized_model(backend, **settings)
    before = model.state_dict()
    forbid(BatchNorm2D, "forward", monkeypatch)
    y = backend.to_host(model.predict(backend.from_host(x)))
    assert_close(y, by_parts(model, x), "float32", terms=9 * IMAGE[-1], scale=8.0)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_the_fold_follows_every_change(backend_name: str, make_backend: Callable) -> None:
    backend, x = make_backend(backend_name, "float32"), batch(7)
    model, device_x = normalized_model(backend), backend.from_host(x)
    [_, norm, _] = model.layers
    for array in (model.layers[0].w.value, model.layers[0].b.value, norm.gamma.value, norm.beta.value, norm.running):
        backend.from_host(2 * backend.to_host(array), out=array)
        y = backend.to_host(model.predict(device_x))
        assert_close(y, by_parts(model, x), "float32", terms=9 * IMAGE[-1], scale=32.0)


def test_kernels_larger_than_the_output_are_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image has 6*5*6 = 180 outputs, the kernels have 3*3*4*6 = 216 weights."""
    model, x = normalized_model(get_backend("cpu")), batch(7)[:1]
    forbid(BatchNorm2D, "fold", monkeypatch)
    assert_close(model.predict(x), by_parts(model, x), "float32", terms=9 * IMAGE[-1], scale=8.0)


def test_training_and_a_batch_norm_elsewhere_are_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = normalized_model(get_backend("cpu"))
    forbid(BatchNorm2D, "fold", monkeypatch)
    model(batch(7), train=True)
    for layers in ([Conv2D(3, 3), ReLU(), BatchNorm2D()], [BatchNorm2D(), Conv2D(3, 3)]):
        model = Sequential(layers)
        model.build(IMAGE, "cpu")
        x = batch(7)
        expected = x
        for layer in layers:
            expected = layer(expected)
        np.testing.assert_array_equal(model.predict(x), expected)


def test_a_convolution_that_computes_something_else_is_not_folded() -> None:
    class Doubled(Conv2D):
        def forward(self, x, *, train):
            y = super().forward(x, train=train)
            y *= 2
            return y

    model = Sequential([Doubled(3, 3, bias=False), BatchNorm2D()])
    model.build(IMAGE, "cpu")
    y = model.layers[0](batch(7))
    np.testing.assert_array_equal(model.predict(batch(7)), model.layers[1](y))


def test_convolutions_inside_of_other_layers_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    body = normalized_model(get_backend("cpu"))
    x, expected = batch(7), by_parts(body, batch(7))
    state = body.state_dict()
    inner = Sequential([Conv2D(FILTERS, 3, padding=1), BatchNorm2D(), ReLU()])
    model = Sequential([Residual(inner, Conv2D(FILTERS, 1, initializer="zeros"))])
    model.build(IMAGE, "cpu")
    inner.load_state_dict(state)
    forbid(BatchNorm2D, "forward", monkeypatch)
    assert_close(model.predict(x), expected, "float32", terms=9 * IMAGE[-1], scale=8.0)


@requires_compiler
def test_folding_on_the_gpu_only_launches_kernels() -> None:
    with installed_cupy(make_fake_cupy()) as cupy:
        backend = get_backend("gpu")
        model, x = normalized_model(backend), backend.from_host(batch(7))
        model.predict(x)
        with cupy.stats.step():
            model.forward(x, train=False)


# ---- statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reference", "cpu", "fake-gpu"])
def test_the_variance_of_numbers_far_from_zero(name: str, make_backend: Callable) -> None:
    """A mean of 1,000 standard deviations: E[x^2] - E[x]^2 in float32 would be wrong by 6 %, or negative."""
    backend, ones = make_backend(name, "float32"), np.ones(3, "float32")
    x = 1000 + batch(0, (30000, 3))
    running = backend.from_host(np.zeros((2, 3), "float32"))
    arrays = map(backend.from_host, (x, ones, 0 * ones))
    y, mean_rstd = backend.batch_norm(*arrays, running, 1.0, 0.0)
    x = x.astype("float64")
    np.testing.assert_allclose(backend.to_host(mean_rstd)[0], x.mean(axis=0), rtol=5e-6)
    np.testing.assert_allclose(backend.to_host(mean_rstd)[1], x.std(axis=0) ** -1, rtol=1e-5)
    np.testing.assert_allclose(backend.to_host(running)[1], x.var(axis=0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(backend.to_host(y), (x - x.mean(axis=0)) / x.std(axis=0), atol=6e-3)


def first_rows_far_off(x: np.ndarray, most: int) -> np.ndarray:
    """Of the three columns of x, the first rows that each of at most so many blocks of threads takes on a GPU."""
    x[:: max(4096 // 3, -(-len(x) // most))] += 2000
    return x


HARD = {
    "mean of 10,000": (lambda x, _: 10_000 + x, 1e-5),
    "first rows": (first_rows_far_off, 1e-6),
    "drift": (lambda x, _: x + np.linspace(0, 1000, len(x), dtype=x.dtype)[:, None], 1e-6),
}


@requires_compiler
@pytest.mark.parametrize("most", [MAX_PARTIALS, 3])  # as of much larger arrays, each block takes more rows
@pytest.mark.parametrize("name", HARD)
def test_one_pass_over_memory_is_as_good_as_two(
    name: str, most: int, make_backend: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which depends on the number from which the squares of distances are summed up."""
    monkeypatch.setattr("gpucnn.backend.gpu.sums.MAX_PARTIALS", most)
    make, error = HARD[name]
    backend, x = make_backend("fake-gpu", "float32"), make(batch(0, (30000, 3)), most)
    ones = backend.from_host(np.ones(3, "float32"))
    _, mean_rstd = backend.batch_norm(backend.from_host(x), ones, ones, backend.zeros((2, 3)), 1.0, 0.0)
    mean, inverse = backend.to_host(mean_rstd)
    x = x.astype("float64")
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=5e-7, atol=5e-7 * x.std())
    np.testing.assert_allclose(inverse * x.std(axis=0), 1, rtol=error)


@requires_compiler
@pytest.mark.parametrize("shape", [(30000, 3), (300, 1), (40, 300)], ids=str)
def test_numbers_that_are_all_the_same_have_no_variance(shape: tuple[int, ...], make_backend: Callable) -> None:
    """Nor a negative one, although their mean is rounded."""
    backend, C = make_backend("fake-gpu", "float32"), shape[-1:]
    ones, running = backend.from_host(np.ones(C, "float32")), backend.from_host(np.ones((2, *C), "float32"))
    x = np.broadcast_to(np.linspace(0.1, 7, C[0], dtype="float32"), shape)
    backend.batch_norm(backend.from_host(x), ones, ones, running, 1.0, 1e-5)
    mean, variance = backend.to_host(running)
    np.testing.assert_allclose(mean, x[0], rtol=5e-7)
    assert (variance >= 0).all()
    assert (variance <= (5e-7 * x[0]) ** 2).all()


@requires_compiler
@pytest.mark.parametrize("shape", [(3000, 3), (40, 300), (300, 1)], ids=str)
def test_sums_on_the_gpu_do_not_depend_on_the_order_of_the_threads(shape: tuple[int, ...]) -> None:
    bits = []
    for order in ("forward", "reverse", 5):
        with installed_cupy(make_fake_cupy(order=order)):
            backend, C = get_backend("gpu"), shape[-1:]
            x, dy, gamma, beta = (backend.from_host(batch(k, s)) for k, s in enumerate((shape, shape, C, C)))
            running, dgamma, dbeta = backend.zeros((2, *C)), backend.zeros(C), backend.zeros(C)
            y, mean_rstd = backend.batch_norm(x, gamma, beta, running, 0.1, 1e-5)
            dx = backend.batch_norm_dx(dy, x, gamma, mean_rstd, dgamma=dgamma, dbeta=dbeta)
            bits.append([backend.to_host(array).tobytes() for array in (y, mean_rstd, running, dx, dgamma, dbeta)])
    assert bits[0] == bits[1] == bits[2]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_from_layer_norm_to_instance_norm(groups: int, backend_name: str, make_backend: Callable) -> None:
    backend, x = make_backend(backend_name, "float32"), 5 + 3 * batch(1)
    layer = GroupNorm(groups, eps=0.0)
    layer.build(IMAGE, backend)
    for train in (True, False):
        y = backend.to_host(layer(backend.from_host(x), train=train))
        parts = y.reshape(N, 30, groups, 4 // groups)
        np.testing.assert_allclose(parts.mean(axis=(1, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(parts.var(axis=(1, 3)), 1, rtol=1e-5)
        alone = backend.to_host(layer(backend.from_host(x[2:3]), train=train))
        assert_close(alone[0], y[2], "float32", terms=30, scale=4.0)
    assert layer.arrays().keys() == {"gamma", "beta"}
