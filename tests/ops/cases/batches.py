"""Cases of batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from case import Case, Draw, Output, cases_of

from gpucnn.data.augmentation import Augmentation

CHOICES = {  # shape of the images, N, cursor, and what is augmented
    "first": ((9, 4, 5, 3), 4, 0, {}),
    "last": ((9, 4, 5, 3), 4, 5, {}),
    "one": ((5, 3, 2, 1), 1, 2, {}),
    "all": ((6, 2, 2, 2), 6, 0, {}),
    "no augmentation": ((9, 4, 5, 3), 4, 0, {"augmentation": Augmentation(), "key": (1, 2), "epoch": 3}),
    "shifted": ((9, 4, 5, 3), 8, 1, {"augmentation": Augmentation(2), "key": (5, 6), "epoch": 0}),
    "flipped": ((9, 4, 5, 3), 8, 0, {"augmentation": Augmentation(flip=True), "key": (7, 8), "epoch": 4}),
    "both": ((30, 5, 4, 1), 27, 3, {"augmentation": Augmentation(1, flip=True), "key": (0, 0), "epoch": 5}),
    "out of sight": ((9, 2, 3, 2), 9, 0, {"augmentation": Augmentation(4), "key": (3, 4), "epoch": 1}),
    "last epoch": ((3, 3, 3, 1), 2, 0, {"augmentation": Augmentation(1), "key": (2**32 - 1,) * 2, "epoch": 2**32 - 1}),
}


@cases_of
def gather_batch(dtype: str) -> Iterator[Case]:
    for label, (images, N, cursor, augmented) in CHOICES.items():
        draw = Draw(f"gather_batch {label}", dtype)
        samples, C = images[0], images[3]
        arguments = {
            "images": draw.random.integers(0, 256, images).astype(np.uint8),
            "labels": draw.labels(samples, 10),
            "order": draw.random.permutation(samples).astype(np.int32),
            "cursor": np.array([cursor], np.int64),
            "scale": draw.uniform(C) / 100,
            "shift": draw.normal(C),
        }
        if augmented:
            arguments |= augmented | {"epoch": np.array([augmented["epoch"]], np.int64)}
        outputs = {"x": Output((N, *images[1:]), dtype), "y": Output((N,), "int32")}
        yield Case("gather_batch", label, dtype, arguments, outputs, changed=("cursor",), terms=2, scale=4.0)


@cases_of
def one_hot(dtype: str) -> Iterator[Case]:
    for N, K in ((7, 5), (1, 1), (1, 4), (33, 10)):
        draw = Draw(f"one_hot {N} {K}", dtype)
        yield Case("one_hot", f"{N}x{K}", dtype, {"labels": draw.labels(N, K)}, {"out": Output((N, K), dtype)})
    labels = np.array([2, -1, 0, 4, -(2**31), 3, 2**31 - 1], np.int32)
    yield Case("one_hot", "labels of no class", dtype, {"labels": labels}, {"out": Output((7, 4), dtype)})
