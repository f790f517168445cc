"""Optimizers: against scalar Python loops over several steps, and what the arena and the device hold."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import oracles
import pytest
from device.fixtures import requires_compiler
from tolerances import assert_close

from gpucnn import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Conv2D,
    Dense,
    Flatten,
    InputError,
    RMSprop,
    Sequential,
    WeightAverage,
    get_backend,
)
from gpucnn.backend.gpu import updates as kernels
from gpucnn.optim.optimizers import Optimizer, get_optimizer
from gpucnn.optim.schedules import Linear

STEPS = 6
DEVICES = ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)]

Scalar = Iterator[float]  # is sent gradients, yields weights


def sgd(w: float, rate: float, momentum: float = 0.0, decay: float = 0.0, nesterov: bool = False) -> Scalar:
    v = 0.0
    while True:
        g = (yield w) + decay * w
        v = momentum * v + g
        w = w - rate * (g + momentum * v if nesterov else v)


def adam(w: float, rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, decay: float = 0.0) -> Scalar:
    m = v = 0.0
    t = 0
    while True:
        g = (yield w) + decay * w
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - rate * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)


def adamw(w: float, rate: float, decay: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Scalar:
    m = v = 0.0
    t = 0
    while True:
        g = yield w
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w * (1 - rate * decay) - rate * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)


def rmsprop(w: float, rate: float, momentum: float, smoothing: float, eps: float, decay: float) -> Scalar:
    v = b = 0.0
    while True:
        g = (yield w) + decay * w
        v = smoothing * v + (1 - smoothing) * g * g
        b = momentum * b + g / (math.sqrt(v) + eps)
        w = w - rate * b


def adagrad(w: float, rate: float, eps: float, decay: float) -> Scalar:
    v = 0.0
    while True:
        g = (yield w) + decay * w
        v += g * g
        w = w - rate * g / (math.sqrt(v) + eps)


CASES: dict[str, tuple[Callable[[], Optimizer], Callable[[float], Scalar]]] = {
    "sgd": (lambda: SGD(0.1), lambda w: sgd(w, 0.1)),
    "momentum": (lambda: SGD(0.1, 0.8), lambda w: sgd(w, 0.1, 0.8)),
    "decay": (lambda: SGD(0.1, weight_decay=0.3), lambda w: sgd(w, 0.1, decay=0.3)),
    "momentum decay": (lambda: SGD(0.1, 0.8, weight_decay=0.3), lambda w: sgd(w, 0.1, 0.8, 0.3)),
    "nesterov": (lambda: SGD(0.1, 0.8, nesterov=True), lambda w: sgd(w, 0.1, 0.8, nesterov=True)),
    "nesterov decay": (
        lambda: SGD(0.1, 0.8, nesterov=True, weight_decay=0.3),
        lambda w: sgd(w, 0.1, 0.8, 0.3, nesterov=True),
    ),
    "adam": (lambda: Adam(0.1), lambda w: adam(w, 0.1)),
    "adam betas": (lambda: Adam(0.1, beta1=0.5, beta2=0.7, eps=0.1), lambda w: adam(w, 0.1, 0.5, 0.7, 0.1)),
    "adam decay": (lambda: Adam(0.1, weight_decay=0.3), lambda w: adam(w, 0.1, decay=0.3)),
    "adamw": (lambda: AdamW(0.1), lambda w: adamw(w, 0.1, 0.01)),
    "adamw decay": (lambda: AdamW(0.1, weight_decay=0.3), lambda w: adamw(w, 0.1, 0.3)),
    "rmsprop": (lambda: RMSprop(0.1), lambda w: rmsprop(w, 0.1, 0.0, 0.99, 1e-8, 0.0)),
    "rmsprop momentum": (
        lambda: RMSprop(0.1, 0.7, smoothing=0.8, eps=0.01, weight_decay=0.3),
        lambda w: rmsprop(w, 0.1, 0.7, 0.8, 0.01, 0.3),
    ),
    "adagrad": (lambda: Adagrad(0.1), lambda w: adagrad(w, 0.1, 1e-10, 0.0)),
    "adagrad decay": (lambda: Adagrad(0.1, eps=0.01, weight_decay=0.3), lambda w: adagrad(w, 0.1, 0.01, 0.3)),
    "adam no memory": (lambda: Adam(0.1, beta1=0.0, beta2=0.0), lambda w: adam(w, 0.1, 0.0, 0.0)),
}


def built_model(device: str = "cpu", dtype: str = "float64") -> Sequential:
    """Return a model whose parameters do not fill their cache lines, and whose arena is more than one block."""
    model = Sequential([Conv2D(3, 3), Flatten(), Dense(50), Dense(7)])
    model.build((14, 14, 2), get_backend(device, dtype))
    assert model.arena.size > 1 << 14
    return model


def gradients_of_steps(size: int) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((STEPS, size))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scalar_loops(case: str, device: str) -> None:
    make, loop = CASES[case]
    model = built_model(device)
    arena, backend = model.arena, model.backend
    first = backend.to_host(arena.values)
    gradients = gradients_of_steps(arena.size)
    optimizer = make()
    optimizer.attach(arena, backend)
    watched = [0, 1, 100, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, arena.size - 100]  # around the end of a block too
    loops = {i: loop(float(first[i])) for i in watched}
    for scalar in loops.values():
        next(scalar)
    for step in range(STEPS):
        backend.from_host(gradients[step], out=arena.gradients)
        optimizer.step()
        values = backend.to_host(arena.values)
        expected = [scalar.send(float(gradients[step, i])) for i, scalar in loops.items()]
        assert_close(values[watched], expected, "float64", terms=4 * STEPS, name=f"step {step}")
        np.testing.assert_array_equal(backend.to_host(arena.gradients), gradients[step])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_padding_of_the_arena_stays_zero(case: str, device: str) -> None:
    model = built_model(device, "float32")
    arena, backend = model.arena, model.backend
    used = np.zeros(arena.size, bool)
    start = 0
    for parameter in model.parameters():
        used[start : start + parameter.size] = True
        start += -(-parameter.size // 64) * 64
        assert parameter.value.shape == parameter.gradient.shape == parameter.shape
    assert start == arena.size
    assert np.count_nonzero(~used) > 0
    optimizer = CASES[case][0]()
    optimizer.attach(arena, backend)
    for gradient in gradients_of_steps(arena.size):
        for parameter in model.parameters():
            backend.from_host(gradient[: parameter.size].reshape(parameter.shape), out=parameter.gradient)
        optimizer.step()
    values = backend.to_host(arena.values)
    assert not values[~used].any()
    assert not backend.to_host(arena.gradients)[~used].any()
    assert np.isfinite(values).all()


def test_parameters_start_on_cache_lines_and_do_not_overlap() -> None:
    arena = built_model().arena
    starts = [parameter.value.ctypes.data - arena.values.ctypes.data for parameter in arena.parameters]
    assert all(start % (64 * 8) == 0 for start in starts)
    for number, parameter in enumerate(arena.parameters):
        parameter.value[...] = number + 1
        parameter.gradient[...] = -number - 1
    for number, parameter in enumerate(arena.parameters):
        assert (parameter.value == number + 1).all()
        assert (parameter.gradient == -number - 1).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_new_learning_rate_reaches_the_device(make: type[Optimizer], device: str) -> None:
    model = built_model(device)
    backend = model.backend
    optimizer = make(0.5)
    optimizer.learning_rate = 0.25
    assert optimizer.learning_rate == 0.25
    optimizer.attach(model.arena, backend)
    held = optimizer.hyperparameters
    assert backend.to_host(held)[0] == 0.25
    rest = backend.to_host(held)[1:]
    optimizer.learning_rate = 0.0
    assert optimizer.hyperparameters is held, "a captured step sees only the array that it was captured with"
    assert backend.to_host(held)[0] == 0.0
    np.testing.assert_array_equal(backend.to_host(held)[1:], rest)
    before = backend.to_host(model.arena.values)
    model.arena.gradients[...] = 1
    optimizer.step()
    np.testing.assert_array_equal(backend.to_host(model.arena.values), before)


def test_a_refused_learning_rate_changes_nothing() -> None:
    model, optimizer = built_model(), SGD(0.5)
    optimizer.attach(model.arena, model.backend)
    with pytest.raises(InputError, match="received -1"):
        optimizer.learning_rate = -1
    assert optimizer.learning_rate == 0.5 == optimizer.hyperparameters[0]


def test_a_learning_rate_that_the_precision_cannot_hold_changes_nothing_either() -> None:
    model, optimizer = Sequential([Dense(2)]), SGD(0.5)
    model.build((3,), "cpu")
    optimizer.attach(model.arena, model.backend)
    with pytest.raises(InputError, match=re.escape("SGD: learning_rate 1e-60 becomes 0 in float32")):
        optimizer.learning_rate = 1e-60
    assert optimizer.learning_rate == 0.5 == optimizer.hyperparameters[0]


def test_attaching_again_starts_anew() -> None:
    results = []
    optimizer, model = Adam(0.1), built_model()
    first = model.arena.values.copy()
    for _ in range(2):
        optimizer.attach(model.arena, model.backend)
        model.arena.values[...] = first
        model.arena.gradients[...] = 0.5
        optimizer.step()
        results.append(model.arena.values.copy())
    np.testing.assert_array_equal(*results)


# ---- clipping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["decay", "nesterov", "adam", "adamw", "rmsprop momentum", "adagrad"])
def test_clipping_comes_before_the_step(case: str, device: str) -> None:
    """Two models: one clips, the other is given gradients that are clipped already."""
    results = []
    for clips in (True, False):
        model, optimizer = built_model(device), CASES[case][0]()
        backend = model.backend
        optimizer.attach(model.arena, backend)
        optimizer.clip_norm = 3.0 if clips else None
        for gradient in gradients_of_steps(model.arena.size)[:3]:
            clipped = gradient * (3.0 / (math.sqrt(math.fsum(gradient**2)) + 1e-6))
            backend.from_host(gradient if clips else clipped, out=model.arena.gradients)
            optimizer.step()
            assert_close(backend.to_host(model.arena.gradients), clipped, "float64")
        results.append(backend.to_host(model.arena.values))
    assert_close(*results, "float64", terms=100)


@pytest.mark.parametrize("device", DEVICES)
def test_a_new_limit_reaches_the_device(device: str) -> None:
    model, optimizer = built_model(device), SGD(0.0, clip_norm=2.0)
    backend = model.backend
    optimizer.attach(model.arena, backend)
    held = optimizer.limit
    for limit, norm in ((2.0, 2.0), (0.5, 0.5), (None, 100.0), (1000.0, 100.0), (7.0, 7.0)):
        optimizer.clip_norm = limit
        assert optimizer.limit is held, "a captured step sees only the array that it was captured with"
        assert backend.to_host(held) == (limit or math.inf)
        backend.from_host(np.full(model.arena.size, 100.0 / math.sqrt(model.arena.size)), out=model.arena.gradients)
        optimizer.step()
        assert np.linalg.norm(backend.to_host(model.arena.gradients)) == pytest.approx(norm, rel=1e-5)


def test_clipping_nan_spoils_no_gap_of_the_arena() -> None:
    model, optimizer = built_model("cpu", "float32"), SGD(0.1, clip_norm=1.0)
    optimizer.attach(model.arena, model.backend)
    for parameter in model.parameters():
        parameter.gradient[...] = np.nan
    optimizer.step()
    for parameter in model.parameters():
        assert np.isnan(parameter.value).all()
        parameter.gradient[...] = parameter.value[...] = 1.0
    assert np.isfinite(model.arena.values).all()
    assert np.isfinite(model.arena.gradients).all()


@requires_compiler
@pytest.mark.parametrize("most_sums", [1, 3])
def test_clipping_in_fewer_blocks_than_there_is_work_for(most_sums, monkeypatch, make_backend) -> None:
    monkeypatch.setattr(kernels, "MAX_SUMS", most_sums)
    backend, g = make_backend("fake-gpu", "float32"), np.random.default_rng(0).standard_normal(2000).astype("float32")
    device = backend.from_host(g)
    backend.clip_norm(device, backend.from_host(np.array([5.0], "float32")))
    assert_close(backend.to_host(device), oracles.clip_norm(g, np.array([5.0])), "float32")


@requires_compiler
def test_clipping_nothing(make_backend) -> None:
    backend = make_backend("fake-gpu", "float32")
    backend.clip_norm(backend.zeros((0,)), backend.from_host(np.array([5.0], "float32")))


# ---- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("follow_first", [True, False])
def test_each_step_takes_its_own_rate(follow_first: bool, device: str) -> None:
    model, optimizer = built_model(device), SGD(0.5, 0.25)
    backend = model.backend
    if follow_first:
        optimizer.set_schedule(Linear(), 4)
    optimizer.attach(model.arena, backend)
    if not follow_first:
        optimizer.set_schedule(Linear(), 4)
    for step, rate in enumerate([0.5, 0.375, 0.25, 0.125, 0.125, 0.125]):  # after the last step it stays
        optimizer.step()
        np.testing.assert_array_equal(backend.to_host(optimizer.hyperparameters), [rate, 0.25, 0.0])
        assert backend.to_host(optimizer.clock) == step + 1
        assert optimizer.learning_rate_at(1) == rate
    assert [optimizer.learning_rate_at(ago) for ago in (6, 5, 3)] == [0.5, 0.375, 0.125]


def test_steps_use_the_rate_of_the_schedule() -> None:
    """Weights after steps along a schedule are those of rates set by hand."""
    results = []
    for follows in (True, False):
        model, optimizer = built_model(), AdamW(0.5)
        optimizer.attach(model.arena, model.backend)
        if follows:
            optimizer.set_schedule(Linear(0.1), STEPS)
        for step, gradient in enumerate(gradients_of_steps(model.arena.size)):
            if not follows:
                optimizer.learning_rate = 0.5 * Linear(0.1)(step / STEPS)
            model.arena.gradients[...] = gradient
            optimizer.step()
        results.append(model.arena.values.copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("device", DEVICES)
def test_rates_and_clock_are_read_on_the_device(device: str) -> None:
    """What a captured step would see: the same arrays with other contents, and no word from the host."""
    model, optimizer = built_model(device), SGD(0.5)
    backend = model.backend
    optimizer.attach(model.arena, backend)
    optimizer.set_schedule(Linear(), 4)
    rates, clock = optimizer.rates, optimizer.clock
    optimizer.step()
    optimizer.learning_rate = 1.0
    assert optimizer.rates is rates
    assert optimizer.clock is clock
    optimizer.step()
    assert backend.to_host(optimizer.hyperparameters)[0] == 0.75  # the second of four, of the new rate
    backend.from_host(np.array([0.1, 0.2, 0.3, 0.4]), out=rates)
    backend.from_host(np.array([3]), out=clock)
    optimizer.step()
    assert backend.to_host(optimizer.hyperparameters)[0] == 0.4
    optimizer.set_schedule(Linear(0.5), 2)
    optimizer.step()
    assert backend.to_host(optimizer.hyperparameters)[0] == 1.0, "a new schedule starts at its start"


@pytest.mark.parametrize("share", [-0.5, math.nan, math.inf, "1"])
def test_a_schedule_that_gives_no_share(share) -> None:
    optimizer = SGD(0.1)
    message = f"SGD: the schedule's factor at 2/4 must be a number of at least 0 and finite, received {share!r}"
    with pytest.raises(InputError, match=re.escape(message)):
        optimizer.set_schedule(lambda progress: share if progress == 0.5 else 1.0, 4)
    with pytest.raises(InputError, match="SGD: steps must be an integer of at least 1, received 0"):
        optimizer.set_schedule(Linear(), 0)
    assert optimizer.learning_rate_at(1) == 0.1


@pytest.mark.parametrize("make", [lambda how: SGD(0.1, 0.9, nesterov=True, **how), lambda how: AdamW(0.1, **how)])
def test_a_step_with_everything_on_allocates_no_array(make: Callable[[dict], Optimizer]) -> None:
    """Scratch memory of one block is made in the first step; the arena is many times as large."""
    model = Sequential([Dense(1000)])
    model.build((1000,), "cpu")
    optimizer, average = make({"weight_decay": 0.1, "clip_norm": 0.5}), WeightAverage()
    optimizer.set_schedule(Linear(), 10)
    for attached in (optimizer, average):
        attached.attach(model.arena, model.backend)
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(5):
            model.arena.gradients[...] = 1.0
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            optimizer.step()
            average.update()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert min(peaks[1:]) < 10_000


# ---- one model ----------------------------------------------------------------------------------------------------


def test_an_optimizer_trains_one_model() -> None:
    optimizer = SGD(0.1)
    with pytest.raises(InputError, match="SGD: has no model; call attach first"):
        optimizer.step()
    model, other = built_model(), built_model()
    optimizer.attach(model.arena, model.backend)
    with pytest.raises(InputError, match="SGD: already belongs to another model; make a new one"):
        optimizer.attach(other.arena, other.backend)


def test_an_optimizer_notices_that_its_model_was_built_again() -> None:
    optimizer, model = SGD(0.1), built_model()
    optimizer.attach(model.arena, model.backend)
    optimizer.step()
    model.build(model.input_shape, "cpu")
    with pytest.raises(InputError, match="SGD: its model was built again or moved; make a new one for it"):
        optimizer.step()


def test_every_hyper_parameter_reaches_the_device() -> None:
    optimizer, model = SGD(0.5), built_model()
    optimizer.attach(model.arena, model.backend)
    hyperparameters = optimizer.hyperparameters
    optimizer.momentum = 0.25
    optimizer.weight_decay = 0.125
    np.testing.assert_array_equal(hyperparameters, [0.5, 0.25, 0.125])


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (SGD(1e39), "SGD: learning_rate 1e+39 becomes inf in float32"),
        (Adam(eps=1e-60), "Adam: eps 1e-60 becomes 0 in float32"),
        (Adam(beta2=1 - 1e-12), "Adam: beta2 0.999999999999 becomes 1 in float32; choose a less extreme number, or"),
        (SGD(clip_norm=1e-60), "SGD: clip_norm 1e-60 becomes 0 in float32"),
        (SGD(clip_norm=1e60), "SGD: clip_norm 1e+60 becomes inf in float32"),
    ],
)
def test_a_hyper_parameter_that_the_precision_cannot_hold(optimizer: Optimizer, message: str) -> None:
    model = Sequential([Dense(2)])
    model.build((3,), "cpu")
    with pytest.raises(InputError, match=re.escape(message)):
        optimizer.attach(model.arena, model.backend)


def test_a_limit_that_was_refused_may_be_mended() -> None:
    model, optimizer = Sequential([Dense(2)]), SGD(clip_norm=1e-60)
    model.build((3,), "cpu")
    with pytest.raises(InputError):
        optimizer.attach(model.arena, model.backend)
    optimizer.clip_norm = 1.0
    optimizer.attach(model.arena, model.backend)
    optimizer.step()


BAD = [
    (lambda: SGD(-0.1), "SGD: learning_rate must be a number of at least 0 and finite, received -0.1"),
    (lambda: SGD(math.nan), "SGD: learning_rate must be a number of at least 0 and finite, received nan"),
    (lambda: Adam(math.inf), "Adam: learning_rate must be a number of at least 0 and finite, received inf"),
    (lambda: SGD("0.1"), "SGD: learning_rate must be a number of at least 0 and finite, received '0.1'"),
    (lambda: SGD(0.1, 1.0), "SGD: momentum must be a number of at least 0 and below 1, received 1.0"),
    (lambda: SGD(0.1, -0.5), "SGD: momentum must be a number of at least 0 and below 1, received -0.5"),
    (lambda: SGD(0.1, weight_decay=-1), "SGD: weight_decay must be a number of at least 0 and finite, received -1"),
    (lambda: Adam(beta1=1.0), "Adam: beta1 must be a number of at least 0 and below 1, received 1.0"),
    (lambda: Adam(beta2=1.5), "Adam: beta2 must be a number of at least 0 and below 1, received 1.5"),
    (lambda: Adam(eps=-1e-8), "Adam: eps must be "),
    (lambda: Adam(weight_decay=math.nan), "Adam: weight_decay must be a number of at least 0 and finite, received nan"),
    (lambda: SGD(clip_norm=-1), "SGD: clip_norm must be a number of at least 0 and finite, received -1"),
    (lambda: SGD(clip_norm="1"), "SGD: clip_norm must be a number of at least 0 and finite, received '1'"),
    (lambda: AdamW(clip_norm=0), "AdamW: clip_norm must be above 0, else nothing is learned; None clips nothing"),
    (
        lambda: SGD().set_schedule("linear", 3),
        "SGD: schedule must be a function of the progress, such as Linear(), received 'lin",
    ),
    (
        lambda: SGD().set_schedule(Linear, 3),
        "SGD: schedule must be a function of the progress, such as Linear(), received <class",
    ),
    (
        lambda: get_optimizer("nestorov", 0.1),
        "unknown optimizer 'nestorov': did you mean 'nesterov'? known are sgd, nesterov, adam",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_settings(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value).startswith(message)


def test_optimizers_by_name() -> None:
    plain, nesterov = get_optimizer("sgd", 0.3, 0.7, 0.1), get_optimizer("nesterov", 0.3, 0.7, 0.1)
    assert isinstance(plain, SGD)
    assert isinstance(nesterov, SGD)
    assert (plain.learning_rate, plain.momentum, plain.weight_decay, plain.nesterov) == (0.3, 0.7, 0.1, False)
    assert (nesterov.momentum, nesterov.nesterov) == (0.7, True)
    by_name = get_optimizer("adam", 0.3, weight_decay=0.1, clip_norm=2.0)
    assert isinstance(by_name, Adam)
    assert (by_name.learning_rate, by_name.weight_decay, by_name.beta1, by_name.clip_norm) == (0.3, 0.1, 0.9, 2.0)
    assert get_optimizer("sgd").clip_norm is None


def test_adam_takes_no_momentum() -> None:
    with pytest.raises(InputError, match="adam takes no momentum: leave it out, or use the optimizer sgd"):
        get_optimizer("adam", 0.1, 0.9)


def test_adam_without_eps_leaves_no_nan() -> None:
    """Where a gradient is exactly zero, 0/(sqrt(0) + 0) is NaN: so eps = 0 is refused."""
    for optimizer in (Adam, AdamW, RMSprop, Adagrad):
        with pytest.raises(InputError, match=f"{optimizer.__name__}: eps must be above 0, else a weight whose"):
            optimizer(eps=0.0)
