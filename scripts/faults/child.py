"""A training run to be hurt: `gpucnn train` with a log that survives a kill, and one fault at a chosen moment.

`scripts/faults/run.py` starts it as `faults/child.py LOG PLAN train ...`. PLAN is JSON: `{}` for no fault, or

    {"step": 40, "moments": ["write"], "skip": 0, "times": 2, "do": "ENOSPC", "then": "SIGKILL"}

From the first checkpoint of step 40 or later on, moments of these names meet the fault, `times` of them, after the
first `skip`: a signal that the process sends itself, or an error that the call raises. Moments are the calls that put a
checkpoint on the disk. `then` is the signal that follows the last of them, once the checkpoint is given up. With
`bytes` no file may grow beyond so many, and it is the system that raises the error.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpucnn.cli.blas import restart_with_fast_kernels
from gpucnn.cli.main import main
from gpucnn.training import checkpoints
from gpucnn.training.checkpoints import file as checkpoint_file

__all__ = ["MOMENTS", "start"]

MOMENTS = ("open", "write", "fsync", "replace", "unlink")  # in this order; a folder's fsync comes after the replace


class Log:
    """Lines of a time, a word and a step; each is with the system before the run goes on."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, word: str, step: int) -> None:
        os.write(self.descriptor, f"{time.monotonic():.6f} {word} {step}\n".encode())


class Fault:
    """What happens at which moment."""

    def __init__(self, plan: dict[str, Any]):
        self.plan, self.armed = plan, False
        self.skip, self.left = plan.get("skip", 0), plan.get("times", 1)

    def arm(self, step: int) -> None:
        """Take note that the checkpoint of a step is about to be written."""
        self.armed = bool(self.plan) and step >= self.plan["step"]

    def moment(self, name: str) -> None:
        """Let the fault happen if it is time."""
        if not self.armed or name not in self.plan["moments"] or not self.left:
            return
        if self.skip:
            self.skip -= 1
            return
        self.left -= 1
        if "bytes" in self.plan:  # the system's own error, in the middle of a file
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.plan["bytes"],) * 2)
        elif hasattr(errno, self.plan["do"]):
            number = getattr(errno, self.plan["do"])
            raise OSError(number, os.strerror(number))
        else:
            os.kill(os.getpid(), getattr(signal, self.plan["do"]))

    def given_up(self) -> None:
        """End the run after the last fault, if that was asked for."""
        if self.armed and not self.left and "then" in self.plan:
            os.kill(os.getpid(), getattr(signal, self.plan["then"]))


class HalfWritten:
    """A file whose content is written in two halves, with a moment between them."""

    def __init__(self, file: Any, fault: Fault):
        self.file, self.fault = file, fault

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: bytes) -> None:
        half = len(content) // 2
        self.file.write(content[:half])
        self.fault.moment("write")
        self.file.write(content[half:])


def hook(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by `around`, which gets it as its first argument."""
    whole = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **options: around(whole, *arguments, **options))


def log_progress(log: Log) -> None:
    """Log each step, where a run begins, and each checkpoint: asked for, on the disk or given up, and done with."""

    def begin(whole: Callable, saver: Any, **options: Any) -> None:
        whole(saver, **options)
        log("begin", saver.run.step)

    def advance(whole: Callable, run: Any) -> None:
        whole(run)
        log("step", run.step)

    def write(whole: Callable, saver: Any, save: Callable, held: Any) -> bool:
        log("save", saver.run.step)
        is_written = whole(saver, save, held)
        if not is_written:
            log("failed", saver.run.step)
        elif save != saver.checkpoints.save_best:
            log("saved", saver.run.step)
        log("done", saver.run.step)
        return is_written

    hook(checkpoints.Saver, "begin", begin)
    hook(checkpoints.Saver, "_write", write)
    hook(checkpoints.Run, "advance", advance)


def inject(fault: Fault) -> None:
    """Have the fault happen at the moments of a checkpoint."""

    def write(whole: Callable, saver: Any, save: Callable, held: Any) -> bool:
        fault.arm(saver.run.step)
        is_written = whole(saver, save, held)
        fault.given_up()
        return is_written

    def opened(*arguments: Any) -> HalfWritten:
        fault.moment("open")
        return HalfWritten(builtins.open(*arguments), fault)

    def at(name: str) -> Callable:
        def around(whole: Callable, *arguments: Any, **options: Any) -> Any:
            fault.moment(name)
            return whole(*arguments, **options)

        return around

    hook(checkpoints.Saver, "_write", write)
    checkpoint_file.open = opened
    for name in ("fsync", "replace", "unlink"):
        hook(os, name, at(name))


def start(arguments: list[str]) -> int:
    """Run the command line as a plan says; return its exit code."""
    log, plan, *command = arguments
    log_progress(Log(log))
    inject(Fault(json.loads(plan)))
    return main(command)


if __name__ == "__main__":
    restart_with_fast_kernels()
    sys.exit(start(sys.argv[1:]))
