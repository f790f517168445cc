"""Pooling layers: what hangs over in ceil mode, the whole image in one window, and outputs of a given size."""

from __future__ import annotations

import numpy as np
import pytest

from gpucnn import (
    AdaptiveAveragePool2D,
    AdaptiveMaxPool2D,
    AveragePool2D,
    GlobalMaxPool2D,
    Layer,
    LpPool2D,
    MaxPool2D,
    get_backend,
)


def row(*pixels: float) -> np.ndarray:
    """One image of one row and one channel."""
    return np.array(pixels, float).reshape(1, 1, -1, 1)


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(float)


KERNEL, ALL_PADDED = (1, 3), ((0, 0), (1, 1))
CEIL = {
    "max, rounded down": (MaxPool2D(KERNEL, stride=2), [3]),
    "max": (MaxPool2D(KERNEL, stride=2, ceil_mode=True), [3, 4]),
    "no window starts in the padding": (MaxPool2D((1, 2), stride=2, padding=ALL_PADDED, ceil_mode=True), [1, 3, 4]),
    "average": (AveragePool2D(KERNEL, stride=2, ceil_mode=True), [2, 3.5]),
    "average, padding does not count": (
        AveragePool2D(KERNEL, stride=3, padding=ALL_PADDED, ceil_mode=True),
        [1.5, 3.5],
    ),
    "average, padding counts, the rest does not": (
        AveragePool2D((1, 4), stride=3, padding=ALL_PADDED, ceil_mode=True, count_include_pad=True),
        [6 / 4, 7 / 3],
    ),
    "p = 1": (LpPool2D(KERNEL, stride=2, ceil_mode=True, p=1), [6, 7]),
}


@pytest.mark.parametrize("case", CEIL)
def test_ceil_mode_by_hand(case: str) -> None:
    layer, expected = CEIL[case]
    np.testing.assert_allclose(layer(row(1, 2, 3, 4)).ravel(), expected)


def test_what_hangs_over_is_less_than_every_number() -> None:
    np.testing.assert_array_equal(MaxPool2D((1, 2), stride=3, ceil_mode=True)(row(-1, -2, -3, -4)).ravel(), [-1, -4])


def test_global_max_pool_takes_the_first_of_equals() -> None:
    layer = GlobalMaxPool2D()
    x = np.zeros((2, 20, 20, 3))
    x[0, 3, 4, 0] = x[0, 3, 5, 0] = x[0, 4, 0, 0] = 7
    x[:, :, :, 2] = -1
    y = layer(x, train=True)
    np.testing.assert_array_equal(y, [[7, 0, -1], [0, 0, -1]])
    expected = np.zeros_like(x)
    expected[:, 0, 0] = [[0, 2, 3], [4, 5, 6]]
    expected[0, 3, 4, 0] = 1
    np.testing.assert_array_equal(layer.backpropagate(np.array([[1.0, 2, 3], [4, 5, 6]])), expected)


@pytest.mark.parametrize("device", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("adaptive", "fixed"),
    [
        (AdaptiveAveragePool2D((2, 3)), AveragePool2D((3, 2))),
        (AdaptiveMaxPool2D((2, 3)), MaxPool2D((3, 2))),
        (AdaptiveAveragePool2D(1), AveragePool2D(6)),
        (AdaptiveMaxPool2D((6, 1)), MaxPool2D((1, 6))),
    ],
    ids=["average", "max", "average of all", "max of rows"],
)
def test_equal_bins_are_windows(adaptive: Layer, fixed: Layer, device: str) -> None:
    x = numbers((2, 6, 6, 3))
    for layer in (adaptive, fixed):
        layer.build(x.shape[1:], get_backend(device, "float64"))
    y = adaptive(x, train=True)
    np.testing.assert_allclose(y, fixed(x, train=True))
    dy = numbers(y.shape)
    np.testing.assert_allclose(adaptive.backpropagate(dy), fixed.backpropagate(dy))


def test_unequal_bins_by_hand() -> None:
    x = row(1, 2, 3, 4, 5)
    np.testing.assert_allclose(AdaptiveAveragePool2D((1, 3))(x).ravel(), [1.5, 3, 4.5])
    np.testing.assert_allclose(AdaptiveAveragePool2D((1, 2))(x).ravel(), [2, 4])
    layer = AdaptiveMaxPool2D((2, 7))
    np.testing.assert_array_equal(layer(x)[0, :, :, 0], [[1, 2, 3, 3, 4, 5, 5]] * 2)
    np.testing.assert_array_equal(layer.argmax[0, :, :, 0], [[0, 1, 2, 2, 3, 4, 4]] * 2)
    assert layer.argmax.dtype == np.int32  # float32 would not hold the number of every pixel
