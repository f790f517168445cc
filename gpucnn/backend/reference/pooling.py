"""Pooling: one number for each window of each feature map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpucnn.backend.reference.arrays import Array
from gpucnn.geometry import Window

__all__ = [
    *("argmax_dtype", "average_pool2d", "average_pool2d_dx", "lp_pool2d", "lp_pool2d_dx", "max_pool2d"),
    *("max_pool2d_dx", "pool_counts"),
]


def max_pool2d(
    self, x: Array, window: Window, *, relu: bool = False, out: Array = None, argmax: Array = None
) -> tuple[Array, Array]:
    """Largest pixel under each window, `P = max`, and which tap it was: the winning unit, the first on a tie.

    Paper: section 3.1, pooling. Padding is -inf; NaN wins over numbers, the last one if there are several.
    x (N, H, W, C) -> out (N, OH, OW, C), argmax (N, OH, OW, C) of dtype `argmax_dtype(window)`.

    With `relu` of `max(P, 0)`: ReLU and pooling in either order. Where P is not above 0 no unit wins, which the
    number KH*KW says.
    """
    first, *others = self.taps(x, window, -float("inf"))
    best, winner = first, self.xp.zeros(first.shape, dtype=self.argmax_dtype(window))
    for number, tap in enumerate(others, start=1):
        better = (tap > best) | (tap != tap)
        best = self.xp.where(better, tap, best)
        winner = self.xp.where(better, self.xp.full((), number, dtype=winner.dtype), winner)
    if relu:
        winner = self.xp.where(best > 0, winner, self.xp.full((), window.taps, dtype=winner.dtype))
        best = self.relu(best)
    return self.store(best, out), self.store(winner, argmax)


def max_pool2d_dx(
    self, dy: Array, argmax: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
) -> Array:
    """Gradient of `max_pool2d`: the whole error goes to the winning unit.

    Paper: section 3, backward, pooling, max.
    """
    zero = self.xp.zeros((), dtype=dy.dtype)
    taps = [self.xp.where(argmax == tap, dy, zero) for tap in range(window.taps)]
    return self.store(self.sum_taps(taps, x_shape, window), out)


def argmax_dtype(self, window: Window) -> Any:
    """Smallest dtype that holds a tap number of the window, and the number of taps."""
    return self.xp.uint8 if window.taps < 256 else self.xp.int32


def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
    """Mean of the pixels under each window; padding counts as zeros if `count_include_pad`, else not at all.

    Paper: section 2.3, average pooling. x (N, H, W, C) -> (N, OH, OW, C).
    """
    total = sum(self.taps(x, window, 0.0))
    return self.store(total / self.pool_counts(x.shape, window, count_include_pad, x.dtype), out)


def average_pool2d_dx(
    self, dy: Array, x_shape: tuple[int, ...], window: Window, *, count_include_pad: bool = False, out: Array = None
) -> Array:
    """Gradient of `average_pool2d`: the error is shared equally. Paper: section 3, backward, pooling, average."""
    share = dy / self.pool_counts(x_shape, window, count_include_pad, dy.dtype)
    return self.store(self.sum_taps([share] * window.taps, x_shape, window), out)


def pool_counts(self, x_shape: tuple[int, ...], window: Window, count_include_pad: bool, dtype: Any) -> Array:
    """How many pixels each window averages over, (1, OH, OW, 1); those of an overhang never count."""
    _, H, W, _ = x_shape
    if count_include_pad:  # then the padding is pixels of a larger image
        (top, bottom), (left, right) = window.padding
        H, W, window = top + H + bottom, left + W + right, replace(window, padding=((0, 0), (0, 0)))
    counts = sum(self.taps(self.xp.ones((1, H, W, 1), dtype=dtype), window, 0.0))
    return self.xp.where(counts > 0, counts, self.xp.ones((), dtype=dtype))  # a window of padding alone gives 0


def lp_pool2d(self, x: Array, p: float, window: Window, *, out: Array = None) -> Array:
    """Lp norm of the pixels under each window: `P = (sum |x|^p)^(1/p)`; p = 2 is the paper's L2 pooling.

    Paper: section 2.3, L2 pooling. Differs: PyTorch sums x^p with its sign for odd p; ONNX and this sum |x|^p.
    x (N, H, W, C) -> (N, OH, OW, C).
    """
    total = sum(self.xp.abs(tap) ** p for tap in self.taps(x, window, 0.0))
    return self.store(total ** (1.0 / p), out)


def lp_pool2d_dx(self, dy: Array, x: Array, y: Array, p: float, window: Window, *, out: Array = None) -> Array:
    """Gradient of `lp_pool2d`: the error is scaled by `sign(x) (|x|/P)^(p-1)`, for p = 2 by x/P; by 0 where P = 0.

    Paper: section 3, backward, pooling, L2.
    """
    xp = self.xp
    norm = xp.where(y > 0, y, xp.ones((), dtype=y.dtype))
    taps = [dy * xp.sign(tap) * (xp.abs(tap) / norm) ** (p - 1.0) for tap in self.taps(x, window, 0.0)]
    return self.store(self.sum_taps(taps, x.shape, window), out)
