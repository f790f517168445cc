"""A training run that `scripts/faults/run.py` hurts: its processes, what they leave, whether that is as promised."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucnn.training.checkpoints import Checkpoints, DamagedError, read

if TYPE_CHECKING:
    from faults.kinds import Kind

__all__ = ["CHILD", "Injury", "Session", "Victim"]

CHILD = Path(__file__).with_name("child.py")
KEEP, TIMEOUT = 3, 600


class Session:
    """One process of a run, and the log that it writes."""

    def __init__(self, command: list[str], log: Path):
        self.log = log
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def lines(self) -> list[tuple[float, str, int]]:
        """Return what was logged so far: time, word and step."""
        text = self.log.read_text() if self.log.exists() else ""
        rows = (line.split() for line in text.splitlines(keepends=True) if line.endswith("\n"))
        return [(float(when), word, int(step)) for when, word, step in rows]

    def steps(self, word: str) -> list[int]:
        """Return the steps logged with a word."""
        return [step for _, found, step in self.lines() if found == word]

    def wait_for(self, word: str, step: int) -> None:
        """Return when a line of this word and this step or a later one is there, or the process has ended."""
        while self.process.poll() is None and max(self.steps(word), default=-1) < step:
            time.sleep(0.001)

    def send(self, number: int) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        self.errors = self.process.communicate(timeout=TIMEOUT)[1].strip().rpartition("\n")[2]
        return self.process.returncode

    def where(self) -> str:
        """Return what the process was about when it ended."""
        words = [word for _, word, _ in self.lines()]
        if "begin" not in words:
            return "while starting"
        return "while writing" if words[-1] in ("save", "saved", "failed") else "in training"


@dataclass(frozen=True)
class Injury:
    """What one fault cost: steps that must be made again, how many may be, and whether a checkpoint went."""

    fault: str
    lost: int
    allowed: int
    checkpoint_lost: bool


class Victim:
    """A run of `gpucnn train` with checkpoints, in processes that are hurt.

    Parameters
    ----------
    command : options of `gpucnn train`
    folder : for checkpoints, summaries and logs
    every : steps from checkpoint to checkpoint
    rng : chooses instants and places
    child : the program that trains
    """

    def __init__(self, command: list[str], folder: Path, every: int, rng: random.Random, child: Path = CHILD):
        self.command, self.home, self.every, self.rng, self.child = command, folder, every, rng, child
        self.folder = folder / "checkpoints"
        self.sessions: list[Session] = []
        self.injuries: list[Injury] = []
        self.broken: list[str] = []
        self.is_equal = False

    # ---- processes --------------------------------------------------------------------------------------------------

    def start(self, plan: dict[str, Any] | None = None, folder: Path | None = None) -> Session:
        """Start the run, or go on with it."""
        kept = ["--checkpoint-dir", str(folder or self.folder), "--checkpoint-every", str(self.every)]
        kept += ["--keep", str(KEEP), "--resume"]
        session = self._start(f"session{len(self.sessions)}", plan or {}, kept)
        self.sessions.append(session)
        return session

    def _start(self, name: str, plan: dict[str, Any], more: list[str]) -> Session:
        log = self.home / f"{name}.log"
        log.unlink(missing_ok=True)
        command = [sys.executable, str(self.child), str(log), json.dumps(plan), "train", *self.command]
        return Session([*command, *more, "--summary", str(self.home / f"{name}.json")], log)

    def _finish(self, session: Session) -> str | None:
        """Wait for a session that nothing hurts; return the hash of its weights."""
        code = session.end()
        self.expect(code == 0, f"a run that nothing hurts ended with {code}: {session.errors}")
        return None if code else json.loads(session.log.with_suffix(".json").read_text())["weights_sha256"]

    def run_in_peace(self) -> None:
        """Make the run once without checkpoints: what the one with faults must come to, and how long it takes."""
        began = time.monotonic()
        session = self._start("peace", {}, [])
        self.expected = self._finish(session)
        if self.broken:
            raise SystemExit(f"faults/run.py: {self.broken[0]}")
        lines = session.lines()
        self.steps = lines[-1][2]
        self.seconds_to_start = lines[0][0] - began
        self.seconds_per_step = (lines[-1][0] - lines[0][0]) / max(self.steps - 1, 1)

    # ---- faults -----------------------------------------------------------------------------------------------------

    def suffer(self, kind: Kind, step: int) -> None:
        """Let one fault happen at a step or soon after, and see what is left."""
        before = self.newest()
        session = kind.hurt(self, step)
        code = session.end()
        name = kind.name.format(where=session.where())
        began, saved = session.steps("begin"), session.steps("saved")
        if code == 0:
            raise SystemExit(f"faults/run.py: {name}: the run ended before it was hurt; use more --epochs")
        self.expect(code in kind.codes, f"{name}: exit code {code}, expected {kind.codes}: {session.errors}")
        self.expect(began in ([], [before]), f"{name}: went on from {began}, the newest whole one was of {before}")
        reached, newest = max(session.steps("step"), default=before), self.newest()
        is_lost = newest < max(before, *saved, 0)
        self.expect(not is_lost, f"{name}: of {max(before, *saved, 0)} a checkpoint was written, {newest} is left")
        self.expect(self.best_is_true(), f"{name}: the best checkpoint is damaged, or not the best")
        if code != -signal.SIGKILL:
            self.expect(not self.leftovers(), f"{name}: left {self.leftovers()}")
        taken = kind.damage(self)
        newest = self.newest()
        failed = len(session.steps("failed")) + taken
        allowed = 0 if kind.keeps_all else self.every * (1 + failed)
        if taken and not newest:  # that was all there was
            allowed = reached
        lost = reached - newest
        self.expect(lost <= allowed, f"{name}: {lost} steps lost, allowed are {allowed}")
        self.injuries.append(Injury(name, lost, allowed, is_lost))

    def end(self) -> None:
        """Go on to the end, and compare it with that of the run in peace."""
        before = self.newest()
        session = self.start()
        self.is_equal = self._finish(session) == self.expected
        self.expect(self.is_equal, "the weights are not those of the run in peace")
        self.expect(session.steps("begin") == [before], f"the end: went on from {session.steps('begin')}, not {before}")
        made = [step for session in self.sessions for step in session.steps("step")]
        self.expect(set(made) == set(range(1, self.steps + 1)), "steps were left out, or too many")
        again, lost = len(made) - len(set(made)), sum(injury.lost for injury in self.injuries)
        self.expect(again == lost, f"{again} steps were made again, {lost} were lost")
        self.expect(not self.leftovers(), f"the end: left {self.leftovers()}")
        self.expect(len(self.paths()) <= KEEP, f"the end: {len(self.paths())} checkpoints are left, not {KEEP}")
        self.expect(self.best_is_true(), "the end: the best checkpoint is damaged, or not the best")

    def expect(self, is_kept: bool, promise: str) -> None:
        """Note a promise that was broken."""
        if not is_kept:
            self.broken.append(promise)

    # ---- the folder -------------------------------------------------------------------------------------------------

    def paths(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        return Checkpoints(self.folder).paths()

    def newest(self) -> int:
        """Return the step of the newest checkpoint that is whole; 0 if there is none."""
        return next((about["step"] for path in self.paths() if (about := about_of(path))), 0)

    def best_is_true(self) -> bool:
        """Whether the best checkpoint has the smallest loss that the newest one knows of."""
        known = [about for path in self.paths() if (about := about_of(path))]
        smallest = known[0]["results"].get("best_loss", math.inf) if known else math.inf
        best = self.folder / "best.safetensors"
        if not best.exists():
            return smallest == math.inf
        about = about_of(best)
        return about is not None and about["results"]["best_loss"] <= smallest

    def is_damaged(self, path: Path) -> bool:
        """Whether a file is none of what was written."""
        return about_of(path) is None

    def leftovers(self) -> list[str]:
        """Return the names of temporary files."""
        return [path.name for path in self.folder.glob(".*")]

    @contextmanager
    def without_folder(self) -> Iterator[None]:
        """Take the folder away for a while, as a disk that is unmounted."""
        away = self.folder.with_name("away")
        os.rename(self.folder, away)
        try:
            yield
        finally:
            os.rename(away, self.folder)

    # ---- the cost ---------------------------------------------------------------------------------------------------

    def cost(self) -> dict[str, float]:
        """Return the seconds from the first step to the end, without and with checkpoints, and the share of these."""
        times = {}
        for name, more in (("without", []), ("with", ["--checkpoint-dir", str(self.folder)])):
            session = self._start(name, {}, [*more, "--checkpoint-every", str(self.every)] if more else [])
            self._finish(session)
            lines = session.lines()
            times[name] = lines[-1][0] - next(when for when, word, _ in lines if word == "step")
        spent = {word: sum(when for when, found, _ in lines if found == word) for word in ("save", "done")}
        writing = spent["done"] - spent["save"]
        return times | {"ratio": times["with"] / times["without"], "share": writing / times["with"]}


def about_of(path: Path) -> dict[str, Any] | None:
    """Return the description of a checkpoint, or None if it is damaged."""
    try:
        return read(path)[1]
    except DamagedError:
        return None
