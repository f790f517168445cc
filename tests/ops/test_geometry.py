"""Windows: their sizes against counting, every error message, and lowering against its adjoint."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import Any

import numpy as np
import oracles
import pytest
from cases import WINDOWS, Draw, border
from tolerances import tolerance

from gpucnn.backend.reference import Backend
from gpucnn.checks import integer, pair
from gpucnn.errors import GpucnnError, InputError
from gpucnn.geometry import Window
from gpucnn.layers.window import fit_window


@pytest.mark.parametrize(
    ("padding", "resolved"),
    [
        (0, border(0, 0, 0, 0)),
        (2, border(2, 2, 2, 2)),
        ((1, 2), border(1, 1, 2, 2)),
        ([1, 2], border(1, 1, 2, 2)),
        (((1, 2), (3, 0)), border(1, 2, 3, 0)),
        ([[1, 2], [3, 0]], border(1, 2, 3, 0)),
        ("valid", border(0, 0, 0, 0)),
        ("same", border(1, 1, 1, 1)),
    ],
)
def test_fit_resolves_padding(padding: Any, resolved: tuple) -> None:
    window = fit_window("Conv2D", (6, 7), 3, 1, padding)
    assert window == Window((3, 3), (1, 1), resolved, (1, 1))


def test_fit_takes_one_number_or_two() -> None:
    assert fit_window("", (9, 9), 3, 2, 0, 2) == Window((3, 3), (2, 2), border(0, 0, 0, 0), (2, 2))
    window = fit_window("", (9, 9), (2, 3), [1, 2], (0, 1), (3, 1))
    assert window == Window((2, 3), (1, 2), border(0, 0, 1, 1), (3, 1))
    assert fit_window("", (9, 9), np.int64(3)) == Window((3, 3))
    assert type(fit_window("", (9, 9), np.int64(3)).kernel[0]) is int


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding(kernel: int, stride: int, dilation: int) -> None:
    """Outputs of ceil(size/stride) pixels by the least padding, its odd pixel below and to the right."""
    for H, W in product(range(1, 9), (1, 4, 7)):
        window = fit_window("", (H, W), kernel, stride, "same", dilation)
        assert window.output_size(H, W) == (math.ceil(H / stride), math.ceil(W / stride))
        for (before, after), size in zip(window.padding, (H, W), strict=True):
            assert before <= after <= before + 1
            if before + after > 0:
                less = oracles.positions(size, kernel, stride, (0, before + after - 1), dilation)
                assert len(less) < math.ceil(size / stride)


def test_same_lower_puts_the_odd_pixel_above() -> None:
    upper, lower = (fit_window("", (5, 6), (2, 4), (1, 3), padding) for padding in ("same", "same_lower"))
    assert upper.padding == border(0, 1, 0, 1)
    assert lower.padding == border(1, 0, 1, 0)
    assert upper.output_size(5, 6) == lower.output_size(5, 6) == (5, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_windows_that_miss_the_image_are_found(size: int, kernel: int, dilation: int) -> None:
    for before, after, stride in product(range(4), range(4), (1, 2, 3)):
        window = Window((kernel, 1), (stride, 1), border(before, after, 0, 0), (dilation, 1))
        OH, _ = window.output_size(size, 1)
        if OH < 1:
            continue
        met = [0] * OH
        for m, *_ in oracles.inside(window, size, 1):
            met[m] += 1
        assert window.misses_image(size, 1) == (0 in met)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_ceil_mode_by_counting(kernel: int, stride: int) -> None:
    """One window after another until one reaches the end of the padding; none starts behind the image."""
    for size, (before, after), dilation in product(range(1, 9), ((0, 0), (1, 1), (0, 2), (2, 1)), (1, 2, 3)):
        extent = dilation * (kernel - 1) + 1
        arguments = (size, 1), (kernel, 1), stride, border(before, after, 0, 0), dilation
        if before + size + after - extent <= -stride:
            with pytest.raises(InputError, match="does not fit"):
                fit_window("", *arguments, ceil_mode=True)
        elif max(before, after) < extent:
            starts = [-before]
            while starts[-1] + extent < size + after and starts[-1] + stride < size:
                starts.append(starts[-1] + stride)
            window = fit_window("", *arguments, ceil_mode=True)
            assert window.output_size(size, 1) == (len(starts), 1)
            assert window.overhang == (max(starts[-1] + extent - size - after, 0), 0)


def test_output_size_by_counting() -> None:
    settings = product(range(1, 9), (1, 2, 3, 5), (1, 2, 3, 4), ((0, 0), (1, 1), (0, 2), (3, 1)), (1, 2, 3))
    fitting = 0
    for size, kernel, stride, padding, dilation in settings:
        window = Window((kernel, 1), (stride, 2), (padding, (0, 0)), (dilation, 1))
        counted = len(oracles.positions(size, kernel, stride, padding, dilation))
        OH, OW = window.output_size(size, 5)
        assert max(OH, 0) == counted
        assert OW == 3
        fitting += counted > 0
    assert fitting > 1000


@pytest.mark.parametrize("label", WINDOWS)
def test_window_by_counting(label: str) -> None:
    (H, W), window = WINDOWS[label]
    (KH, KW), (top, bottom), (left, right) = window.kernel, *window.padding
    bottom, right = bottom + window.overhang[0], right + window.overhang[1]
    assert window.border == border(top, bottom, left, right)
    assert window.is_padded == (top + bottom + left + right > 0)
    assert window.taps == KH * KW
    assert window.extent == (window.dilation[0] * (KH - 1) + 1, window.dilation[1] * (KW - 1) + 1)
    assert window.padded_size(H, W) == (top + H + bottom, left + W + right)
    rows, columns = window.interior(H, W)
    assert list(range(100))[rows] == list(range(top, top + H))
    assert list(range(100))[columns] == list(range(left, left + W))
    slices = list(window.tap_slices(H, W))
    assert len(slices) == window.taps
    for tap, (rows, columns) in enumerate(slices):
        u, v = divmod(tap, KW)
        OH, OW = window.output_size(H, W)
        assert list(range(100))[rows] == [m * window.stride[0] + u * window.dilation[0] for m in range(OH)]
        assert list(range(100))[columns] == [q * window.stride[1] + v * window.dilation[1] for q in range(OW)]


def test_window_is_a_value() -> None:
    assert Window((2, 3)) == Window((2, 3))
    assert hash(Window((2, 3))) == hash(Window((2, 3)))
    with pytest.raises(AttributeError):
        Window((2, 3)).kernel = (1, 1)  # type: ignore[misc]


# ---- error messages ----------------------------------------------------------------------------------------

MESSAGES = [
    (
        {"layer": 'Conv2D "conv1"', "size": (3, 4), "kernel_size": 5},
        'Conv2D "conv1": kernel 5x5 does not fit input 3x4 (OH = (3 + 0 + 0 - 5)//1 + 1 = -1); '
        "use a smaller kernel, more padding or a larger input",
    ),
    (
        {"size": (9, 4), "kernel_size": (2, 7), "stride": 2, "padding": ((0, 0), (1, 0))},
        "Layer: kernel 2x7 does not fit input 9x4 (OW = (4 + 1 + 0 - 7)//2 + 1 = 0); "
        "use a smaller kernel, more padding or a larger input",
    ),
    (
        {"size": (5, 9), "kernel_size": 3, "dilation": (3, 1)},
        "Layer: kernel 3x3 dilated by (3, 1) does not fit input 5x9 (OH = (5 + 0 + 0 - 7)//1 + 1 = -1); "
        "use a smaller kernel, more padding or a larger input",
    ),
    (
        {"size": (5, 9), "kernel_size": 9, "stride": 7},
        "Layer: kernel 9x9 does not fit input 5x9 (OH = (5 + 0 + 0 - 9)//7 + 1 = 0); "
        "use a smaller kernel, more padding or a larger input",
    ),
    (
        {"size": (5, 9), "kernel_size": 9, "stride": 2, "padding": ((0, 1), (0, 0)), "ceil_mode": True},
        "Layer: kernel 9x9 does not fit input 5x9 (OH = ceil((5 + 0 + 1 - 9)/2) + 1 = 0); "
        "use a smaller kernel, more padding or a larger input",
    ),
    ({"kernel_size": 0}, "Layer: kernel_size must be an integer of at least 1, received 0"),
    ({"kernel_size": (3, -1)}, "Layer: kernel_size must be an integer of at least 1, received -1"),
    ({"kernel_size": 2.5}, "Layer: kernel_size must be an integer of at least 1, received 2.5"),
    ({"kernel_size": True}, "Layer: kernel_size must be an integer of at least 1, received True"),
    ({"kernel_size": "3"}, "Layer: kernel_size must be an integer of at least 1, received '3'"),
    ({"kernel_size": None}, "Layer: kernel_size must be an integer of at least 1, received None"),
    (
        {"kernel_size": (1, 2, 3)},
        "Layer: kernel_size must be an integer or a pair (rows, columns), received (1, 2, 3)",
    ),
    ({"stride": 0}, "Layer: stride must be an integer of at least 1, received 0"),
    ({"stride": (1,)}, "Layer: stride must be an integer or a pair (rows, columns), received (1,)"),
    ({"dilation": 0}, "Layer: dilation must be an integer of at least 1, received 0"),
    ({"dilation": []}, "Layer: dilation must be an integer or a pair (rows, columns), received []"),
    ({"padding": -1}, "Layer: padding must be an integer of at least 0, received -1"),
    ({"padding": (0, -2)}, "Layer: padding must be an integer of at least 0, received -2"),
    ({"padding": ((0, 0), (0, -2))}, "Layer: padding must be an integer of at least 0, received -2"),
    ({"padding": 0.5}, "Layer: padding must be an integer of at least 0, received 0.5"),
    ({"padding": None}, "Layer: padding must be an integer of at least 0, received None"),
    (
        {"padding": (1, 2, 3)},
        "Layer: padding must be an integer or a pair (rows, columns), received (1, 2, 3)",
    ),
    (
        {"padding": "full"},
        'Layer: padding must be "same", "same_lower", "valid", an integer or a pair, received \'full\'',
    ),
    (
        {"padding": ((1, 1), (1, 1), (1, 1))},
        "Layer: padding must be ((top, bottom), (left, right)), received ((1, 1), (1, 1), (1, 1))",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MESSAGES)
def test_error_message(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        fit_window(**{"layer": "Layer", "size": (8, 8), "kernel_size": 3, **arguments})


def test_errors_can_be_caught_by_either_name() -> None:
    assert set(InputError.__bases__) == {ValueError, GpucnnError}
    with pytest.raises(InputError, match="units must be an integer of at least 1, received 0"):
        integer(0, "units", least=1)
    assert integer(np.int32(4), "units", least=1) == 4
    assert pair([4, 5], "size", least=4) == (4, 5)


# ---- lowering ----------------------------------------------------------------------------------------------


def random_windows(count: int) -> list[tuple[tuple[int, int], Window]]:
    random = np.random.default_rng(7)
    found = []
    while len(found) < count:
        H, W, KH, KW, SH, SW, DH, DW, *sides = (int(number) for number in random.integers(1, 5, 12))
        window = Window((KH, KW), (SH, SW), border(*(side - 1 for side in sides)), (DH, DW))
        size = (2 * H, 2 * W + 1)
        if min(window.output_size(*size)) >= 1:
            found.append((size, window))
    return found


@pytest.mark.parametrize(("size", "window"), random_windows(40))
def test_im2col_and_col2im_are_adjoint(size: tuple[int, int], window: Window) -> None:
    """<im2col(x), c> = <x, col2im(c)>."""
    backend, draw = Backend("float64"), Draw(str(window), "float64")
    x = draw.normal(2, *size, 3)
    columns = backend.im2col(x, window)
    np.testing.assert_array_equal(columns, oracles.im2col(x, window))
    c = draw.normal(*columns.shape)
    left, right = np.sum(columns * c), np.sum(x * backend.col2im(c, x.shape, window))
    np.testing.assert_allclose(left, right, **tolerance("float64", terms=c.size))
