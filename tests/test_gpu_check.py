"""The check of a GPU: its parts on the strict fake device, with tiny networks, and what its command makes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import bench_ops
import gpu_check
import gpu_engines
import gpu_job
import gpu_model
import gpu_parts
import gpu_plan
import gpu_race
import gpu_speed
import numpy as np
import pytest
from dataset_files import write_mnist
from device.fixtures import absent_cupy, fake_cupy, requires_compiler
from gpu_check import Outcome
from gpu_job import Clock, Job, Row, attempt
from gpu_plan import Block, Part

from gpucnn import SGD, Conv2D, Dense, Flatten, ReLU, Sequential, SoftmaxCrossEntropy, Trainer, get_backend, zoo

ROOT = Path(__file__).resolve().parent.parent
TINY = Job(
    precisions=("float32",),
    tests=("tests/test_gpu_step.py::test_gpu_numbers", "tests/test_gpu_step.py::test_real_gpu_trains_as_the_cpu"),
    test_workers=2,
    networks=("lenet5",),
    batch_size=4,
    batches=2,
    classifiers=("mnist",),
    epochs=1,
    timed=(("lenet5", 2),),
    rounds=2,
    turn_seconds=0.01,
    images=(2, 6, 6, 4),
    nodes=(1, 3),
)
# `import cupy` in a process that finds this file gives the fake.
FAKE = """
import sys
from device.fake_cupy import make_fake_cupy
from gpucnn.backend.gpu import gemm
fake = sys.modules["cupy"] = make_fake_cupy()
gemm.open_library = lambda cupy: cupy.libcublas
sys.modules.update({"cupy.cuda": fake.cuda, "cupy.cuda.runtime": fake.cuda.runtime})
"""

cupy = fake_cupy  # under the name that the tests speak of


@pytest.fixture
def cupy_of_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that are started find the fake, and no PyTorch."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "cupy.py").write_text(FAKE)
    (folder / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (folder, ROOT / "tests", ROOT))))


def rows_of(part, job: Job = TINY) -> list[Row]:
    rows = list(part(job, Clock(600)))
    json.dumps([{key: gpu_check.plain(value) for key, value in row.items()} for row in rows], allow_nan=False)
    return rows


# ---- the parts ----------------------------------------------------------------------------------------------------


@requires_compiler
def test_machine(cupy: ModuleType) -> None:
    facts = {row["what"]: row["value"] for row in rows_of(gpu_parts.machine)}
    assert (facts["GPU"], facts["compute capability"], facts["CuPy"]) == ("Fake GPU", "9.0", cupy.__version__)
    assert facts["NumPy"] == np.__version__
    assert {"driver", "CUDA runtime", "cuBLAS", "NVRTC", "PyTorch", "date", "processor"} <= set(facts)


@requires_compiler
def test_tests(cupy_of_children: None) -> None:
    """Of the two tests one needs a GPU, which the fake passes for; the other is not run."""
    (row,) = rows_of(gpu_parts.tests)
    assert [row[key] for key in ("tests", "passed", "failed", "skipped", "ok")] == ["on the GPU", 1, 0, 0, True]


def test_tests_that_need_a_gpu_are_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = gpu_parts.run_tests(TINY, "gpu", 60)
    assert (found["failed"], found["skipped"], found["ok"]) == (1, 0, False)


@pytest.mark.parametrize("workers", [1, 2])
def test_tests_that_fail_or_take_too_long(workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_a(): pass\ndef test_b(): 1/0\ndef test_c(): time.sleep(60)"
    )
    if workers > 1:
        pytest.importorskip("xdist")
    job = replace(TINY, tests=("-c", "/dev/null", str(tmp_path)), test_workers=workers)
    failed = gpu_parts.run_tests(replace(job, tests=(*job.tests, "-k", "not test_c")), "not gpu", 60)
    assert (failed["passed"], failed["failed"], failed["ok"], failed["reason"]) == (1, 1, False, "pytest ended with 1")
    assert failed["processes"] == workers
    assert "test_it.py:3: ZeroDivisionError: division by zero" in failed["tail"]
    stopped = gpu_parts.run_tests(job, "not gpu", 8)
    assert (stopped["passed"], stopped["failed"], stopped["reason"]) == (1, 1, "stopped after 8 s")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_collected_or_is_deprecated_stops_no_test(workers: int, tmp_path: Path) -> None:
    """Where warnings are errors, as in this repository."""
    if workers > 1:
        pytest.importorskip("xdist")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    (tmp_path / "test_warned.py").write_text(
        "import warnings\n"
        "def test_deprecated(): warnings.warn('of NumPy', DeprecationWarning)\n"
        "def test_other(): warnings.warn('of ours: ' + 90 * '!', UserWarning)\n"
    )
    job = replace(TINY, tests=("-c", str(tmp_path / "pytest.ini"), str(tmp_path)), test_workers=workers)
    found = gpu_parts.run_tests(job, "not gpu", 60)
    assert (found["passed"], found["ok"], found["reason"]) == (1, False, "pytest ended with 1")
    assert "No module named 'no_such_module'" in found["tail"] and "UserWarning: of ours" in found["tail"]
    (told,) = (line for line in found["tail"].splitlines() if line.startswith("FAILED "))
    assert told.endswith(f"test_other - UserWarning: of ours: {90 * '!'}"), "the summary names the reason of each"


def test_no_test_that_needs_a_gpu_is_in_a_file_that_is_left_out(request: pytest.FixtureRequest) -> None:
    """Of all tests that run now: where that is the whole suite, none is forgotten."""
    named = gpu_parts.gpu_tests()
    assert "tests/test_backends.py" in named and len(named) < 25
    marked = {item.path for item in request.session.items if item.get_closest_marker("gpu")}
    assert {path.relative_to(ROOT).as_posix() for path in marked} <= set(named)


def test_those_tests_are_run_that_may_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_) -> SimpleNamespace:
        asked.append([argument for argument in command if argument.startswith("tests")])
        return SimpleNamespace(returncode=0)

    asked: list[list[str]] = []
    monkeypatch.setattr(gpu_parts.subprocess, "run", run)
    for job in (Job(), TINY):
        gpu_parts.run_tests(job, "gpu", 60)
    assert asked == [gpu_parts.gpu_tests(), list(TINY.tests)]


def test_without_xdist_one_process_runs_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_a(): pass")
    monkeypatch.setattr(gpu_parts, "find_spec", lambda name: None)
    found = gpu_parts.run_tests(replace(TINY, tests=("-c", "/dev/null", str(tmp_path))), "not gpu", 60)
    assert (found["processes"], found["passed"], found["ok"]) == (1, 1, True)


def test_tests_are_counted_in_the_output_of_several_processes() -> None:
    """That of pytest-xdist 3.8, ended before its summary."""
    output = "bringing up nodes...\n.....F....s.......\n..E.x\nFEEDING is no line of tests\n....\n"
    assert gpu_parts.count_tests(output) == {"passed": 16 + 4 + 4, "failed": 2, "skipped": 1}


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the part `kernels` record two small networks."""
    monkeypatch.setattr(bench_ops, "BATCH_SIZE", 2)

    def steps(backend) -> Iterator:
        model = Sequential([Conv2D(4, 3, groups=2), ReLU(), Flatten(), Dense(10)])
        yield bench_ops.training(backend, model, (5, 5, 2), SoftmaxCrossEntropy(), SGD(0.01, 0.9))

    monkeypatch.setattr(bench_ops, "steps", steps)


@requires_compiler
def test_kernels(few_steps: None, cupy: ModuleType) -> None:
    rows = rows_of(gpu_parts.kernels)
    for row in rows:
        assert "left_out" in row or (row["error"] <= row["bound"] and row["ok"]), row
    checked = {row["operation"]: row for row in rows if "calls" in row}
    assert {"relu_dx", "max_pool2d", "dense", "dense_dw_db", "sgd_step", "gather_batch"} <= set(checked)
    assert checked["dense"]["error"] > 0, "sums in float32 are not those in float64"
    assert {row["convolution"] for row in rows if row["operation"] == "conv2d"} == {"columns", "implicit"}
    assert [row["operation"] in gpu_parts.PRODUCTS for row in rows if "calls" in row].index(False) > 3, "products first"


@requires_compiler
@pytest.mark.parametrize("wrong", ["scaled", "unwritten", "product"])
def test_wrong_kernels_are_seen(wrong: str, few_steps: None, cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend("gpu")
    x = backend.from_host(np.random.default_rng(0).standard_normal((4, 6), dtype=np.float32))
    out = backend.empty((4, 4)) if wrong == "product" else backend.relu(x)
    name, arguments = ("matmul", (x, x.T.copy())) if wrong == "product" else ("relu", (x,))
    call = name, arguments, {"out": out}
    references = cache(partial(gpu_parts.make_references, [call], backend))
    assert gpu_parts.check_operation(references, "gpu", name, "float32", "")["ok"]

    def broken(self, *arguments, out):
        if wrong == "unwritten":
            return out
        out[...] = original(self, *arguments, out=out) * 1.001
        return out

    original = getattr(type(backend), name)
    monkeypatch.setattr(type(backend), name, broken)
    found = gpu_parts.check_operation(references, "gpu", name, "float32", "")
    assert not found["ok"]
    assert (
        found["reason"]
        == {
            "product": "1 calls, first (4, 6), (6, 4), out=(4, 4)",
            "scaled": "1 calls, first (4, 6), out=(4, 6)",
            "unwritten": "1 calls, first (4, 6), out=(4, 6)",
        }[wrong]
    )
    assert (1e-4 < found["error"] < 2e-3) if wrong != "unwritten" else np.isnan(found["error"])


def test_bounds_leave_room_for_the_rounding_of_factors() -> None:
    bounds = [gpu_parts.error_bound("conv2d", precision) for precision in ("float32", "tf32", "bf16")]
    assert bounds == sorted(bounds)
    assert bounds[0] < 1e-4 < bounds[1]
    assert gpu_parts.error_bound("relu", "bf16") == bounds[0]
    assert len(gpu_parts.variants("conv2d", TINY.precisions)) == 2
    assert gpu_parts.variants("relu", ("bf16", "tf32")) == [("float32", "")]
    assert gpu_parts.variants("dense", ("bf16", "tf32")) == [("bf16", ""), ("tf32", "")]
    assert gpu_parts.variants("conv2d", ("bf16",)) == [("bf16", "implicit"), ("bf16", "columns")]


@requires_compiler
def test_graph(cupy: ModuleType) -> None:
    (row,) = rows_of(gpu_parts.graph)
    assert (row["network"], row["identical"], row["host_reads_per_epoch"]) == ("lenet5", True, 1)
    assert (row["recorded"] > 0) == (row["reason"] == "") == row["ok"]
    assert row["convolution"] == get_backend("gpu").convolution
    assert "nodes" not in row, "the fake's graph cannot be printed"


@requires_compiler
def test_a_graph_that_computes_something_else_is_named(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first array that differs, in how many elements, and by how much."""

    def trained(job: Job, network: str, *, graph: bool = True, **_) -> tuple:
        trainer, split, metrics = original(job, network, graph=graph)
        if graph:
            trainer.model.layers[3].b.value[2] += 0.5
            trainer.model.layers[3].w.value[...] += 0.25
        return trainer, split, metrics

    original = gpu_parts.trained
    monkeypatch.setattr(gpu_parts, "trained", trained)
    monkeypatch.setattr(Trainer, "train_epoch", lambda self, *_: self.backend.to_host(self._totals))
    row = gpu_parts.compare_epochs(replace(TINY, batches=1), "lenet5")
    assert (row["identical"], row["ok"]) == (False, False)
    assert row["reason"].startswith("conv2d2.w: 2,400 of 2,400 elements differ, by 0.25 at most")


def test_the_first_difference_is_one_of_bits() -> None:
    first, second = (Sequential([Dense(2), Dense(1)]) for _ in range(2))
    for model in (first, second):
        model.build((3,), "cpu", seed=0)
        model.layers[1].b.value[0] = np.nan
    assert gpu_parts.first_difference(first, second) == ""
    second.layers[1].w.value[1, 0] += 0.125
    assert gpu_parts.first_difference(first, second) == "dense2.w: 1 of 2 elements differ, by 0.125 at most"
    first.layers[0].b.value[0], second.layers[0].b.value[0] = 0.0, -0.0
    assert gpu_parts.first_difference(first, second) == "dense1.b: 1 of 2 elements differ, by 0 at most"


@requires_compiler
def test_determinism(cupy: ModuleType) -> None:
    (row,) = rows_of(gpu_parts.determinism)
    assert row["same"] and row["ok"] and len(row["weights_sha256"]) == 64
    assert "reason" not in row


@requires_compiler
def test_runs_that_differ_say_in_what(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [get_backend("gpu") for _ in range(3)]
    for number, backend in enumerate(models):
        models[number] = Sequential([Dense(2)])
        models[number].build((3,), backend, seed=0)
    trainers = iter([SimpleNamespace(model=model, backend=model.backend) for model in models])
    monkeypatch.setattr(gpu_parts, "trained", lambda *_, **__: (next(trainers), None, None))
    models[1].layers[0].b.value[1] = 3
    row = gpu_parts.compare_runs(TINY, "lenet5", "float32")
    assert (row["ok"], row["reason"]) == (False, "dense1.b: 1 of 2 elements differ, by 3 at most")
    trainers = iter([SimpleNamespace(model=models[0], backend=models[0].backend)] * 3)
    row = gpu_parts.compare_runs(TINY, "lenet5", "float32")
    assert (row["same"], row["ok"], row["reason"]) == (True, False, "another seed gives the same weights")


# What CUDA 12 prints of a graph, without details and with all of them.
BRIEF = """digraph dot {
subgraph cluster_1 {
label="graph_1" graph[style="dashed"];
"graph_1_node_0"[style="bold" shape="octagon" label="0
gpucnn_relu
"];
"graph_1_node_1"[style="bold" shape="octagon" label="1
_Z13gemv2N_kernelIiifffLi128ELi1ELi4ELi4E16cublasGemvParamsEvT9_
"];
"graph_1_node_2"[style="bold" shape="octagon" label="2
implicit_conv2d_bf16
"];
"graph_1_node_3"[style="bold" shape="octagon" label="3
cupy_add__float32_float32_float32
"];
"graph_1_node_4"[style="solid" shape="record" label="{
MEMCPY
| {{ID | node handle} | {4 | 0x000055E7277A5C20}}
}"];
"graph_1_node_0" -> "graph_1_node_1" [headlabel=0];
}
}"""
DETAILED = """digraph dot {
subgraph cluster_1 {
label="graph_1" graph[style="dashed"];
"graph_1_node_0"[style="bold" shape="record" label="{KERNEL
| {ID | 0 (topoId: 1) | _ZN7cutlass7KernelI40cutlass_80_tensorop_s1688gemm_64x64_16x6EE\\<\\<\\<1,128,0\\>\\>\\>}
| {{node handle | func handle} | {0x000055E7277A5C20 | 0x000055E7270A5A90}}
| {cooperative | 0}
}"];
"graph_1_node_1"[style="bold" shape="record" label="{KERNEL
| {ID | 1 (topoId: 0) | softmax\\<\\<\\<1,128,0\\>\\>\\>}
}"];
"graph_1_node_0" -> "graph_1_node_1" [headlabel=0];
}
}"""


def test_kernels_of_cublas_are_told_from_others() -> None:
    brief, detailed = (
        gpu_parts.graph_facts(SimpleNamespace(graph=SimpleNamespace(debug_dot_str=lambda text=text: text)))
        for text in (BRIEF, DETAILED)
    )
    assert (brief["nodes"], brief["nodes of cuBLAS"]) == (5, 1)
    assert brief["kernels of cuBLAS"].startswith("1 x _Z13gemv2N_kernel")
    assert (detailed["nodes"], detailed["nodes of cuBLAS"]) == (2, 1)
    assert detailed["kernels of cuBLAS"].startswith("1 x _ZN7cutlass7Kernel")
    assert gpu_parts.graph_facts(SimpleNamespace(graph=None)) == {}, "what CuPy cannot tell hides nothing else"


@requires_compiler
def test_a_precision_that_fails_hides_no_other(cupy: ModuleType) -> None:
    wrong, right = rows_of(gpu_parts.determinism, replace(TINY, precisions=("float8", "float32")))
    assert (wrong["precision"], wrong["ok"], right["ok"]) == ("float8", False, True)
    assert "unknown precision 'float8'" in wrong["reason"]


@requires_compiler
def test_accuracy(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    name, dataset = gpu_parts.images(None)
    assert (name, dataset.image_shape) == ("digits", (32, 32, 1))
    few = gpu_parts.Split(dataset.train.images[:8, ::4, ::4].copy(), dataset.train.labels[:8])
    dataset = replace(dataset, train=few, test=few)
    monkeypatch.setattr(gpu_parts, "images", lambda _: ("digits", dataset))
    (row,) = rows_of(gpu_parts.accuracy)
    assert (row["epochs"], row["data"], row["network"], row["target"]) == (1, "digits", "mnist", 0.97)
    assert 0 <= row["accuracy"] <= 1 and row["seconds"] > 0
    assert row["ok"] == (row["accuracy"] >= 0.97)


def test_images_are_those_of_the_folder(tmp_path: Path, gpu: None, capsys: pytest.CaptureFixture) -> None:
    """One that is absent or has a damaged MNIST is refused before anything is run; one without MNIST is named."""
    assert gpu_parts.images(str(tmp_path))[0] == "digits"
    arguments = ["--only", "accuracy", "--minutes", "0", "--data-dir"]
    assert gpu_check.main([*arguments, str(tmp_path)]) == 1
    assert f"--data-dir {tmp_path}: has no MNIST; `accuracy` trains on digits" in capsys.readouterr().out
    write_mnist(tmp_path)
    name, dataset = gpu_parts.images(str(tmp_path))
    assert (name, dataset.name) == ("mnist", "mnist")
    assert gpu_check.main([*arguments, str(tmp_path)]) == 1
    assert "has no MNIST" not in capsys.readouterr().out
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"damaged")
    for folder, message in (
        (tmp_path, "train-images-idx3-ubyte is no IDX file"),
        (tmp_path / "absent", "absent does not exist"),
    ):
        assert gpu_check.main([*arguments, str(folder)]) == 2
        assert message in capsys.readouterr().err


@requires_compiler
def test_steps(cupy: ModuleType, cupy_of_children: None) -> None:
    peer, *rows = rows_of(gpu_speed.steps)
    assert peer["missing"] == "PyTorch is not installed"
    assert len(rows) == 2
    for row in rows:
        assert (row["network"], row["batch"], row["precision"]) == ("lenet5", 2, "float32")
        assert all(row[f"graph, {way}, ms"] > 0 for way in ("implicit", "columns"))
        assert row["alike"]
        assert row["gpucnn, MB"] > 0
        assert row["PyTorch's precision"] == "float32"
        assert row["ok"] == ("missing" not in row)
        assert not any("predicted" in key for key in row), "nothing is known of the fake's speed"
    assert [("eager, implicit, ms" in row) for row in rows] == [False, True]


def test_what_matters_most_is_timed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Worker:
        def tell(self, **order) -> None:
            pass

        def hear(self, seconds: float) -> Row:
            return {"torch": "2"}

        def set_up(self, kind: str, **order) -> Row:
            return {}

        def forget(self) -> None:
            pass

        def close(self, **_) -> None:
            pass

    def time_network(job, clock, workers, kinds, network, batch, precision) -> Row:
        asked.append((precision, network, kinds))
        return {"ok": True}

    properties = SimpleNamespace(getDeviceProperties=lambda device: {"name": b"NVIDIA H100 80GB HBM3"})
    backend = SimpleNamespace(xp=SimpleNamespace(cuda=SimpleNamespace(runtime=properties)), device=0)
    monkeypatch.setattr(gpu_speed, "Worker", Worker)
    monkeypatch.setattr(gpu_speed, "time_network", time_network)
    monkeypatch.setattr(gpu_speed, "make_backend", lambda device: backend)
    job = Job(timed=(("lenet5", 64), ("vgg", 512)))
    rows = rows_of(gpu_speed.steps, job)
    assert [order[:2] for order in asked[:6]] == [
        (precision, network) for precision in ("bf16", "tf32", "float32") for network in ("lenet5", "vgg")
    ]
    assert asked[0][2] == ("graph, implicit", "graph, columns", "torch graph")
    assert ["torch compiled" in kinds for *_, kinds in asked] == [False] * 12 + [True] * 6
    step = gpu_model.predict("vgg", 512, "bf16", "implicit", gpu_model.CARDS["H100"])
    assert rows[1]["graph, implicit, predicted, ms"] == pytest.approx(1e3 * step.seconds)
    assert rows[1]["graph, implicit, predicted, ms"] < rows[1]["graph, columns, predicted, ms"]
    assert rows[1]["PyTorch's precision"] == "autocast to bf16"


def test_ratios_are_those_of_a_round() -> None:
    kinds = "eager, columns", "graph, columns", "torch eager", "torch graph"
    answers = {kind: {"size": 1.0, "bytes": 2e6} for kind in kinds}
    rounds = [dict(zip(kinds, seconds, strict=True)) for seconds in ((4.0, 1.0, 9.0, 2.0), (9, 3, 3, 9), (4, 2, 9, 10))]
    found = gpu_speed.summary(answers, rounds)
    assert (found["ratio"], found["ratio, from"], found["ratio, to"]) == (2.0, 1.0, 4.5)
    assert (found["graph, columns, ms"], found["gpucnn, MB"], found["ok"]) == (2000, 2, True)
    answers["torch eager"]["size"] = 1.1
    assert not gpu_speed.summary(answers, rounds)["ok"], "they compute different things"


def test_what_the_peer_cannot_do_is_no_failure_of_ours() -> None:
    answers = {"graph": {"size": 1.0, "bytes": 1}, "torch compiled": {"error": "no compiler"}}
    found = gpu_speed.summary(answers, [{"graph": 1.0}])
    assert found["ok"] and found["missing"] == "torch compiled: no compiler" and "ratio" not in found
    answers = {"graph": {"error": "refused"}, "torch eager": {"size": 1.0, "bytes": 1}}
    assert not gpu_speed.summary(answers, [{"torch eager": 1.0}])["ok"]
    answers["graph"] = {"left_out": "no time left"}
    assert gpu_speed.summary(answers, [{"torch eager": 1.0}])["ok"]


def test_a_worker_that_died_is_started_anew() -> None:
    worker = gpu_speed.Worker()
    assert worker.ask(do="forget") == {}
    worker.process.kill()
    worker.process.wait()
    assert "the process ended with" in worker.ask(do="forget")["error"]
    assert worker.ask(do="turn", kind="graph", steps=1) == {"error": "KeyError: 'graph'"}
    os.kill(worker.process.pid, signal.SIGSTOP)
    assert worker.ask(seconds=0.1, do="forget") == {"left_out": "no time left"}
    assert worker.ask(do="forget") == {}
    worker.close()


# Engines whose answers are a stub's: `FAULTS` says what a kind does when it is set up, or in its turns.
STUB = """
import json, os, sys, time
FAULTS, have, turns = json.loads(os.environ["FAULTS"]), set(), 0
for line in sys.stdin:
    order, answer = json.loads(line), {}
    fault = FAULTS.get(f"{order['do']} {order.get('kind', '')}".strip(), {})
    time.sleep(fault.get("sleep", 0))
    open(fault.get("writes", os.devnull), "w").close()
    while not os.path.exists(fault.get("waits for", os.devnull)):
        time.sleep(0.01)
    if order["do"] == "set up":
        have.add(order["kind"])
        answer = {"size": 1.0, "bytes": 2000000, "versions": {}}
    elif order["do"] == "turn":
        turns += 1
        answer = {"seconds": 0.01} if order["kind"] in have else {"error": f"KeyError: {order['kind']}"}
    elif order["do"] == "import torch":
        answer = {"torch": "2"}
    else:
        have.clear()
    if turns >= fault.get("turns", 0):
        answer = fault.get("answer", answer)
    if "broken" in answer:
        FAULTS = {f"{what} {kind}": fault for what in ("set up", "turn") for kind in json.loads(os.environ["KINDS"])}
    print(json.dumps(answer), flush=True)
"""
GRAPHS = "graph, implicit", "graph, columns", "torch graph"


class Worker(gpu_speed.Worker):
    """One that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[str] = []

    def tell(self, **order) -> None:
        self.orders.append(f"{order['do']} {order.get('kind', '')}".strip())
        super().tell(**order)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Worker]]:
    """The processes of the part `steps`, with stubs of engines."""
    (tmp_path / "gpu_engines.py").write_text(STUB)
    monkeypatch.setattr(gpu_speed, "FOLDER", tmp_path)
    monkeypatch.setenv("FAULTS", "{}")
    monkeypatch.setenv("KINDS", json.dumps(GRAPHS))
    found = {"gpucnn": Worker(), "torch": Worker()}
    yield found
    for worker in found.values():
        worker.close(at_once=True)


def time_lenet5(workers: dict[str, Worker], clock: Clock) -> Row:
    return gpu_speed.time_network(TINY, clock, workers, GRAPHS, "lenet5", 2, "float32")


@pytest.mark.parametrize("slow", GRAPHS)
def test_a_set_up_that_is_stopped_takes_no_other_process_with_it(
    slow: str, workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own forgets what was set up before; what comes later is not asked for."""
    monkeypatch.setenv("FAULTS", json.dumps({f"set up {slow}": {"sleep": 60}}))
    for name in ("SET_UP", "PEER_SET_UP"):
        monkeypatch.setattr(gpu_speed, name, 0.1)
    row = time_lenet5(workers, Clock(2))
    if slow == "torch graph":
        assert (row["ok"], row["missing"], row["gpucnn, MB"]) == (True, "torch graph: no time left", 2)
        assert row["graph, implicit, ms"] == row["graph, columns, ms"] == 10 and "ratio" not in row
    else:
        reasons = ["its process was ended" if slow == GRAPHS[1] else "no time left", *["no time left"] * 2]
        told = "; ".join(f"{kind}: {reason}" for kind, reason in zip(GRAPHS, reasons, strict=True))
        assert row == {"left_out": told}
        assert workers["gpucnn"].process is None
        asked = [f"set up {kind}" for kind in GRAPHS[: GRAPHS.index(slow) + 1]]
        assert (workers["gpucnn"].orders, workers["torch"].orders) == (asked, []), "nothing was asked later"
    assert workers["torch"].process is None


def test_a_row_is_begun_if_its_set_ups_are_expected_to_fit(workers: dict[str, Worker]) -> None:
    assert gpu_speed.set_up_seconds(GRAPHS) == 2 * gpu_speed.SET_UP + gpu_speed.PEER_SET_UP
    assert gpu_speed.set_up_seconds(["torch compiled"]) > gpu_speed.PEER_SET_UP
    assert time_lenet5(workers, Clock(5)) == {"left_out": "no time left"}
    assert not any(worker.process for worker in workers.values())
    assert "ratio" in time_lenet5(workers, Clock(60))


def test_a_process_in_which_something_failed_serves_no_other_network(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was set up in it before is timed; one whose GPU is in an error ends at once."""
    fault = {"answer": {"error": "illegal address"}}
    monkeypatch.setenv("FAULTS", json.dumps({"set up graph, columns": fault}))
    row = time_lenet5(workers, Clock(60))
    assert (row["ok"], row["missing"], row["ratio"]) == (False, "graph, columns: illegal address", 1)
    assert workers["gpucnn"].process is None and workers["torch"].process is not None
    fault["answer"]["broken"] = True
    monkeypatch.setenv("FAULTS", json.dumps({"set up graph, implicit": fault}))
    row = time_lenet5(workers, Clock(60))
    assert (row["ok"], row["missing"], row["ratio"]) == (False, "graph, implicit: illegal address", 1)
    assert "graph, columns, ms" in row
    monkeypatch.setenv("FAULTS", json.dumps({f"set up {kind}": fault for kind in GRAPHS}))
    workers["torch"].close()
    row = time_lenet5(workers, Clock(60))
    assert not row["ok"] and row["missing"].count("illegal address") == 3


def test_a_turn_that_fails_ends_the_rounds(workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds before it count: in the fifth turn of a process the second round begins."""
    monkeypatch.setenv("FAULTS", json.dumps({"turn graph, implicit": {"answer": {"error": "refused"}, "turns": 5}}))
    row = gpu_speed.time_network(replace(TINY, rounds=5), Clock(60), workers, GRAPHS, "lenet5", 2, "float32")
    assert (row["ok"], row["missing"], row["graph, implicit, ms"]) == (False, "graph, implicit: refused", 10)
    assert workers["torch"].orders.count("turn torch graph") == 3
    assert workers["gpucnn"].process is None, "it serves no other network"
    monkeypatch.setenv("FAULTS", json.dumps({"turn torch graph": {"sleep": 60}}))
    monkeypatch.setattr(gpu_speed, "TURN", 0.5)
    workers["torch"].close()
    clock = Clock(600)
    clock.end = time.monotonic() + 7
    row = time_lenet5(workers, clock)
    assert (row["ok"], row["missing"]) == (True, "torch graph: no time left")
    assert "graph, columns, ms" in row and "torch graph, ms" not in row


@pytest.mark.parametrize("ends", ["at once", "later", "never"])
def test_an_import_of_pytorch_that_takes_long_delays_no_step(
    ends: str, workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is timed before it ends says so."""
    turn = {"sleep": 0.2, **({"writes": str(tmp_path / "begun")} if ends == "later" else {})}
    faults = {"turn graph, implicit": turn}
    if ends != "at once":
        faults["import torch"] = {"waits for": str(tmp_path / "begun")}
    monkeypatch.setenv("FAULTS", json.dumps(faults))
    monkeypatch.setattr(gpu_speed, "IMPORT_MOST", 60 if ends == "at once" else 0.1)
    monkeypatch.setattr(gpu_speed, "make_backend", lambda device: None)
    rows = rows_of(gpu_speed.steps)
    missing = "PyTorch, which is still being imported"
    if ends == "never":
        assert rows.pop() == {"network": "all", "missing": "PyTorch, whose import took longer than all steps of gpucnn"}
        assert [row["missing"] for row in rows] == [missing] * 2
    else:
        assert [row.get("missing") for row in rows] == [missing if ends == "later" else None, None, None]
        assert ["ratio" in row for row in rows] == [ends == "at once", True, True]
    assert all(row["ok"] and "graph, implicit, ms" in row for row in rows)


def in_an_error(device: int) -> SimpleNamespace:
    """A device after an illegal access."""

    def synchronize() -> None:
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    return SimpleNamespace(synchronize=synchronize if device == 1 else lambda: None)


BROKEN = SimpleNamespace(cuda=SimpleNamespace(Device=in_an_error))


def test_after_an_error_that_stays_no_more_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Row:
        raise ValueError("refused")

    monkeypatch.setitem(sys.modules, "cupy", BROKEN)
    about = {"operation": "relu", "precision": "float32", "convolution": ""}
    for device, is_broken in (("gpu:0", False), ("gpu", False), ("gpu:1", True)):
        clock = Clock(60, device)
        failed, other = (attempt(clock, about, find) for find in (fail, lambda: {"ok": True}))
        assert failed == {**about, "ok": False, "reason": "ValueError: refused"}
        left_out = {"left_out": "the GPU is in an error since relu, float32"}
        assert other == about | (left_out if is_broken else {"ok": True})
    turn = {"do": "turn", "kind": "graph", "steps": 1}
    for device, more in (("gpu:0", {}), ("gpu:1", {"broken": True})):
        assert gpu_engines.answer({**turn, "device": device}, {}) == {"error": "KeyError: 'graph'"} | more


@requires_compiler
def test_bandwidth(cupy: ModuleType) -> None:
    copy, *rows = rows_of(gpu_speed.bandwidth)
    assert (copy["kernel"], copy["bytes"], copy["share"]) == ("copy", 2 * 2 * 6 * 6 * 4 * 4, 1)
    assert [row["kernel"] for row in rows] == list(gpu_speed.MEMORY_BOUND)
    pixels = 2 * 6 * 6 * 4
    sizes = {row["kernel"]: row["bytes"] / pixels for row in rows}
    assert sizes == {
        **{"relu": 8, "relu_dx": 12, "bias and activation": 8, "im2col 3x3": 40, "col2im 3x3": 40},
        **{"max_pool2d 2x2": 4 + 5 / 4, "max_pool2d_dx 2x2": 4 + 5 / 4, "batch_norm": 12, "batch_norm_dx": 20},
        **{"sgd_step": 20, "sum_rows": 4, "sum_rows, 6 columns": 4, "gather_batch": 5},
    }
    for row in rows:
        assert row["share"] == pytest.approx(row["bytes_per_second"] / copy["bytes_per_second"])
        assert "predicted, ms" not in row


def test_every_kernel_that_is_bound_by_memory_has_a_prediction() -> None:
    x, card = np.zeros(gpu_job.Job().images, np.uint8), gpu_model.CARDS["H100"]
    found = {name: gpu_speed.expected(card, name, x)["predicted, ms"] for name in gpu_speed.MEMORY_BOUND}
    moved = 2 * 4 * x.size
    assert found["relu"] == pytest.approx(1e3 * moved / card.bandwidth / gpu_model.SHARE)
    assert min(found.values()) > 0 and max(found, key=found.get) == "im2col 3x3"


@requires_compiler
def test_costs(cupy: ModuleType, cupy_of_children: None) -> None:
    rows = rows_of(gpu_speed.costs)
    assert all(row["microseconds"] > 0 for row in rows)
    graphs = [row["what"] for row in rows if "graph" in row["what"]]
    assert graphs == ["graph of 1 kernels", "graph of 3 kernels", "graph of a matrix product"]
    assert [row["what"].split()[-1] for row in rows][-2:] == ["cold", "warm"]


# ---- the sanitizer ------------------------------------------------------------------------------------------------

RACES = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at implicit_conv2d_bf16+0xa70
=========     and Read access at implicit_conv2d_bf16+0x5c0 [16 hazards]
=========     and Read access at implicit_conv2d_bf16+0x5e0 [32 hazards]
=========
========= Warning: Race reported between Read access at softmax(const float *, float *, int)+0x260
=========     and Write access at softmax(const float *, float *, int)+0x200 [1 hazards]
=========
========= Warning: Race reported between Read access at void gemm<float, (int)64>(float *)+0x260 in gemm.cuh:3
=========     and Write access at void gemm<float, (int)64>(float *)+0x200 in gemm.cuh:2 [3 hazards]
=========
========= RACECHECK SUMMARY: 3 hazards displayed (1 error, 2 warnings)
"""
CLEAN = """========= COMPUTE-SANITIZER
========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)
"""


def test_races_are_read_from_the_report() -> None:
    first, second, foreign = gpu_parts.hazards(RACES, {"implicit_conv2d_bf16", "softmax"})
    assert (first["kernel"], first["hazards"], first["severity"], first["ok"]) == (
        *("implicit_conv2d_bf16", 48, "Error", False),
    )
    assert first["reason"].endswith("and Read access at implicit_conv2d_bf16+0x5e0 [32 hazards]")
    assert (second["kernel"], second["hazards"], second["severity"], second["ok"]) == ("softmax", 1, "Warning", False)
    assert foreign["ok"] and foreign["kernel"].startswith("void gemm")
    by_address = RACES.replace("implicit_conv2d_bf16+0xa70", "0xa70 in k.cu:3:implicit_conv2d_bf16")
    nameless = RACES.replace("implicit_conv2d_bf16+0xa70", "0xa70 in k.cu:3")
    found = [next(gpu_parts.hazards(report, {"implicit_conv2d_bf16"})) for report in (by_address, nameless)]
    assert [(row["kernel"], row["ok"]) for row in found] == [
        *(("implicit_conv2d_bf16", False), ("0xa70 in k.cu:3", False))
    ]
    assert list(gpu_parts.hazards(CLEAN, {"softmax"})) == []


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compute-sanitizer that writes a report and prints what a program would."""
    path = tmp_path / "compute-sanitizer"
    path.write_text('#!/bin/sh\ncp "$(dirname "$0")/found" "$4"\necho kernel softmax\necho kernel clip_norm\n')
    path.chmod(0o755)
    monkeypatch.setattr(gpu_parts, "TOOLKITS", (str(tmp_path),))
    return path


def test_sanitizer(tool: Path) -> None:
    found = tool.with_name("found")
    found.write_text(CLEAN)
    rows = rows_of(gpu_parts.sanitizer)
    assert [(row["kernel"], row["hazards"], row["ok"]) for row in rows] == [
        *(("softmax", 0, True), ("clip_norm", 0, True))
    ]
    found.write_text(RACES)
    assert {row["kernel"]: row["ok"] for row in rows_of(gpu_parts.sanitizer)} == {
        **{
            "implicit_conv2d_bf16": False,
            "softmax": False,
            "void gemm<float, (int)64>(float *)": True,
            "clip_norm": True,
        }
    }
    found.write_text(CLEAN.splitlines()[0])
    *others, last = rows_of(gpu_parts.sanitizer)
    assert last["reason"] == "its report has no end"
    assert [row["left_out"] for row in others] == [last["reason"]] * 2, "nothing says that they are clean"
    tool.write_text("#!/bin/sh\necho no GPU; exit 3\n")
    (row,) = rows_of(gpu_parts.sanitizer)
    assert (row["ok"], row["reason"], row["tail"]) == (False, "compute-sanitizer ended with 3", "no GPU")
    tool.write_text("#!/bin/sh\nsleep 60\n")
    (row,) = gpu_parts.sanitizer(TINY, Clock(0.5))
    assert (row["ok"], row["reason"]) == (False, "stopped after 1 s")


@pytest.mark.parametrize("option", ["--kernel-name-exclude", "--kernel-regex-exclude", None])
def test_kernels_of_cublas_are_not_watched(option: str | None, tool: Path) -> None:
    """By whatever the option is called, if there is one; none of ours has such a name."""
    tool.write_text(f'#!/bin/sh\n[ $1 = --help ] && echo "{option} arg" && exit\necho "$@"\nexit 3\n')
    (row,) = rows_of(gpu_parts.sanitizer)
    excluded = [part for name in gpu_parts.CUBLAS for part in (option, f"kns={name}")] if option else []
    expected = " ".join([*excluded, sys.executable, str(Path(gpu_race.__file__))])
    assert row["tail"].partition("/report ")[2].startswith(expected + " --device")
    own = [*(record.name for record in gpu_parts.hand_written()), *gpu_parts.OWN_KERNELS]
    assert not [name for name in own if any(part in name for part in gpu_parts.CUBLAS)]
    for dot in (BRIEF, DETAILED):
        foreign = [name for name in gpu_parts.kernel_names(dot) if "gemm" in name or "gemv" in name]
        assert foreign and all(any(part in name for part in gpu_parts.CUBLAS) for name in foreign)


def test_without_the_sanitizer_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts, "TOOLKITS", ())
    monkeypatch.setenv("PATH", "")
    (row,) = rows_of(gpu_parts.sanitizer)
    assert row["missing"] == "compute-sanitizer, which comes with the CUDA toolkit, is not on this machine"
    assert gpu_check.judged(Outcome("sanitizer", "", rows=[row]), "").status == "passed"


@requires_compiler
def test_all_hand_written_kernels_are_launched_for_the_sanitizer(
    cupy: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, smaller in {"N": 2, "SHAPE": (5, 6, 3), "WIDE": 5}.items():
        monkeypatch.setattr(gpu_race, name, smaller)
    gpu_race.main([])
    launched = {line.removeprefix("kernel ") for line in capsys.readouterr().out.splitlines()}
    assert launched == {record.name for record in gpu_parts.hand_written()}


# ---- PyTorch, without a GPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch graph", "torch graph NCHW"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_step_of_pytorch_is_a_step_of_ours(precision: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from bench_worker import make_batch, make_trainer
    from torch_nets import save_network

    model, shape = zoo.lenet5(), (28, 28, 1)
    model.build(shape, "cpu", seed=0)
    save_network(model, str(tmp_path / "lenet5"))
    x, labels = make_batch(8, shape)
    order = {"path": str(tmp_path / "lenet5"), "precision": precision, "kind": kind}
    step = gpu_engines.TorchStep(order, x, labels, "cpu")
    within = {"float32": 1e-5, "tf32": 1e-5, "bf16": 2e-2}[precision]  # a CPU has no tf32
    assert step.size() == pytest.approx(np.abs(model.predict(x)).mean(), rel=within)
    trainer = make_trainer(model, len(x))
    for _ in range(2):
        trainer.step(x, labels)
        step()
    theirs = dict(step.model.named_parameters())["0.bias"].detach().numpy()
    np.testing.assert_allclose(theirs, model.layers[0].b.value, rtol=10 * within, atol=within)


def test_pytorch_without_a_gpu_is_said() -> None:
    answer = gpu_engines.answer({"do": "import torch"}, {})
    assert "PyTorch" in answer.get("unavailable", "") or set(answer) == {"torch"}


# ---- the command --------------------------------------------------------------------------------------------------


def outcome(name: str, status: str = "passed") -> Outcome:
    return Outcome(name, status, rows=[{"what": "a", "value": 1.5, "ok": status == "passed"}], seconds=1.0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a GPU."""
    found = SimpleNamespace(name="gpu:0", describe=lambda: "gpu:0 (pretended)")
    monkeypatch.setattr(gpu_check, "make_backend", lambda device: found)


@requires_compiler
def test_the_command_on_the_fake_device(
    cupy: ModuleType, cupy_of_children: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A part that passes, one that fails, and one that crashes are told apart."""
    files = ["--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "found.md")]
    job = replace(TINY, precisions=("float32", "float8"), images=(-1,))
    assert gpu_check.main(["--only", "machine,determinism,bandwidth", *files], job) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    parts = {part["part"]: part for part in found["parts"]}
    statuses = {name: part["status"] for name, part in parts.items()}
    assert statuses == {"machine": "passed", "determinism": "failed", "bandwidth": "failed"}
    assert parts["determinism"]["reason"] == "1 of 2 rows failed"
    assert "the process ended with 1: ValueError: negative dimensions" in parts["bandwidth"]["reason"]
    assert "Traceback" in parts["bandwidth"]["output"]
    text = (tmp_path / "found.md").read_text()
    assert "| GPU | Fake GPU |" in text and "| `machine` | passed |  |" in text
    out = capsys.readouterr().out
    assert "unknown precision 'float8'" in out and "1 of 3 parts passed" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake", "found.json", "found.md"]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A part that finds a row and begins another, with a process of its own, and is never done."""
    script = tmp_path / "part.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        'row = \'{"part": "machine", "row": {"what": 1, "child": %d}}\' % child.pid\n'
        "print(row, '{\"part\": \"ma', sep='\\n', end='', flush=True)\n"
        "time.sleep(60)"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(gpu_check, "GRACE_SECONDS", 1.0)
    return script


def goes_on(process: int, seconds: float = 20.0) -> bool:
    """Whether a process still runs after so long: one that was killed may take a moment to end."""
    status, clock = Path(f"/proc/{process}/stat"), Clock(seconds)
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        if clock.left < 0:
            return True
        time.sleep(0.05)
    return False


def test_a_part_that_takes_too_long_is_stopped_with_what_it_found(part: Path, tmp_path: Path) -> None:
    with (tmp_path / "rows").open("w+") as file:
        gpu_check.add_line(file, {"block": "before"})
        found = gpu_check.run_part("machine", TINY, 1.0, file)
        gpu_check.add_line(file, {"part": "machine", "outcome": {}})
    assert (found.status, found.reason, [row["what"] for row in found.rows]) == ("failed", "stopped after 2 s", [1])
    assert found.seconds < 30
    assert not goes_on(found.rows[0]["child"])
    lines = (tmp_path / "rows").read_text().splitlines()
    assert [line[:15] for line in lines] == ['{"block": "befo', '{"part": "machi', '{"part": "ma', '{"part": "machi']


def test_after_an_error_of_the_gpu_another_process_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there is time for one; each row is found once."""
    script = tmp_path / "part.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path[:0] = {[str(ROOT / 'scripts'), str(ROOT / 'tests')]}\n"
        "from functools import partial\n"
        "import gpu_check, gpu_plan, test_gpu_check\n"
        "from gpu_job import attempt\n"
        "def work(what):\n"
        "    if what in 'bd':\n"
        "        sys.modules['cupy'] = test_gpu_check.BROKEN\n"
        "        raise RuntimeError('illegal access')\n"
        "    return {'process': os.getpid(), 'ok': True}\n"
        "def find(job, clock):\n"
        "    yield {'what': 'head'}\n"
        "    for what in 'abcde':\n"
        "        yield attempt(clock, {'what': what}, partial(work, what))\n"
        "gpu_check.__file__, gpu_check.PARTS = __file__, {'machine': gpu_plan.Part(find, None)}\n"
        "sys.exit(gpu_check.main())\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    job = replace(TINY, device="gpu:1")
    with (tmp_path / "rows").open("w+") as file:
        found, stopped = (gpu_check.run_part("machine", job, seconds, file) for seconds in (120.0, 8.0))
    assert [(row["what"], row.get("ok")) for row in found.rows] == [
        *(("head", None), ("a", True), ("b", False), ("c", True), ("d", False), ("e", True))
    ]
    assert len({row["process"] for row in found.rows if "process" in row}) == 3
    assert (found.status, found.reason) == ("failed", "2 of 6 rows failed")
    assert [row.get("left_out") for row in stopped.rows] == [*[None] * 3, *["the GPU is in an error since b"] * 3]


def test_what_was_found_stays_when_the_command_is_killed(part: Path, tmp_path: Path) -> None:
    """The process of the part writes its rows itself, into the file of its block."""
    found = tmp_path / "first-kernels.jsonl"
    command = (
        "import gpu_check, gpu_job, pathlib\n"
        f"gpu_check.__file__ = {str(part)!r}\n"
        "block = gpu_check.Block('kernels', ('machine', 'kernels'), 60)\n"
        f"gpu_check.run_blocks([block], gpu_job.Job(), lambda block: pathlib.Path({str(found)!r}), print)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "scripts"), str(ROOT)))}
    process = subprocess.Popen([sys.executable, "-c", command], env=environment, stdout=subprocess.DEVNULL)
    for _ in range(600):
        if found.exists() and '"row"' in found.read_text():
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    lines = found.read_text().splitlines()
    head, row = json.loads(lines[0]), json.loads(lines[1])["row"]
    try:
        assert (head["block"], head["seconds"], row["what"]) == ("kernels", 60, 1)
    finally:
        os.killpg(os.getpgid(row["child"]), signal.SIGKILL)


# ---- plans --------------------------------------------------------------------------------------------------------

BUDGET, VISIT, START_UP, FILES = 15 * 60, 330, 120, 8


@pytest.mark.parametrize("plan", gpu_plan.PLANS)
def test_a_visit_takes_five_minutes(plan: str) -> None:
    """By its limits; and what its parts are predicted to take fits into them."""
    blocks, job = gpu_plan.PLANS[plan], Job(timed=gpu_plan.PLAN_TIMED)
    assert sum(block.seconds for block in blocks) <= VISIT
    for block in blocks:
        predicted = sum(gpu_plan.PARTS[name].seconds(job) for name in block.parts)
        assert predicted <= block.seconds, block.name
    assert len(blocks) + 1 <= FILES


def test_both_visits_fit_into_the_time_of_a_machine() -> None:
    """Even if the last part of each block has to be stopped."""
    blocks = [block for plan in gpu_plan.PLANS.values() for block in plan]
    spent = sum(block.seconds + gpu_check.GRACE_SECONDS for block in blocks)
    assert spent + len(gpu_plan.PLANS) * START_UP <= BUDGET


def test_all_parts_fit_into_the_minutes_without_a_plan() -> None:
    assert sum(part.seconds(Job()) for part in gpu_plan.PARTS.values()) <= 60 * gpu_check.MINUTES


def test_the_seconds_of_a_part_grow_with_its_job() -> None:
    """Each figure of a job that the time depends on."""
    least = Job(precisions=("bf16",), networks=("lenet5",), classifiers=("lenet5",), timed=(("lenet5", 64),), rounds=1)
    for name, field in {
        **{"kernels": "precisions", "graph": "networks", "determinism": "precisions", "accuracy": "classifiers"},
        **{"steps": "timed", "tests": "test_workers"},
    }.items():
        more = replace(least, **{field: getattr(Job(), field) if field != "test_workers" else 1})
        assert gpu_plan.PARTS[name].seconds(more) > gpu_plan.PARTS[name].seconds(least), name
    assert gpu_plan.PARTS["steps"].seconds(replace(least, rounds=9)) > gpu_plan.PARTS["steps"].seconds(least)


def test_the_import_of_pytorch_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes longer than the first compilation, which goes on beside it."""
    before = gpu_plan.PARTS["steps"].seconds(Job())
    monkeypatch.setattr(gpu_speed, "IMPORT", gpu_speed.IMPORT + 10)
    assert gpu_plan.PARTS["steps"].seconds(Job()) == pytest.approx(before + 10)


def names_of(*arguments: str) -> dict[str, tuple[str, ...]]:
    options = gpu_check.parser().parse_args(arguments)
    return {block.name: block.parts for block in gpu_check.chosen(options)}


def test_what_a_plan_runs() -> None:
    assert names_of("--plan", "first", "--out", "x") == {
        "kernels": ("machine", "kernels"),
        "training": ("graph", "determinism"),
        "speed": ("bandwidth", "costs"),
        "tests": ("tests",),
    }
    second = {"steps": ("machine", "steps"), "accuracy": ("accuracy",), "sanitizer": ("sanitizer",)}
    assert names_of("--plan", "second", "--out", "x") == second
    mended = names_of("--plan", "second", "--out", "x", "--only", "graph,kernels", "--skip", "accuracy")
    assert mended == {"steps": ("machine", "steps"), "sanitizer": ("sanitizer",), "mended": ("kernels", "graph")}
    assert names_of("--only", "costs,kernels") == {"all": ("kernels", "costs")}


@pytest.mark.parametrize("plan", gpu_plan.PLANS)
def test_a_plan_leaves_a_file_of_each_block_and_one_of_tables(
    plan: str, gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And its networks, unless others are named."""
    jobs = []

    def run_part(name: str, job: Job, seconds: float, file) -> Outcome:
        jobs.append(job)
        return outcome(name)

    monkeypatch.setattr(gpu_check, "run_part", run_part)
    (tmp_path / "mnist").mkdir()
    arguments = ["--plan", plan, "--out", str(tmp_path / "found"), "--data-dir", str(tmp_path / "mnist")]
    assert gpu_check.main([*arguments, *(["--only", "graph"] if plan == "second" else [])]) == 0
    blocks = [block.name for block in gpu_plan.PLANS[plan]]
    files = sorted(path.relative_to(tmp_path / "found").as_posix() for path in (tmp_path / "found").rglob("*"))
    assert files == sorted([*(f"{plan}-{name}.jsonl" for name in blocks), f"{plan}.md"])
    assert len(files) <= FILES
    assert {(job.timed, job.data_dir, job.precisions) for job in jobs} == {
        (gpu_plan.PLAN_TIMED, str(tmp_path / "mnist"), ("bf16", "tf32", "float32"))
    }
    lines = [json.loads(line) for line in (tmp_path / "found" / f"{plan}-{blocks[0]}.jsonl").read_text().splitlines()]
    assert lines[0]["block"] == blocks[0]
    assert lines[-1]["outcome"]["status"] == "passed"


def test_a_second_visit_leaves_what_the_first_found(
    gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Another plan may use the folder; the same one may not."""
    monkeypatch.setattr(gpu_check, "run_part", lambda name, *_: outcome(name))
    for plan in gpu_plan.PLANS:
        assert gpu_check.main(["--plan", plan, "--out", str(tmp_path)]) == 0
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    capsys.readouterr()
    for plan, name in (("first", "first-kernels.jsonl"), ("second", "second-steps.jsonl")):
        assert gpu_check.main(["--plan", plan, "--out", str(tmp_path)]) == 2
        message = f"--out {tmp_path}: has {name} of an earlier visit; name another folder"
        assert message in capsys.readouterr().err
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_precisions_and_networks_can_be_named(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    monkeypatch.setattr(gpu_check, "run_part", lambda name, job, *_: jobs.append(job) or outcome(name))
    assert gpu_check.main(["--only", "steps", "--precisions", "tf32,bf16", "--timed", "lenet5:64,vgg:32"]) == 0
    assert (jobs[0].precisions, jobs[0].timed) == (("tf32", "bf16"), (("lenet5", 64), ("vgg", 32)))


def test_a_part_that_fails_stops_no_other(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpu_check, "run_part", lambda name, *_: outcome(name, "failed" if name == "graph" else "passed")
    )
    assert gpu_check.main(["--skip", "tests"]) == 1
    assert gpu_check.main(["--skip", "tests,graph"]) == 0


def test_the_parts_of_a_block_share_its_time(
    gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """By what they are predicted to take."""
    clock, given = [0.0], {}
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: clock[0])

    def run(name: str, job: Job, seconds: float, file) -> Outcome:
        given[name] = seconds
        clock[0] += {"first": 10.0, "second": 87.5, "fourth": 1.0}[name]
        return outcome(name)

    shares = {"first": 1, "second": 2, "third": 1, "fourth": 9}
    parts = {name: Part(None, lambda job, share=share: share) for name, share in shares.items()}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    monkeypatch.setattr(gpu_check, "run_part", run)
    blocks = [Block("one", ("first", "second", "third"), 100.0), Block("two", ("fourth",), 30.0)]
    found = gpu_check.run_blocks(blocks, TINY, None, lambda _: None)
    assert given == pytest.approx({"first": 25.0, "second": 60.0, "fourth": 30.0}), "in a block, for those behind"
    assert [part.status for part in found] == ["passed", "passed", "skipped", "passed"]
    assert found[2].reason == "no time left of 100 seconds"
    monkeypatch.setattr(gpu_check, "run_blocks", lambda *_: found)
    assert gpu_check.main([]) == 1, "what was not begun may not work"
    assert "3 of 4 parts passed" in capsys.readouterr().out


def test_what_there_was_no_time_for_is_named() -> None:
    def never() -> Row:
        raise AssertionError

    assert attempt(Clock(0), {"network": "vgg"}, never) == {"network": "vgg", "left_out": "no time left"}
    found = gpu_check.judged(Outcome("steps", "", rows=[{"ok": True}, {"left_out": "no time left"}]), "")
    assert (found.status, found.reason) == ("passed", "1 of 2 rows left out")
    assert gpu_check.judged(Outcome("steps", ""), "").reason == "it found nothing"


def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with absent_cupy():
        assert gpu_check.main(["--json", str(tmp_path / "found.json")]) == 2
    assert "CuPy is not installed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "kernel"], "unknown part 'kernel': did you mean 'kernels'"),
        (["--device", "cpu"], "--device cpu: expected a GPU (gpu:0), received cpu"),
        (["--json", "no/such/folder"], "cannot be written there; name a file in a folder that exists"),
        (["--plan", "first"], "--plan needs --out DIR, and has its own times"),
        (["--plan", "first", "--out", "x", "--only", "kernels"], "--only names what was mended, in --plan second"),
        (["--plan", "second", "--out", "x", "--minutes", "3"], "--plan needs --out DIR, and has its own times"),
        (["--out", "no/such/folder"], "--out no/such/folder: No such file or directory; name a folder in one that"),
        (["--precisions", "bf16,tf23"], "unknown precision 'tf23': did you mean 'tf32'"),
        (["--timed", "vgg"], "--timed vgg: expected a network and a batch size, such as vgg:512"),
        (["--timed", "vgh:512"], "unknown model 'vgh': did you mean 'vgg'"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert gpu_check.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found.json"
    file.write_text("before")

    def full(*_) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as context:
        context.setattr(gpu_check.os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            gpu_check.write(file, "after")
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_the_tables_go_between_the_marks(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    assert gpu_check.document(file, "tables\n") == "tables\n"
    file.write_text("top\n<!-- gpu -->\n\nold\n\n<!-- end -->\nbottom\n")
    assert gpu_check.document(file, "new\n") == "top\n<!-- gpu -->\n\nnew\n\n<!-- end -->\nbottom\n"
    file.write_text("no marks\n")
    assert gpu_check.document(file, "tables\n") == "tables\n"


def test_tables() -> None:
    rows = [{"network": "vgg", "ms": 0.12345, "ok": True}, {"network": "a|b", "bytes": 1234567, "sha": "ab" * 32}]
    assert gpu_check.table(rows).splitlines() == [
        "| network | ms | bytes | sha | ok |",
        "| --- | --- | --- | --- | --- |",
        "| vgg | 0.123 |  |  | True |",
        "| a\\|b |  | 1,234,567 | abababababab |  |",
    ]
    assert gpu_check.plain(float("nan")) == "nan"
    assert (gpu_check.shown(True), gpu_check.shown(12345.6)) == ("True", "12,346")


def test_tables_say_what_a_precision_is() -> None:
    note = "In bf16 and tf32 the factors of matrix products are rounded"
    assert note in gpu_check.markdown([Outcome("steps", "passed", rows=[{"precision": "bf16"}])])
    assert note not in gpu_check.markdown([outcome("machine")])


def test_the_script_names_its_parts() -> None:
    assert set(gpu_check.PARTS) == {
        *("machine", "tests", "kernels", "graph", "determinism"),
        *("accuracy", "steps", "bandwidth", "costs", "sanitizer"),
    }
