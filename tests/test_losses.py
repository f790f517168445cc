"""Losses: against plain loops and finite differences, at extreme logits, and what they add to the totals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tolerances import DIFFERENCE_STEP, GRADIENT, assert_close

from gpucnn import (
    AbsoluteError,
    InputError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    get_backend,
)
from gpucnn.gradcheck import directional_error
from gpucnn.losses import LOSSES, Loss, get_loss

N, K = 6, 5
DEVICES = ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def softmax_loop(outputs: list[list[float]], targets: list[list[float]]) -> float:
    total = 0.0
    for row, target in zip(outputs, targets, strict=True):
        normalizer = sum(math.exp(z) for z in row)
        total -= sum(t * math.log(math.exp(z) / normalizer) for z, t in zip(row, target, strict=True))
    return total / len(outputs)


def sigmoid_loop(outputs: list[list[float]], targets: list[list[float]]) -> float:
    total = 0.0
    for row, target in zip(outputs, targets, strict=True):
        for z, t in zip(row, target, strict=True):
            s = 1.0 / (1.0 + math.exp(-z))
            total -= t * math.log(s) + (1.0 - t) * math.log(1.0 - s)
    return total / len(outputs)


def squares_loop(outputs: list[list[float]], targets: list[list[float]]) -> float:
    total = 0.0
    for row, target in zip(outputs, targets, strict=True):
        for y, t in zip(row, target, strict=True):
            total += (y - t) ** 2
    return total / (len(outputs) * len(outputs[0]))


def elements_loop(term, mean: bool):
    """Make the loop of a loss that sums a function of output and target, and averages over outputs if `mean`."""

    def loop(outputs: list[list[float]], targets: list[list[float]]) -> float:
        pairs = [(y, t) for row, target in zip(outputs, targets, strict=True) for y, t in zip(row, target, strict=True)]
        return sum(term(y, t) for y, t in pairs) / (len(pairs) if mean else len(outputs))

    return loop


# Losses that take any outputs, with class labels; the others divide by targets, or take the logarithm of outputs.
OF_ANY_OUTPUTS = [name for name in LOSSES if name not in ("mean_squared_log_error", "mean_absolute_percentage_error")]
CASES = [
    (SquaredError, "dense", elements_loop(lambda y, t: (y - t) ** 2, mean=False)),
    (AbsoluteError, "dense", elements_loop(lambda y, t: abs(y - t), mean=False)),
    (MeanAbsoluteError, "dense", elements_loop(lambda y, t: abs(y - t), mean=True)),
    (MeanAbsolutePercentageError, "dense", elements_loop(lambda y, t: 100.0 * abs((t - y) / t), mean=True)),
    (SoftmaxCrossEntropy, "labels", softmax_loop),
    (SigmoidCrossEntropy, "labels", sigmoid_loop),
    (SigmoidCrossEntropy, "dense", sigmoid_loop),
    (MeanSquaredError, "labels", squares_loop),
    (MeanSquaredError, "dense", squares_loop),
]


def make_targets(kind: str) -> tuple[np.ndarray, list[list[float]]]:
    """Return targets to give to a loss, and the same as rows for the loops."""
    rng = np.random.default_rng(1)
    if kind == "dense":
        rows = rng.uniform(size=(N, K))
        return rows, rows.tolist()
    labels = np.array([0, 4, 2, 2, 1, 3], np.int32)
    return labels, [[float(k == label) for k in range(K)] for label in labels.tolist()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("kind_of_loss", "kind", "loop"), CASES)
def test_value_and_gradient(kind_of_loss: type[Loss], kind: str, loop, device: str) -> None:
    backend = get_backend(device, "float64")
    outputs = 2.0 * np.random.default_rng(0).standard_normal((N, K))
    targets, rows = make_targets(kind)
    before = outputs.copy(), targets.copy()
    loss = kind_of_loss()
    loss.build(backend)
    value = loss.forward(backend.from_host(outputs), backend.from_host(targets))
    assert value.shape == ()
    assert_close(backend.to_host(value), loop(outputs.tolist(), rows), "float64", terms=N * K)

    gradient = backend.to_host(loss.backward())
    expected = np.empty((N, K))
    for n in range(N):
        for k in range(K):
            values = []
            for step in (DIFFERENCE_STEP, -DIFFERENCE_STEP):
                moved = outputs.copy()
                moved[n, k] += step
                values.append(loop(moved.tolist(), rows))
            expected[n, k] = (values[0] - values[1]) / (2 * DIFFERENCE_STEP)
    np.testing.assert_allclose(gradient, expected, **GRADIENT)
    for array, kept in zip((outputs, targets), before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("kind_of_loss", [LOSSES[name] for name in OF_ANY_OUTPUTS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_alone_takes_the_device_of_its_first_outputs(kind_of_loss: type[Loss], dtype: str) -> None:
    loss = kind_of_loss()
    value = loss.forward(np.zeros((N, K), dtype), make_targets("labels")[0])
    assert value.dtype == dtype == loss.backward().dtype


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_at_extreme_logits(device: str, dtype: str) -> None:
    backend = get_backend(device, dtype)
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]], dtype)
    labels = np.array([0, 1, 2, 0], np.int32)
    loss = SoftmaxCrossEntropy()
    loss.build(backend)
    value = loss.forward(backend.from_host(logits), backend.from_host(labels))
    assert_close(backend.to_host(value), (0 + 2e4 + 2 * math.log(3)) / 4, dtype, terms=4)
    third = 1 / 3
    expected = np.array([[0, 0, 0], [1, -1, 0], [third, third, third - 1], [third - 1, third, third]]) / 4
    assert_close(backend.to_host(loss.backward()), expected, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_at_extreme_logits(device: str, dtype: str) -> None:
    backend = get_backend(device, dtype)
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype)
    targets = np.array([[1, 0, 0.5], [1, 0, 0.5]], dtype)
    loss = SigmoidCrossEntropy()
    loss.build(backend)
    value = loss.forward(backend.from_host(logits), backend.from_host(targets))
    assert_close(backend.to_host(value), (0 + 0 + 1e4 + 1e4 + 2 * math.log(2)) / 2, dtype, terms=6)
    expected = np.array([[0, 0, 0], [-1, 1, 0]]) / 2
    assert_close(backend.to_host(loss.backward()), expected, dtype)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_squares_of_large_numbers(device: str) -> None:
    loss = MeanSquaredError()
    loss.build(get_backend(device))
    value = loss.forward(np.array([[1e4, -1e4]], np.float32), np.array([[-1e4, -1e4]], np.float32))
    assert_close(value, 2e8, "float32")
    assert_close(loss.backward(), [[2e4, 0]], "float32")


# ---- totals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OF_ANY_OUTPUTS)
def test_totals_add_up_over_batches(name: str, device: str) -> None:
    backend = get_backend(device, "float64")
    loss, totals = get_loss(name), backend.zeros((4,), backend.xp.float64)
    loss.build(backend)
    rng = np.random.default_rng(2)
    expected, hits, samples = 0.0, 0, 0
    for size in (6, 3, 1):
        outputs, labels = rng.standard_normal((size, K)), rng.integers(0, K, size, dtype=np.int32)
        labels[0] = np.argmax(outputs[0])
        on_device = backend.from_host(outputs), backend.from_host(labels)
        expected += size * float(backend.to_host(loss.forward(*on_device, totals=totals)))
        hits += sum(int(np.argmax(row) == label) for row, label in zip(outputs, labels, strict=True))
        samples += size
        np.testing.assert_allclose(backend.to_host(totals), [expected, hits, samples, samples], rtol=1e-13)
    assert 0 < hits < samples


def test_hits_of_dense_targets_are_equal_largest_elements() -> None:
    totals = np.zeros(4)
    outputs = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4]])
    targets = np.array([[0.4, 0.6], [0.1, 0.2], [0.0, 1.0]])
    for loss in (SigmoidCrossEntropy(), MeanSquaredError()):
        totals[...] = 0
        loss.forward(outputs, targets, totals=totals)
        assert totals[1] == 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OF_ANY_OUTPUTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_are_counted_as_finite_up_to_the_first_bad_batch(name: str, device: str, bad: float) -> None:
    backend = get_backend(device, "float64")
    loss, totals = get_loss(name), backend.zeros((4,), backend.xp.float64)
    loss.build(backend)
    good = np.random.default_rng(3).standard_normal((4, K))
    broken = good[:3].copy()
    broken[1, 2] = bad
    labels = np.zeros(4, np.int32)
    with np.errstate(all="ignore"):  # inf - inf, which is the point
        for outputs in (good, good, broken, good):
            batch = backend.from_host(outputs), backend.from_host(labels[: len(outputs)])
            loss.forward(*batch, totals=totals)
    loss_sum, _, samples, finite = backend.to_host(totals).tolist()
    assert not math.isfinite(loss_sum)
    assert (samples, finite) == (15, 8)


def test_without_totals_nothing_is_counted_and_without_train_there_is_no_gradient() -> None:
    loss, totals = SoftmaxCrossEntropy(), np.zeros(4)
    outputs, labels = np.zeros((N, K)), np.zeros(N, np.int32)
    loss.forward(outputs, labels)
    gradient = loss.backward().copy()
    loss.forward(outputs + 1, labels, train=False, totals=totals)
    assert totals[2] == N
    with pytest.raises(InputError, match="SoftmaxCrossEntropy: backward needs a forward with train=True before it"):
        loss.backward()
    loss.forward(outputs, labels)
    np.testing.assert_array_equal(loss.backward(), gradient)


def test_value_and_gradient_are_the_losss_own_buffers() -> None:
    loss, outputs, labels = SoftmaxCrossEntropy(), np.zeros((N, K)), np.zeros(N, np.int32)
    first, gradient = loss.forward(outputs, labels), loss.backward()
    assert np.shares_memory(loss.forward(outputs, labels), first)
    assert np.shares_memory(loss.backward(), gradient)


# ---- refusals -----------------------------------------------------------------------------------------------------

REFUSALS = [
    (
        lambda: SoftmaxCrossEntropy().forward(np.zeros((4, 3)), np.zeros(5, np.int32)),
        "SoftmaxCrossEntropy: expected outputs (N, K) and targets (N,) or (N, K), received (4, 3) and (5,)",
    ),
    (
        lambda: MeanSquaredError().forward(np.zeros((4, 3)), np.zeros((4, 2))),
        "MeanSquaredError: expected outputs (N, K) and targets (N,) or (N, K), received (4, 3) and (4, 2)",
    ),
    (
        lambda: SigmoidCrossEntropy().forward(np.zeros((4, 2, 2, 3)), np.zeros(4, np.int32)),
        "SigmoidCrossEntropy: expected outputs (N, K) and targets (N,) or (N, K), received (4, 2, 2, 3) and (4,)",
    ),
    (
        lambda: SoftmaxCrossEntropy().forward(np.zeros((4, 3)), np.zeros((4, 3))),
        "SoftmaxCrossEntropy: expected integer class labels (N,), received targets (N, K)",
    ),
    (
        lambda: SoftmaxCrossEntropy().forward([[1.0]], np.zeros(1, np.int32)),
        "SoftmaxCrossEntropy: expected a NumPy or CuPy array, received list",
    ),
    (
        lambda: MeanSquaredError().backward(),
        "MeanSquaredError: backward needs a forward with train=True before it",
    ),
    (
        lambda: get_loss("softmax_crossentropy"),
        "unknown loss 'softmax_crossentropy': did you mean 'softmax_cross_entropy'?",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS)
def test_refusals(call, message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_hits_of_one_output(device: str) -> None:
    """With one output a hit is the right side of the boundary: 0 for logits, 1/2 for values."""
    backend = get_backend(device, "float64")
    outputs, targets = np.array([[2.0], [-2.0], [0.3], [0.7]]), np.array([[0.0], [0.0], [1.0], [1.0]])
    for loss, hits in ((SigmoidCrossEntropy(), 3), (MeanSquaredError(), 2)):
        totals = np.zeros(4)
        loss.build(backend)
        loss.forward(outputs, targets, totals=totals)
        assert totals[1] == hits


def test_mean_squared_log_error() -> None:
    """Of values above -1: here of outputs that are counts."""
    rng = np.random.default_rng(0)
    outputs, targets = rng.uniform(0.0, 9.0, (N, K)), rng.uniform(0.0, 9.0, (N, K))
    loop = elements_loop(lambda y, t: (math.log(y + 1.0) - math.log(t + 1.0)) ** 2, mean=True)
    loss = MeanSquaredLogError()
    assert float(loss.forward(outputs, targets)) == pytest.approx(loop(outputs.tolist(), targets.tolist()))
    assert directional_error(lambda y: float(loss.forward(y, targets)), outputs, loss.backward().copy(), rng) < 1e-7


def test_percentages_of_class_labels_are_refused() -> None:
    message = r"MeanAbsolutePercentageError: expected targets \(N, K\) that are not 0, received class labels"
    with pytest.raises(InputError, match=message):
        MeanAbsolutePercentageError().forward(np.zeros((2, 3)), np.array([0, 1]))
