"""The command line: `gpucnn train`, which `scripts/train.py` calls too, and `gpucnn doctor`."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import gpucnn
from gpucnn import data, zoo
from gpucnn.backend import PRECISIONS
from gpucnn.cli import doctor
from gpucnn.cli.config import arguments_in
from gpucnn.cli.train import train, versions
from gpucnn.errors import DivergedError, GpucnnError, InputError
from gpucnn.optim.optimizers import OPTIMIZERS
from gpucnn.optim.schedules import SCHEDULES

__all__ = ["main"]

DONE, BAD_INPUT, DIVERGED, SIGNALLED = 0, 2, 3, 128
MAX_DIGITS = 18  # what 64 bits hold
SWITCH = argparse.BooleanOptionalAction  # --flip, and --no-flip where a file says otherwise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    That is 0 for done, 2 for bad input or no device, 3 for diverged, 130 and 143 for ended by Ctrl-C and by SIGTERM.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold anything
    try:
        options = _options(arguments)
        options.run(options)
        return DONE
    except DivergedError as error:
        return _fail(error, DIVERGED)
    except GpucnnError as error:
        return _fail(error, BAD_INPUT)
    except KeyboardInterrupt as stop:
        number = getattr(stop, "signal", signal.SIGINT)
        return _fail("terminated" if number == signal.SIGTERM else "interrupted", SIGNALLED + number)
    except MemoryError as error:  # CuPy's is one too
        return _fail(f"out of memory ({error}); use a smaller --batch-size", BAD_INPUT)
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        return _fail(error, BAD_INPUT)


def _fail(message: object, code: int) -> int:
    print(f"gpucnn: {message}", file=sys.stderr)
    return code


# ---- arguments ----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line, and where it names a file, those in the file that it leaves open."""
    parser, train_command, settings = _parsers()
    options = parser.parse_args(arguments)
    path = getattr(options, "config", None)
    if path is None:
        return options
    allowed = {name: action for name, action in settings.items() if name != "config"}
    given = list(arguments_in(path, allowed))
    try:
        train_command.set_defaults(**vars(train_command.parse_args(given)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return parser.parse_args(arguments)


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, dict[str, argparse.Action]]:
    """Return the parser of the command line, that of `train` in it, and the options of `train` by name."""
    parser = _Parser(prog="gpucnn", description=gpucnn.__doc__)
    parser.add_argument("--version", action="version", version=f"gpucnn {gpucnn.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="say what this machine offers, and what slows it").set_defaults(run=_doctor)
    train_command = commands.add_parser("train", help="train a network on images", allow_abbrev=False)
    train_command.set_defaults(run=train)

    settings: dict[str, argparse.Action] = {}

    def add(name: str, **how: Any) -> None:
        settings[name.removeprefix("--")] = train_command.add_argument(name, **how)

    add("--config", type=Path, metavar="FILE.toml", help="read options from a file; those given here win")
    add("--dataset", default="digits", help=f"{', '.join(data.DATASETS)} (default: digits, which is built in)")
    add("--data-dir", type=Path, metavar="DIR", help="folder that holds the data set")
    add("--download", action=SWITCH, default=False, help="fetch the data set into the cache if it is not there")
    add("--model", default="paper", help=f"{', '.join(zoo.MODELS)} (default: %(default)s)")
    add("--epochs", type=_whole(), default=20, metavar="N", help="passes over the data (default: %(default)s)")
    add("--batch-size", type=_batch_size, default=64, metavar="N", help="images per step, or auto (default: 64)")
    add(
        "--learning-rate",
        type=_number,
        metavar="RATE",
        help="step size at the start (default: the model's own)",
    )
    add("--schedule", default="linear", help=f"of the step size: {', '.join(SCHEDULES)} (default: %(default)s)")
    add("--warm-up", type=_number, default=0.0, metavar="SHARE", help="of the run in which the step size climbs first")
    add("--optimizer", help=f"{', '.join(OPTIMIZERS)} (default: the model's own)")
    add("--momentum", type=_number, metavar="M", help="for sgd and nesterov (default: 0.9), rmsprop (0)")
    add("--weight-decay", type=_number, metavar="D", help="L2 penalty (default: 0; for adamw 0.01)")
    add("--clip-norm", type=_number, metavar="X", help="scale gradients whose norm is larger down to it")
    add("--shift", type=_whole(least=0), default=0, metavar="PIXELS", help="random shift of training images, at most")
    add("--flip", action=SWITCH, default=False, help="mirror half of the training images, chosen at random")
    add("--average", type=_number, metavar="DECAY", help="test the moving average of the weights, e.g. 0.999")
    add("--device", default="auto", help="auto, cpu, gpu, gpu:N or reference (default: %(default)s)")
    add("--threads", type=_whole(), metavar="N", help="of the CPU (default: as many as there are cores)")
    add(
        "--convolution",
        metavar="ALGORITHM",
        help="of a GPU: columns, or implicit, which never writes them (by default in tf32 and bf16)",
    )
    add(
        "--eager",
        action=SWITCH,
        default=False,
        help="launch the kernels of a step one by one on a GPU, not as one graph",
    )
    rounding = "tf32 and bf16 round the factors of products, all arrays stay float32"
    add("--precision", default="float32", help=f"{', '.join(PRECISIONS)} (default: %(default)s); {rounding}")
    add("--seed", type=_whole(least=0), default=0, metavar="N", help="of weights and order (default: %(default)s)")
    add("--checkpoint-dir", type=Path, metavar="DIR", help="folder for checkpoints, from which the run can go on")
    add("--checkpoint-every", type=_whole(), metavar="STEPS", help="how often to write one (default: after each epoch)")
    add("--keep", type=_whole(), default=3, metavar="K", help="how many of the newest to keep (default: %(default)s)")
    add("--resume", action=SWITCH, default=False, help="go on from the newest checkpoint, if there is one")
    add("--summary", type=Path, metavar="FILE.json", help="write the results to this file as JSON")
    add("--quiet", action=SWITCH, default=False, help="print the last line only")
    return parser, train_command, settings


def _whole(least: int = 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.removeprefix("+").isdecimal() or int(text[:MAX_DIGITS]) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, received {text!r}")
        if len(text) > MAX_DIGITS:
            raise argparse.ArgumentTypeError(f"expected at most {MAX_DIGITS} digits, received {len(text)}")
        return int(text)

    return parse


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else _whole()(text)


def _number(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, received {text!r}")


# ---- doctor -------------------------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> None:
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    for line in doctor.examine():
        print(line, flush=True)
