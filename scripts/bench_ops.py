"""Time every overridden operation of a backend beside the reference, on the very calls that networks make."""

from __future__ import annotations

import argparse
import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn import (
    AveragePool2D,
    BatchNorm2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    LpPool2D,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    SoftmaxCrossEntropy,
    Tanh,
    get_backend,
    zoo,
)
from gpucnn.backend import Backend
from gpucnn.losses import LOSSES, Loss
from gpucnn.optimizers import OPTIMIZERS, Optimizer

SECONDS_PER_TURN = 0.02
BATCH_SIZE = 64

Call = tuple[str, tuple, dict[str, Any]]  # an operation, its arguments, its keywords


NO_OPERATIONS = {
    *("from_host", "to_host", "owns", "describe", "versions", "activate", "at_work", "taps"),
    *("empty", "zeros", "scratch", "winner_dtype"),
}


def operations() -> list[str]:
    """Names of the operations that every backend has."""
    names = [name for name, _ in inspect.getmembers(Backend, inspect.isfunction)]
    return [name for name in names if not name.startswith("_") and name not in NO_OPERATIONS]


def overridden(backend: Backend) -> list[str]:
    """Names of the operations that a backend computes in its own way."""
    return [name for name in operations() if getattr(type(backend), name) is not getattr(Backend, name)]


def record(backend: Backend, run: Callable[[], None]) -> dict[tuple, Call]:
    """Run something; return the first call of each overridden operation on arguments of each shape."""
    calls: dict[tuple, Call] = {}

    def recorded(name: str) -> Callable:
        operation = getattr(backend, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            key = (name, *map(signature, (*arguments, *keywords.values())))
            calls.setdefault(key, (name, arguments, keywords))
            return operation(*arguments, **keywords)

        return call

    with replaced(backend, {name: recorded(name) for name in overridden(backend)}):
        run()
    return calls


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
    return tuple(value.shape) if hasattr(value, "shape") else value


def steps(backend: Backend) -> Iterator[Callable[[], None]]:
    """Yield training steps that together call every operation of a network."""
    toolbox = Sequential(
        [
            *(Conv2D(16, 3, padding=1), BatchNorm2D(), Tanh(), AveragePool2D(2), Conv2D(16, 3, 2), LpPool2D(2)),
            *(Sigmoid(), Dropout(0.5), Flatten(), Dense(10), Softmax()),
        ]
    )
    for model, shape in ((zoo.mnist(), (28, 28, 1)), (zoo.vgg(), (32, 32, 3)), (toolbox, (32, 32, 16))):
        model.build(shape, backend)
        yield lambda model=model: step(model, OPTIMIZERS["sgd"](0.01, 0.9), SoftmaxCrossEntropy())
    for optimizer in OPTIMIZERS.values():
        for loss in LOSSES.values():
            model = Sequential([Dense(1000), ReLU(), Dense(10), Sigmoid()])
            model.build((1000,), backend)
            yield lambda model=model, optimizer=optimizer, loss=loss: step(model, optimizer(0.01), loss())


def step(model: Sequential, optimizer: Optimizer, loss: Loss) -> None:
    """Train on one batch of random numbers, and predict."""
    backend, rng = model.backend, np.random.default_rng(0)
    x = backend.from_host(rng.standard_normal((BATCH_SIZE, *model.input_shape), dtype=np.float32))
    targets = backend.from_host(rng.uniform(0.1, 1, (BATCH_SIZE, *model.output_shape)).astype(np.float32))
    labels = backend.from_host(rng.integers(0, 10, BATCH_SIZE).astype(np.int32))
    optimizer.attach(model.arena, backend)
    loss.build(backend)
    loss.forward(model.forward(x), labels if loss.operation == "softmax_cross_entropy" else targets)
    model.backward(loss.backward(), need_dx=False)
    optimizer.step()
    model.predict(x)


def compare(call: Call, backend: Backend, reference: Backend, rounds: int) -> dict[str, Any]:
    """Time one call on both in turns; the ratio is above 1 where the override is faster."""
    name, arguments, keywords = call
    seconds: dict[str, list[float]] = {"override": [], "reference": []}
    for _ in range(rounds):
        for kind, owner in (("override", backend), ("reference", reference)):
            operation = getattr(owner, name)
            seconds[kind].append(time_call(backend, lambda run=operation: run(*arguments, **keywords)))
    ratios = [slow / fast for slow, fast in zip(seconds["reference"], seconds["override"], strict=True)]
    shapes = " ".join("x".join(map(str, value.shape)) for value in arguments if getattr(value, "ndim", 0))
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {"operation": name, "shapes": shapes, "seconds": medians, "ratio": statistics.median(ratios)}


def time_call(backend: Backend, call: Callable[[], Any]) -> float:
    """Return the mean time of one call in seconds, over as many as fill a turn."""
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


def run_operations(options: argparse.Namespace) -> dict[str, Any]:
    """Time every overridden operation of the device's backend, on one thread; print a line for each call."""
    backend = get_backend(options.device, threads=1 if options.device == "cpu" else None)
    reference = Backend(xp=backend.xp)
    calls: dict[tuple, Call] = {}
    for run in steps(backend):
        calls = record(backend, run) | calls
    results = []
    print(f"{'operation':<26} {'override':>10} {'reference':>10}  ratio  arguments")
    for call in sorted(calls.values(), key=lambda call: call[0]):
        with backend.at_work():
            found = compare(call, backend, reference, options.rounds)
        results.append(found)
        times = (f"{found['seconds'][kind] * 1e3:7.3f} ms" for kind in ("override", "reference"))
        print(f"{found['operation']:<26} {' '.join(times)} {found['ratio']:6.2f}  {found['shapes']}", flush=True)
    slower = sorted({found["operation"] for found in results if found["ratio"] < 1})
    missing = sorted(set(overridden(backend)) - {found["operation"] for found in results})
    print(f"\nslower than the reference somewhere: {', '.join(slower) or 'none'}")
    print(f"not timed: {', '.join(missing) or 'none'}")
    return {"command": "ops", "device": backend.name, "rounds": options.rounds, "results": results}
