"""The parts of `scripts/gpu_check.py` that say whether everything works; each yields rows."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import bench_ops
import numpy as np
from bench_engine import image_shape
from gpu_job import Clock, Job, Row, attempt, make_backend, random_data

import gpucnn
from gpucnn import SGD, SoftmaxCrossEntropy, Trainer, data, zoo
from gpucnn.backend import Backend
from gpucnn.backend.gpu.device import first_line
from gpucnn.backend.gpu.gemm import Gemm
from gpucnn.data import ResidentSplit, Split
from gpucnn.data.resident import Normalization
from gpucnn.doctor import processor
from gpucnn.errors import InputError
from gpucnn.losses import get_loss
from gpucnn.optimizers import get_optimizer
from gpucnn.schedules import Linear

ROOT = Path(__file__).resolve().parent.parent
TAIL = 30  # lines of the output of tests that fail
TARGETS = {"mnist": 0.99, "digits": 0.97}  # accuracy on the test set

CONVOLUTIONS = "conv2d", "conv2d_dx", "conv2d_dw_db"
PRODUCTS = *CONVOLUTIONS, "matmul", "dense", "dense_dx", "dense_dw_db", "sum_rows"
WRITTEN = "out", "dw", "db", "dx", "dgamma", "dbeta", "moments"  # arguments of which only the result counts

# Rounding of sums in float32, in units of the last place of the largest result, or in products of the sum of |a||b|.
SUM_ERROR = 128 * 2.0**-23
# Of each factor, cut off to 11 or 8 significant bits.
FACTOR_ERROR = {"float32": 0.0, "tf32": 2.0**-10, "bf16": 2.0**-7}


# ---- machine ------------------------------------------------------------------------------------------------------


def machine(job: Job, clock: Clock) -> Iterator[Row]:
    """Name the GPU, the processor, and all software that has a part in the results."""
    backend = make_backend(job.device)
    runtime = backend.xp.cuda.runtime
    about = runtime.getDeviceProperties(backend.device)
    facts = {
        "GPU": lambda: about["name"].decode(),
        "compute capability": lambda: f"{about['major']}.{about['minor']}",
        "GPU memory, bytes": lambda: about["totalGlobalMem"],
        "multiprocessors": lambda: about["multiProcessorCount"],
        "L2 cache, bytes": lambda: about["l2CacheSize"],
        "driver": driver,
        "CUDA of the driver": lambda: str(runtime.driverGetVersion()),
        "CUDA runtime": lambda: str(runtime.runtimeGetVersion()),
        "cuBLAS": lambda: str(Gemm(backend.xp, backend.device).version()),
        "NVRTC": nvrtc_version,
        "CuPy": lambda: backend.xp.__version__,
        "NumPy": lambda: np.__version__,
        "PyTorch": lambda: version("torch"),
        "gpucnn": lambda: gpucnn.__version__,
        "Python": platform.python_version,
        "processor": lambda: f"{processor()}, {os.cpu_count()} cores",
        "system": platform.platform,
        "date": lambda: time.strftime("%Y-%m-%d"),
    }
    yield from ({"what": what, "value": told(find)} for what, find in facts.items())


def told(find: Callable[[], Any]) -> Any:
    """Return a fact, or why it is not known."""
    try:
        return find()
    except PackageNotFoundError:
        return "absent"
    except Exception as error:
        return f"unknown ({first_line(error)})"


def driver() -> str:
    """Return the version of the NVIDIA driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split()[0]


def nvrtc_version() -> str:
    """Return the version of the compiler of the kernels."""
    from cupy_backends.cuda.libs import nvrtc

    return ".".join(map(str, nvrtc.getVersion()))


# ---- tests --------------------------------------------------------------------------------------------------------


def tests(job: Job, clock: Clock) -> Iterator[Row]:
    """Run the test suite where a GPU is required: first the tests that need one, then all others."""
    for name, mark in (("on the GPU", "gpu"), ("without it", "not gpu")):
        yield attempt(clock, {"tests": name}, partial(run_tests, job, mark, clock.left))


def run_tests(job: Job, mark: str, seconds: float) -> Row:
    """Run the tests with or without a mark; count them even if they are stopped."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", mark, *job.tests]
    command += ["-o", "console_output_style=classic"]  # lines of nothing but a letter for each test
    start, reason = time.perf_counter(), ""
    with tempfile.TemporaryFile("w+") as output:
        environment = os.environ | {"GPUCNN_REQUIRE_GPU": "1"}
        options = {"cwd": ROOT, "env": environment, "stdout": output, "stderr": subprocess.STDOUT}
        try:
            code = subprocess.run(command, check=False, timeout=seconds, **options).returncode
            reason = f"pytest ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            reason = f"stopped after {seconds:.0f} s"
        output.seek(0)
        text = output.read()
    found = count_tests(text) | {"seconds": time.perf_counter() - start, "ok": not reason}
    return found | ({"reason": reason, "tail": "\n".join(text.splitlines()[-TAIL:])} if reason else {})


def count_tests(output: str) -> Row:
    """Count the letters that pytest has printed."""
    letters = "".join(re.findall(r"^[.FEsxX]+$", output, re.MULTILINE))
    kinds = {"passed": ".xX", "failed": "FE", "skipped": "s"}
    return {kind: sum(map(letters.count, of_kind)) for kind, of_kind in kinds.items()}


# ---- kernels ------------------------------------------------------------------------------------------------------


def kernels(job: Job, clock: Clock) -> Iterator[Row]:
    """Compare each operation that the GPU backend overrides with the reference in float64, on calls of real steps."""
    backend = make_backend(job.device)
    calls: dict[tuple, bench_ops.Call] = {}
    for run in recorded_steps(backend, job):
        calls = bench_ops.record(backend, run) | calls
    recorded = sorted(calls.values(), key=lambda call: call[0])
    for operation, of_operation in groupby(recorded, key=lambda call: call[0]):
        references = cache(partial(make_references, [*of_operation], backend))  # in the first variant's time
        for precision, convolution in variants(operation, job.precisions):
            about = {"operation": operation, "precision": precision, "convolution": convolution}
            yield attempt(clock, about, partial(check_operation, references, job.device, **about))
    missing = set(bench_ops.overridden(backend)) - {call[0] for call in recorded}
    if missing:
        yield {"operation": ", ".join(sorted(missing)), "left_out": "no step here calls it"}


def recorded_steps(backend: Backend, job: Job) -> Iterator[Callable[[], None]]:
    """Yield training steps of networks of the zoo, and steps of the benchmark that call all other operations."""
    for name in job.networks:
        model = zoo.get_recipe(name).model()
        yield bench_ops.training(backend, model, image_shape(name), SoftmaxCrossEntropy(), SGD(0.01, 0.9))
    yield from bench_ops.steps(backend)


def variants(operation: str, precisions: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return in which precisions, and by which kinds of convolution, an operation is computed."""
    if operation in CONVOLUTIONS:
        return [(precision, kind) for precision in precisions for kind in ("columns", "implicit")]
    return [(precision, "") for precision in (precisions if operation in PRODUCTS else precisions[:1])]


class References:
    """One call, what the reference makes of it in float64, and the yardstick of its errors."""

    def __init__(self, call: bench_ops.Call, backend: Backend):
        self.call, self.backend = call, backend
        self.values = self._compute(lambda array: array)
        is_product = call[0] in PRODUCTS
        yardsticks = self._compute(np.abs) if is_product else self.values
        self.scales = [value if is_product else np.max(np.abs(value), initial=0) for value in yardsticks]

    def _compute(self, change: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        """Run the reference on arguments whose floats are changed; return all arrays there are afterwards."""

        def place(name: str, value: Any) -> Any:
            if not self.backend.owns(value):
                return value
            host = self.backend.to_host(value)
            return change(host.astype(np.float64)) if host.dtype.kind == "f" else host

        return results_of(self.call, Backend("float64"), place)

    def error(self, backend: Backend) -> float:
        """Return the largest error of a backend, relative to the yardstick; infinite where whole numbers differ."""

        def place(name: str, value: Any) -> Any:
            if not self.backend.owns(value):
                return value
            copy = value.copy()
            if name in WRITTEN and copy.dtype.kind == "f":
                copy[...] = np.nan  # what is not written shows
            return copy

        found = map(backend.to_host, results_of(self.call, backend, place))
        compared = zip(found, self.values, self.scales, strict=True)
        with np.errstate(all="ignore"):
            return float(np.max([largest_error(*triple) for triple in compared], initial=0))


def results_of(call: bench_ops.Call, backend: Backend, place: Callable[[str, Any], Any]) -> list[Any]:
    """Run a call on arguments that are placed first; return its arrays: arguments, keywords and what it returns."""
    name, arguments, keywords = call
    arguments = [place("", value) for value in arguments]
    keywords = {key: place(key, value) for key, value in keywords.items()}
    returned = getattr(backend, name)(*arguments, **keywords)
    values = [*arguments, *keywords.values(), *(returned if isinstance(returned, tuple) else (returned,))]
    return [value for value in values if backend.owns(value)]


def largest_error(found: np.ndarray, expected: np.ndarray, scale: np.ndarray) -> float:
    """Return max |found - expected|/scale; 0/0 counts as 0."""
    if found.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else np.inf
    difference = np.abs(found - expected)
    return float(np.max(np.where(difference == 0, 0.0, difference / scale), initial=0))


def make_references(calls: list[bench_ops.Call], backend: Backend) -> list[References]:
    """Return what the reference makes of some calls."""
    return [References(call, backend) for call in calls]


def check_operation(
    references: Callable[[], list[References]], device: str, operation: str, precision: str, convolution: str
) -> Row:
    """Return the largest error over all calls of an operation, and the bound that it must keep."""
    backend = make_backend(device, precision, convolution)
    errors = [reference.error(backend) for reference in references()]
    error, bound = float(np.max(errors)), error_bound(operation, precision)
    return {"calls": len(errors), "error": error, "bound": bound, "ok": error <= bound}


def error_bound(operation: str, precision: str) -> float:
    """Return how far an operation may be off: its sums, and in products the rounding of both factors."""
    return SUM_ERROR + (2 * FACTOR_ERROR[precision] if operation in PRODUCTS else 0.0)


# ---- graph and determinism ----------------------------------------------------------------------------------------


def trained(
    job: Job, network: str, *, precision: str = "float32", graph: bool = True, seed: int = 0
) -> tuple[Trainer, ResidentSplit, list[gpucnn.Metrics]]:
    """Train a network of the zoo for two epochs, whose last batches are smaller."""
    recipe, backend = zoo.get_recipe(network), make_backend(job.device, precision)
    model, shape, N = recipe.model(), image_shape(network), job.batch_size
    model.build(shape, backend, max_batch=N, seed=seed)
    optimizer = get_optimizer(recipe.optimizer, recipe.learning_rate)
    trainer = Trainer(model, get_loss(recipe.loss), optimizer, batch_size=N, seed=seed, graph=graph)
    split = random_data(backend, job.batches * N + N // 2, shape)
    return trainer, split, [trainer.train_epoch(split, epoch) for epoch in range(2)]


def graph(job: Job, clock: Clock) -> Iterator[Row]:
    """Compare epochs that are replayed as a CUDA graph with those launched kernel by kernel, bit for bit."""
    for network in job.networks:
        yield attempt(clock, {"network": network, "batch": job.batch_size}, partial(compare_epochs, job, network))


def compare_epochs(job: Job, network: str) -> Row:
    """Train a network both ways."""
    eager, _, eager_metrics = trained(job, network, graph=False)
    replayed, split, metrics = trained(job, network)
    reads = replayed.backend.host_reads
    replayed.train_epoch(split, 2)
    reads = replayed.backend.host_reads - reads
    eager.train_epoch(split, 2)
    identical = eager.model.weights_sha256() == replayed.model.weights_sha256() and metrics == eager_metrics
    recorded = replayed.replay.recorded
    return {
        "identical": identical,
        "recorded": recorded,
        "reason": replayed.replay.reason,
        "launches_per_step": launches(replayed, split) if recorded else None,
        "host_reads_per_epoch": reads,
        "ok": identical and recorded > 0 and reads == 1,
    }


def launches(trainer: Trainer, split: ResidentSplit) -> int | None:
    """Return how many nodes the graph of a step has, if CuPy can tell: what a step launches without it."""
    try:
        recording = trainer.backend.record(lambda: trainer.step(*split.next_batch(trainer.batch_size)))
        return len(set(re.findall(r"graph_\d+_node_\d+", recording.graph.debug_dot_str())))
    except Exception:  # it is the bits that count
        return None


def determinism(job: Job, clock: Clock) -> Iterator[Row]:
    """Train every network twice from one seed, and once from another."""
    for network in job.networks:
        for precision in job.precisions:
            about = {"network": network, "precision": precision}
            yield attempt(clock, about, partial(compare_runs, job, network, precision))


def compare_runs(job: Job, network: str, precision: str) -> Row:
    """Compare the weights of two runs of one seed, and of one of another."""
    seeds = (0, 0, 1)
    first, second, other = (
        trained(job, network, precision=precision, seed=seed)[0].model.weights_sha256() for seed in seeds
    )
    return {"weights_sha256": first, "same": first == second, "ok": first == second != other}


# ---- accuracy -----------------------------------------------------------------------------------------------------


def accuracy(job: Job, clock: Clock) -> Iterator[Row]:
    """Train until the target accuracy on the test set is first reached, in each precision."""
    name, dataset = images(job.data_dir)
    for network in job.classifiers:
        for precision in job.precisions:
            about = {"data": name, "network": network, "precision": precision, "target": TARGETS[name]}
            find = partial(train_to, job, dataset, network, precision, TARGETS[name], clock)
            yield attempt(clock, about, find)


def images(data_dir: str | None) -> tuple[str, data.Dataset]:
    """Return MNIST if the folder has it, else the digits that come with the package."""
    if data_dir is not None:
        try:
            return "mnist", data.load("mnist", Path(data_dir))
        except InputError:  # it has something else
            pass
    digits = data.load("digits")
    return "digits", replace(digits, train=enlarged(digits.train), test=enlarged(digits.test))


def enlarged(split: Split) -> Split:
    """Return images four times as wide and high, which LeNet's kernels fit."""
    return Split(split.images.repeat(4, axis=1).repeat(4, axis=2), split.labels)


def train_to(job: Job, dataset: data.Dataset, network: str, precision: str, target: float, clock: Clock) -> Row:
    """Count the seconds of training alone; kernels were compiled in a short run before."""
    backend = make_backend(job.device, precision)
    normalization = Normalization(dataset.train.images)
    few = Split(dataset.train.images[: 3 * job.batch_size], dataset.train.labels[: 3 * job.batch_size])
    few, train, test = (ResidentSplit(split, backend, normalization) for split in (few, dataset.train, dataset.test))
    classifier(job, network, backend, dataset, few).train_epoch(few, 0)
    trainer = classifier(job, network, backend, dataset, train)
    trainer.evaluate(test)
    seconds, best, epoch = 0.0, 0.0, 0
    while best < target and epoch < job.epochs and clock.left > 0:
        start = time.perf_counter()
        trainer.train_epoch(train, epoch)
        seconds += time.perf_counter() - start
        epoch += 1
        best = max(best, trainer.evaluate(test).accuracy)
    return {"accuracy": best, "epochs": epoch, "seconds": seconds, "ok": best >= target}


def classifier(job: Job, network: str, backend: Backend, dataset: data.Dataset, split: ResidentSplit) -> Trainer:
    """Return a trainer of a network for a data set; the rate falls to 0 over all epochs."""
    recipe = zoo.get_recipe(network)
    model = recipe.model(dataset.classes)
    model.build(dataset.image_shape, backend, max_batch=job.batch_size, seed=0)
    optimizer = get_optimizer(recipe.optimizer, recipe.learning_rate)
    trainer = Trainer(model, get_loss(recipe.loss), optimizer, batch_size=job.batch_size)
    optimizer.follow(Linear(), job.epochs * trainer.steps(split))
    return trainer
