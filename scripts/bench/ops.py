"""Time every overridden operation of a backend beside the reference, on the very calls that networks make.

The figure of an operation is the sum over its calls. Which of them are here decides its weight: small arrays, where the
time is that of calling NumPy, and large ones, as the activations of 64 images of 32 x 32 pixels and 16 maps.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from gpucnn import (
    GELU,
    SGD,
    AveragePool2D,
    BatchNorm2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    LpPool2D,
    MeanAbsolutePercentageError,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    SoftmaxCrossEntropy,
    Tanh,
    Trainer,
    WeightAverage,
    ZeroPad2D,
    get_backend,
    zoo,
)
from gpucnn.backend import Backend
from gpucnn.backend.gpu.convolution import ALGORITHMS
from gpucnn.data import Augmentation, DeviceDataset, Normalization, Split
from gpucnn.losses import LOSSES, Loss
from gpucnn.optim.optimizers import OPTIMIZERS, Optimizer
from gpucnn.optim.schedules import Linear

SECONDS_PER_TURN = 0.02
BATCH_SIZE = 64
LEVEL = 0.97, 1.03  # of ratios that no measurement here tells from 1

Call = tuple[str, tuple, dict[str, Any]]  # an operation, its arguments, its keywords

NO_OPERATIONS = {
    *("from_host", "to_host", "memory_of", "owns", "describe", "versions", "on_device", "limit_blas_threads", "taps"),
    *("empty", "zeros", "scratch", "result", "store", "argmax_dtype", "finish", "pool_counts"),
    *("conv2d_workspace", "together", "rehearsal", "free_bytes"),  # tell of memory
    *("record", "keep"),  # record operations
}


def operations() -> list[str]:
    """Names of the operations that every backend has."""
    names = [name for name, _ in inspect.getmembers(Backend, inspect.isfunction)]
    return [name for name in names if not name.startswith("_") and name not in NO_OPERATIONS]


def overridden(backend: Backend) -> list[str]:
    """Names of the operations that a backend computes in its own way."""
    return [name for name in operations() if getattr(type(backend), name) is not getattr(Backend, name)]


def record(backend: Backend, run: Callable[[], None]) -> dict[tuple, Call]:
    """Run something; return the first call of each overridden operation on arguments of each shape.

    Arrays are copied as the call finds them: later operations write over them, and one that works in place would find
    its own result when it is timed, which after some derivatives in a row is subnormal, and slow to compute with.
    """
    calls: dict[tuple, Call] = {}

    def recorded(name: str) -> Callable:
        operation = getattr(backend, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            key = (name, *map(signature, (*arguments, *keywords.values())))
            if key not in calls:
                copies = {name: copied(value) for name, value in keywords.items()}
                calls[key] = (name, tuple(map(copied, arguments)), copies)
            return operation(*arguments, **keywords)

        return call

    with replaced(backend, {name: recorded(name) for name in overridden(backend)}):
        run()
    return calls


def copied(value: Any) -> Any:
    """Return a copy of an array, or of those in a list, or any other argument itself."""
    if isinstance(value, list):
        return list(map(copied, value))
    return value.copy() if hasattr(value, "shape") else value


@contextmanager
def replaced(owner: object, methods: dict[str, Callable]) -> Iterator[None]:
    """Give one object other methods for a while."""
    try:
        vars(owner).update(methods)
        yield
    finally:
        for name in methods:
            delattr(owner, name)


def signature(value: Any) -> Any:
    """Return what tells calls apart: the shape of an array, or any other argument itself."""
    if isinstance(value, list):
        return tuple(map(signature, value))
    return tuple(value.shape) if hasattr(value, "shape") else value


def record_all(backend: Backend) -> list[Call]:
    """Return a call of each overridden operation on arguments of each shape, sorted by operation."""
    calls: dict[tuple, Call] = {}
    for run in steps(backend):
        calls = record(backend, run) | calls
    return sorted(calls.values(), key=lambda call: call[0])


def steps(backend: Backend) -> Iterator[Callable[[], None]]:
    """Yield training steps, and what else calls operations, so that together they call every overridden one."""
    momentum = SGD(0.01, 0.9, nesterov=True, weight_decay=1e-4, clip_norm=1e-7)  # so small that all are clipped
    momentum.set_schedule(Linear(), 1000)
    for model, shape in ((zoo.mnist(), (28, 28, 1)), (zoo.vgg(), (32, 32, 3)), (toolbox(), (32, 32, 16))):
        yield training(backend, model, shape, SoftmaxCrossEntropy(), SGD(0.01, 0.9))
    for optimizer in (momentum, *(kind(0.01) for kind in OPTIMIZERS.values())):
        yield training(backend, classifier(10), (28, 28, 1), SoftmaxCrossEntropy(label_smoothing=0.1), optimizer)
    for loss in LOSSES.values():
        for classes in (10, 1000):
            yield training(backend, classifier(classes), (28, 28, 1), loss(), SGD(0.01))
    for shape in ((28, 28, 1), (32, 32, 3)):
        yield partial(resident(backend, shape, Augmentation(2, flip=True)).next_batch, BATCH_SIZE)
    matrices = backend.zeros((BATCH_SIZE, 1000)), backend.zeros((1000, 1000))
    yield lambda: backend.matmul(*matrices)  # called by graphs of ONNX alone, which are no part of a network here


def toolbox() -> Sequential:
    """Return the layers that the networks of the zoo have not, each on large arrays and some on small ones too."""
    body = Sequential([BatchNorm2D(), ReLU(), Conv2D(16, 1)])  # not after a convolution, into which it is folded
    return Sequential(
        [
            *(Conv2D(16, 3, padding=1), BatchNorm2D(), Tanh(), Sigmoid(), Dropout(0.5), GELU(), GELU(approximate=True)),
            *(Residual(body), ZeroPad2D(1), Parallel([Conv2D(8, 3), Conv2D(8, 3)])),
            *(Softmax(), AveragePool2D(2), Conv2D(16, 3, stride=2), LpPool2D(2), Sigmoid(), Tanh()),
            *(Dropout(0.5), Flatten(), Dense(10), Softmax()),
        ]
    )


def classifier(classes: int) -> Sequential:
    """Return a network of dense layers; its outputs are in 0..1, as some losses want them."""
    return Sequential([Flatten(), Dense(1000), ReLU(), Dense(classes), Sigmoid()])


def resident(backend: Backend, shape: tuple[int, ...], augmentation: Augmentation | None = None) -> DeviceDataset:
    """Return four batches of random images, in random order."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * BATCH_SIZE, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, len(images), dtype=np.int32)
    data = DeviceDataset(Split(images, labels), backend, Normalization(images), augmentation)
    data.shuffle(rng, epoch=0)
    return data


def training(
    backend: Backend, model: Sequential, shape: tuple[int, ...], loss: Loss, optimizer: Optimizer
) -> Callable[[], None]:
    """Return a step on one batch of random images, and an inference."""
    rng, data = np.random.default_rng(0), resident(backend, shape)
    model.build(shape, backend)
    trainer = Trainer(model, loss, optimizer, average=WeightAverage())

    def run() -> None:
        x, y = data.next_batch(BATCH_SIZE)
        if isinstance(loss, MeanAbsolutePercentageError):  # which takes no labels
            y = backend.from_host(rng.uniform(0.1, 1, (BATCH_SIZE, *model.output_shape)).astype(np.float32))
        trainer.step(x, y)
        model.predict(x)

    return run


def compare(call: Call, backend: Backend, reference: Backend, rounds: int) -> dict[str, Any]:
    """Time one call on both in turns; the ratio is above 1 where the override is faster."""
    name, arguments, _ = call
    seconds: dict[str, list[float]] = {"override": [], "reference": []}
    for _ in range(rounds):
        for kind, owner in (("override", backend), ("reference", reference)):
            seconds[kind].append(time_call(backend, repeatable(call, owner)))
    ratios = [slow / fast for slow, fast in zip(seconds["reference"], seconds["override"], strict=True)]
    shapes = " ".join("x".join(map(str, value.shape)) for value in arguments if getattr(value, "ndim", 0))
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {"operation": name, "shapes": shapes, "seconds": medians, "ratio": statistics.median(ratios)}


def in_all_ways(calls: Sequence[Call], backend: Backend) -> Iterator[tuple[str, Call]]:
    """Yield each call with a name for its figure; on a GPU a convolution once for each way to convolve."""
    default = getattr(backend, "convolution", None)
    for call in calls:
        if default is None or not call[0].startswith("conv2d"):
            yield call[0], call
            continue
        for way in ALGORITHMS:
            backend.convolution = way
            yield f"{call[0]}, {way}", call
        backend.convolution = default


def repeatable(call: Call, backend: Backend) -> Callable[[], Any]:
    """Return a call on a backend as a function that may be called any number of times."""
    name, arguments, keywords = call
    operation = getattr(backend, name)
    if name != "gather_batch":
        return lambda: operation(*arguments, **keywords)
    cursor = arguments[3]

    def gather() -> None:
        cursor[...] = 0  # else it leaves the data set, which ends
        operation(*arguments, **keywords)

    return gather


def time_call(backend: Backend, call: Callable[[], Any]) -> float:
    """Return the mean time of one call in seconds, over as many as fill a turn; the first two may compile and load."""
    timed(backend, call, 2)
    once = timed(backend, call, 1)
    return timed(backend, call, max(1, int(SECONDS_PER_TURN / once)))


def timed(backend: Backend, call: Callable[[], Any], times: int) -> float:
    """Return the mean time of `times` calls, after waiting for the device."""
    probe = backend.zeros((1,))
    start = time.perf_counter()
    for _ in range(times):
        call()
    backend.to_host(probe)
    return (time.perf_counter() - start) / times


def totals(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each operation: the time of all its calls on both sides, and the ratio of the two."""
    rows = []
    for name in dict.fromkeys(found["operation"] for found in results):
        calls = [found["seconds"] for found in results if found["operation"] == name]
        seconds = {kind: sum(call[kind] for call in calls) for kind in ("override", "reference")}
        ratio = seconds["reference"] / seconds["override"]
        rows.append({"operation": name, "calls": len(calls), "seconds": seconds, "ratio": ratio})
    return rows


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Say which operations are not ahead of the reference in total."""

    def names(least: float, below: float) -> str:
        found = [f"{row['operation']} {row['ratio']:.2f}" for row in rows if least <= row["ratio"] < below]
        return ", ".join(found) or "none"

    low, high = LEVEL
    return (
        f"slower than the reference: {names(0, low)}\n"
        f"level with it (what they save is memory: they allocate nothing): {names(low, high)}"
    )


def line(row: dict[str, Any], about: str) -> str:
    """Return a row of a table: an operation, its times, their ratio, and what the row is about."""
    times = (f"{row['seconds'][kind] * 1e3:7.3f} ms" for kind in ("override", "reference"))
    return f"{row['operation']:<26} {' '.join(times)} {row['ratio']:6.2f}  {about}"


def run_operations(options: argparse.Namespace) -> dict[str, Any]:
    """Time every overridden operation of the device's backend, on one thread; print each call, and sums of them."""
    backend = get_backend(options.device, threads=1 if options.device == "cpu" else None)
    reference = Backend(xp=backend.xp)
    heading = f"{'operation':<26} {'override':>10} {'reference':>10}  ratio "
    results = []
    print(f"{heading} arguments")
    for name, call in in_all_ways(record_all(backend), backend):
        with backend.limit_blas_threads():
            results.append(compare(call, backend, reference, options.rounds) | {"operation": name})
        print(line(results[-1], results[-1]["shapes"]), flush=True)
    rows = totals(results)
    print(f"\n{heading} calls")
    for row in rows:
        print(line(row, row["calls"]))
    missing = sorted(set(overridden(backend)) - {row["operation"] for row in rows})
    print(f"\n{verdict(rows)}\nnot timed: {', '.join(missing) or 'none'}")
    return {
        "command": "ops",
        "device": backend.name,
        "rounds": options.rounds,
        "results": results,
        "totals": rows,
        "not_timed": missing,
    }
