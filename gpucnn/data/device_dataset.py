"""Data sets that lie on the device: batches are gathered there, and the host takes no part in a step."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.backend.memory import Workspace
from gpucnn.data.augmentation import Augmentation
from gpucnn.data.datasets import Split
from gpucnn.errors import InputError
from gpucnn.representation import shape_text

__all__ = ["DeviceDataset", "Normalization"]

Array = Any


def _check_images(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise InputError(
            f"expected images of dtype uint8 and shape (S, H, W, C), received {images.dtype} of shape {images.shape}; "
            f"keep pixels as bytes (`Normalization` scales them), with a channel axis even for grey images"
        )


def _check_augmentation(augmentation: Augmentation | None, H: int, W: int) -> None:
    if not isinstance(augmentation, Augmentation | None):
        raise InputError(f"expected an Augmentation or None, received {augmentation!r}")
    if augmentation and augmentation.shift >= min(H, W):
        raise InputError(
            f"Augmentation: shift {augmentation.shift} moves images of {H}x{W} pixels out of sight; "
            f"it must be below {min(H, W)}"
        )


def _random_key(seed: int) -> tuple[int, int]:
    """Return a Philox key that is no layer's (`Context.random_key`) of the same seed."""
    low, high = np.random.SeedSequence(seed, spawn_key=(0,)).generate_state(2)
    return int(low), int(high)


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Count each value 0..255, an image-sized part at a time: `bincount` works on 64-bit copies."""
    parts = np.array_split(pixels, -(-pixels.size // 2**20))
    return np.sum([np.bincount(part.ravel(), minlength=256) for part in parts], axis=0)


class Normalization:
    """Per channel, `x = pixel * scale + shift`: mean 0 and variance 1 over the images that it is made from.

    Images are (S, H, W, C) uint8; raises `InputError` for others.

    >>> normalization = Normalization(np.array([10, 30], np.uint8).reshape(2, 1, 1, 1))
    >>> normalization
    <Normalization: scale [0.1], shift [-2.]>
    """

    def __init__(self, images: np.ndarray):
        _check_images(images)
        counts = [_histogram(images[..., channel]) for channel in range(images.shape[-1])]
        share = np.array(counts) / counts[0].sum()  # (C, 256): the histogram of each channel
        values = np.arange(256)
        mean = share @ values
        deviation = np.sqrt(share @ values**2 - mean**2)
        self.scale = 1.0 / np.where(deviation > 0, deviation, 1.0)
        self.shift = -mean * self.scale

    def __repr__(self) -> str:
        return f"<Normalization: scale {self.scale}, shift {self.shift}>"


class DeviceDataset:
    """One half of a data set on a device, in an order that changes from epoch to epoch.

    >>> from gpucnn import get_backend
    >>> from gpucnn.data import load
    >>> digits = load("digits").train
    >>> train = DeviceDataset(digits, get_backend("cpu"), Normalization(digits.images), Augmentation(shift=1))
    >>> train.shuffle(np.random.default_rng(0), epoch=0)
    >>> x, y = train.next_batch(64)
    >>> x.shape, y.shape
    ((64, 8, 8, 1), (64,))

    Raises `InputError` for images or labels of another dtype or shape, or a shift that moves images out of sight.

    Parameters
    ----------
    split : images (S, H, W, C) uint8 and labels (S,) int32 on the host
    backend : of the device they are copied to, once
    normalization : from pixels to a network's input, the same for training and test
    augmentation : of the images that a network is trained on; no test sees it
    seed : of the augmentation, which is a function of the seed, the epoch, and the position in the epoch
    """

    def __init__(
        self,
        split: Split,
        backend: Backend,
        normalization: Normalization,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        _check_images(split.images)
        _check_augmentation(augmentation, *split.images.shape[1:3])
        if split.labels.shape != split.images.shape[:1] or split.labels.dtype.kind not in "iu":
            raise InputError(
                f"expected one integer label for each of {len(split.images)} images, received labels of shape "
                f"{split.labels.shape} and dtype {split.labels.dtype}"
            )
        self.backend = backend
        self.samples = len(split.images)
        self.label_values = np.unique(split.labels).tolist()
        self.images = backend.from_host(split.images)
        self.labels = backend.from_host(split.labels.astype(np.int32))
        self.scale = backend.from_host(normalization.scale.astype(backend.precision))
        self.shift = backend.from_host(normalization.shift.astype(backend.precision))
        self._order = backend.from_host(np.arange(self.samples, dtype=np.int32))
        self._cursor = backend.zeros((1,), backend.xp.int64)
        self._epoch = backend.zeros((1,), backend.xp.int64)
        self._augmentation = {"augmentation": augmentation, "key": _random_key(seed), "epoch": self._epoch}
        self._workspace = Workspace(backend)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.samples

    def __repr__(self) -> str:
        return f"<DeviceDataset: {self.samples:,} images of {shape_text(self.images.shape[1:])} on {self.backend.name}>"

    def state(self) -> dict[str, Array]:
        """Return the arrays that say where in an epoch it is, by name."""
        return {"order": self._order, "cursor": self._cursor, "epoch": self._epoch}

    def shuffle(self, rng: np.random.Generator, epoch: int) -> None:
        """Begin the epoch with this number in a new random order: the one copy to the device in an epoch."""
        self.backend.from_host(rng.permutation(self.samples).astype(np.int32), out=self._order)
        with self.backend.on_device():
            self._epoch[...] = epoch
        self.rewind()

    def rewind(self) -> None:
        """Begin an epoch in the order of the last one."""
        with self.backend.on_device():
            self._cursor[...] = 0

    def next_batch(self, N: int, *, train: bool = True) -> tuple[Array, Array]:
        """Gather the next N samples: x (N, H, W, C) normalized, y (N,); both are overwritten by the next call.

        With `train` the images are augmented, if that was asked for.
        """
        with self.backend.limit_blas_threads():
            x = self._workspace.take("x", (N, *self.images.shape[1:]), self.backend.float_dtype)
            y = self._workspace.take("y", (N,), self.labels.dtype)
            source = self.images, self.labels, self._order, self._cursor, self.scale, self.shift
            self.backend.gather_batch(*source, x=x, y=y, **self._augmentation if train else {})
        return x, y
