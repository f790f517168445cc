"""The command `gpucnn train`: from options to a trained network."""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

import gpucnn
from gpucnn import data, zoo
from gpucnn.backend import Backend, get_backend
from gpucnn.backend.gpu import missing_gpu_reason
from gpucnn.cli.progress import Summary, progress
from gpucnn.data.device_dataset import DeviceDataset, Normalization
from gpucnn.errors import DivergedError, InputError
from gpucnn.losses import get_loss
from gpucnn.optim.averaging import WeightAverage
from gpucnn.optim.optimizers import Optimizer, get_optimizer
from gpucnn.optim.schedules import get_schedule
from gpucnn.training.checkpoints import Checkpoints, Run, Saver
from gpucnn.training.checkpoints.describe import describe_data, describe_layer, settings_of
from gpucnn.training.trainer import Trainer

__all__ = ["train", "versions"]


def versions() -> dict[str, str]:
    """Return the versions of what computes, that of a device excepted."""
    return {"gpucnn": gpucnn.__version__, "python": platform.python_version(), "numpy": np.__version__}


def train(options: argparse.Namespace) -> None:
    """Train a network as the command line says, test it, and write the summary."""
    say = (lambda _: None) if options.quiet else print
    if options.checkpoint_dir is None and (options.resume or options.checkpoint_every):
        raise InputError("--resume and --checkpoint-every need --checkpoint-dir DIR, where the checkpoints are")
    summary = Summary(options.summary)
    recipe = zoo.get_recipe(options.model)
    schedule = get_schedule(options.schedule, options.warm_up)
    optimizer = _optimizer(options, recipe)
    average = None if options.average is None else WeightAverage(options.average)
    checkpoints = None if options.checkpoint_dir is None else Checkpoints(options.checkpoint_dir, keep=options.keep)
    settings = {"threads": options.threads, "convolution": options.convolution}
    backend = get_backend(options.device, options.precision, **settings)
    say(f"device: {backend.describe()}")
    if options.device == "auto" and backend.name == "cpu":
        say(f"no GPU: {missing_gpu_reason()}")
    dataset = data.load(options.dataset, options.data_dir, download=options.download)
    if dataset.classes < 2:
        raise InputError(
            f"{options.data_dir}: has the one class {dataset.class_names[0]!r}; training needs two or more"
        )
    trainer, train, test = _prepare(options, recipe, optimizer, average, dataset, backend)
    optimizer.set_schedule(schedule, options.epochs * trainer.steps(train))
    say(f"data: {options.dataset}, {train.samples:,} images to train on, {test.samples:,} to test")
    say(f"training: {options.optimizer or recipe.optimizer}, learning rate {optimizer.learning_rate:g}\n")
    say(trainer.model.summary() + "\n")
    summary.update(_settings(options, trainer))
    told = (_outcome(options, trainer, dataset), _place(backend)) if checkpoints else ({}, {})
    run = Run(trainer, train, *told)
    saver = Saver(run, checkpoints, options.checkpoint_every, say) if checkpoints else None
    if saver:
        saver.begin(resume=options.resume)
    try:
        with saver.listening() if saver else nullcontext():
            _fit(run, saver, options, summary)
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
) -> tuple[Trainer, DeviceDataset, DeviceDataset]:
    """Put the data on the device and build the model there, with the batch that is asked for or fits."""
    normalization = Normalization(dataset.train.images)
    augmentation = data.Augmentation(options.shift, options.flip)
    train = DeviceDataset(dataset.train, backend, normalization, augmentation, options.seed)
    test = DeviceDataset(dataset.test, backend, normalization)
    model = recipe.model(dataset.classes)
    model.build(dataset.image_shape, backend, seed=options.seed)
    batch = min(options.batch_size or model.largest_batch(train.samples + 1, optimizer, average), train.samples)
    model.require_memory(max(batch, 1), optimizer, average)
    model.reserve(batch)
    settings = {"batch_size": batch, "seed": options.seed, "graph": not options.eager}
    return Trainer(model, get_loss(recipe.loss), optimizer, average=average, **settings), train, test


def _fit(run: Run, saver: Saver | None, options: argparse.Namespace, summary: Summary) -> None:
    """Train for all epochs; the summary follows, so that what is known is kept if the run stops early."""
    trainer, data = run.trainer, run.data
    reads, first = trainer.backend.host_reads, run.epoch
    summary.update(run.results)
    for epoch in range(first, options.epochs):
        images, before = data.samples - run.batch * trainer.batch_size, run.seconds
        with progress(epoch, options.epochs, data.samples, options.quiet) as (advance, end):
            with run.timed():
                metrics = trainer.train_epoch(data, epoch, _each_batch(run, saver, advance), done=run.batch)
            speed = f"{images / (run.seconds - before):,.0f} images/s"
            end(f"loss {metrics.loss:.4f}  accuracy {metrics.accuracy:7.2%}  {speed}")
        run.end_epoch()
        run.results |= {
            "epochs_done": run.epoch,
            "train_loss": metrics.loss,
            "train_accuracy": metrics.accuracy,
            "seconds": run.seconds,
            "images_per_second": run.epoch * data.samples / run.seconds,
        }
        syncs = (trainer.backend.host_reads - reads) / (run.epoch - first)
        summary.update(run.results, host_syncs_per_epoch=syncs, steps_are_graphs=trainer.replay.recorded > 0)
        if epoch == first and trainer.replay.reason and not options.quiet:
            print(f"each step launches its kernels one by one: {trainer.replay.reason}")
        if saver:
            saver.on_epoch(metrics.loss)


def _each_batch(run: Run, saver: Saver | None, advance: Callable[[int], None] | None) -> Callable[[int], None]:
    """Return what happens after each batch."""

    def on_batch(N: int) -> None:
        run.advance()
        if advance:
            advance(N)
        if saver:
            saver.on_batch()

    return on_batch


def _settings(options: argparse.Namespace, trainer: Trainer) -> dict[str, Any]:
    """What was run, for the summary."""
    asked = ("dataset", "model", "epochs", "seed", "schedule", "warm_up", "clip_norm", "average", "shift", "flip")
    return {
        "device": trainer.backend.name,
        "threads": trainer.backend.threads,
        "precision": trainer.backend.matmul_precision,
        "batch_size": trainer.batch_size,
        "optimizer": options.optimizer or zoo.get_recipe(options.model).optimizer,
        **{name: getattr(trainer.optimizer, name) for name in trainer.optimizer.hyperparameter_names},
        **{name: getattr(options, name) for name in asked},
        "versions": versions() | trainer.backend.versions(),
    }


def _outcome(options: argparse.Namespace, trainer: Trainer, dataset: data.Dataset) -> dict[str, Any]:
    """What the outcome of a run depends on: one that goes on must have the same."""
    asked = ("epochs", "seed", "schedule", "warm_up", "average", "shift", "flip")
    return {
        **{name: getattr(options, name) for name in asked},
        "batch_size": trainer.batch_size,
        "precision": trainer.backend.matmul_precision,
        "data": describe_data(dataset),
        "model": describe_layer(trainer.model),
        "loss": settings_of(trainer.loss),
        "optimizer": settings_of(trainer.optimizer),
    }


def _place(backend: Backend) -> dict[str, Any]:
    """Where a run computes, and with what."""
    return {"device": backend.name, "threads": backend.threads} | versions() | backend.versions()
