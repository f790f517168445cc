"""What a training run shows of itself, and writes about its results."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpucnn.errors import InputError

__all__ = ["Summary", "progress"]

Advance = Callable[[int], None]
Show = Callable[[Any], None]


@contextlib.contextmanager
def progress(epoch: int, epochs: int, samples: int, quiet: bool) -> Iterator[tuple[Advance | None, Show]]:
    """Show the progress of one epoch: yield how to advance it by a number of samples, and how to show its results."""
    name = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
    if quiet:
        yield None, lambda results: None
    elif not sys.stdout.isatty():
        yield None, lambda results: print(f"{name}  {results}", flush=True)
    else:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = BarColumn(20), TaskProgressColumn(), TimeRemainingColumn()
        layout = TextColumn("{task.description}"), *columns, TextColumn("{task.fields[results]}")
        with Progress(*layout) as bars:
            task = bars.add_task(name, total=samples, results="")
            yield lambda count: bars.advance(task, count), lambda results: bars.update(task, results=results)


class Summary:
    """The results of a run, written whole or not at all; without a path, nothing is written."""

    def __init__(self, path: Path | None):
        self.path = path
        self.fields: dict[str, Any] = {}
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise InputError(f"--summary {path}: cannot be written there; name a file in a folder that exists")

    def update(self, fields: dict[str, Any] | None = None, /, **more: Any) -> None:
        """Take in results, in place of those of the same names."""
        self.fields |= (fields or {}) | more

    def write(self, status: str) -> None:
        """Write all results, and how the run ended."""
        if self.path is None:
            return
        required = ("train_loss", "test_loss", "test_accuracy", "weights_sha256")
        fields = {"status": status} | dict.fromkeys(required) | self.fields
        fields = {name: None if value != value or value == math.inf else value for name, value in fields.items()}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n")
        os.replace(temporary, self.path)
