"""Taking a batch from a data set on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.records import Elementwise, kernel, source

__all__ = ["gather_batch", "one_hot"]

AUGMENT_IMAGES = Elementwise(
    "augment_images",
    "raw uint8 images, raw int32 order, raw int64 cursor, raw T scale, raw T shift, int32 H, int32 W, int32 C, "
    "raw int64 epoch, uint32 k0, uint32 k1, int32 most, int32 flip",
    "T x",
    """
    const int e = i, c = e % C, column = e / C % W, row = e / (C * W) % H;
    const long long position = cursor[0] + e / (C * W * H);
    unsigned int words[4] = {(unsigned int)position, 0u, (unsigned int)epoch[0], 0u};
    philox4x32(words, k0, k1);
    const int from_row = row + (int)__umulhi(words[0], 2 * most + 1) - most;
    const int from_column =
        (flip && words[2] >> 31 ? W - 1 - column : column) + (int)__umulhi(words[1], 2 * most + 1) - most;
    const bool is_inside = from_row >= 0 && from_row < H && from_column >= 0 && from_column < W;
    const long long sample = order[position];
    const int pixel = is_inside ? images[((sample * H + from_row) * W + from_column) * C + c] : 0;
    x = T(pixel) * scale[c] + shift[c];
    """,
    source("philox.cuh"),
)
GATHER_IMAGES = Elementwise(
    "gather_images",
    "raw uint8 images, raw int32 order, raw int64 cursor, raw T scale, raw T shift, int32 pixels, int32 C",
    "T x",
    """
    const int e = i;
    const long long sample = order[cursor[0] + e / pixels];
    x = T(images[sample * pixels + e % pixels]) * scale[e % C] + shift[e % C];
    """,
)
GATHER_LABELS = kernel("gather_labels", "batches.cu")


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
    """As the reference, in one kernel for the images and one for the labels, which then moves the cursor on."""
    _, H, W, C = images.shape
    if augmentation:
        random = epoch, *key, augmentation.shift, int(augmentation.flip)
        self.run_elementwise(AUGMENT_IMAGES, images, order, cursor, scale, shift, H, W, C, *random, x)
    else:
        self.run_elementwise(GATHER_IMAGES, images, order, cursor, scale, shift, H * W * C, C, x)
    self.launch(GATHER_LABELS, (1,), labels, order, cursor, y, np.int32(len(x)), dtype=x.dtype)


ONE_HOT = Elementwise("one_hot", "raw int32 labels, int32 K", "T y", "const int e = i; y = labels[e / K] == e % K")


def one_hot(self, labels: Array, *, out: Array) -> Array:
    """As the reference, in one kernel."""
    self.run_elementwise(ONE_HOT, labels, out.shape[1], out)
    return out
