"""Small data sets on disk, for the tests of readers and downloads."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from gpucnn.data.datasets import load
from gpucnn.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX_FILES


def mnist_dir() -> Path:
    """Return the folder of the real MNIST files beside the repository, or skip."""
    folder = ROOT.parent / "shared" / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip("the real MNIST files are not at ../shared/data/mnist of the repository")
    return folder


def refusal(name, data_dir, **options) -> str:
    """Load what must be refused, and return the sentence."""
    with pytest.raises(InputError) as caught:
        load(name, data_dir, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def random_bytes(*shape, most=256, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape, dtype=np.uint8)


def assert_split(split, images, labels):
    assert split.images.dtype == np.uint8 and split.images.flags.c_contiguous
    assert split.labels.dtype == np.int32
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)


def idx_bytes(array: np.ndarray, shape=None, magic=None) -> bytes:
    shape = array.shape if shape is None else shape
    magic = bytes((0, 0, 8, len(shape))) if magic is None else magic
    return magic + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


def write_mnist(folder: Path, end: str = "") -> dict[str, np.ndarray]:
    """Write six training and four test images of 5x4 pixels; return the arrays."""
    arrays = {
        TRAIN_IMAGES: random_bytes(6, 5, 4),
        TRAIN_LABELS: np.array([9, 0, 3, 1, 0, 7], np.uint8),
        TEST_IMAGES: random_bytes(4, 5, 4, seed=1),
        TEST_LABELS: np.array([2, 2, 8, 5], np.uint8),
    }
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / (name + end)).write_bytes(gzip.compress(content) if end.endswith(".gz") else content)
    return arrays


PIXELS = random_bytes(6, 5, 4)


CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def cifar_bytes(images: np.ndarray, labels) -> bytes:
    """Write record after record, each pixel by hand: the label, then the red, green and blue planes."""
    records = bytearray()
    for image, label in zip(images, labels, strict=True):
        records.append(label)
        for channel in range(3):
            records += bytes(int(image[row, column, channel]) for row in range(32) for column in range(32))
    return bytes(records)


def write_cifar(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write files of 2, 1, 3, 1, 1 and 2 records; return their images (N, 32, 32, 3) and labels."""
    folder.mkdir(exist_ok=True)
    written = {}
    for seed, (name, count) in enumerate(zip(CIFAR_FILES, (2, 1, 3, 1, 1, 2), strict=True)):
        images, labels = random_bytes(count, 32, 32, 3, seed=seed), random_bytes(count, most=10, seed=seed)
        (folder / name).write_bytes(cifar_bytes(images, labels))
        written[name] = images, labels
    return written
