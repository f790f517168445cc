"""The parts of `scripts/gpu/check.py` that say whether everything works; each yields rows."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import cache, partial
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import gpucnn
from bench import ops
from bench.engine import image_shape
from gpu.job import ALGORITHMS, Clock, Job, Row, attempt, make_backend, random_data
from gpucnn import SGD, SoftmaxCrossEntropy, Trainer, data, zoo
from gpucnn.backend import Backend
from gpucnn.backend.gpu.device import first_line
from gpucnn.backend.gpu.gemm import Gemm
from gpucnn.backend.gpu.records import Block, all_records
from gpucnn.cli.doctor import processor
from gpucnn.data import DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization
from gpucnn.losses import get_loss
from gpucnn.optim.optimizers import get_optimizer
from gpucnn.optim.schedules import Linear

ROOT = Path(__file__).resolve().parents[2]
TAIL = 30  # lines of what a part prints that fails
MAX_FAILURES = 80  # tests that fail before the rest are not run
TARGETS = {"mnist": 0.99, "digits": 0.97}  # accuracy on the test set

CONVOLUTIONS = "conv2d", "conv2d_dx", "conv2d_dw_db"
PRODUCTS = *CONVOLUTIONS, "matmul", "dense", "dense_dx", "dense_dw_db", "sum_rows"
WRITTEN = "out", "dw", "db", "dx", "dgamma", "dbeta", "mean_rstd"  # arguments of which only the result counts

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
    """Run the tests that need a GPU, where one is required: all others need none, and have been run without."""
    yield attempt(clock, {"tests": "on the GPU"}, partial(run_tests, job, "gpu", clock.left))


def gpu_tests() -> list[str]:
    """Return the files of tests that speak of the mark `gpu` or of its fixture: to collect all others takes longer."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if re.search(r"backend_name|mark\.gpu", path.read_text())]


def run_tests(job: Job, mark: str, seconds: float) -> Row:
    """Run the tests with a mark, in several processes where pytest-xdist is installed; count them even if stopped."""
    workers = job.test_workers if find_spec("xdist") else 1
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-m", mark, *(job.tests or gpu_tests())]
    command += ["-p", "no:cacheprovider", *(("-n", str(workers)) if workers > 1 else ())]
    command += ["-o", "console_output_style=classic"]  # lines of nothing but a letter for each test
    command += [f"--maxfail={MAX_FAILURES}", "--continue-on-collection-errors"]
    command += ["-W", "default::DeprecationWarning"]  # what newer libraries deprecate says nothing of a GPU
    start, reason = time.perf_counter(), ""
    with tempfile.TemporaryFile("w+") as output:
        environment = os.environ | {"GPUCNN_REQUIRE_GPU": "1", "COLUMNS": "400"}  # so that no reason is cut off
        options = {"cwd": ROOT, "env": environment, "stdout": output, "stderr": subprocess.STDOUT}
        try:
            code = subprocess.run(command, check=False, timeout=seconds, **options).returncode
            reason = f"pytest ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            reason = f"stopped after {seconds:.0f} s"
        output.seek(0)
        text = output.read()
    found = {"processes": workers, **count_tests(text), "seconds": time.perf_counter() - start, "ok": not reason}
    return found | ({"reason": reason, "tail": "\n".join(text.splitlines()[-2 * MAX_FAILURES :])} if reason else {})


def count_tests(output: str) -> Row:
    """Count the letters that pytest has printed."""
    letters = "".join(re.findall(r"^[.FEsxX]+$", output, re.MULTILINE))
    kinds = {"passed": ".xX", "failed": "FE", "skipped": "s"}
    return {kind: sum(map(letters.count, of_kind)) for kind, of_kind in kinds.items()}


# ---- kernels ------------------------------------------------------------------------------------------------------


def kernels(job: Job, clock: Clock) -> Iterator[Row]:
    """Compare each operation that the GPU backend overrides with the reference in float64, on calls of real steps."""
    backend = make_backend(job.device)
    calls: dict[tuple, ops.Call] = {}
    for run in recorded_steps(backend, job):
        calls = ops.record(backend, run) | calls
    recorded = sorted(calls.values(), key=lambda call: (call[0] not in PRODUCTS, call[0]))  # what is newest first
    for operation, of_operation in groupby(recorded, key=lambda call: call[0]):
        references = cache(partial(make_references, [*of_operation], backend))  # in the first variant's time
        for precision, convolution in variants(operation, job.precisions):
            about = {"operation": operation, "precision": precision, "convolution": convolution}
            yield attempt(clock, about, partial(check_operation, references, job.device, **about))
    missing = set(ops.overridden(backend)) - {call[0] for call in recorded}
    if missing:
        yield {"operation": ", ".join(sorted(missing)), "left_out": "no step here calls it"}


def recorded_steps(backend: Backend, job: Job) -> Iterator[Callable[[], None]]:
    """Yield training steps of networks of the zoo, and steps of the benchmark that call all other operations."""
    for name in job.networks:
        model = zoo.get_recipe(name).model()
        yield ops.training(backend, model, image_shape(name), SoftmaxCrossEntropy(), SGD(0.01, 0.9))
    yield from ops.steps(backend)


def variants(operation: str, precisions: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return in which precisions and ways to convolve an operation is computed; only products differ in precision."""
    if operation in CONVOLUTIONS:
        return [(precision, way) for precision in precisions for way in ALGORITHMS]
    return [(precision, "") for precision in (precisions if operation in PRODUCTS else ("float32",))]


class References:
    """One call, what the reference makes of it in float64, and the yardstick of its errors."""

    def __init__(self, call: ops.Call, backend: Backend):
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

    def told(self) -> str:
        """Say what the call is: shapes of arrays, and all other arguments."""
        _, arguments, keywords = self.call
        named = [*arguments, *(f"{name}={ops.signature(value)}" for name, value in keywords.items())]
        return ", ".join(str(ops.signature(value)) for value in named)

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


def results_of(call: ops.Call, backend: Backend, place: Callable[[str, Any], Any]) -> list[Any]:
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


def make_references(calls: list[ops.Call], backend: Backend) -> list[References]:
    """Return what the reference makes of some calls."""
    return [References(call, backend) for call in calls]


def check_operation(
    references: Callable[[], list[References]], device: str, operation: str, precision: str, convolution: str
) -> Row:
    """Return the largest error over all calls of an operation, the bound that it must keep, and where it does not."""
    backend, bound = make_backend(device, precision, convolution), error_bound(operation, precision)
    errors = {reference: reference.error(backend) for reference in references()}
    wrong = [reference for reference, error in errors.items() if not error <= bound]
    found = {"calls": len(errors), "error": float(np.max([*errors.values()])), "bound": bound, "ok": not wrong}
    return found | ({"reason": f"{len(wrong)} calls, first {wrong[0].told()}"} if wrong else {})


def error_bound(operation: str, precision: str) -> float:
    """Return how far an operation may be off: its sums, and in products the rounding of both factors."""
    return SUM_ERROR + (2 * FACTOR_ERROR[precision] if operation in PRODUCTS else 0.0)


# ---- graph and determinism ----------------------------------------------------------------------------------------


def trained(
    job: Job, network: str, *, precision: str = "float32", graph: bool = True, seed: int = 0
) -> tuple[Trainer, DeviceDataset, list[gpucnn.Metrics]]:
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
    difference = first_difference(eager.model, replayed.model)
    if not difference and metrics != eager_metrics:
        difference = f"only the metrics: {eager_metrics} launched one by one, {metrics} replayed"
    recorded = replayed.replay.recorded
    found = {
        "convolution": replayed.backend.convolution,
        "identical": not difference,
        "recorded": recorded,
        "reason": "; ".join(filter(None, (difference, replayed.replay.reason))),
        "host_reads_per_epoch": reads,
        "ok": not difference and recorded > 0 and reads == 1,
    }
    return found | (step_facts(replayed, split) if recorded else {})


def first_difference(first: gpucnn.Sequential, second: gpucnn.Sequential) -> str:
    """Name the first array in which two networks differ, in how many elements and by how much; empty if in none."""
    ours, theirs = first.state_dict(), second.state_dict()
    for name, value in ours.items():
        other = theirs[name]
        differs = value.view(f"u{value.itemsize}") != other.view(f"u{value.itemsize}")  # bits, as NaN differs from NaN
        if differs.any():
            with np.errstate(all="ignore"):
                largest = np.max(np.abs(value - other)[differs])
            return f"{name}: {np.sum(differs):,} of {value.size:,} elements differ, by {largest:.3g} at most"
    return ""


def step_facts(trainer: Trainer, split: DeviceDataset) -> Row:
    """Return the nodes of the graph of a step; nothing if they cannot be told, as it is the bits that count."""
    try:
        recording = trainer.backend.record(lambda: trainer.step(*split.next_batch(trainer.batch_size)))
    except Exception:
        return {}
    return graph_facts(recording)


OWN_KERNELS = "gpucnn_", "cupy_"  # what the names of elementwise kernels begin with; others are of records


def graph_facts(recording: Any) -> Row:
    """Return how many nodes a recorded graph has, and which of them are kernels of cuBLAS, if CuPy can tell."""
    try:
        names = kernel_names(recording.graph.debug_dot_str())
    except Exception:
        return {}
    own = {record.name for record in hand_written()}
    foreign = [name for name in names if name and name not in own and not name.startswith(OWN_KERNELS)]
    counted = (f"{count} x {name[:60]}" for name, count in Counter(foreign).most_common())
    return {"nodes": len(names), "nodes of cuBLAS": len(foreign), "kernels of cuBLAS": ", ".join(counted)}


def kernel_names(dot: str) -> list[str]:
    """Return the name of the kernel of each node of a graph, from its text in the language DOT; empty of a copy.

    CUDA writes a kernel as `label="3\nname\n"`, or with all details as `{KERNEL | {ID | 3 (topoId: 0) | name<<<...`.
    """
    nodes = re.findall(r'^"graph_\d+_node_\d+" ?\[(.*?)\];', dot, re.MULTILINE | re.DOTALL)
    detailed, brief = r"KERNEL\s*\|\s*\{\s*ID\s*\|[^|]*\|\s*([\w$.]+)", r'octagon.*label="\d+\s+([\w$.]+)'
    found = (re.search(detailed, node) or re.search(brief, node) for node in nodes)
    return [match[1] if match else "" for match in found]


def hand_written() -> list[Block]:
    """Return the records of all kernels in which threads work together."""
    return [record for record in all_records().values() if isinstance(record, Block)]


def determinism(job: Job, clock: Clock) -> Iterator[Row]:
    """Train every network twice from one seed, and once from another."""
    for network in job.networks:
        for precision in job.precisions:
            about = {"network": network, "precision": precision}
            yield attempt(clock, about, partial(compare_runs, job, network, precision))


def compare_runs(job: Job, network: str, precision: str) -> Row:
    """Compare the weights of two runs of one seed, and of one of another."""
    first, second, other = (trained(job, network, precision=precision, seed=seed)[0] for seed in (0, 0, 1))
    difference = first_difference(first.model, second.model)
    is_other = first.model.weights_sha256() != other.model.weights_sha256()
    found = {"convolution": first.backend.convolution, "weights_sha256": first.model.weights_sha256()}
    found |= {"same": not difference, "ok": not difference and is_other}
    return found | ({} if found["ok"] else {"reason": difference or "another seed gives the same weights"})


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
    """Return MNIST if there is a folder that has it, else the digits that come with the package."""
    found = mnist(data_dir)
    if found is not None:
        return "mnist", found
    digits = data.load("digits")
    return "digits", replace(digits, train=enlarged(digits.train), test=enlarged(digits.test))


def mnist(data_dir: str | None) -> data.Dataset | None:
    """Return the MNIST of a folder, None if it has no file of it; raise if there is no folder, or a file is broken."""
    if data_dir is None or (Path(data_dir).is_dir() and not any(Path(data_dir).glob("*-ubyte*"))):
        return None
    return data.load("mnist", data_dir)


def enlarged(split: Split) -> Split:
    """Return images four times as wide and high, which LeNet's kernels fit."""
    return Split(split.images.repeat(4, axis=1).repeat(4, axis=2), split.labels)


def train_to(job: Job, dataset: data.Dataset, network: str, precision: str, target: float, clock: Clock) -> Row:
    """Count the seconds of training alone; kernels were compiled in a short run before."""
    backend = make_backend(job.device, precision)
    normalization = Normalization(dataset.train.images)
    few = Split(dataset.train.images[: 3 * job.batch_size], dataset.train.labels[: 3 * job.batch_size])
    few, train, test = (DeviceDataset(split, backend, normalization) for split in (few, dataset.train, dataset.test))
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


def classifier(job: Job, network: str, backend: Backend, dataset: data.Dataset, split: DeviceDataset) -> Trainer:
    """Return a trainer of a network for a data set; the rate falls to 0 over all epochs."""
    recipe = zoo.get_recipe(network)
    model = recipe.model(dataset.classes)
    model.build(dataset.image_shape, backend, max_batch=job.batch_size, seed=0)
    optimizer = get_optimizer(recipe.optimizer, recipe.learning_rate)
    trainer = Trainer(model, get_loss(recipe.loss), optimizer, batch_size=job.batch_size)
    optimizer.set_schedule(Linear(), job.epochs * trainer.steps(split))
    return trainer


# ---- sanitizer ----------------------------------------------------------------------------------------------------

SANITIZER = "compute-sanitizer"
TOOLKITS = "/usr/local/cuda/bin", "/usr/local/cuda-*/bin", "/opt/cuda/bin"
EXCLUDE = "--kernel-name-exclude", "--kernel-regex-exclude"  # the latter until 2022
CUBLAS = "gemm", "gemv", "cutlass", "cublas", "nvjet", "splitK"  # parts of the names of its kernels


def sanitizer(job: Job, clock: Clock) -> Iterator[Row]:
    """Let NVIDIA's racecheck watch each hand-written kernel: what threads do to shared memory between two barriers."""
    tool = find_sanitizer()
    if tool is None:
        yield {"kernel": "all", "missing": f"{SANITIZER}, which comes with the CUDA toolkit, is not on this machine"}
        return
    with tempfile.TemporaryDirectory() as folder:
        report, output, ending = Path(folder, "report"), Path(folder, "output"), ""
        command = [tool, "--tool", "racecheck", "--log-file", str(report), *exclusions(tool), sys.executable]
        command += [str(Path(__file__).with_name("race.py")), "--device", job.device, *job.precisions]
        seconds = max(1, clock.left)
        with output.open("w") as file:  # no pipe, which a process that is left behind would keep open
            options = {"cwd": ROOT, "stdout": file, "stderr": subprocess.STDOUT}
            try:
                code = subprocess.run(command, check=False, timeout=seconds, **options).returncode
                ending = f"{SANITIZER} ended with {code}" if code else ""
            except subprocess.TimeoutExpired:
                ending = f"stopped after {seconds:.0f} s"
        output, text = output.read_text(), report.read_text() if report.exists() else ""
    ending = ending or ("" if "RACECHECK SUMMARY" in text else "its report has no end")
    launched = dict.fromkeys(re.findall(r"^kernel (\w+)$", output, re.MULTILINE))
    found = list(hazards(text, {record.name for record in hand_written()}))
    yield from found
    clean = [name for name in launched if not any(row["kernel"] == name for row in found)]
    yield from ({"kernel": name} | ({"left_out": ending} if ending else {"hazards": 0, "ok": True}) for name in clean)
    if ending:
        tail = "\n".join([*output.splitlines()[-TAIL:], *text.splitlines()[-TAIL:]])
        yield {"kernel": "all", "ok": False, "reason": ending, "tail": tail}


def exclusions(tool: str) -> list[str]:
    """Return the options by which kernels of cuBLAS are not watched, which is slow, if this version has them.

    To name our own kernels instead would watch nothing if no name matched, and would not say so.
    """
    try:
        told = subprocess.run([tool, "--help"], check=False, capture_output=True, text=True, timeout=10).stdout
    except subprocess.TimeoutExpired:
        told = ""
    option = next((option for option in EXCLUDE if option in told), None)
    return [part for name in CUBLAS for part in (option, f"kns={name}")] if option else []


def find_sanitizer() -> str | None:
    """Return the path of compute-sanitizer: where programs are, or in a CUDA toolkit."""
    places = [os.environ.get("PATH", os.defpath), *(path for pattern in TOOLKITS for path in sorted(glob(pattern)))]
    return shutil.which(SANITIZER, path=os.pathsep.join(places))


def hazards(report: str, own: Collection[str]) -> Iterator[Row]:
    """Yield the races of racecheck's report, by the kernel that they are in; those of other libraries fail nothing."""
    races = re.findall(r"^=+ (Error|Warning): (Race reported .*)\n((?:=+ {2,}and .*\n?)*)", report, re.MULTILINE)
    for severity, what, rest in races:
        lines = [what, *(line.strip("= ").strip() for line in rest.splitlines())]
        count = sum(int(number) for number in re.findall(r"\[(\d+) hazards?\]", rest))
        names = [name for name in re.findall(r"\w+", what) if name in own]
        place = what.partition(" access at ")[2].partition("+0x")[0]
        is_own = bool(names) or not place or place.startswith("0x")  # a bare address may be anyone's
        found = {"kernel": names[0] if names else place, "hazards": count, "severity": severity}
        yield {**found, "reason": "; ".join(lines), "ok": not is_own}
