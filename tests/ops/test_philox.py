"""Philox4x32-10 against its published answers, the order of its words, and what share dropout keeps."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from tolerances import KEEP_RATE_SIGMAS

from gpucnn.backend.philox import philox4x32, philox_words, threshold
from gpucnn.backend.reference import Backend

# (counter, key, answer): the file kat_vectors of Random123, the authors' own implementation.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    words = philox4x32(tuple(np.array([word], np.uint64) for word in counter), key)
    assert tuple(int(word[0]) for word in words) == answer
    assert oracles.philox4x32(counter, key) == answer


@pytest.mark.parametrize("size", [1, 3, 4, 5, 18])
@pytest.mark.parametrize(("key", "step"), [((0, 0), 0), ((1, 2), 3), ((0xFFFFFFFF, 0xFFFFFFFE), 2**32 - 1)])
def test_word_stream(size: int, key: tuple[int, int], step: int) -> None:
    words = philox_words(np, size, key, np.array([step], np.int64))
    assert words.shape == (size,)
    assert words.dtype == np.uint64
    assert words.tolist() == [oracles.philox4x32((i // 4, 0, step, 0), key)[i % 4] for i in range(size)]


def test_a_longer_stream_starts_with_the_shorter() -> None:
    step = np.array([5], np.int64)
    np.testing.assert_array_equal(philox_words(np, 40, (1, 2), step)[:7], philox_words(np, 7, (1, 2), step))


def test_streams_of_other_keys_and_steps_differ() -> None:
    choices = [((1, 2), 3), ((2, 1), 3), ((1, 3), 3), ((1, 2), 4)]
    streams = [philox_words(np, 64, key, np.array([step], np.int64)).tolist() for key, step in choices]
    assert len({word for stream in streams for word in stream}) == 64 * len(choices)


def test_words_are_even_over_their_range() -> None:
    size = 1 << 16
    words = philox_words(np, size, (3, 4), np.array([0], np.int64))
    assert int(words.max()) < 2**32
    for bit in range(32):
        ones = int(((words >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - size / 2) < KEEP_RATE_SIGMAS * np.sqrt(size / 4), bit


@pytest.mark.parametrize(
    ("rate", "word"),
    [(0.0, 0), (2.0**-32, 1), (0.25, 2**30), (0.5, 2**31), (1.0 - 2.0**-40, 2**32 - 1), (1.0, 2**32 - 1)],
)
def test_threshold(rate: float, word: int) -> None:
    assert threshold(rate) == word


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.8])
def test_dropout_keeps_its_share_and_its_mean(rate: float) -> None:
    x = np.ones((40, 1000))
    y, mask = Backend("float64").dropout(x, rate, (11, 12), np.array([0], np.int64))
    sigma = np.sqrt(rate * (1.0 - rate) / x.size)
    assert abs(mask.mean() - (1.0 - rate)) <= KEEP_RATE_SIGMAS * sigma
    assert abs(y.mean() - 1.0) <= KEEP_RATE_SIGMAS * sigma / (1.0 - rate) + 1e-12
    rows = mask.mean(axis=1)  # no row is favoured
    assert np.all(abs(rows - (1.0 - rate)) <= (KEEP_RATE_SIGMAS + 1) * sigma * np.sqrt(40))
