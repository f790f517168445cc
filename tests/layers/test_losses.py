"""Losses: against plain loops and finite differences, at extreme logits, and what they add to the totals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler
from tolerances import DIFFERENCE_STEP, GRADIENT, assert_close

from gpucnn import (
    AbsoluteError,
    BinaryCrossEntropy,
    Hinge,
    Huber,
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
OF_SOME_OUTPUTS = ("binary_cross_entropy", "mean_squared_log_error", "mean_absolute_percentage_error")
OF_ANY_OUTPUTS = [name for name in LOSSES if name not in OF_SOME_OUTPUTS]
CASES = [
    (Huber, "dense", elements_loop(lambda y, t: min(abs(y - t), 1.0) * (abs(y - t) - min(abs(y - t), 1.0) / 2), True)),
    (Hinge, "labels", elements_loop(lambda y, t: max(0.0, 1.0 - (2.0 * t - 1.0) * y), mean=True)),
    (Hinge, "dense", elements_loop(lambda y, t: max(0.0, 1.0 - t * y), mean=True)),
    (SoftmaxCrossEntropy, "dense", softmax_loop),
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


def differences(value: Callable[[np.ndarray], float], outputs: np.ndarray) -> np.ndarray:
    """Return the gradient of a function by central differences."""
    gradient = np.empty(outputs.shape)
    for i in np.ndindex(outputs.shape):
        values = []
        for step in (DIFFERENCE_STEP, -DIFFERENCE_STEP):
            moved = outputs.copy()
            moved[i] += step
            values.append(value(moved))
        gradient[i] = (values[0] - values[1]) / (2 * DIFFERENCE_STEP)
    return gradient


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
    np.testing.assert_allclose(gradient, differences(lambda y: loop(y.tolist(), rows), outputs), **GRADIENT)
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


# ---- softmax cross-entropy with options, and sums ----------------------------------------------------------------


WEIGHTS = [0.5, 2.0, 0.0, 1.5, 3.0]
CHOICES = {
    "class_weights": [None, WEIGHTS],
    "ignored_label": [None, -100, 2],
    "label_smoothing": [0.0, 0.2],
    "reduction": ["mean", "sum"],
}
OPTIONS = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]


def softmax_with_options(
    outputs: list[list[float]],
    targets: list,
    *,
    class_weights: list[float] | None,
    ignored_label: int | None,
    label_smoothing: float,
    reduction: str,
) -> float:
    """Loop over labels, or over rows of soft targets."""
    total = norm = 0.0
    for row, target in zip(outputs, targets, strict=True):
        if target == ignored_label:
            continue
        normalizer = sum(math.exp(z) for z in row)
        of_label = isinstance(target, int)
        norm += class_weights[target] if of_label and class_weights else 1.0
        for k, z in enumerate(row):
            t = float(k == target) if of_label else target[k]
            weight = class_weights[k] if class_weights else 1.0
            total -= weight * ((1.0 - label_smoothing) * t + label_smoothing / K) * math.log(math.exp(z) / normalizer)
    return total / norm if reduction == "mean" else total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["labels", "dense"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_softmax_with_options(device: str, kind: str, options: dict[str, Any]) -> None:
    backend = get_backend(device, "float64")
    outputs = np.random.default_rng(4).standard_normal((N, K))
    targets = make_targets(kind)[0].copy()
    if kind == "labels" and options["ignored_label"] is not None:
        targets[[0, 3]] = options["ignored_label"]
    before = outputs.copy(), targets.copy()
    loss = SoftmaxCrossEntropy(**options)
    loss.build(backend)
    value = loss.forward(backend.from_host(outputs), backend.from_host(targets))
    expected = softmax_with_options(outputs.tolist(), targets.tolist(), **options)
    assert_close(backend.to_host(value), expected, "float64", terms=N * K)
    slopes = differences(lambda z: softmax_with_options(z.tolist(), targets.tolist(), **options), outputs)
    np.testing.assert_allclose(backend.to_host(loss.backward()), slopes, **GRADIENT)
    for array, kept in zip((outputs, targets), before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_an_ignored_label_of_any_integer_type(dtype: type) -> None:
    outputs, labels = np.random.default_rng(5).standard_normal((3, 4)), np.array([1, 255, 3], dtype)
    loss, plain = SoftmaxCrossEntropy(ignored_label=255), SoftmaxCrossEntropy()
    assert loss.forward(outputs, labels) == pytest.approx(plain.forward(outputs[::2], labels[::2]))
    np.testing.assert_allclose(loss.backward()[::2], plain.backward())
    np.testing.assert_array_equal(loss.backward()[1], 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_a_batch_of_ignored_labels_has_no_loss(device: str, reduction: str, class_weights: list | None) -> None:
    backend = get_backend(device, "float64")
    totals = backend.zeros((4,), backend.xp.float64)
    loss = SoftmaxCrossEntropy(class_weights=class_weights, ignored_label=-1, label_smoothing=0.1, reduction=reduction)
    loss.build(backend)
    outputs = backend.from_host(np.random.default_rng(6).standard_normal((N, K)))
    value = loss.forward(outputs, backend.from_host(np.full(N, -1, np.int32)), totals=totals)
    assert float(backend.to_host(value)) == 0
    np.testing.assert_array_equal(backend.to_host(loss.backward()), np.zeros((N, K)))
    np.testing.assert_array_equal(backend.to_host(totals), [0, 0, 0, N])


def test_impossible_classes_make_no_nan() -> None:
    logits = np.array([[0.0, -np.inf, 0.0], [-np.inf, 1.0, 1.0]])
    for loss, targets in (
        (SoftmaxCrossEntropy(class_weights=[1, 1, 1]), np.array([0, 2])),
        (SoftmaxCrossEntropy(), np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])),
    ):
        assert float(loss.forward(logits, targets)) == pytest.approx(math.log(2))
        assert np.isfinite(loss.backward()).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_totals_count_the_samples_that_have_a_target(reduction: str) -> None:
    """However the samples are batched, the totals are sums over them, of weighted losses."""
    rng = np.random.default_rng(7)
    outputs, labels = rng.standard_normal((12, K)), rng.integers(0, K, 12, dtype=np.int32)
    outputs[[1, 2], labels[[1, 2]]] += 9
    labels[[0, 5, 6, 7, 8]] = -1
    options = {"class_weights": WEIGHTS, "ignored_label": -1, "label_smoothing": 0.9}
    loss = SoftmaxCrossEntropy(**options, reduction=reduction)
    expected = softmax_with_options(outputs.tolist(), labels.tolist(), **options, reduction="sum")
    hits = sum(int(np.argmax(row) == label) for row, label in zip(outputs, labels, strict=True))
    assert hits >= 2
    for size in (12, 4, 3):
        totals = np.zeros(4)
        for start in range(0, 12, size):
            loss.forward(outputs[start : start + size], labels[start : start + size], totals=totals)
        np.testing.assert_allclose(totals, [expected, hits, 7, 12], rtol=1e-13)
    outputs[4] = np.nan
    with np.errstate(all="ignore"):
        for start in range(0, 12, 3):
            loss.forward(outputs[start : start + 3], labels[start : start + 3], totals=totals)
    assert totals[3] == 12 + 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_sum_is_the_mean_times_the_batch(name: str, device: str) -> None:
    backend, results = get_backend(device, "float64"), []
    rng = np.random.default_rng(8)
    batch = [backend.from_host(rng.uniform(0.1, 0.9, (N, K))) for _ in range(2)]
    for reduction in ("mean", "sum"):
        totals, loss = backend.zeros((4,), backend.xp.float64), LOSSES[name](reduction=reduction)
        loss.build(backend)
        value = loss.forward(*batch, totals=totals)
        results.append([backend.to_host(array).copy() for array in (value, loss.backward(), totals)])
        assert_close(backend.to_host(loss.forward(*batch, train=False)), results[-1][0], "float64", terms=N * K)
    (mean, slopes, totals), (total, slopes_of_total, same_totals) = results
    assert mean > 0
    np.testing.assert_allclose(total, N * mean)
    np.testing.assert_allclose(slopes_of_total, N * slopes)
    np.testing.assert_array_equal(totals, same_totals)


def test_class_weights_follow_the_precision_of_the_outputs() -> None:
    loss, outputs, labels = SoftmaxCrossEntropy(class_weights=[0.1, 0.7]), np.array([[1.0, 2.0]]), np.array([1])
    loss.build(get_backend("cpu", "float32"))
    expected = math.log(1 + math.exp(-1.0))
    for dtype in ("float32", "float64", "float32"):
        assert_close(loss.forward(outputs.astype(dtype), labels), expected, dtype)
        assert loss._weights.dtype == dtype


@requires_compiler
@pytest.mark.parametrize("kind", ["labels", "dense"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_options_on_a_gpu_only_launch_kernels(kind: str, reduction: str) -> None:
    """No transfer, no wait and no allocation from the second batch on, and the results of the CPU."""
    outputs, targets = np.random.default_rng(9).standard_normal((N, K)), make_targets(kind)[0]
    loss, expected = (
        SoftmaxCrossEntropy(class_weights=WEIGHTS, ignored_label=2, label_smoothing=0.1, reduction=reduction)
        for _ in range(2)
    )
    expected.forward(outputs, targets)
    with installed_cupy(make_fake_cupy()) as cupy:
        batch = cupy.asarray(outputs), cupy.asarray(targets)
        totals = cupy.zeros(4)
        loss.forward(*batch, totals=totals)
        with cupy.stats.step():
            loss.forward(*batch, totals=totals)
        np.testing.assert_allclose(loss.backward().get(), expected.backward(), rtol=1e-12)


@requires_compiler
def test_a_loss_makes_its_device_current() -> None:
    with installed_cupy(make_fake_cupy(device_count=2)) as cupy:
        losses = []
        for device in (0, 1):
            with cupy.cuda.Device(device):
                losses.append((SoftmaxCrossEntropy(), cupy.ones((2, 4)), cupy.zeros((2,), "int32")))
        for _ in range(2):
            for device, (loss, *batch) in enumerate(losses):
                assert loss.forward(*batch).device.id == device
        for device, (_, *batch) in enumerate(losses):  # device 1 is current, and the weights come to 0
            assert SoftmaxCrossEntropy(class_weights=np.ones(4)).forward(*batch).device.id == device


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
        lambda: MeanSquaredError(reduction="none"),
        'MeanSquaredError: reduction must be "mean" or "sum", received \'none\'',
    ),
    (
        lambda: SoftmaxCrossEntropy(class_weights={0: 1.0, 1: 2.0}),
        "SoftmaxCrossEntropy: class_weights must be a sequence of numbers, received {0: 1.0, 1: 2.0}",
    ),
    (
        lambda: SoftmaxCrossEntropy(class_weights="12"),
        "SoftmaxCrossEntropy: class_weights must be a sequence of numbers, received '12'",
    ),
    (
        lambda: SoftmaxCrossEntropy(class_weights=[1.0, -1.0]),
        "SoftmaxCrossEntropy: each of class_weights must be a number of at least 0 and finite, received -1.0",
    ),
    (
        lambda: SoftmaxCrossEntropy(class_weights=np.ones(3)).forward(np.zeros((4, 2)), np.zeros(4, np.int32)),
        "SoftmaxCrossEntropy: expected a class weight for each of 2 outputs, received 3",
    ),
    (
        lambda: SoftmaxCrossEntropy(ignored_label=1.0),
        "SoftmaxCrossEntropy: ignored_label must be an integer of 32 bits, received 1.0",
    ),
    (
        lambda: SoftmaxCrossEntropy(ignored_label=2**31),
        "SoftmaxCrossEntropy: ignored_label must be an integer of 32 bits, received 2147483648",
    ),
    (
        lambda: SoftmaxCrossEntropy(ignored_label=-1).forward(np.zeros((3, 4)), np.array([-1, 0, 4])),
        "SoftmaxCrossEntropy: labels must be 0 to 3 for 4 outputs, received 0 to 4; for targets of another kind pass "
        "an array (N, 4), and for samples without a target set ignored_label",
    ),
    (
        lambda: SoftmaxCrossEntropy().forward(np.zeros((0, 3)), np.zeros(0, np.int32)),
        "SoftmaxCrossEntropy: received an empty batch; give at least one sample",
    ),
    (
        lambda: SoftmaxCrossEntropy(label_smoothing=1.0),
        "SoftmaxCrossEntropy: label_smoothing must be a number of at least 0 and below 1, received 1.0",
    ),
    (
        lambda: Huber(0),
        "Huber: delta must be more than 0; from that difference on the loss is linear",
    ),
    (
        lambda: Huber(-1.0),
        "Huber: delta must be a number of at least 0 and finite, received -1.0",
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
    for loss, hits in ((SigmoidCrossEntropy(), 3), (MeanSquaredError(), 2), (Huber(), 2), (Hinge(), 3)):
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


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_binary_cross_entropy(device: str) -> None:
    """Of probabilities: as of their logits, with hits on the same side of 1/2."""
    rng = np.random.default_rng(0)
    for shape in ((N, K), (N, 1)):
        logits, targets = rng.standard_normal(shape), rng.uniform(size=shape)
        outputs, results = 1.0 / (1.0 + np.exp(-logits)), []
        for loss, values in ((BinaryCrossEntropy(), outputs), (SigmoidCrossEntropy(), logits)):
            totals = np.zeros(4)
            loss.build(get_backend(device, "float64"))
            results.append((float(loss.forward(values, targets, totals=totals)), loss.backward(), totals))
        (value, slopes, totals), (of_logits, slopes_of_logits, totals_of_logits) = results
        assert value == pytest.approx(of_logits)
        np.testing.assert_allclose(slopes * outputs * (1.0 - outputs), slopes_of_logits, rtol=1e-10)
        np.testing.assert_allclose(totals, totals_of_logits)


def test_percentages_of_class_labels_are_refused() -> None:
    message = r"MeanAbsolutePercentageError: expected targets \(N, K\) that are not 0, received class labels"
    with pytest.raises(InputError, match=message):
        MeanAbsolutePercentageError().forward(np.zeros((2, 3)), np.array([0, 1]))
