"""Taking batches from a data set that lies on the device."""

from __future__ import annotations

from typing import Any

from gpucnn.backend import philox
from gpucnn.backend.reference.arrays import Array
from gpucnn.geometry import Window

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
    """Take the next batch of a data set on the device: `x = images[...] * scale + shift`, `y = labels[...]`.

    The samples are `order[cursor : cursor + N]`, N = len(x); `cursor`, int64 (1,), then moves on by N. With an
    `augmentation` images are shifted and mirrored at random first: see `_augment`. `epoch` is int64 (1,), < 2^32.
    images (S, H, W, C) uint8, labels (S,) int32, order (S,) int32, scale and shift (C,) -> x (N, H, W, C), y (N,).
    """
    N = x.shape[0]
    positions = cursor + self.xp.arange(N, dtype=cursor.dtype)
    samples = self.xp.take(order, positions)
    pixels = self.xp.take(images, samples, axis=0)
    if augmentation:
        pixels = _augment(self, pixels, augmentation, _draw(self, positions, epoch, key))
    x[...] = self.cast(pixels, x.dtype) * scale + shift
    y[...] = self.xp.take(labels, samples)
    cursor += N


def _draw(self, positions: Array, epoch: Array, key: tuple[int, int]) -> tuple[Array, ...]:
    """Return four random words for each position in an epoch, whatever the batch: uint64 (N,), below 2^32.

    They are Philox4x32-10 of the counter (position, 0, epoch, 0).
    """
    position = self.cast(positions, self.xp.uint64)
    zero = position * 0
    return philox.philox4x32((position, zero, zero + self.cast(epoch, self.xp.uint64), zero), key)


def _augment(self, pixels: Array, augmentation: Any, words: tuple[Array, ...]) -> Array:
    """Pad each image with `augmentation.shift` zeros all around, cut H x W pixels out of it, and mirror some.

    A cut may begin at 2*shift + 1 rows and as many columns: word 0 chooses the row, word 1 the column, as
    `word * (2*shift + 1) >> 32`. With `flip`, an image is mirrored if the top bit of word 2 is set.
    """
    xp, (N, H, W, C), shift = self.xp, pixels.shape, augmentation.shift
    top, left = (self.cast(word * (2 * shift + 1) >> 32, xp.int64)[:, None] for word in words[:2])
    rows, columns = xp.arange(H)[None, :], xp.arange(W)[None, :]
    if augmentation.flip:
        columns = xp.where((words[2] >> 31 == 1)[:, None], W - 1 - columns, columns)
    rows, columns = top + rows, left + columns  # (N, H) and (N, W) in the padded image
    window = Window((1, 1), padding=((shift, shift), (shift, shift)))
    PH, PW = window.padded_size(H, W)
    place = (xp.arange(N)[:, None, None] * PH + rows[:, :, None]) * PW + columns[:, None, :]  # (N, H, W)
    padded = xp.reshape(self.pad(pixels, window, 0), (N * PH * PW, C))
    return xp.reshape(xp.take(padded, xp.reshape(place, (-1,)), axis=0), pixels.shape)


def one_hot(self, labels: Array, *, out: Array) -> Array:
    """Write 1 at each row's label and 0 elsewhere, so only 0 for one not in 0..K-1. labels (N,) -> out (N, K)."""
    is_label = labels[:, None] == self.xp.arange(out.shape[1], dtype=labels.dtype)[None, :]
    return self.store(self.cast(is_label, out.dtype), out)
