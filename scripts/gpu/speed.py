"""The parts of `scripts/gpu/check.py` that say how fast everything is; each yields rows."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import ops
from bench.engine import image_shape
from bench.torch_nets import save_network
from gpu.job import ALGORITHMS, NO_TIME, PEER_PRECISIONS, Clock, Job, Row, attempt, make_backend
from gpu.model import Card, card_named, col2im_instructions, kernel_seconds, predict
from gpu.parts import graph_facts
from gpucnn import zoo
from gpucnn.backend import Backend
from gpucnn.backend.gpu.sums import ADD_BIAS
from gpucnn.geometry import Window

FOLDER = Path(__file__).resolve().parent
GRAPHS = *(f"graph, {way}" for way in ALGORITHMS), "torch graph"
# What takes turns, pass by pass over all networks, each pass with the graphs, so that its ratio is of the best of both
# sides: what is worth most comes first, and compiling, which takes PyTorch longer than all the rest, last.
PASSES = (
    GRAPHS,
    (*GRAPHS, f"eager, {ALGORITHMS[0]}", "torch eager", "torch graph NCHW"),
    (*GRAPHS, "torch compiled", "torch compiled graph"),
)
ALIKE = 0.05  # relative difference of the first outputs that bfloat16 explains

# Predicted seconds, of which none was measured on a GPU: of the import of PyTorch from a cold disk, and of the set-up
# of a kind of step, ours, PyTorch's, and PyTorch's compiled.
IMPORT, SET_UP, PEER_SET_UP, COMPILED = 20.0, 1.5, 3.0, 15.0
IMPORT_MOST = 45.0  # seconds for which steps wait for PyTorch, before those of gpucnn are timed without it
TURN, ENDING = 2.0, 2.0  # seconds that a turn has even after the end, and that a process has to end


# ---- steps --------------------------------------------------------------------------------------------------------


class Worker:
    """A process that carries out orders; one that died or was stopped is started anew for the next order."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.ready: set[str] = set()  # kinds of steps that are set up in it
        self.has_failed = False

    def tell(self, **order: Any) -> None:
        """Give an order; do not wait for the answer."""
        if self.process is None:
            command = [sys.executable, str(FOLDER / "engines.py")]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with contextlib.suppress(BrokenPipeError):  # there will be no answer
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def hear(self, seconds: float) -> Row | None:
        """Return the answer to an order, None if it has not come within so many seconds."""
        if not select.select([self.process.stdout], [], [], max(0.0, seconds))[0]:
            return None
        line = self.process.stdout.readline()
        if not line:
            return {"error": f"the process ended with {self.close()}"}
        answer = json.loads(line)
        self.has_failed |= "error" in answer
        if answer.pop("broken", False):  # no later order can be carried out there
            self.close()
        return answer

    def ask(self, *, seconds: float = 60.0, **order: Any) -> Row:
        """Give an order; return the answer, or, after so many seconds, that there was no time for it."""
        self.tell(**order)
        answer = self.hear(seconds)
        if answer is None:
            self.close(at_once=True)
        return {"left_out": NO_TIME} if answer is None else answer

    def set_up(self, kind: str, **order: Any) -> Row:
        """Have a kind of step set up; it is ready as long as this process lives."""
        answer = self.ask(do="set up", kind=kind, **order)
        if "size" in answer:
            self.ready.add(kind)
        return answer

    def forget(self) -> None:
        """Let go of all that is set up; a process in which something failed ends, as that may have left something."""
        if self.has_failed:
            self.close()
        elif self.ready:
            self.ask(do="forget", seconds=ENDING)
        self.ready.clear()

    def close(self, *, at_once: bool = False) -> int | None:
        """End the process, if there is one; return its exit code."""
        process, self.process, self.has_failed = self.process, None, False
        self.ready.clear()
        if process is None:
            return None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(0 if at_once else ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()
        return process.wait()


def steps(job: Job, clock: Clock) -> Iterator[Row]:
    """Time training steps of gpucnn and of PyTorch, which take turns."""
    workers = {"gpucnn": Worker(), "torch": Worker()}
    try:
        workers["torch"].tell(do="import torch")
        card = None
        with contextlib.suppress(Exception):  # without it steps are timed all the same
            card = card_of(make_backend(job.device))
        compile_first(job, clock, workers["gpucnn"])
        peer = workers["torch"].hear(min(IMPORT_MOST, clock.left / 3))
        if peer and "torch" not in peer:
            yield {"network": "all", "missing": "; ".join(peer.values())}
        for kinds in PASSES:
            for precision in job.precisions:
                for network, batch_size in job.timed:
                    peer = workers["torch"].hear(0) if peer is None else peer
                    if kinds == PASSES[-1] and "torch" not in (peer or {}):
                        continue  # it adds nothing of ours
                    about = {"network": network, "batch": batch_size, "precision": precision}
                    yield attempt(clock, about, partial(find_row, job, clock, workers, kinds, peer, card, **about))
        if peer is None:
            yield {"network": "all", "missing": "PyTorch, whose import took longer than all steps of gpucnn"}
    finally:
        for worker in workers.values():
            worker.close(at_once=clock.left <= 0)


def card_of(backend: Backend) -> Card | None:
    """Return what is known of the GPU of a backend, if it is one that predictions are made for."""
    name = backend.xp.cuda.runtime.getDeviceProperties(backend.device)["name"]
    return card_named(name.decode() if isinstance(name, bytes) else name)


def forecast(card: Card | None, network: str, batch: int, precision: str) -> Row:
    """Return what a step was predicted to take, and what PyTorch computes in."""
    kinds = {f"graph, {way}, predicted, ms": way for way in ALGORITHMS if card}
    found: Row = {kind: 1e3 * predict(network, batch, precision, way, card).seconds for kind, way in kinds.items()}
    return found | {"PyTorch's precision": PEER_PRECISIONS[precision]}


def compile_first(job: Job, clock: Clock, worker: Worker) -> None:
    """Set a step of gpucnn up and forget it: most kernels are compiled then, while PyTorch is imported."""
    (network, batch), precision = job.timed[0], job.precisions[0]
    worker.set_up(GRAPHS[0], seconds=clock.left / 3, **order_of(job, network, batch, precision))
    worker.forget()


def order_of(job: Job, network: str, batch: int, precision: str) -> Row:
    """Return what the set-ups of a row have in common."""
    found = {"device": job.device, "network": network, "batch_size": batch, "precision": precision}
    return found | {"image_shape": image_shape(network)}


def find_row(
    job: Job,
    clock: Clock,
    workers: dict[str, Worker],
    kinds: Sequence[str],
    peer: Row | None,
    card: Card | None,
    **about,
) -> Row:
    """Return a row, without PyTorch where that is not imported."""
    wanted = kinds if "torch" in (peer or {}) else ours_of(kinds)
    found = time_network(job, clock, workers, wanted, **about)
    if peer is None:
        found["missing"] = "; ".join(filter(None, (found.get("missing"), "PyTorch, which is still being imported")))
    return found | forecast(card, **about)


def time_network(
    job: Job, clock: Clock, workers: dict[str, Worker], kinds: Sequence[str], network: str, batch: int, precision: str
) -> Row:
    """Set all kinds of steps up, let them take turns, and sum up; what there is no time for is left out."""
    if clock.left < set_up_seconds(kinds):
        return {"left_out": NO_TIME}
    order = order_of(job, network, batch, precision)
    answers: dict[str, Row] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            order["path"] = f"{folder}/{network}"
            model = zoo.get_recipe(network).model()
            model.build(image_shape(network), "cpu", seed=0)
            save_network(model, order["path"])
            for kind in kinds:
                left, worker = clock.left, worker_of(workers, kind)
                answers[kind] = worker.set_up(kind, seconds=left, **order) if left > 0 else {"left_out": NO_TIME}
        return summary(answers, take_turns(job, clock, workers, answers))
    finally:
        for worker in workers.values():
            worker.forget()


def set_up_seconds(kinds: Iterable[str]) -> float:
    """Return the predicted seconds until all kinds of a row are set up."""
    return sum(SET_UP if ours_of([kind]) else COMPILED if "compiled" in kind else PEER_SET_UP for kind in kinds)


def ours_of(kinds: Iterable[str]) -> list[str]:
    """Return the kinds that are steps of gpucnn."""
    return [kind for kind in kinds if not kind.startswith("torch")]


def worker_of(workers: dict[str, Worker], kind: str) -> Worker:
    """Return the process for a kind of step."""
    return workers["gpucnn" if ours_of([kind]) else "torch"]


def take_turns(job: Job, clock: Clock, workers: dict[str, Worker], answers: dict[str, Row]) -> list[dict[str, float]]:
    """Return the seconds of a step of each kind in each round; the first round takes place whatever the time.

    Only those take part whose process still is the one that they were set up in; why a kind drops out is added to its
    answer, and ends the rounds.
    """

    def take_round(steps: Callable[[str], int]) -> dict[str, float]:
        found: dict[str, float] = {}
        for kind, answer in answers.items():
            worker = worker_of(workers, kind)
            if kind in worker.ready:
                order = {"do": "turn", "kind": kind, "steps": steps(kind), "device": job.device}
                told = worker.ask(seconds=max(clock.left, TURN), **order)
                if "seconds" in told:
                    found[kind] = told["seconds"]
                else:
                    answer |= told
                    worker.ready.discard(kind)
        return found

    counts = {kind: max(1, math.ceil(job.turn_seconds / seconds)) for kind, seconds in take_round(lambda _: 2).items()}
    rounds = [take_round(counts.__getitem__)]
    while len(rounds) < job.rounds and clock.left > 0 and rounds[-1].keys() == counts.keys():
        rounds.append(take_round(counts.__getitem__))
    for kind, answer in answers.items():
        if kind not in worker_of(workers, kind).ready and not why_not(answer):
            answer["left_out"] = "its process was ended"
    return [turns for turns in rounds if turns.keys() == rounds[0].keys()]


def why_not(answer: Row) -> str:
    """Return why a kind of step cannot be timed; empty if it can."""
    return "; ".join(answer[key] for key in ("error", "left_out", "unavailable") if key in answer)


def summary(answers: dict[str, Row], rounds: list[dict[str, float]]) -> Row:
    """Return medians in milliseconds, and how many times as fast the best of ours is as the best of PyTorch's."""
    ready = list(rounds[0])
    ours = ours_of(ready)
    peers = [kind for kind in ready if kind not in ours]
    missing = "; ".join(f"{kind}: {why_not(answer)}" for kind, answer in answers.items() if why_not(answer))
    failed = [kind for kind in ours_of(answers) if "error" in answers[kind]]  # PyTorch's failures are not ours
    if not ready and not failed:
        return {"left_out": missing}
    found: Row = {f"{kind}, ms": 1e3 * statistics.median(turns[kind] for turns in rounds) for kind in ready}
    if ours and peers:
        best = [tuple(min(turns[kind] for kind in kinds) for kinds in (peers, ours)) for turns in rounds]
        ratios = sorted(theirs / own for theirs, own in best)
        found["ratio"] = statistics.median(ratios)
        found["ratio, from"], found["ratio, to"] = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    for side, kinds in (("gpucnn", ours), ("torch", peers)):
        if kinds:
            found[f"{side}, MB"] = min(answers[kind]["bytes"] for kind in kinds) / 1e6
    sizes = [answers[kind]["size"] for kind in ready]
    found["alike"] = not sizes or max(sizes) <= (1 + ALIKE) * min(sizes)
    if missing:
        found["missing"] = missing
    return {**found, "ok": found["alike"] and not failed}


# ---- bandwidth ----------------------------------------------------------------------------------------------------


def bandwidth(job: Job, clock: Clock) -> Iterator[Row]:
    """Time the kernels that are bound by memory, as a share of the rate at which the device copies."""
    backend = make_backend(job.device)
    source, target = random_array(backend, job.images), backend.empty(job.images)
    moved, copy = 2 * source.nbytes, partial(backend.xp.copyto, target, source)
    rate = moved / ops.time_call(backend, copy)
    yield {"kernel": "copy", "bytes": moved, "seconds": moved / rate, "bytes_per_second": rate, "share": 1.0}
    card = card_of(backend)
    for name, prepare in MEMORY_BOUND.items():
        find = partial(measure_kernel, backend, prepare, source, rate)
        yield attempt(clock, {"kernel": name}, lambda find=find, name=name: find() | expected(card, name, source))


def expected(card: Card | None, name: str, x: Any) -> Row:
    """Return what the kernels of a row were predicted to take."""
    if card is None:
        return {}
    seconds = sum(kernel_seconds(card, *work) for work in works(name, x.size))
    return {"predicted, ms": 1e3 * seconds}


def works(name: str, n: int) -> list[tuple]:
    """Return the kernels of a row on n pixels, as `gpu.model.kernel_seconds` takes them."""
    taps, pooled, FLOAT = WINDOW.taps, n // POOLING.taps, 4
    columns = (taps + 1) * n * FLOAT
    return {
        "relu": [("relu", n, 2 * n * FLOAT)],
        "relu_dx": [("relu_dx", n, 3 * n * FLOAT)],
        "bias and activation": [("add_bias", n, 2 * n * FLOAT)],
        "im2col 3x3": [("im2col", taps * n, columns)],
        "col2im 3x3": [("col2im", n, columns, col2im_instructions(WINDOW.kernel[0], taps))],
        "max_pool2d 2x2": [("max_pool2d", pooled, (n + pooled) * FLOAT + pooled)],
        "max_pool2d_dx 2x2": [("max_pool2d_dx", n, (n + pooled) * FLOAT + pooled)],
        "batch_norm": [("partial_moments", n, n * FLOAT), ("batch_norm", n, 2 * n * FLOAT)],
        "batch_norm_dx": [("partial_gradients", n, 2 * n * FLOAT), ("batch_norm_dx", n, 3 * n * FLOAT)],
        "sgd_step": [("sgd_step", n, 5 * n * FLOAT)],
        "sum_rows": [("sum_rows", n, n * FLOAT)],
        "sum_rows, 6 columns": [("sum_rows", n, n * FLOAT)],
        "gather_batch": [("gather_images", n, n * (FLOAT + 1))],
    }[name]


def measure_kernel(backend: Backend, prepare: Callable, x: Any, rate: float) -> Row:
    """Time a kernel; `prepare` returns a call of it and the bytes that it must move at least."""
    call, moved = prepare(backend, x)
    seconds = ops.time_call(backend, call)
    return {
        "bytes": moved,
        "seconds": seconds,
        "bytes_per_second": moved / seconds,
        "share": moved / seconds / rate,
    }


def random_array(backend: Backend, shape: Sequence[int]) -> Any:
    """Return normally distributed numbers: zeros may be faster."""
    return backend.from_host(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def nbytes(*arrays: Any) -> int:
    """Return the bytes of some arrays together."""
    return sum(array.nbytes for array in arrays)


def _relu(backend: Backend, x: Any) -> tuple[Callable, int]:
    out = backend.empty(x.shape)
    return partial(backend.relu, x, out=out), nbytes(x, out)


def _relu_dx(backend: Backend, x: Any) -> tuple[Callable, int]:
    dy, out = x.copy(), backend.empty(x.shape)
    return partial(backend.relu_dx, dy, x, out=out), nbytes(dy, x, out)


def _bias(backend: Backend, x: Any) -> tuple[Callable, int]:
    """The kernel behind a matrix product, with the arguments that its record names."""
    C = x.shape[-1]
    record, values = ADD_BIAS, {"b": backend.zeros((C,)), "OC": C, "relu": True}
    kernel = backend.xp.ElementwiseKernel(record.inputs, record.outputs, record.body, "bias", preamble=record.preamble)
    arguments = [values[parameter.split()[-1]] for parameter in record.inputs.split(",")]
    return partial(kernel, *arguments, x.copy()), 2 * x.nbytes


def _im2col(backend: Backend, x: Any) -> tuple[Callable, int]:
    columns = backend.im2col(x, WINDOW)
    return partial(backend.im2col, x, WINDOW, out=columns), nbytes(x, columns)


def _col2im(backend: Backend, x: Any) -> tuple[Callable, int]:
    columns, out = backend.im2col(x, WINDOW), backend.empty(x.shape)
    return partial(backend.col2im, columns, x.shape, WINDOW, out=out), nbytes(columns, out)


def _max_pool2d(backend: Backend, x: Any) -> tuple[Callable, int]:
    out, argmax = backend.max_pool2d(x, POOLING)
    return partial(backend.max_pool2d, x, POOLING, out=out, argmax=argmax), nbytes(x, out, argmax)


def _max_pool2d_dx(backend: Backend, x: Any) -> tuple[Callable, int]:
    dy, argmax = backend.max_pool2d(x, POOLING)
    out = backend.empty(x.shape)
    return partial(backend.max_pool2d_dx, dy, argmax, x.shape, POOLING, out=out), nbytes(dy, argmax, out)


def _batch_norm(backend: Backend, x: Any) -> tuple[Callable, int]:
    """Two passes that read: the moments are those of the whole batch."""
    C, out = x.shape[-1], backend.empty(x.shape)
    gamma, beta, running, mean_rstd = (backend.xp.ones(shape, "float32") for shape in ((C,), (C,), (2, C), (2, C)))
    call = partial(backend.batch_norm, x, gamma, beta, running, 0.1, 1e-5, out=out, mean_rstd=mean_rstd)
    return call, nbytes(x, x, out)


def _batch_norm_dx(backend: Backend, x: Any) -> tuple[Callable, int]:
    """Two passes that read x and dy: the sums are those of the whole batch."""
    C, dy, out = x.shape[-1], x.copy(), backend.empty(x.shape)
    gamma, dgamma, dbeta, mean_rstd = (backend.xp.ones(shape, "float32") for shape in ((C,), (C,), (C,), (2, C)))
    call = partial(backend.batch_norm_dx, dy, x, gamma, mean_rstd, dgamma=dgamma, dbeta=dbeta, out=out)
    return call, nbytes(dy, x, dy, x, out)


def _sgd_step(backend: Backend, x: Any) -> tuple[Callable, int]:
    w, v, g = x.copy().reshape(-1), x.copy().reshape(-1), x.reshape(-1)
    hyperparameters = backend.from_host(np.array([1e-3, 0.9, 0.0], np.float32))
    return partial(backend.sgd_step, w, g, v, hyperparameters), nbytes(w, g, v, w, v)


def _sum_rows(backend: Backend, x: Any) -> tuple[Callable, int]:
    rows = x.reshape(-1, x.shape[-1])
    return partial(backend.sum_rows, rows, out=backend.zeros((rows.shape[1],))), nbytes(x)


def _sum_few_columns(backend: Backend, x: Any) -> tuple[Callable, int]:
    rows = x.ravel()[: x.size // 6 * 6].reshape(-1, 6)
    return partial(backend.sum_rows, rows, out=backend.zeros((6,))), nbytes(rows)


def _gather_batch(backend: Backend, x: Any) -> tuple[Callable, int]:
    N, C = len(x), x.shape[-1]
    images = backend.from_host(np.random.default_rng(0).integers(0, 256, x.shape, dtype=np.uint8))
    order = backend.from_host(np.random.default_rng(1).permutation(N).astype(np.int32))
    labels, cursor, y = (backend.zeros((size,), dtype) for size, dtype in ((N, "int32"), (1, "int64"), (N, "int32")))
    scale, shift, out = (backend.zeros(shape) for shape in ((C,), (C,), x.shape))
    call = "gather_batch", (images, labels, order, cursor, scale, shift), {"x": out, "y": y}
    return ops.repeatable(call, backend), nbytes(images, out)


WINDOW, POOLING = Window((3, 3), padding=((1, 1), (1, 1))), Window((2, 2), stride=(2, 2))
MEMORY_BOUND = {
    "relu": _relu,
    "relu_dx": _relu_dx,
    "bias and activation": _bias,
    "im2col 3x3": _im2col,
    "col2im 3x3": _col2im,
    "max_pool2d 2x2": _max_pool2d,
    "max_pool2d_dx 2x2": _max_pool2d_dx,
    "batch_norm": _batch_norm,
    "batch_norm_dx": _batch_norm_dx,
    "sgd_step": _sgd_step,
    "sum_rows": _sum_rows,
    "sum_rows, 6 columns": _sum_few_columns,
    "gather_batch": _gather_batch,
}


# ---- costs --------------------------------------------------------------------------------------------------------


def costs(job: Job, clock: Clock) -> Iterator[Row]:
    """Time single calls on arrays so small that the host's part is all there is, and the start of a program."""
    backend = make_backend(job.device)
    x = random_array(backend, (8, 8))
    outs = [backend.empty((8, 8)) for _ in range(3)]
    calls = {
        "elementwise kernel (relu)": partial(backend.relu, x, out=outs[0]),
        "raw kernel (softmax)": partial(backend.softmax, x, out=outs[1]),
        "matrix product (matmul)": partial(backend.matmul, x, x, out=outs[2]),
        "matrix product of CuPy": partial(backend.xp.matmul, x, x, out=outs[2]),
    }
    for what, call in calls.items():
        yield attempt(clock, {"what": what}, partial(cost, backend, call))
    for count in job.nodes:
        find = partial(graph_cost, backend, calls["elementwise kernel (relu)"], count)
        yield attempt(clock, {"what": f"graph of {count} kernels"}, find)
    find = partial(graph_cost, backend, calls["matrix product (matmul)"], 1)
    yield attempt(clock, {"what": "graph of a matrix product"}, find)
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            find = partial(start_cost, job, clock, cache)
            yield attempt(clock, {"what": f"from `python -c` to the first step, kernel cache {state}"}, find)


def cost(backend: Backend, call: Callable[[], Any]) -> Row:
    """Return the microseconds of a call among many, the wait for the last one included."""
    return {"microseconds": 1e6 * ops.time_call(backend, call)}


def graph_cost(backend: Backend, call: Callable[[], Any], count: int) -> Row:
    """Return the cost of launching a graph of so many calls, and its nodes."""

    def work() -> None:
        for _ in range(count):
            call()

    recording = backend.record(work)
    return cost(backend, recording) | graph_facts(recording)


FIRST_STEP = """
import numpy as np
from gpucnn import SGD, SoftmaxCrossEntropy, Trainer, get_backend, zoo
backend = get_backend({device!r})
model = zoo.lenet5()
model.build((28, 28, 1), backend, seed=0)
x, labels = backend.from_host(np.ones((64, 28, 28, 1), "float32")), backend.zeros((64,), "int32")
Trainer(model, SoftmaxCrossEntropy(), SGD(0.01, 0.9)).step(x, labels)
backend.to_host(model.arena.values)
"""


def start_cost(job: Job, clock: Clock, cache: str) -> Row:
    """Return the microseconds of a fresh process that trains one step of LeNet-5; CuPy keeps its kernels in `cache`."""
    command = [sys.executable, "-c", FIRST_STEP.format(device=job.device)]
    environment = os.environ | {"CUPY_CACHE_DIR": cache}
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=FOLDER.parent, env=environment, timeout=clock.left)
    return {"microseconds": 1e6 * (time.perf_counter() - start)}
