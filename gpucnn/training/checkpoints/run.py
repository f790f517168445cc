"""A training run, how far it is, and all that it needs to resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn.data import DeviceDataset
from gpucnn.errors import InputError
from gpucnn.training.checkpoints.describe import differences, is_plain
from gpucnn.training.checkpoints.file import DamagedError
from gpucnn.training.checkpoints.folder import Checkpoint
from gpucnn.training.trainer import Trainer

__all__ = ["FORMAT", "Held", "Run"]

Held = tuple[dict[str, np.ndarray], dict[str, Any]]  # the arrays of a checkpoint, and its description

PROGRESS = ("epoch", "batch", "step")
MOST = 1 << 62  # of what is counted
FORMAT = 1  # of the description; one with another number is refused


class Run:
    """A trainer and its data, their settings, and how many epochs, and batches of the present one, are done.

    `held` copies all that a checkpoint needs, and `resume` takes it back, here or in another process; `Saver` does both
    at the right moments.

    >>> from gpucnn import SGD, Dense, Flatten, Sequential, SoftmaxCrossEntropy
    >>> from gpucnn.data import Normalization, load
    >>> digits, model = load("digits"), Sequential([Flatten(), Dense(10)])
    >>> model.build(digits.image_shape, "cpu")
    (10,)
    >>> data = DeviceDataset(digits.test, model.backend, Normalization(digits.train.images))
    >>> trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(), batch_size=90)
    >>> run = Run(trainer, data, settings={"seed": 0}, place={"device": "cpu"})
    >>> trainer.train_epoch(data, run.epoch, on_batch=lambda N: run.advance(), done=run.batch).samples
    359
    >>> run.end_epoch()
    >>> run
    <Run: epoch 1, batch 0, 4 steps done>
    >>> arrays, about = run.held()
    >>> about["epoch"], arrays["model.dense1.w"].shape
    (1, (64, 10))

    Attributes
    ----------
    settings : what the outcome depends on, in plain JSON; a run with others is another run
    place : where and with what it computes, in plain JSON: elsewhere a run gives the same results to rounding only
    epoch, batch, step : what is done: whole epochs, batches of the next one, steps in all
    results : what is known so far, in plain JSON; it goes with the checkpoint
    """

    def __init__(self, trainer: Trainer, data: DeviceDataset, settings: dict[str, Any], place: dict[str, Any]):
        self.trainer, self.data = trainer, data
        self.settings, self.place = (json.loads(json.dumps(part)) for part in (settings, place))
        self.epoch = self.batch = self.step = 0
        self.results: dict[str, Any] = {}
        self._seconds = 0.0  # of training in earlier sessions
        self._since: float | None = None  # when the present one began

    def __repr__(self) -> str:
        return f"<Run: epoch {self.epoch}, batch {self.batch}, {self.step:,} steps done>"

    @property
    def seconds(self) -> float:
        """How long the training took, in all sessions together."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time that passes meanwhile."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._seconds, self._since = self.seconds, None

    def advance(self) -> None:
        """Count one more batch."""
        self.batch, self.step = self.batch + 1, self.step + 1

    def end_epoch(self) -> None:
        """Count one more epoch."""
        self.epoch, self.batch = self.epoch + 1, 0

    def held(self) -> Held:
        """Copy all that a checkpoint holds to the host; waits for the device.

        Raises `DivergedError` if the loss of the present epoch is not finite: such a state deserves no checkpoint.
        """
        state = self.trainer.state(self.data)
        arrays = {name: self.trainer.backend.to_host(array) for name, array in state.items()}
        loss, _, _, finite = arrays["totals"].tolist()
        if not math.isfinite(loss):
            raise self.trainer.diverged(self.data, int(finite), self.batch)
        parts = {name: getattr(self, name) for name in ("settings", "place", *PROGRESS)}
        return arrays, {"format": FORMAT} | parts | {"results": self.results | {"seconds": self.seconds}}

    def resume(self, checkpoint: Checkpoint) -> list[str]:
        """Go on where a checkpoint was written; return what may keep the results from being the same bit for bit.

        Raises `InputError`, which says what differs, and changes nothing, if it is the checkpoint of another run.
        """
        about, path = checkpoint.about, checkpoint.path
        if about.get("format") != FORMAT:
            raise InputError(f"{path}: has format {about.get('format')}, this gpucnn reads {FORMAT}; use its version")
        self._check(checkpoint)
        if found := list(differences(about["settings"], self.settings)):
            raise InputError(
                f"{path}: is of another run: {'; '.join(found)}; give the same settings, or another --checkpoint-dir"
            )
        state = self.trainer.state(self.data)
        shapes = {name: [array.shape, array.dtype.name] for name, array in checkpoint.arrays.items()}
        here = {name: [tuple(array.shape), str(array.dtype)] for name, array in state.items()}
        if found := list(differences(shapes, here)):
            raise InputError(f"{path}: has other arrays: {'; '.join(found)}; use the version of gpucnn that wrote it")
        self._check_position(checkpoint)
        for name, array in state.items():
            self.trainer.backend.from_host(checkpoint.arrays[name], out=array)
        self.trainer.on_state_loaded()
        self.epoch, self.batch, self.step = (about[name] for name in PROGRESS)
        self.results = about["results"]
        self._seconds = self.results["seconds"]
        return list(differences(about["place"], self.place))

    def _check(self, checkpoint: Checkpoint) -> None:
        """Check that a description has all that is written into one."""
        about = checkpoint.about
        counts = [about.get(name) for name in PROGRESS]
        parts: list[Any] = [about.get(name) for name in ("settings", "place", "results")]
        is_whole = all(isinstance(part, dict) for part in parts) and is_plain(parts)
        if not is_whole or not all(type(count) is int and 0 <= count < MOST for count in counts):
            raise DamagedError(f"{checkpoint.path}: is not a checkpoint of gpucnn: its description lacks something")
        results = {"best_loss": 0.0} | parts[-1]  # it comes with the first epoch
        if any(type(results.get(name)) is not float for name in ("seconds", "best_loss")):
            raise DamagedError(
                f"{checkpoint.path}: is not a checkpoint of gpucnn: its results have no seconds, or no loss"
            )

    def _check_position(self, checkpoint: Checkpoint) -> None:
        """Check the numbers that address something: a device would read elsewhere by wrong ones, and not say so."""
        arrays, batch, samples = checkpoint.arrays, checkpoint.about["batch"], self.data.samples
        whole = [array for array in arrays.values() if array.dtype.kind == "i"]
        done = min(batch * self.trainer.batch_size, samples)
        is_right = (
            all(np.all((array >= 0) & (array < MOST)) for array in whole)
            and np.array_equal(np.sort(arrays["data.order"]), np.arange(samples))
            and batch <= self.trainer.steps(self.data)
            and (not batch or arrays["data.cursor"].item() == done)
        )
        if not is_right:
            raise DamagedError(
                f"{checkpoint.path}: is not a checkpoint of gpucnn: its place in the data does not exist"
            )
