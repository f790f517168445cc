"""Training: steps that only enqueue work on the device, and one read of the results per epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from gpucnn.checks import integer
from gpucnn.data.device_dataset import DeviceDataset
from gpucnn.errors import DeviceError, DivergedError, InputError
from gpucnn.execution.step_graphs import Replay
from gpucnn.losses import Loss
from gpucnn.model import Sequential
from gpucnn.optim.averaging import WeightAverage
from gpucnn.optim.optimizers import Optimizer
from gpucnn.representation import representation
from gpucnn.training.divergence import DivergenceTracer

__all__ = ["Metrics", "Trainer"]

Array = Any


@dataclass(frozen=True)
class Metrics:
    """Means over the samples of an epoch or a test set that have a target: all but those of an ignored label.

    >>> metrics = Metrics(loss=0.25, accuracy=0.9, samples=100)
    >>> f"{metrics.accuracy:.0%} of {metrics.samples}"
    '90% of 100'
    """

    loss: float
    accuracy: float
    samples: int


class Trainer:
    """Trains a built model: forward, loss, backward, update (paper, section 3).

    With an `average` of the weights, each step adds to it, and `evaluate` uses the averaged weights. On a GPU the steps
    of an epoch, and those of a test, are recorded as a CUDA graph, unless `graph` is off: see `Replay`. `replay` and
    `test_replay` are those of the last epoch and of the last test.

    >>> from gpucnn.data import DeviceDataset, Normalization, load
    >>> digits, backend = load("digits"), get_backend("cpu")
    >>> normalization = Normalization(digits.train.images)
    >>> train, test = (DeviceDataset(split, backend, normalization) for split in (digits.train, digits.test))
    >>> model = Sequential([Flatten(), Dense(10)])
    >>> shape = model.build(digits.image_shape, backend, max_batch=64, seed=0)
    >>> trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.05, 0.9), batch_size=64, seed=0)
    >>> losses = [trainer.train_epoch(train, epoch).loss for epoch in range(3)]
    >>> losses[0] > losses[1] > losses[2], trainer.evaluate(test).accuracy > 0.9
    (True, True)

    Parameters
    ----------
    average : a `WeightAverage`, or None
    batch_size : number of samples of a step; the last of an epoch may have fewer
    seed : of the order of the samples

    Raises `InputError` for what is not a model, a loss, an optimizer or a batch size, and for a model that is not
    built, or is a part of another.
    """

    def __init__(
        self,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        *,
        average: WeightAverage | None = None,
        batch_size: int = 64,
        seed: int = 0,
        graph: bool = True,
    ):
        self.batch_size = integer(batch_size, "Trainer: batch_size", least=1)
        parts = [("model", model, Sequential), ("loss", loss, Loss), ("optimizer", optimizer, Optimizer)]
        for what, part, kind in parts + [("average", average, WeightAverage)] * (average is not None):
            if not isinstance(part, kind):
                raise InputError(f"Trainer: {what} must be of the type {kind.__name__}, received {part!r}")
        if model.arena is None:
            raise InputError("Trainer: the model has no arrays of its own; call build, and train whole models only")
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.average, self.seed, self.graph = average, seed, graph
        self.backend = model.backend
        model.fix_device()
        loss.build(self.backend)
        optimizer.attach(model.arena, self.backend)
        if average:
            average.attach(model.arena, self.backend)
        self._totals = self.backend.zeros((4,), self.backend.xp.float64)
        self.replay = self.test_replay = Replay(self.backend)
        self._tracer = DivergenceTracer(model)
        self._began = 0, 0  # epoch and batches done when `train_epoch` was last called

    def __repr__(self) -> str:
        return representation(self)

    def step(self, x: Array, y: Array) -> None:
        """Enqueue one update from a batch; nothing is read back."""
        with self.backend.limit_blas_threads(), self.model.explained(x.shape[0]):
            outputs = self.model.forward(x, train=True)
            self.loss.forward(outputs, y, totals=self._totals)
            self.model.backward(self.loss.backward(), need_dx=False)
            self.optimizer.step()
            if self.average:
                self.average.update()

    def _next_step(self, data: DeviceDataset, N: int) -> None:
        self.step(*data.next_batch(N))

    def steps(self, data: DeviceDataset) -> int:
        """Return the number of steps in an epoch; the last may have a smaller batch."""
        return math.ceil(data.samples / self.batch_size)

    def state(self, data: DeviceDataset) -> dict[str, Array]:
        """Return all arrays that a run carries from step to step, by name: with their values it goes on bit for bit."""
        parts: dict[str, Any] = {"optimizer": self.optimizer, "data": data}
        parts |= {"average": self.average} if self.average else {}
        arrays = {f"model.{name}": array for name, array in self.model.arrays().items()}
        arrays |= {f"{part}.{name}": array for part, owner in parts.items() for name, array in owner.state().items()}
        return arrays | {"totals": self._totals}

    @contextmanager
    def _replayed(self, data: DeviceDataset) -> Iterator[Replay]:
        """Give what runs steps on these data; afterwards its recordings are of no more use."""
        parts = [*self.model.parts(), *self.model.program.replica_layers()]
        owners = [*parts, self.loss, self.optimizer, data, *filter(None, [self.average])]
        replay = Replay(self.backend, is_wanted=self.graph, state=partial(self.state, data), owners=owners)
        try:
            yield replay
        finally:
            replay.close()

    def on_state_loaded(self) -> None:
        """Take note that `state` has come from elsewhere."""
        for part in (self.optimizer, self.average):
            if part:
                part.on_state_loaded()

    def train_epoch(
        self, data: DeviceDataset, epoch: int, on_batch: Callable[[int], None] | None = None, *, done: int = 0
    ) -> Metrics:
        """Train on every sample once, in an order drawn from the seed and the number of the epoch (from 0).

        `on_batch` is called with the size of each batch when its step is enqueued. An epoch that stopped goes on after
        the `done` batches that it had, if `state` is again what it was then.

        Raises
        ------
        DivergedError
            At the end of the epoch, if the loss became NaN or infinite; names the step it did in.
        """
        self._check(data)
        with self.backend.on_device(), self._replayed(data) as self.replay:
            if not done:
                self._totals[...] = 0
                data.shuffle(np.random.default_rng((self.seed, epoch)), epoch)
            self._began = epoch, done
            self._tracer.keep(self.state(data))
            with np.errstate(all="ignore"):  # NaN and infinity are reported below, once
                for N in islice(self._batches(data), done, None):
                    self.replay.run((N, *self.optimizer.kind), partial(self._next_step, data, N))
                    if on_batch:
                        on_batch(N)
            metrics, finite = self._read_totals()
        if math.isnan(metrics.loss):
            raise self.diverged(data, finite, self.steps(data))
        return metrics

    def diverged(self, data: DeviceDataset, finite: int, steps: int) -> DivergedError:
        """Return the error of an epoch whose loss stayed finite for so many samples, found after so many steps.

        The steps are made again to see in which array it began; what `state` is afterwards serves for nothing.
        """
        epoch, done = self._began
        step = finite // self.batch_size
        rate = self.optimizer.learning_rate_at(steps - step)
        again = (partial(self._next_step, data, N) for N in islice(self._batches(data), done, steps))
        with self.backend.on_device(), np.errstate(all="ignore"):
            found = self._tracer.find(self.state(data), again)
        return DivergedError(
            f"the loss became NaN or infinite in epoch {epoch + 1}, step {step + 1}, at learning rate {rate:g}"
            f"{found and f', which began in {found}'}; try a smaller learning rate"
        )

    def evaluate(self, data: DeviceDataset) -> Metrics:
        """Return the mean loss (NaN if it is not finite) and the accuracy over all samples, without training.

        Raises `InputError` where the data do not suit the model, and `DeviceError` where they are on another device.
        """
        self._check(data)
        applied = self.average.applied() if self.average else nullcontext()
        repeated = self._replayed(data)
        with applied, self.backend.limit_blas_threads(), repeated as self.test_replay, np.errstate(all="ignore"):
            self._totals[...] = 0
            data.rewind()
            for N in self._batches(data):
                self.test_replay.run(N, partial(self._next_test, data, N))
            return self._read_totals()[0]

    def _next_test(self, data: DeviceDataset, N: int) -> None:
        x, y = data.next_batch(N, train=False)
        self.loss.forward(self.model.forward(x, train=False), y, train=False, totals=self._totals)

    def _check(self, data: DeviceDataset) -> None:
        """Check that the data suit the model."""
        model = self.model
        if (data.backend.name, data.backend.matmul_precision) != (self.backend.name, self.backend.matmul_precision):
            raise DeviceError(
                f"Trainer: the model is on {self.backend.name} in {self.backend.matmul_precision}, the data on "
                f"{data.backend.name} in {data.backend.matmul_precision}; give both the same backend"
            )
        if tuple(data.images.shape[1:]) != model.input_shape:
            raise InputError(f"Trainer: {model.label} takes {model.input_shape}, images are {data.images.shape[1:]}")
        labels = [label for label in data.label_values if label != self.loss.ignored_label]
        classes = model.output_shape[-1]
        if labels and not 0 <= labels[0] <= labels[-1] < classes:
            raise InputError(
                f"Trainer: labels are {labels[0]} to {labels[-1]}, but the model has outputs for 0 to {classes - 1}"
            )

    def _batches(self, data: DeviceDataset) -> Iterator[int]:
        """Sizes of the batches that make up an epoch; the last may be smaller."""
        full, rest = divmod(data.samples, self.batch_size)
        yield from [self.batch_size] * full
        if rest:
            yield rest

    def _read_totals(self) -> tuple[Metrics, int]:
        """Read the totals: the one wait for the device in an epoch."""
        loss, hits, samples, finite = self.backend.to_host(self._totals).tolist()
        divisor = max(samples, 1.0)  # if no sample has a target, loss and accuracy are 0
        mean = loss / divisor if math.isfinite(loss) else math.nan
        return Metrics(mean, hits / divisor, int(samples)), int(finite)
