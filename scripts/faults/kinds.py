"""The faults of `scripts/faults/run.py`, one function each: it starts a session of a run, and hurts it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.child import MOMENTS
from faults.victim import Session, Victim

__all__ = ["KINDS", "Kind"]

KILLED, INTERRUPTED, TERMINATED, REFUSED = -signal.SIGKILL, 128 + signal.SIGINT, 128 + signal.SIGTERM, 2
SHARE_OF_STARTS = 0.2  # of the random kills


def nothing(victim: Victim) -> int:
    """Damage no checkpoint."""
    return 0


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes
    ----------
    hurt : starts a session and hurts it at a step, or soon after
    codes : exit codes that are as promised
    damage : hurts the files of the run when the process is gone; returns how many checkpoints that took
    keeps_all : whether no step may be lost
    """

    name: str
    hurt: Callable[[Victim, int], Session]
    codes: tuple[int, ...] = (KILLED,)
    damage: Callable[[Victim], int] = nothing
    keeps_all: bool = False


# ---- while it runs ------------------------------------------------------------------------------------------------


def kill(victim: Victim, step: int) -> Session:
    """Kill at a random instant: of the start, or of the time from a checkpoint to the next."""
    session = victim.start()
    if victim.rng.random() < SHARE_OF_STARTS:
        time.sleep(victim.rng.uniform(0, victim.seconds_to_start))
    else:
        wait_past(session, victim, step)
    session.send(signal.SIGKILL)
    return session


def signalled(number: int) -> Callable[[Victim, int], Session]:
    """Return what sends a signal at a random instant of the training."""

    def hurt(victim: Victim, step: int) -> Session:
        session = victim.start()
        wait_past(session, victim, step)
        session.send(number)
        return session

    return hurt


def wait_past(session: Session, victim: Victim, step: int) -> None:
    """Wait for a step, and then for any time up to that between two checkpoints."""
    session.wait_for("step", step)
    time.sleep(victim.rng.uniform(0, 2 * victim.every * victim.seconds_per_step))


def planned(do: str, moments: tuple[str, ...] = MOMENTS, most_skipped: int = 0, **more: Any) -> Callable:
    """Return what lets a session meet a fault while it writes a checkpoint."""

    def hurt(victim: Victim, step: int) -> Session:
        skip = victim.rng.randint(0, most_skipped)
        return victim.start({"step": step, "moments": moments, "skip": skip, "do": do, **more})

    return hurt


def limited(victim: Victim, step: int) -> Session:
    """Let the system refuse files as large as a checkpoint."""
    size = max((path.stat().st_size for path in victim.paths()), default=2**20) // 2
    return planned("EFBIG", ("open",), bytes=size, times=2, then="SIGKILL")(victim, step)


# ---- the folder ---------------------------------------------------------------------------------------------------


def refused(victim: Victim, step: int) -> Session:
    """Name a folder below a file."""
    file = victim.home / "file"
    file.touch()
    return victim.start(folder=file / "checkpoints")


def unwritable(lock: Callable[[Victim], Any]) -> Callable[[Victim, int], Session]:
    """Return what takes the folder away from a session, and kills that two checkpoints later."""

    def hurt(victim: Victim, step: int) -> Session:
        session = victim.start()
        session.wait_for("step", step)
        session.wait_for("done", 0)
        with lock(victim):
            reached = max(session.steps("step"), default=step)
            session.wait_for("done", reached + 2 * victim.every)
            session.send(signal.SIGKILL)
            session.process.wait()
        return session

    return hurt


@contextmanager
def read_only(victim: Victim) -> Iterator[None]:
    """Let nothing be written to the folder, by root either where the file system can do that."""
    mode = victim.folder.stat().st_mode
    is_locked = os.geteuid() == 0 and chattr("+i", victim.folder)
    victim.folder.chmod(0o555) if not is_locked else None
    try:
        yield
    finally:
        chattr("-i", victim.folder) if is_locked else victim.folder.chmod(mode)


def chattr(change: str, folder: Path) -> bool:
    """Change an attribute of a folder; return whether that is possible here."""
    return subprocess.run(["chattr", change, str(folder)], capture_output=True, check=False).returncode == 0


# ---- the files: a broken promise may have left one of them empty --------------------------------------------------


def place(size: int, rng: random.Random) -> int:
    """Return a random place in a file of a size in bytes: 0 in an empty one."""
    return rng.randrange(max(size, 1))


def cut(path: Path, rng: random.Random) -> None:
    """Cut a file short at a random place."""
    os.truncate(path, place(path.stat().st_size, rng))


def flip(path: Path, rng: random.Random) -> None:
    """Flip three bits of a file."""
    content = bytearray(path.read_bytes())
    for _ in range(3 if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def damaged(how: Callable[[Path, random.Random], None], files: slice) -> Callable[[Victim], int]:
    """Return what damages some of the checkpoints, the newest first."""

    def damage(victim: Victim) -> int:
        paths = victim.paths()[files]
        for path in paths:
            how(path, victim.rng)
        found = {path for path in paths if victim.is_damaged(path)}
        victim.expect(found == set(paths), f"damage was not noticed: {set(paths) - found}")
        return len(paths)

    return damage


def leave_temporary_files(victim: Victim) -> int:
    """Leave what a run leaves that is killed while it writes, and what is older."""
    content = victim.paths()[0].read_bytes() if victim.paths() else b"half"
    for name in (".step-00000001.safetensors.1.part", ".step-99999999.safetensors.2.part", ".best.safetensors.3.part"):
        (victim.folder / name).write_bytes(content[: place(len(content), victim.rng)])
    return 0


# Of the moments of a checkpoint (open, write, fsync, replace, fsync, unlink) some are passed over at random.
FAILING = {"times": 2, "then": "SIGKILL"}
NEWEST, ALL = slice(0, 1), slice(None)

KINDS = (
    Kind("kill -9 at random, {where}", kill),
    Kind("kill -9 at each moment of writing", planned("SIGKILL", most_skipped=11)),
    Kind("kill -9 in the middle of a file", planned("SIGKILL", ("write",), most_skipped=3)),
    Kind("SIGTERM", signalled(signal.SIGTERM), (TERMINATED,), keeps_all=True),
    Kind("SIGINT", signalled(signal.SIGINT), (INTERRUPTED,), keeps_all=True),
    Kind("SIGINT while writing", planned("SIGINT", most_skipped=11), (INTERRUPTED,), keeps_all=True),
    Kind("SIGINT twice while writing", planned("SIGINT", most_skipped=11, times=2), (INTERRUPTED,)),
    Kind("full disk (injected), then kill -9", planned("ENOSPC", ("write",), **FAILING)),
    Kind("error of fsync or rename (injected), then kill -9", planned("EIO", ("fsync", "replace"), 3, **FAILING)),
    Kind("limit on the size of files, then kill -9", limited),
    Kind("read-only folder, then kill -9", unwritable(read_only)),
    Kind("folder taken away, then kill -9", unwritable(Victim.without_folder)),
    Kind("folder that cannot be made", refused, (REFUSED,)),
    Kind("newest checkpoint cut short", kill, damage=damaged(cut, NEWEST)),
    Kind("bits of the newest checkpoint flipped", kill, damage=damaged(flip, NEWEST)),
    Kind("all checkpoints damaged", kill, damage=damaged(flip, ALL)),
    Kind("temporary files left over", kill, damage=leave_temporary_files),
)
