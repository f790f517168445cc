"""The polyphase decomposition: which pixels of an image meet which taps of a window that moves by a stride."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gpucnn.geometry import Pair, Window

__all__ = ["Phase", "polyphase"]


class Phase(NamedTuple):
    """Pixels along one axis whose distances are multiples of the stride, and what the gradient there consists of.

    Attributes
    ----------
    pixels : which they are
    taps : the taps that meet them
    outputs : the outputs that contain them
    padding : of those outputs, for a convolution at stride 1 with the rotated taps that yields the pixels' gradient
    """

    pixels: slice
    taps: slice
    outputs: slice
    padding: Pair


def polyphase(window: Window, axis: int, size: int, outputs: int) -> Iterator[Phase]:
    """Yield those phases of an axis (0 or 1) with so many pixels and outputs that get a gradient.

    For windows without dilation, or at stride 1. Tap u of output o meets pixel `i = o*S + u - before`. With
    `u = phase + S*q` that is `o = i' - q`, where `i' = (i + before - phase)/S` counts the pixels of the phase.
    """
    stride, dilation, kernel = window.stride[axis], window.dilation[axis], window.kernel[axis]
    before, _ = window.border[axis]
    for phase in range(stride):
        first = (phase - before) % stride
        count, taps = len(range(first, size, stride)), len(range(phase, kernel, stride))
        start = (first + before - phase) // stride  # i' of the first pixel
        low, high = dilation * (taps - 1) - start, start + count - outputs
        seen = slice(max(0, -low), max(0, outputs - max(0, -high)))
        if count and taps and seen.start < seen.stop:
            yield Phase(slice(first, None, stride), slice(phase, None, stride), seen, (max(0, low), max(0, high)))
