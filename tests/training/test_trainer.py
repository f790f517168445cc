"""Training: one step by hand, repeatability, what is read when, divergence, and the data on the device."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tolerances import assert_close

from gpucnn import (
    SGD,
    Adam,
    Conv2D,
    Dense,
    DeviceError,
    DivergedError,
    Dropout,
    Flatten,
    InputError,
    MaxPool2D,
    MeanSquaredError,
    Metrics,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    WeightAverage,
    get_backend,
)
from gpucnn.backend import Backend
from gpucnn.data import DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization
from gpucnn.optim.schedules import Linear

# In float64 two orders of summation differ by 1e-15 a step; 20 steps of a net that learns enlarge that a little.
EPOCH = {"rtol": 1e-10, "atol": 1e-12}


def make_images(samples: int = 50, seed: int = 0) -> Split:
    """Return images (8, 8, 1) whose brightest quarter tells their class, 4 classes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (samples, 8, 8, 1), dtype=np.uint8)
    labels = rng.integers(0, 4, samples, dtype=np.int32)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 100
    return Split(images, labels)


def small_model() -> Sequential:
    return Sequential([Conv2D(4, 3, padding="same"), ReLU(), MaxPool2D(2), Flatten(), Dropout(0.2), Dense(4)])


def make_trainer(
    device: str = "cpu",
    precision: str = "float32",
    *,
    seed: int = 0,
    split: Split | None = None,
    optimizer=None,
    average: WeightAverage | None = None,
) -> tuple[Trainer, DeviceDataset]:
    backend, split = get_backend(device, precision), split or make_images()
    model = small_model()
    model.build((8, 8, 1), backend, max_batch=16, seed=seed)
    optimizer = optimizer or SGD(0.1, 0.9)
    trainer = Trainer(model, SoftmaxCrossEntropy(), optimizer, average=average, batch_size=16, seed=seed)
    return trainer, DeviceDataset(split, backend, Normalization(split.images))


# ---- one step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_one_step_by_hand(device: str) -> None:
    """y = relu(x w1 + b1) w2 + b2 with a squared error, one sample at a time in plain Python."""
    w1, b1 = [[0.5, -1.0], [0.25, 0.75]], [0.1, -0.2]
    w2, b2 = [[1.5], [-0.5]], [0.3]
    samples, targets, rate = [[1.0, 2.0], [-3.0, 0.5]], [[1.0], [-1.0]], 0.1
    first, second = Dense(2), Dense(1)
    model = Sequential([first, ReLU(), second])
    backend = get_backend(device, "float64")
    model.build((2,), backend)
    for parameter, value in zip(model.parameters(), (w1, b1, w2, b2), strict=True):
        parameter.value[...] = value
    trainer = Trainer(model, MeanSquaredError(), SGD(rate), batch_size=2)
    trainer.step(np.array(samples), np.array(targets))

    dw1, db1, dw2, db2, loss = [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0], [[0.0], [0.0]], [0.0], 0.0
    for x, target in zip(samples, targets, strict=True):
        z = [x[0] * w1[0][j] + x[1] * w1[1][j] + b1[j] for j in range(2)]
        a = [max(value, 0.0) for value in z]
        y = a[0] * w2[0][0] + a[1] * w2[1][0] + b2[0]
        loss += (y - target[0]) ** 2
        delta = 2 * (y - target[0]) / 2
        db2[0] += delta
        for j in range(2):
            dw2[j][0] += delta * a[j]
            hidden = delta * w2[j][0] if z[j] > 0 else 0.0
            db1[j] += hidden
            for i in range(2):
                dw1[i][j] += hidden * x[i]
    for parameter, old, gradient in zip(model.parameters(), (w1, b1, w2, b2), (dw1, db1, dw2, db2), strict=True):
        assert_close(parameter.gradient, gradient, "float64", terms=4)
        assert_close(parameter.value, np.array(old) - rate * np.array(gradient), "float64", terms=4)
        assert np.any(gradient)
    assert_close(backend.to_host(trainer._totals), [loss, 2, 2, 2], "float64", terms=4)  # K = 1: always a hit


# ---- whole epochs -------------------------------------------------------------------------------------------------


def test_training_learns() -> None:
    trainer, data = make_trainer()
    results = [trainer.train_epoch(data, epoch) for epoch in range(15)]
    assert results[-1].loss < 0.3 * results[0].loss
    assert trainer.evaluate(data).accuracy > 0.95


@pytest.mark.parametrize("optimizer", [lambda: SGD(0.1, 0.9), lambda: Adam(0.01)])
def test_a_seed_decides_the_weights(optimizer) -> None:
    hashes = []
    for seed in (1, 1, 2):
        trainer, data = make_trainer(seed=seed, optimizer=optimizer())
        for epoch in range(3):
            trainer.train_epoch(data, epoch)
        hashes.append(trainer.model.weights_sha256())
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_seed_of_the_trainer_decides_the_order() -> None:
    trainer, data = make_trainer()
    orders = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        trainer.seed = seed
        trainer.train_epoch(data, epoch)
        orders.append(data._order.tolist())
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert orders[2] != orders[3]


def test_cpu_and_reference_train_alike() -> None:
    states, results = [], []
    for device in ("reference", "cpu"):
        trainer, data = make_trainer(device, "float64")
        results += [trainer.train_epoch(data, 0), trainer.evaluate(data)]
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, **EPOCH)
    for reference, cpu in zip(results[:2], results[2:], strict=True):
        assert cpu.loss == pytest.approx(reference.loss, rel=1e-10)
        assert (cpu.accuracy, cpu.samples) == (reference.accuracy, reference.samples)


def test_metrics_are_means_over_all_samples() -> None:
    trainer, data = make_trainer(optimizer=SGD(0.0))
    host = make_images()
    normalization = Normalization(host.images)
    x = (host.images * normalization.scale + normalization.shift).astype(np.float32)
    logits = trainer.model.predict(x).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.mean(np.log(probabilities[np.arange(50), host.labels]))
    metrics = trainer.evaluate(data)
    assert metrics == Metrics(pytest.approx(loss, rel=1e-5), np.mean(logits.argmax(axis=1) == host.labels), 50)
    assert 0 < metrics.accuracy < 1
    assert trainer.evaluate(data) == metrics, "the totals were not cleared"


def test_the_last_partial_batch_is_used() -> None:
    trainer, data = make_trainer()
    sizes: list[int] = []
    metrics = trainer.train_epoch(data, 0, sizes.append)
    assert sizes == [16, 16, 16, 2]
    assert metrics.samples == 50
    assert trainer.evaluate(data).samples == 50
    exact, exact_data = make_trainer(split=make_images(32))
    exact.train_epoch(exact_data, 0, sizes.append)
    assert sizes[4:] == [16, 16]


def test_every_sample_is_met_once_in_an_epoch() -> None:
    trainer, data = make_trainer()
    met: list[int] = []
    step = trainer.step

    def recording(x, y) -> None:
        met.extend(np.round(x.sum(axis=(1, 2, 3)), 3).tolist())
        step(x, y)

    trainer.step = recording
    trainer.train_epoch(data, 0)
    first = list(met)
    met.clear()
    trainer.train_epoch(data, 1)
    assert len(first) == len(met) == 50
    assert sorted(first) == sorted(met)
    assert first != met


def test_evaluate_changes_nothing() -> None:
    trainer, data = make_trainer()
    trainer.train_epoch(data, 0)
    before, gradients = trainer.model.state_dict(), trainer.model.arena.gradients.copy()
    velocity = trainer.optimizer.velocity.copy()
    trainer.evaluate(data)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    np.testing.assert_array_equal(trainer.model.arena.gradients, gradients)
    np.testing.assert_array_equal(trainer.optimizer.velocity, velocity)
    with pytest.raises(InputError, match="backward needs a forward with train=True"):
        trainer.loss.backward()  # no gradient was computed


def test_evaluating_between_epochs_does_not_change_training() -> None:
    hashes = []
    for evaluate in (False, True):
        trainer, data = make_trainer()
        for epoch in range(2):
            trainer.train_epoch(data, epoch)
            if evaluate:
                trainer.evaluate(data)
        hashes.append(trainer.model.weights_sha256())
    assert hashes[0] == hashes[1]


# ---- the host -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_one_read_in_an_epoch(device: str) -> None:
    trainer, data = make_trainer(device)
    for epoch in range(2):
        reads = trainer.backend.host_reads
        trainer.train_epoch(data, epoch)
        assert trainer.backend.host_reads - reads == 1
    reads = trainer.backend.host_reads
    trainer.evaluate(data)
    assert trainer.backend.host_reads - reads == 1


def test_the_loop_makes_no_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the steps both transfers raise; outside them one copy in, of the order, and one out, of the totals."""
    trainer, data = make_trainer()
    calls: list[str] = []
    in_step = False
    for name in ("to_host", "from_host"):
        original = getattr(Backend, name)

        def transfer(self, *arguments, original=original, name=name, **settings):
            assert not in_step, f"{name} in a step"
            calls.append(name)
            return original(self, *arguments, **settings)

        monkeypatch.setattr(Backend, name, transfer)
    step, next_batch = trainer.step, data.next_batch

    def guarded(function):
        def run(*arguments):
            nonlocal in_step
            in_step = True
            result = function(*arguments)
            in_step = False
            return result

        return run

    trainer.step, data.next_batch = guarded(step), guarded(next_batch)
    trainer.train_epoch(data, 0)
    assert calls == ["from_host", "to_host"]


# ---- divergence ---------------------------------------------------------------------------------------------------


class PoisonedSGD(SGD):
    """Sets a weight to NaN in its step number `poisoned`, counted from 1: the loss of the next step is NaN."""

    def __init__(self, poisoned: int):
        super().__init__(0.01)
        self.poisoned, self.steps = poisoned, 0

    def step(self) -> None:
        super().step()
        self.steps += 1
        if self.steps == self.poisoned:
            self.arena.values[...] = np.nan


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("poisoned", "epoch", "step"), [(1, 1, 2), (3, 1, 4), (4, 2, 1), (6, 2, 3), (7, 2, 4), (8, 3, 1)]
)
def test_divergence_names_epoch_and_step(poisoned: int, epoch: int, step: int, device: str) -> None:
    trainer, data = make_trainer(device, optimizer=PoisonedSGD(poisoned))
    with np.errstate(all="ignore"):
        for number in range(epoch - 1):
            trainer.train_epoch(data, number)
        with pytest.raises(DivergedError) as error:
            trainer.train_epoch(data, epoch - 1)
    began = ", which began in conv2d1.w at the start of the epoch" if step == 1 else ""
    assert str(error.value) == (
        f"the loss became NaN or infinite in epoch {epoch}, step {step}, at learning rate 0.01{began}; try a smaller "
        "learning rate"
    )


def test_an_infinite_loss_is_divergence_too() -> None:
    trainer, data = make_trainer(optimizer=SGD(0.0))
    trainer.model.layers[-1].w.value[...] = 1e30  # logits of inf or -inf would be NaN: one finite, one infinite
    trainer.model.layers[-1].b.value[...] = [3e38, -3e38, 0, 0]
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match="epoch 1, step 1,"):
        trainer.train_epoch(data, 0)


def test_after_divergence_the_totals_are_clear() -> None:
    trainer, data = make_trainer(optimizer=PoisonedSGD(1))
    weights = trainer.model.state_dict()
    with np.errstate(all="ignore"), pytest.raises(DivergedError):
        trainer.train_epoch(data, 0)
    trainer.model.load_state_dict(weights)
    metrics = trainer.evaluate(data)
    assert metrics.samples == 50
    assert math.isfinite(metrics.loss)


def test_evaluate_reports_nan_as_it_is() -> None:
    trainer, data = make_trainer()
    trainer.model.arena.values[...] = np.nan
    with np.errstate(all="ignore"):
        metrics = trainer.evaluate(data)
    assert math.isnan(metrics.loss)
    assert metrics.samples == 50


# ---- ignored labels -----------------------------------------------------------------------------------------------


def make_trainer_that_ignores(kept: slice, optimizer=None) -> tuple[Trainer, DeviceDataset, Split]:
    """Return a trainer, its data whose labels outside `kept` are -1, and the data as they were."""
    split = make_images()
    labels = np.full_like(split.labels, -1)
    labels[kept] = split.labels[kept]
    trainer, data = make_trainer(split=Split(split.images, labels), optimizer=optimizer)
    trainer.loss = SoftmaxCrossEntropy(ignored_label=-1)
    trainer.loss.build(trainer.backend)
    return trainer, data, split


def test_metrics_are_means_over_the_samples_that_are_not_ignored() -> None:
    trainer, data, split = make_trainer_that_ignores(slice(10, 30))
    x = (split.images * data.scale + data.shift)[10:30]
    loss = float(SoftmaxCrossEntropy().forward(trainer.model.predict(x), split.labels[10:30]))
    metrics = trainer.evaluate(data)
    accuracy = np.mean(trainer.model.predict(x).argmax(axis=1) == split.labels[10:30])
    assert metrics == Metrics(pytest.approx(loss, rel=1e-5), accuracy, 20)
    assert trainer.train_epoch(data, 0).samples == 20


def test_divergence_is_found_among_ignored_samples() -> None:
    trainer, data, _ = make_trainer_that_ignores(slice(10, 30), PoisonedSGD(2))
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match="in epoch 1, step 3,"):
        trainer.train_epoch(data, 0)


def test_nothing_to_learn_is_no_divergence() -> None:
    trainer, data, _ = make_trainer_that_ignores(slice(0, 0))
    weights = trainer.model.weights_sha256()
    assert trainer.train_epoch(data, 0) == Metrics(0.0, 0.0, 0)
    assert trainer.model.weights_sha256() == weights


# ---- average and schedule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_evaluates_with_the_averaged_weights(device: str) -> None:
    """An average over every step, evaluated, is what a model with those weights gives; training goes on without it."""
    trainer, data = make_trainer(device, average=WeightAverage(0.9))
    plain, same_data = make_trainer(device)
    model, host = trainer.model, trainer.backend.to_host
    for epoch in range(2):
        trainer.train_epoch(data, epoch)
        plain.train_epoch(same_data, epoch)
        averaged = trainer.evaluate(data)
        np.testing.assert_array_equal(host(model.arena.values), host(plain.model.arena.values))
    assert averaged != plain.evaluate(same_data)
    plain.model.arena.values[...] = trainer.average.mean
    assert averaged == plain.evaluate(same_data)


def test_the_average_has_every_step() -> None:
    trainer, data = make_trainer(average=WeightAverage(0.5))
    trainer.train_epoch(data, 0)
    assert trainer.average.total_weight == 1 + 0.5 + 0.25 + 0.125
    assert trainer.steps(data) == 4


def test_divergence_names_the_rate_of_its_step() -> None:
    """Step 3 of the second epoch, of four steps each, is step 6 from 0 of the schedule's eight."""
    optimizer = PoisonedSGD(6)
    optimizer.set_schedule(Linear(), 8)
    trainer, data = make_trainer(optimizer=optimizer)
    trainer.train_epoch(data, 0)
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match=r"epoch 2, step 3, at learning rate 0.0025;"):
        trainer.train_epoch(data, 1)


def test_one_read_in_an_epoch_with_everything_on() -> None:
    optimizer = Adam(0.01, clip_norm=1.0)
    optimizer.set_schedule(Linear(), 8)
    trainer, data = make_trainer(optimizer=optimizer, average=WeightAverage(0.9))
    for run in (lambda: trainer.train_epoch(data, 0), lambda: trainer.evaluate(data)):
        reads = trainer.backend.host_reads
        run()
        assert trainer.backend.host_reads - reads == 1


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    model = small_model()
    message = "Trainer: the model has no arrays of its own; call build, and train whole models only"
    with pytest.raises(InputError, match=message):
        Trainer(model, SoftmaxCrossEntropy(), SGD(0.1))
    model.build((8, 8, 1), "cpu")
    with pytest.raises(InputError, match="Trainer: batch_size must be an integer of at least 1, received 0"):
        Trainer(model, SoftmaxCrossEntropy(), SGD(0.1), batch_size=0)


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("model", {"model": [Dense(3)]}),
        ("loss", {"loss": "hinge"}),
        ("optimizer", {"optimizer": SGD}),
        ("average", {"average": 0.9}),
    ],
)
def test_arguments_of_another_kind(what: str, settings: dict) -> None:
    model = small_model()
    model.build((8, 8, 1), "cpu")
    arguments = {"model": model, "loss": SoftmaxCrossEntropy(), "optimizer": SGD(0.1)}
    with pytest.raises(InputError, match=f"Trainer: {what} must be of the type "):
        Trainer(**arguments | settings)


def test_data_that_do_not_suit_the_model() -> None:
    trainer, _ = make_trainer()
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(20, dtype=np.int32) % 2

    def resident(images, labels, device: str = "cpu", precision: str = "float32") -> DeviceDataset:
        return DeviceDataset(Split(images, labels), get_backend(device, precision), Normalization(images))

    for data, message in (
        (resident(images, labels + 100), r"Trainer: labels are 100 to 101, but the model has outputs for 0 to \d"),
        (resident(images, labels - 1), "Trainer: labels are -1 to 0"),
        (resident(images[:, :6], labels), r"takes \(8, 8, 1\), images are \(6, 8, 1\)"),
    ):
        for method in (lambda data: trainer.train_epoch(data, 0), trainer.evaluate):
            with pytest.raises(InputError, match=message):
                method(data)
    with pytest.raises(DeviceError, match="the model is on cpu in float32, the data on cpu in float64; give both"):
        trainer.evaluate(resident(images, labels, precision="float64"))


def test_totals_begin_anew_after_a_step_by_hand() -> None:
    trainer, data = make_trainer()
    expected = trainer.evaluate(data)
    data.rewind()
    trainer.loss.forward(*[trainer.model.predict(data.next_batch(2)[0]), np.zeros(2, np.int32)], totals=trainer._totals)
    assert trainer.evaluate(data) == expected


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 4, 4, 1), np.float32), np.zeros(3, np.int32), "expected images of dtype uint8 and shape"),
        (np.zeros((3, 4, 4), np.uint8), np.zeros(3, np.int32), "expected images of dtype uint8 and shape"),
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int32), "expected images of dtype uint8 and shape"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.zeros(2, np.int32), "expected one integer label for each of 3 images"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3), "expected one integer label for each of 3 images"),
    ],
)
def test_data_that_are_not_images_and_labels(images, labels, message: str) -> None:
    normalization = Normalization(np.zeros((1, 4, 4, 1), np.uint8))
    with pytest.raises(InputError, match=message):
        DeviceDataset(Split(images, labels), get_backend("cpu"), normalization)


# ---- data ---------------------------------------------------------------------------------------------------------


def test_normalization_gives_mean_0_and_variance_1_per_channel() -> None:
    rng = np.random.default_rng(0)
    images = np.stack([rng.integers(low, high, (30, 6, 5)) for low, high in ((0, 17), (100, 256), (7, 8))], axis=-1)
    images = images.astype(np.uint8)
    normalization = Normalization(images)
    x = images * normalization.scale + normalization.shift
    for channel in range(2):
        pixels = images[..., channel].astype(np.float64)
        expected = (pixels - pixels.mean()) / pixels.std()
        np.testing.assert_allclose(x[..., channel], expected, rtol=1e-9, atol=1e-9)  # from counts, not from sums
    np.testing.assert_allclose(x[..., 2], 0, atol=1e-12)  # one value only: nothing to divide by


@pytest.mark.parametrize("device", ["reference", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_batches_follow_the_permutation(device: str, precision: str) -> None:
    backend, split = get_backend(device, precision), make_images(11)
    normalization = Normalization(split.images)
    data = DeviceDataset(split, backend, normalization)
    expected = split.images * normalization.scale + normalization.shift
    orders = [np.arange(11)] + [np.random.default_rng(seed).permutation(11) for seed in (5, 6)]
    for epoch, order in enumerate(orders):
        if epoch:
            data.shuffle(np.random.default_rng(epoch + 4), epoch)
        for rewound in (False, True):
            if rewound:
                data.rewind()
            for start, N in ((0, 4), (4, 4), (8, 3)):
                x, y = (backend.to_host(array) for array in data.next_batch(N))
                assert x.dtype == precision
                assert_close(x, expected[order[start : start + N]], precision, scale=3)
                np.testing.assert_array_equal(y, split.labels[order[start : start + N]])


def test_batches_reuse_their_buffers() -> None:
    _, data = make_trainer()
    x, y = data.next_batch(8)
    for N in (8, 5):
        again = data.next_batch(N)
        assert np.shares_memory(again[0], x)
        assert np.shares_memory(again[1], y)


def test_resident_data_is_a_copy() -> None:
    split = make_images()
    _, data = make_trainer(split=split)
    expected = data.next_batch(8)[0].copy()
    split.images[...] = 0
    data.rewind()
    np.testing.assert_array_equal(data.next_batch(8)[0], expected)
