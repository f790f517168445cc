"""When the checkpoints of a run are written: every so many steps, after each epoch, and before a signal ends it."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpucnn.checkpoints.folder import Checkpoints
from gpucnn.checkpoints.run import Run
from gpucnn.errors import InputError

__all__ = ["Saver", "Stopped"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal ended the run between two steps, after its checkpoint was written."""

    def __init__(self, number: int):
        super().__init__()
        self.signal = number


class Saver:
    """Writes the checkpoints of a run as it goes.

    A checkpoint that cannot be written, as on a full disk, is said and does not end the run: those before it are there.

    Parameters
    ----------
    every : steps from one to the next, or None for one after each epoch alone
    say : is called with each sentence for the user
    """

    def __init__(self, run: Run, checkpoints: Checkpoints, every: int | None, say: Callable[[str], object]):
        self.run, self.checkpoints, self.every, self.say = run, checkpoints, every, say
        self.signal: int | None = None

    def begin(self, *, resume: bool) -> None:
        """Go on from the newest checkpoint, or start afresh where there is none."""
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
        """Write the checkpoint of this step if it is time, and end the run if a signal came."""
        if self.signal is not None:
            self._save()
            self.say(f"stopped after step {self.run.step:,}; --resume goes on from there")
            raise Stopped(self.signal)
        if self.every and self.run.step % self.every == 0:
            self._save()

    def on_epoch(self, loss: float) -> None:
        """Write the checkpoint of an epoch; if its loss in training is the smallest so far, also as the best one.

        The test set has no say in which is best: what it chose, it could not judge.
        """
        best = self.run.results.get("best_loss")
        is_best = loss < (math.inf if best is None else best)
        if is_best:
            self.run.results["best_loss"] = loss
        self._save(is_best=is_best)

    def _save(self, *, is_best: bool = False) -> None:
        held = self.run.held()
        try:
            self.checkpoints.save(self.run.step, *held)
            if is_best:
                self.checkpoints.save_best(*held)
        except OSError as error:
            self.say(f"step {self.run.step:,} has no checkpoint ({error}); going on with those before it")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let signals end the run after the step that they meet; a second one ends it at once."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise Stopped(number)
        self.signal = number
