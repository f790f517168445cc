"""The command line: `gpucnn train`, which `scripts/train.py` calls too, and `gpucnn doctor`."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import gpucnn
from gpucnn import data, doctor, zoo
from gpucnn.averaging import WeightAverage
from gpucnn.backend import PRECISIONS, Backend, get_backend
from gpucnn.backend.gpu import missing_gpu_reason
from gpucnn.data.resident import Normalization, ResidentSplit
from gpucnn.errors import DeviceError, DivergedError, InputError
from gpucnn.losses import get_loss
from gpucnn.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from gpucnn.schedules import SCHEDULES, get_schedule
from gpucnn.trainer import Trainer

__all__ = ["main"]

DONE, BAD_INPUT, DIVERGED, INTERRUPTED = 0, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input or no device, 3 diverged, 130 interrupted."""
    try:
        options = _parser().parse_args(arguments)
        return options.run(options)
    except (InputError, DeviceError) as error:
        return _fail(error, BAD_INPUT)
    except DivergedError as error:
        return _fail(error, DIVERGED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gpucnn", description=gpucnn.__doc__)
    parser.add_argument("--version", action="version", version=f"gpucnn {gpucnn.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="say what this machine offers, and what slows it").set_defaults(run=_doctor)
    train = commands.add_parser("train", help="train a network on images", allow_abbrev=False)
    train.set_defaults(run=_train)

    add = train.add_argument
    add("--dataset", default="digits", help=f"{', '.join(data.DATASETS)} (default: digits, which is built in)")
    add("--data-dir", type=Path, metavar="DIR", help="folder that holds the data set")
    add("--download", action="store_true", help="fetch the data set into the cache if it is not there")
    add("--model", default="paper", help=f"{', '.join(zoo.MODELS)} (default: %(default)s)")
    add("--epochs", type=_whole(), default=20, metavar="N", help="passes over the data (default: %(default)s)")
    add("--batch-size", type=_whole(), default=64, metavar="N", help="images per step (default: %(default)s)")
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
    add("--average", type=_number, metavar="DECAY", help="test the moving average of the weights, e.g. 0.999")
    add("--device", default="auto", help="auto, cpu, gpu, gpu:N or reference (default: %(default)s)")
    add("--threads", type=_whole(), metavar="N", help="of the CPU (default: as many as there are cores)")
    add("--precision", default="float32", help=f"{', '.join(PRECISIONS)} (default: %(default)s)")
    add("--seed", type=_whole(least=0), default=0, metavar="N", help="of weights and order (default: %(default)s)")
    add("--summary", type=Path, metavar="FILE.json", help="write the results to this file as JSON")
    add("--quiet", action="store_true", help="print the last line only")
    return parser


def _whole(least: int = 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.removeprefix("+").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, received {text!r}")
        return int(text)

    return parse


def _number(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, received {text!r}")


# ---- doctor -------------------------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    print(", ".join(f"{name} {version}" for name, version in _versions().items()))
    for line in doctor.examine():
        print(line, flush=True)
    return DONE


def _versions() -> dict[str, str]:
    return {"gpucnn": gpucnn.__version__, "python": platform.python_version(), "numpy": np.__version__}


# ---- train --------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    say = (lambda *_: None) if options.quiet else print
    summary = _Summary(options.summary)
    recipe = zoo.get_recipe(options.model)
    schedule = get_schedule(options.schedule, options.warm_up)
    optimizer = _optimizer(options, recipe)
    average = None if options.average is None else WeightAverage(options.average)
    backend = get_backend(options.device, options.precision, threads=options.threads)
    say(f"device: {backend.describe()}")
    if options.device == "auto" and backend.name == "cpu":
        say(f"no GPU: {missing_gpu_reason()}")
    dataset = data.load(options.dataset, options.data_dir, download=options.download)
    if dataset.classes < 2:
        raise InputError(
            f"{options.data_dir}: has the one class {dataset.class_names[0]!r}; training needs two or more"
        )
    trainer, train, test = _prepare(options, recipe, optimizer, average, dataset, backend)
    optimizer.follow(schedule, options.epochs * trainer.steps(train))
    say(f"data: {options.dataset}, {train.samples:,} images to train on, {test.samples:,} to test")
    say(f"training: {options.optimizer or recipe.optimizer}, learning rate {optimizer.learning_rate:g}\n")
    say(trainer.model.summary() + "\n")
    summary.update(_settings(options, trainer))
    try:
        _fit(trainer, train, options, summary)
        tested = trainer.evaluate(test)
        if math.isnan(tested.loss):
            raise DivergedError(
                f"the test loss is NaN or infinite after epoch {options.epochs}; try a smaller learning rate"
            )
    except (DivergedError, KeyboardInterrupt) as stop:
        summary.write(status="diverged" if isinstance(stop, DivergedError) else "interrupted")
        raise
    if average:
        average.apply()
    summary.update(test_loss=tested.loss, test_accuracy=tested.accuracy, weights_sha256=trainer.model.weights_sha256())
    summary.write(status="done")
    hits = round(tested.accuracy * tested.samples)
    print(f"test accuracy {tested.accuracy:.2%} ({hits:,} of {tested.samples:,}), loss {tested.loss:.4f}")
    return DONE


def _optimizer(options: argparse.Namespace, recipe: zoo.Recipe) -> Optimizer:
    """Make the optimizer that is asked for; the recipe's learning rate is for the recipe's optimizer alone."""
    name = options.optimizer or recipe.optimizer
    rate = options.learning_rate
    if rate is None and name == recipe.optimizer:
        rate = recipe.learning_rate
    return get_optimizer(name, rate, options.momentum, options.weight_decay, options.clip_norm)


def _prepare(
    options: argparse.Namespace,
    recipe: zoo.Recipe,
    optimizer: Optimizer,
    average: WeightAverage | None,
    dataset: data.Dataset,
    backend: Backend,
) -> tuple[Trainer, ResidentSplit, ResidentSplit]:
    """Build the model, and put it and the data on the device."""
    model = recipe.model(dataset.classes)
    batch = min(options.batch_size, len(dataset.train.labels))
    model.build(dataset.image_shape, backend, max_batch=batch, seed=options.seed)
    trainer = Trainer(model, get_loss(recipe.loss), optimizer, average=average, batch_size=batch, seed=options.seed)
    normalization = Normalization(dataset.train.images)
    train, test = (ResidentSplit(split, backend, normalization) for split in (dataset.train, dataset.test))
    return trainer, train, test


def _fit(trainer: Trainer, train: ResidentSplit, options: argparse.Namespace, summary: _Summary) -> None:
    """Train for all epochs; the summary follows, so that what is known is kept if the run stops early."""
    reads, seconds = trainer.backend.host_reads, 0.0
    for epoch in range(options.epochs):
        with _shown(epoch, options.epochs, train.samples, options.quiet) as (advance, end):
            start = time.perf_counter()
            metrics = trainer.train_epoch(train, epoch, advance)
            elapsed = time.perf_counter() - start
            speed = f"{train.samples / elapsed:,.0f} images/s"
            end(f"loss {metrics.loss:.4f}  accuracy {metrics.accuracy:7.2%}  {speed}")
        seconds += elapsed
        summary.update(
            epochs_done=epoch + 1,
            train_loss=metrics.loss,
            train_accuracy=metrics.accuracy,
            seconds=seconds,
            images_per_second=(epoch + 1) * train.samples / seconds,
            host_syncs_per_epoch=(trainer.backend.host_reads - reads) / (epoch + 1),
        )


# ---- what is shown ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shown(epoch: int, epochs: int, samples: int, quiet: bool) -> Iterator[tuple[Callable | None, Callable]]:
    """Show the progress of one epoch: yield how to advance it by a number of samples, and how to show its results."""
    name = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
    if quiet:
        yield None, lambda results: None
    elif not sys.stdout.isatty():
        yield None, lambda results: print(f"{name}  {results}", flush=True)
    else:
        from rich import progress

        columns = progress.BarColumn(20), progress.TaskProgressColumn(), progress.TimeRemainingColumn()
        layout = progress.TextColumn("{task.description}"), *columns, progress.TextColumn("{task.fields[results]}")
        with progress.Progress(*layout) as bars:
            task = bars.add_task(name, total=samples, results="")
            yield lambda count: bars.advance(task, count), lambda results: bars.update(task, results=results)


def _settings(options: argparse.Namespace, trainer: Trainer) -> dict[str, Any]:
    """What was run, for the summary."""
    return {
        "device": trainer.backend.name,
        "threads": trainer.backend.threads,
        "precision": trainer.backend.products,
        "dataset": options.dataset,
        "model": options.model,
        "epochs": options.epochs,
        "batch_size": trainer.batch_size,
        "seed": options.seed,
        "optimizer": options.optimizer or zoo.get_recipe(options.model).optimizer,
        **{name: getattr(trainer.optimizer, name) for name in trainer.optimizer.hyper_parameters},
        **{name: getattr(options, name) for name in ("schedule", "warm_up", "clip_norm", "average")},
        "versions": _versions() | trainer.backend.versions(),
    }


class _Summary:
    """The results of a run, written whole or not at all; without a path, nothing is written."""

    def __init__(self, path: Path | None):
        self.path = path
        self.fields: dict[str, Any] = {}
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise InputError(f"--summary {path}: cannot be written there; name a file in a folder that exists")

    def update(self, fields: dict[str, Any] | None = None, /, **more: Any) -> None:
        self.fields |= (fields or {}) | more

    def write(self, status: str) -> None:
        if self.path is None:
            return
        required = ("train_loss", "test_loss", "test_accuracy", "weights_sha256")
        fields = {"status": status} | dict.fromkeys(required) | self.fields
        fields = {name: None if value != value or value == math.inf else value for name, value in fields.items()}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n")
        os.replace(temporary, self.path)
