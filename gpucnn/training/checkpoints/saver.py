"""When the checkpoints of a run are written: every so many steps, after each epoch, and before a signal ends it."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from gpucnn.errors import InputError
from gpucnn.training.checkpoints.folder import Checkpoints
from gpucnn.training.checkpoints.run import Held, Run

__all__ = ["Saver", "Stopped"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal ended the run between two steps, after its checkpoint was written.

    >>> Stopped(signal.SIGTERM).signal.name
    'SIGTERM'
    """

    def __init__(self, number: int):
        super().__init__()
        self.signal = number


class Saver:
    """Writes the checkpoints of a run as it proceeds.

    A checkpoint that cannot be written, for example on a full disk, is reported and does not end the run: those before
    it are still there.

    >>> import tempfile
    >>> from gpucnn import SGD, Dense, Flatten, Sequential, SoftmaxCrossEntropy, Trainer
    >>> from gpucnn.data import DeviceDataset, Normalization, load
    >>> digits, model = load("digits"), Sequential([Flatten(), Dense(10)])
    >>> model.build(digits.image_shape, "cpu")
    (10,)
    >>> data = DeviceDataset(digits.test, model.backend, Normalization(digits.train.images))
    >>> trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(), batch_size=90)
    >>> run = Run(trainer, data, settings={"seed": 0}, place={"device": "cpu"})
    >>> def on_batch(N):
    ...     run.advance()
    ...     saver.on_batch()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saver = Saver(run, Checkpoints(folder), every=2, say=print)
    ...     saver.begin(resume=False)
    ...     with saver.listening():  # to signals: Ctrl-C ends the run after a step, with a checkpoint
    ...         metrics = trainer.train_epoch(data, run.epoch, on_batch, done=run.batch)
    ...         run.end_epoch()
    ...         saver.on_epoch(metrics.loss)
    ...     [path.name for path in saver.checkpoints]
    ['step-00000004.safetensors', 'step-00000002.safetensors']

    Parameters
    ----------
    every : steps from one to the next, or None for one after each epoch alone
    say : called with each sentence for the user
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, every: int | None, say: Callable[[str], object]):
        self.run, self.checkpoints, self.every, self.say = run, checkpoints, every, say
        self.signal: int | None = None

    def __repr__(self) -> str:
        return f"<Saver of {self.run!r} in {self.checkpoints.folder}>"

    def begin(self, *, resume: bool) -> None:
        """Go on from the newest checkpoint, or start afresh where there is none.

        Raises `InputError` without `resume` if there are checkpoints, and with it if they are those of another run.
        """
        folder = self.checkpoints.folder
        if not resume:
            if self.checkpoints.paths():
                raise InputError(f"{folder}: has checkpoints already; add --resume to go on, or name another folder")
            return
        newest = self.checkpoints.newest(self.say)
        if newest is None:
            self.say(f"no checkpoint in {folder}: starting afresh")
            return
        for difference in self.run.resume(newest):
            self.say(f"{difference}: results may differ in the last bits")
        self.say(f"going on after step {self.run.step:,}, from {newest.path}")

    def on_batch(self) -> None:
        """Write the checkpoint of this step if it is time, and end the run if there was a signal."""
        if self.signal is not None:
            self._save(self.run.held())
            self._stop(self.signal)
        if self.every and self.run.step % self.every == 0:
            self._save(self.run.held())

    def on_epoch(self, loss: float) -> None:
        """Write the checkpoint of an epoch; if its loss in training is the smallest so far, first as the best one.

        In this order no checkpoint mentions a best one that is not there. The test set has no say in which is best:
        it could not judge what it has chosen.
        """
        before = self.run.results
        is_best = loss < before.get("best_loss", math.inf)
        if is_best:
            self.run.results = before | {"best_loss": loss}
        held = self.run.held()
        if is_best and not self._write(self.checkpoints.save_best, held):
            self.run.results = before
            held = self.run.held()
        self._save(held)

    def _save(self, held: Held) -> None:
        self._write(partial(self.checkpoints.save, self.run.step), held)

    def _write(self, save: Callable[..., object], held: Held) -> bool:
        """Let a function write what the run holds; return whether it could."""
        try:
            save(*held)
        except OSError as error:
            self.say(f"step {self.run.step:,} has no checkpoint ({error}); going on with those before it")
            return False
        return True

    def _stop(self, number: int) -> NoReturn:
        self.say(f"stopped after step {self.run.step:,}; --resume goes on from there")
        raise Stopped(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let signals end the run after the step that they meet; a second one ends it at once."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.signal is not None:  # it arrived after the last step
            self._stop(self.signal)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise Stopped(number)
        self.signal = number
