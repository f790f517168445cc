"""The moving average of the weights: its values, and that the trained weights come back bit for bit."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from tolerances import assert_close

from gpucnn import BatchNorm2D, Conv2D, Dense, Flatten, InputError, Sequential, WeightAverage, get_backend

DEVICES = ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def attached(device: str = "cpu", precision: str = "float64", decay: float = 0.9) -> tuple[Sequential, WeightAverage]:
    model, average = Sequential([Conv2D(3, 3), BatchNorm2D(), Flatten(), Dense(50)]), WeightAverage(decay)
    model.build((22, 22, 2), get_backend(device, precision))
    assert model.arena.size > 1 << 14, "more than one block"
    average.attach(model.arena, model.backend)
    return model, average


def weights_of_steps(model: Sequential, steps: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((steps, model.arena.size)).astype(model.backend.precision)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_is_the_mean_of_adam(device: str, precision: str, decay: float) -> None:
    model, average = attached(device, precision, decay)
    backend, watched = model.backend, [0, 1, 100, 1 << 14, model.arena.size - 1]
    weights = weights_of_steps(model, 7)
    for step, values in enumerate(weights, start=1):
        backend.from_host(values, out=model.arena.values)
        average.update()
        expected = oracles.average_run(weights[:step, watched], float(backend.to_host(average.hyperparameters)[0]))
        with average.applied():
            assert_close(backend.to_host(model.arena.values)[watched], expected, precision, terms=4 * step)
        np.testing.assert_array_equal(backend.to_host(model.arena.values), values)


def test_of_equal_weights_is_exactly_those() -> None:
    model, average = attached(precision="float32", decay=0.99)
    before = model.arena.values.copy()
    for _ in range(20):
        average.update()
    np.testing.assert_array_equal(average.mean, before)


@pytest.mark.parametrize("device", DEVICES)
def test_the_trained_weights_come_back_after_an_error_and_from_within(device: str) -> None:
    model, average = attached(device, "float32")
    backend = model.backend
    for values in weights_of_steps(model, 3):
        backend.from_host(values, out=model.arena.values)
        average.update()
    trained = backend.to_host(model.arena.values)
    mean = backend.to_host(average.mean)

    def fail() -> None:
        with average.applied():
            with average.applied():
                np.testing.assert_array_equal(backend.to_host(model.arena.values), mean)
            np.testing.assert_array_equal(backend.to_host(model.arena.values), mean)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert backend.to_host(model.arena.values).tobytes() == trained.tobytes()
    average.apply()
    np.testing.assert_array_equal(backend.to_host(model.arena.values), mean)


def test_before_the_first_step_the_weights_stay() -> None:
    model, average = attached()
    model.arena.values[...] = 2.0  # loaded after `attach`
    with average.applied():
        assert (model.arena.values == 2.0).all()
    average.apply()
    assert (model.arena.values == 2.0).all()


def test_statistics_of_batch_normalization_are_not_averaged() -> None:
    model, average = attached()
    average.update()
    statistics = model.arrays()["batchnorm2d1.running"]
    statistics[...] = 5.0
    with average.applied():
        assert (statistics == 5.0).all()


def test_a_new_decay_reaches_the_device() -> None:
    model, average = attached(decay=0.5)
    held = average.hyperparameters
    average.decay = 0.25
    assert average.hyperparameters is held
    assert (average.decay, held[0]) == (0.25, 0.25)
    with pytest.raises(InputError, match="WeightAverage: decay 0.999999999[0-9]* becomes 1 in float32"):
        attached(precision="float32", decay=1 - 1e-12)


def test_attaching_again_starts_anew() -> None:
    model, average = attached()
    average.update()
    average.attach(model.arena, model.backend)
    model.arena.values[...] = 3.0
    average.apply()
    assert (model.arena.values == 3.0).all(), "the mean of the first time was applied"
    average.update()
    assert average.total_weight == 1.0
    np.testing.assert_array_equal(average.mean, model.arena.values)


def test_refusals() -> None:
    message = "WeightAverage: decay must be a number of at least 0 and below 1, received"
    for decay in (-0.1, 1.0, "0.9"):
        with pytest.raises(InputError, match=f"{message} {decay!r}"):
            WeightAverage(decay)
    for use in (WeightAverage().update, WeightAverage().apply, WeightAverage().applied().__enter__):
        with pytest.raises(InputError, match="WeightAverage: has no model; call attach first"):
            use()
    model, average = attached()
    other, _ = attached()
    with pytest.raises(InputError, match="WeightAverage: already belongs to another model; make a new one"):
        average.attach(other.arena, other.backend)
    model.build(model.input_shape, "cpu")
    with pytest.raises(InputError, match="WeightAverage: its model was built again or moved; make a new one for it"):
        average.update()
