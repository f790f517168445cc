"""Convolution with groups and with fewer multiplications, beyond the cases that all backends share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from device.fixtures import requires_compiler

from gpucnn import Conv2D, Conv2DTranspose, InputError, Layer, get_backend
from gpucnn.backend.cpu.windows import contiguous_runs, copy_contiguous_runs
from gpucnn.backend.cpu.winograd import TAPS, filtering

KINDS = {"convolution": Conv2D, "transpose": Conv2DTranspose}


def built(layer: Layer, shape: tuple[int, ...], seed: int = 0) -> Layer:
    layer.build(shape, get_backend("cpu", "float64"), seed=seed)
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_convolutions_side_by_side(kind: str) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 6, 5, 6))
    grouped = built(KINDS[kind](9, 3, stride=2, padding=1, groups=3), x.shape[1:])
    grouped.b.value[...] = random.standard_normal(9)
    y = grouped(x, train=True)
    dy = random.standard_normal(y.shape)
    dx = grouped.backpropagate(dy)
    for group in range(3):
        inputs, outputs = slice(2 * group, 2 * group + 2), slice(3 * group, 3 * group + 3)
        weights = outputs if kind == "convolution" else inputs
        alone = built(KINDS[kind](3, 3, stride=2, padding=1), (6, 5, 2))
        alone.w.value[...] = grouped.w.value[..., weights]
        alone.b.value[...] = grouped.b.value[outputs]
        np.testing.assert_allclose(y[..., outputs], alone(np.ascontiguousarray(x[..., inputs]), train=True), atol=1e-12)
        alone_dx = alone.backpropagate(np.ascontiguousarray(dy[..., outputs]))
        np.testing.assert_allclose(dx[..., inputs], alone_dx, atol=1e-12)
        np.testing.assert_allclose(grouped.w.gradient[..., weights], alone.w.gradient, atol=1e-12)
        np.testing.assert_allclose(grouped.b.gradient[outputs], alone.b.gradient, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_draws_by_its_own_fans(kind: str) -> None:
    """Of 3x3 kernels from 40 to 80 channels, 4 groups make four convolutions from 10 to 20."""
    layer = built(KINDS[kind](80, 3, groups=4, initializer="glorot_normal"), (5, 5, 40))
    assert layer.w.value.shape == ((3, 3, 10, 80) if kind == "convolution" else (3, 3, 20, 40))
    assert layer.w.value.var() == pytest.approx(2 / (9 * 10 + 9 * 20), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_is_orthogonal_by_itself(kind: str) -> None:
    layer = built(KINDS[kind](4, 3, groups=4, initializer="orthogonal"), (5, 5, 4))
    np.testing.assert_allclose(np.sum(layer.w.value**2, axis=(0, 1, 2)), np.ones(4))
    assert abs(np.sum(layer.w.value[..., 0] * layer.w.value[..., 1])) > 1e-3  # else drawn together


def test_output_padding_is_of_rows_and_columns() -> None:
    """`OH = (H - 1) SH + DH (KH - 1) + 1 - top - bottom + output_padding`, for each axis its own."""
    layer = Conv2DTranspose(2, 3, stride=(3, 4), padding=((0, 1), (1, 1)), output_padding=(1, 3))
    assert layer.build((5, 6, 2), "cpu") == (4 * 3 + 3 - 1 + 1, 5 * 4 + 3 - 2 + 3, 2)


@requires_compiler
@pytest.mark.parametrize(
    ("filters", "groups", "most", "message"),
    [
        (2, 1, 4, "5 images of 5x5x2 with its columns of 2 is too large .* 250 .* 200; use convolution implicit"),
        (
            4,
            2,
            2,
            "3 images of 5x5x2 is too large for one kernel: 300 elements, of which it counts 200; use a smaller",
        ),
    ],
)  # with groups a kernel indexes the output too
def test_what_32_bit_indices_cannot_reach_is_refused(
    filters: int, groups: int, most: int, message: str, monkeypatch: pytest.MonkeyPatch, make_backend: Callable
) -> None:
    monkeypatch.setattr("gpucnn.backend.gpu.arrays.INDEX_LIMIT", 4 * 2 * 25)
    backend, layer = make_backend("fake-gpu", "float32"), Conv2D(filters, 1, groups=groups)
    layer.build((5, 5, 2), backend)
    layer(backend.zeros((most, 5, 5, 2)), train=True)
    with pytest.raises(InputError, match=f"^a batch of {message}"):
        layer(backend.zeros((most + 1, 5, 5, 2)), train=True)


@pytest.mark.parametrize("taps", TAPS)
def test_minimal_filtering_is_correlation(taps: int) -> None:
    """With P = 4 + taps - 1 products, exactly but for rounding; and the values at 1, where biases go, count once."""
    random = np.random.default_rng(0)
    row, kernel = random.standard_normal(3 + taps), random.standard_normal(taps)
    A, G, B = filtering(taps, np.dtype("float64"))
    assert A.shape == (4, len(row)) and G.shape == (len(row), taps) and B.shape == (len(row), len(row))
    np.testing.assert_allclose(A @ ((G @ kernel) * (B @ row)), np.correlate(row, kernel), atol=1e-14)
    np.testing.assert_array_equal(A[:, 1], 1)


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (3, 0, 1, 2), (1, 0, 3, 2)])
def test_runs_copy_what_the_arrays_hold(channels: int, order: tuple[int, ...]) -> None:
    """Whole rows as one item, single channels, and what has no run in common, which stays as it is."""
    x = np.arange(4 * 5 * 6 * channels, dtype=np.float32).reshape(4, 5, 6, channels)[:, 1:, ::2].transpose(order)
    out = np.full(x.shape, np.nan, np.float32)
    copy_contiguous_runs(out, x)
    np.testing.assert_array_equal(out, x)


def test_a_run_is_as_long_as_both_arrays_have_it() -> None:
    """Rows of two pixels of three channels lie in one run; pixels of a wider image only by themselves."""
    out, wide = np.empty((4, 2, 3), np.float32), np.empty((4, 5, 3), np.float32)
    assert [view.shape for view in contiguous_runs(out, np.empty_like(out))] == [(1,), (1,)]
    assert [view.shape for view in contiguous_runs(out, wide[:, :2])] == [(4, 1), (4, 1)]
    assert [view.shape for view in contiguous_runs(out, wide[:, ::3])] == [(4, 2, 1), (4, 2, 1)]
    assert contiguous_runs(out, wide[:, :2, ::-1])[0] is out


@pytest.mark.parametrize(("channels", "filters", "reach"), [(10, 10, 8), (2, 3, 4)])
def test_how_far_a_nan_reaches(channels: int, filters: int, reach: int) -> None:
    """All windows that contain it, and no pixel farther than the tile, or the pair, of one that does."""
    x = np.zeros((1, 5, 40, channels), np.float32)
    x[0, 2, 17, 0] = np.nan
    layer = Conv2D(filters, 3, padding=1)
    layer.build(x.shape[1:], "cpu")
    _, _, columns, _ = np.nonzero(np.isnan(layer(x, train=True)))
    assert {16, 17, 18} <= set(columns)
    assert max(abs(columns - 17)) <= reach / 2
