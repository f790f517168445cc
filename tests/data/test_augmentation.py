"""Augmentation: what it may do to an image, and that seed, epoch and position alone decide what it does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from tolerances import KEEP_RATE_SIGMAS

from gpucnn import SGD, Dense, Flatten, Sequential, SoftmaxCrossEntropy, Trainer
from gpucnn.backend.reference import Backend
from gpucnn.data import Augmentation, DeviceDataset, Split
from gpucnn.errors import InputError

SAMPLES = 23
EXACT = SimpleNamespace(scale=np.array([0.5, 2.0]), shift=np.array([-3.0, 8.0]))  # of pixels, rounded nowhere
BOTH = Augmentation(2, flip=True)


def make_split(samples: int = SAMPLES) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(1, 256, (samples, 6, 5, 2), dtype=np.uint8), np.arange(samples, dtype=np.int32) % 4)


def make_data(backend: Backend | None = None, augmentation: Augmentation | None = BOTH, seed: int = 3) -> DeviceDataset:
    return DeviceDataset(make_split(), backend or Backend(), EXACT, augmentation, seed)


def take(data: DeviceDataset, *sizes: int, train: bool = True) -> np.ndarray:
    """Return the next batches of these sizes as one array on the host."""
    return np.concatenate([data.backend.to_host(data.next_batch(N, train=train)[0]) for N in sizes])


def epoch_of(data: DeviceDataset, epoch: int, *sizes: int, train: bool = True) -> np.ndarray:
    """Return the images of an epoch, whose order is always the same."""
    data.shuffle(np.random.default_rng(0), epoch)
    return take(data, *sizes, train=train)


def variants(image: np.ndarray, shift: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """Return all that may become of an image, by (dy, dx, mirrored)."""
    H, W, _ = image.shape
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)))
    found = {}
    for dy, dx in product(range(-shift, shift + 1), repeat=2):
        cut = padded[shift + dy : shift + dy + H, shift + dx : shift + dx + W]
        found |= {(dy, dx, False): cut, (dy, dx, True): cut[:, ::-1]}
    return found


# ---- what it does -------------------------------------------------------------------------------------------------


def test_every_shift_occurs_and_half_of_the_images_are_mirrored() -> None:
    """One image, of which no two variants are alike, many times."""
    image, samples, shift = make_split(1).images[0], 5000, 2
    split = Split(np.broadcast_to(image, (samples, *image.shape)), np.zeros(samples, np.int32))
    plain = SimpleNamespace(scale=np.ones(2), shift=np.zeros(2))
    data = DeviceDataset(split, Backend(), plain, Augmentation(shift, flip=True))
    of = {variant.tobytes(): what for what, variant in variants(image, shift).items()}
    counts = dict.fromkeys(of.values(), 0)
    for x in take(data, samples).astype(np.uint8):
        counts[of[x.tobytes()]] += 1
    assert len(counts) == 2 * 5 * 5
    share = 1 / len(counts)
    spread = KEEP_RATE_SIGMAS * np.sqrt(samples * share * (1 - share))
    assert all(abs(count - samples * share) < spread for count in counts.values())
    mirrored = sum(count for (_, _, flipped), count in counts.items() if flipped)
    assert abs(mirrored - samples / 2) < KEEP_RATE_SIGMAS * np.sqrt(samples / 4)


@pytest.mark.parametrize("augmentation", [Augmentation(3), Augmentation(flip=True)], ids=["shift", "flip"])
def test_shift_alone_and_flip_alone(augmentation: Augmentation) -> None:
    split, data = make_split(), make_data(augmentation=augmentation)
    kinds = set()
    for image, x in zip(split.images, take(data, SAMPLES), strict=True):
        possible = variants(image, augmentation.shift)
        same = [what for what, variant in possible.items() if np.array_equal(variant * EXACT.scale + EXACT.shift, x)]
        assert len(same) == 1
        kinds |= {*same}
    assert {flipped for _, _, flipped in kinds} == ({False, True} if augmentation.flip else {False})
    assert len(kinds) > (augmentation.shift > 0) * SAMPLES / 2


@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=["none", "nothing"])
def test_no_augmentation_changes_nothing(augmentation: Augmentation | None) -> None:
    expected = make_split().images * EXACT.scale + EXACT.shift
    np.testing.assert_array_equal(take(make_data(augmentation=augmentation), SAMPLES), expected)


# ---- what it depends on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_device_gives_the_same_bits(dtype: str, backend_name: str, make_backend: Callable) -> None:
    expected, data = make_data(Backend(dtype)), make_data(make_backend(backend_name, dtype))
    for epoch in (0, 7):
        x = epoch_of(data, epoch, 9, 9, 5)
        assert x.dtype == dtype
        assert x.tobytes() == epoch_of(expected, epoch, 9, 9, 5).tobytes()


def test_the_size_of_the_batches_does_not_matter() -> None:
    data = make_data()
    expected = epoch_of(data, 1, SAMPLES)
    for sizes in ((8, 8, 7), (1,) * SAMPLES, (20, 3)):
        np.testing.assert_array_equal(epoch_of(data, 1, *sizes), expected)


def test_epochs_seeds_and_positions_differ() -> None:
    data = make_data()
    first = epoch_of(data, 0, SAMPLES)
    for other in (epoch_of(data, 1, SAMPLES), epoch_of(make_data(seed=4), 0, SAMPLES)):
        unchanged = sum(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
        assert unchanged < SAMPLES / 3
    np.testing.assert_array_equal(epoch_of(data, 0, SAMPLES), first)
    data.rewind()
    np.testing.assert_array_equal(take(data, SAMPLES), first)


def test_the_trainer_says_which_epoch_it_is_and_tests_see_images_as_they_are() -> None:
    data = make_data(augmentation=BOTH)
    model = Sequential([Flatten(), Dense(4)])
    model.build((6, 5, 2), data.backend)
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.0), batch_size=10, seed=5)
    trainer.train_epoch(data, 2)
    data.rewind()
    trained = take(data, SAMPLES)
    data.shuffle(np.random.default_rng((5, 2)), 2)
    np.testing.assert_array_equal(take(data, SAMPLES), trained)
    data.rewind()
    assert not np.array_equal(take(data, SAMPLES, train=False), trained)
    assert trainer.evaluate(data) == trainer.evaluate(make_data(augmentation=None))


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": -1}, "Augmentation: shift must be an integer of at least 0, received -1"),
        ({"shift": 1.5}, "Augmentation: shift must be an integer of at least 0, received 1.5"),
        ({"shift": True}, "Augmentation: shift must be an integer of at least 0, received True"),
        ({"flip": 1}, "Augmentation: flip must be True or False, received 1"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**settings)


def test_data_refuse_what_they_cannot_do() -> None:
    make_data(augmentation=Augmentation(4))
    with pytest.raises(InputError, match="shift 5 moves images of 6x5 pixels out of sight; it must be below 5"):
        make_data(augmentation=Augmentation(5))
    with pytest.raises(InputError, match="expected an Augmentation or None, received 3"):
        make_data(augmentation=3)
