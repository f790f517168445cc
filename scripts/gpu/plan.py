"""What `scripts/gpu/check.py` consists of: its parts, what they are predicted to take, and its plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpu import parts, speed
from gpu.job import Clock, Job, Row

# ---- what a part takes --------------------------------------------------------------------------------------------

# Predicted seconds, of which none was measured on a GPU: they share out the time, and say what a plan has room for.
START = 4.0  # of a process, until it has imported CuPy and made a backend
COMPILE = 0.25  # of a kernel, once on a machine: CuPy keeps what it compiled
REFERENCES = 25.0  # of the part `kernels` for its results in float64, on the host: 33 were measured on two CPU cores
TRAINING = 1.0  # of two short epochs of a network
TO_TARGET = 4.5  # of a training run to its target accuracy


def kernels_seconds(job: Job) -> float:
    """Return the predicted seconds of `kernels`: references on the host, and nearly every kernel is compiled."""
    return START + REFERENCES + COMPILE * (130 + 20 * len(job.precisions))


def training_seconds(job: Job, runs: float) -> float:
    """Return the predicted seconds of so many short trainings of each network."""
    return START + TRAINING * runs * len(job.networks)


def steps_seconds(job: Job) -> float:
    """Return the predicted seconds of the first pass of `steps`; the others take what time is left."""
    kinds = speed.PASSES[0]
    turns = (2 + job.rounds) * job.turn_seconds * len(kinds)
    rows = len(job.timed) * len(job.precisions) * (speed.set_up_seconds(kinds) + turns + 1)
    return START + max(60 * COMPILE, speed.IMPORT) + rows  # the first step is compiled during the import


@dataclass(frozen=True)
class Part:
    """A function that yields rows, and the seconds it is predicted to take, by which parts share their time."""

    find: Callable[[Job, Clock], Iterator[Row]]
    seconds: Callable[[Job], float]


PARTS = {
    "machine": Part(parts.machine, lambda job: START + 1),
    "kernels": Part(parts.kernels, kernels_seconds),
    "graph": Part(parts.graph, lambda job: training_seconds(job, 2.5)),
    "determinism": Part(parts.determinism, lambda job: training_seconds(job, 3 * len(job.precisions))),
    "bandwidth": Part(speed.bandwidth, lambda job: START + 0.6 * (1 + len(speed.MEMORY_BOUND))),
    "costs": Part(speed.costs, lambda job: 3 * START + 30 * COMPILE + 2),
    # in one process, without pytest-xdist, they do not fit into a plan, and are stopped
    "tests": Part(parts.tests, lambda job: 20 + 180 / job.test_workers),
    "steps": Part(speed.steps, steps_seconds),
    "accuracy": Part(parts.accuracy, lambda job: START + 1 + TO_TARGET * len(job.classifiers) * len(job.precisions)),
    "sanitizer": Part(parts.sanitizer, lambda job: 3 * START + 30 * COMPILE),
}


@dataclass(frozen=True)
class Block:
    """Parts that share so many seconds, and a file that is named after them."""

    name: str
    parts: tuple[str, ...]
    seconds: float


MENDED = "mended"  # the block of the parts that `--only` names
PLANS = {
    "first": (
        Block("kernels", ("machine", "kernels"), 105),
        Block("training", ("graph", "determinism"), 75),
        Block("speed", ("bandwidth", "costs"), 60),
        Block("tests", ("tests",), 75),
    ),
    "second": (
        Block("steps", ("machine", "steps"), 150),
        Block("accuracy", ("accuracy",), 40),
        Block("sanitizer", ("sanitizer",), 30),
        Block(MENDED, (), 80),
    ),
}
PLAN_TIMED = ("lenet5", 64), ("vgg", 512), ("resnet18", 512)
