"""Batches in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.cpu.blocks import Array, count_to
from gpucnn.backend.cpu.random_words import philox_block

__all__ = ["gather_batch", "one_hot"]


def gather_batch(
    self,
    images: Array,
    labels: Array,
    order: Array,
    cursor: Array,
    scale: Array,
    shift: Array,
    *,
    x: Array,
    y: Array,
    augmentation: Any = None,
    key: tuple[int, int] = (0, 0),
    epoch: Array = None,
) -> None:
    """As the reference, in place; the position is read directly, which costs nothing on the host."""
    start = int(cursor[0])
    samples = order[start : start + len(x)]
    pixels = np.take(images, samples, axis=0, out=self.scratch("pixels", x.shape, np.uint8), mode="clip")
    if augmentation:
        words = philox_block(self, start, len(x), key, int(epoch[0])).reshape(-1, 4)
        _augment_in_place(self, pixels, augmentation, words)
    np.add(np.multiply(pixels, scale, out=x), shift, out=x)
    np.take(labels, samples, out=y, mode="clip")
    cursor += len(x)


def _augment_in_place(self, pixels: Array, augmentation: Any, words: Array) -> None:
    """As the reference's `_augment`, in place; the words (N, 4) become the numbers that they choose."""
    (N, H, W, C), shift = pixels.shape, augmentation.shift
    PH, PW = H + 2 * shift, W + 2 * shift
    padded = self.scratch("bordered", (N, PH, PW, C), np.uint8)
    padded.fill(0)
    padded[:, shift : shift + H, shift : shift + W] = pixels
    words[:, :2] *= 2 * shift + 1
    words[:, :2] >>= 32
    words[:, 2] >>= 31
    words[:, 2] *= (W - 1) * augmentation.flip
    np.multiply(count_to(self, N), PH, out=words[:, 3])
    top, left, first, image = words.view(np.int64).T[:, :, None]  # (N, 1) each
    ramp = count_to(self, max(H, W)).view(np.int64)
    rows = np.add(top, ramp[:H], out=self.scratch("rows", (N, H), np.int64))
    rows += image
    rows *= PW
    columns = np.subtract(first, ramp[:W], out=self.scratch("columns", (N, W), np.int64))
    np.abs(columns, out=columns)  # 0, 1, .., W - 1, or in mirror images, where first is W - 1, backwards
    columns += left
    place = np.add(rows[:, :, None], columns[:, None], out=self.scratch("place", (N, H, W), np.int64))
    np.take(padded.reshape(-1, C), place, axis=0, out=pixels, mode="clip")


def one_hot(self, labels: Array, *, out: Array) -> Array:
    """As the reference, in place."""
    K = out.shape[1]
    classes = self.cached(("classes", K, labels.dtype), lambda: np.arange(K, dtype=labels.dtype))
    return np.equal(labels[:, None], classes, out=out)
