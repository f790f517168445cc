"""Initializers: their variances and fans, and that a seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest

from gpucnn import Conv2D, Dense, Flatten, InputError, Sequential, get_backend
from gpucnn.layers.initializers import INITIALIZERS, get_initializer, orthogonal

# fan_in, fan_out by hand: KH*KW*C and KH*KW*OC of a kernel, I and O of a matrix.
FANS = {(5, 3, 64, 40): (960, 600), (300, 150): (300, 150)}
VARIANCES = {
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
    "lecun_normal": lambda fan_in, fan_out: 1 / fan_in,
    "lecun_uniform": lambda fan_in, fan_out: 1 / fan_in,
    "sigmoid_uniform": lambda fan_in, fan_out: 16 * 2 / (fan_in + fan_out),
    "glorot_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "glorot_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
}
KURTOSIS = {"normal": 3.0, "uniform": 1.8}
SIGMAS = 5  # one false alarm in 3.5 million, and the seeds are fixed


@pytest.mark.parametrize("shape", FANS)
@pytest.mark.parametrize("name", VARIANCES)
def test_mean_variance_and_kind(name: str, shape: tuple[int, ...]) -> None:
    values = get_initializer(name)(np.random.default_rng(0), shape)
    variance = VARIANCES[name](*FANS[shape])
    kurtosis = KURTOSIS[name.partition("_")[2]]
    assert values.shape == shape
    assert abs(values.mean()) < SIGMAS * np.sqrt(variance / values.size)
    spread = np.sqrt((kurtosis - 1) / values.size)  # of a variance that is estimated from so many, relative
    assert abs(values.var() / variance - 1) < SIGMAS * spread
    assert np.mean(values**4) / values.var() ** 2 == pytest.approx(kurtosis, abs=0.3)
    if name.endswith("uniform"):
        assert np.abs(values).max() <= np.sqrt(3 * variance)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (3, 3, 2, 7), (1, 2, 3, 8)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = orthogonal(np.random.default_rng(0), shape).reshape(-1, shape[-1])
    product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(product, np.eye(min(matrix.shape)), atol=1e-12)


def test_orthogonal_has_even_signs() -> None:
    """Without its correction, QR gives a first element that is almost always negative."""
    first = [orthogonal(np.random.default_rng(seed), (4, 4))[0, 0] > 0 for seed in range(200)]
    assert 70 < sum(first) < 130


def test_zeros() -> None:
    assert not get_initializer("zeros")(np.random.default_rng(0), (3, 4)).any()


@pytest.mark.parametrize("name", VARIANCES)
def test_a_vector_has_no_fan(name: str) -> None:
    message = r"^an initializer with a fan needs a kernel or a matrix, received shape \(3,\); use zeros$"
    with pytest.raises(InputError, match=message):
        get_initializer(name)(np.random.default_rng(0), (3,))


@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_seed_decides(name: str) -> None:
    first, same, other = (get_initializer(name)(np.random.default_rng(seed), (4, 5)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert name == "zeros" or not np.array_equal(first, other)


def small_model() -> Sequential:
    return Sequential([Conv2D(3, 3), Flatten(), Dense(5, initializer="glorot_uniform")])


@pytest.mark.parametrize("device", ["reference", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_seed_gives_the_same_weights_on_every_device(device: str, precision: str) -> None:
    states, hashes = [], []
    for name in ("cpu", device):
        model = small_model()
        model.build((6, 6, 2), get_backend(name, precision), seed=9)
        states.append(model.state_dict())
        hashes.append(model.weights_sha256())
    assert hashes[0] == hashes[1]
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


def test_precisions_share_their_weights_up_to_rounding() -> None:
    states = []
    for precision in ("float32", "float64"):
        model = small_model()
        model.build((6, 6, 2), get_backend("cpu", precision), seed=9)
        states.append(model.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name].astype(np.float32))


def test_layers_of_one_model_are_drawn_one_after_another() -> None:
    model = Sequential([Dense(4), Dense(4), Dense(4)])
    model.build((4,), get_backend("cpu", "float64"), seed=3)
    rng = np.random.default_rng(3)
    for layer in model.layers:
        np.testing.assert_array_equal(layer.w.value, rng.standard_normal((4, 4)) * np.sqrt(2 / 4))


def test_a_function_is_an_initializer_too() -> None:
    dense = Dense(3, initializer=lambda rng, shape: np.full(shape, 7.0))
    dense.build((2,))
    np.testing.assert_array_equal(dense.w.value, np.full((2, 3), 7.0))
    with pytest.raises(InputError, match="unknown initializer 'xavier'"):
        get_initializer("xavier")
