"""A folder of checkpoints: the newest few of a run, and the best one."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.checks import integer
from gpucnn.errors import InputError
from gpucnn.representation import representation
from gpucnn.training.checkpoints.file import SUFFIX, TEMPORARY, DamagedError, read, write

__all__ = ["Checkpoint", "Checkpoints"]

NAME = re.compile(rf"step-(\d+){re.escape(SUFFIX)}")
BEST = f"best{SUFFIX}"


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a file: its path, its arrays, and its description.

    >>> Checkpoint(Path("step-00000100.safetensors"), {"w": np.ones(3)}, {"step": 100})
    <Checkpoint step-00000100.safetensors: 1 array>
    """

    path: Path
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]

    def __repr__(self) -> str:
        count = len(self.arrays)
        return f"<Checkpoint {self.path}: {count} array{'s' * (count != 1)}>"


class Checkpoints:
    """The checkpoints of one run in a folder: `step-00000100.safetensors`, and `best.safetensors` beside them.

    A new one is on the disk before an old one goes, so that there is never a moment without one. Iteration yields
    their paths, the newest first.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(Path(folder), keep=2)
    ...     for step in (100, 200, 300):
    ...         path = checkpoints.save(step, {"w": np.full(2, step)}, {"step": step})
    ...     names, newest = [path.name for path in checkpoints], checkpoints.newest()
    >>> names
    ['step-00000300.safetensors', 'step-00000200.safetensors']
    >>> newest.arrays["w"].tolist(), newest.about
    ([300, 300], {'step': 300})

    Raises `InputError` for a folder that cannot be written to.

    Parameters
    ----------
    folder : made if it is not there
    keep : how many of the newest stay
    """

    def __init__(self, folder: str | Path, *, keep: int = 3):
        self.folder, self.keep = Path(folder), integer(keep, "Checkpoints: keep", least=1)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise InputError(f"{folder}: cannot hold checkpoints ({error}); name one that can be written to") from error

    def __repr__(self) -> str:
        return representation(self)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths())

    def paths(self) -> list[Path]:
        """Return the checkpoints by their steps, the newest first, without the best one."""
        named = [(NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        steps = [(int(match[1]), path) for match, path in named if match]
        return [path for _, path in sorted(steps, reverse=True)]

    def newest(self, say: Callable[[str], object] = print) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, or None; a damaged one is passed over, and that is said."""
        for path in self.paths():
            try:
                if path.is_symlink():
                    raise DamagedError(f"{path}: is a link, not the checkpoint itself")
                return Checkpoint(path, *read(path))
            except DamagedError as error:
                say(f"{error}; trying the one before")
        return None

    def save(self, step: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step, then remove the oldest beyond `keep`, and what an earlier run left behind.

        Those of later steps are such: a run goes on from the newest that is whole.
        """
        path = self.folder / f"step-{step:08}{SUFFIX}"
        write(path, arrays, about)
        leftovers = [left for left in self.folder.glob(f".*{TEMPORARY}") if left.is_file()]
        paths = self.paths()
        at = paths.index(path)
        for old in [*paths[:at], *paths[at + self.keep :], *leftovers]:
            with contextlib.suppress(OSError):  # it is only in the way
                old.unlink()
        return path

    def save_best(self, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write the best checkpoint so far in place of the one before."""
        write(self.folder / BEST, arrays, about)
