"""What the parts of `scripts/gpu/check.py` share: what is asked of them, their time, and how a backend is made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn import get_backend
from gpucnn.backend import Backend
from gpucnn.backend.gpu.device import first_line
from gpucnn.data import DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization

Row = dict[str, Any]  # one result; a part fails if "ok" is False in one of them
PRECISIONS = ("bf16", "tf32", "float32")  # the most wanted first: what comes last may find no time left
ALGORITHMS = ("implicit", "columns")  # to convolve
NO_TIME = "no time left"

# What PyTorch is asked for beside a precision of ours. Only its bf16 is another thing: arrays are narrower too.
PEER_PRECISIONS = {"bf16": "autocast to bf16", "tf32": "tf32", "float32": "float32"}


@dataclass(frozen=True)
class Job:
    """What a part is asked to do; the sizes are those that a GPU is checked with."""

    device: str = "gpu:0"
    data_dir: str | None = None
    precisions: tuple[str, ...] = PRECISIONS
    tests: tuple[str, ...] = ()  # where none is named, all files that may have some for a GPU
    test_workers: int = 8  # processes that share the tests, where pytest-xdist is installed
    networks: tuple[str, ...] = ("lenet5", "mnist", "vgg", "resnet20")  # trained for `graph` and `determinism`
    batch_size: int = 64
    batches: int = 8  # and a half in an epoch
    classifiers: tuple[str, ...] = ("lenet5", "mnist")  # trained for `accuracy`
    epochs: int = 10
    timed: tuple[tuple[str, int], ...] = (
        *(("lenet5", 64), ("lenet5", 512)),
        *(("mnist", 512), ("vgg", 512), ("resnet18", 512)),
    )
    rounds: int = 5
    turn_seconds: float = 0.1
    images: tuple[int, ...] = (128, 64, 64, 64)  # 134 MB, which no cache holds
    nodes: tuple[int, ...] = (1, 10, 50)  # of the graphs whose launches are timed


class Clock:
    """What a part may still use: its seconds, and its GPU, unless that is in an error."""

    def __init__(self, seconds: float, device: str = "gpu:0", done: int = 0):
        self.end, self.device = time.monotonic() + seconds, device
        self.broken = ""  # why nothing more can be found in this process
        self.attempts, self.done = 0, done  # the latter by a process before this one

    @property
    def left(self) -> float:
        """Seconds; below 0 once they are over."""
        return self.end - time.monotonic()


def attempt(clock: Clock, about: Row, find: Callable[[], Row]) -> Row:
    """Return a row of what was found, or of why it could not be: one failure hides no other row."""
    clock.attempts += 1
    if clock.attempts <= clock.done:
        return about
    if clock.broken or clock.left <= 0:
        return {**about, "left_out": clock.broken or NO_TIME}
    try:
        return about | find()
    except Exception as error:
        if gpu_error(clock.device):
            clock.broken = f"the GPU is in an error since {', '.join(filter(None, map(str, about.values())))}"
        return {**about, "ok": False, "reason": first_line(error)}


def gpu_error(device: str) -> str:
    """Return the error that a GPU is in, such as an illegal access, which all later calls of this process meet too."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return ""
    try:
        cupy.cuda.Device(int(device.partition(":")[2] or 0)).synchronize()
    except Exception as error:
        return first_line(error)
    return ""


def make_backend(device: str, precision: str = "float32", convolution: str = "") -> Backend:
    """Make a backend; the one place that says how a way to convolve is asked for: none is the library's default."""
    return get_backend(device, precision, convolution=convolution or None)


def random_data(backend: Backend, samples: int, shape: tuple[int, ...]) -> DeviceDataset:
    """Return random images and labels on a device, the same in every call."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (samples, *shape), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, samples, dtype=np.int32))
    return DeviceDataset(split, backend, Normalization(images))
