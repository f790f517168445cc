"""The parts of the check of a GPU that say whether everything works, on the strict fake device, with tiny networks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from device.fixtures import fake_cupy, requires_compiler
from gpu_job_of_tests import ROOT, TINY, cupy_of_children, rows_of

from bench import ops
from gpu import check, parts, race
from gpu.check import Outcome
from gpu.job import Clock, Job
from gpucnn import SGD, Conv2D, Dense, Flatten, ReLU, Sequential, SoftmaxCrossEntropy, Trainer, get_backend

__all__ = ["cupy_of_children"]  # a fixture of the tests below
cupy = fake_cupy  # under the name that the tests speak of


# ---- the parts ----------------------------------------------------------------------------------------------------


@requires_compiler
def test_machine(cupy: ModuleType) -> None:
    facts = {row["what"]: row["value"] for row in rows_of(parts.machine)}
    assert (facts["GPU"], facts["compute capability"], facts["CuPy"]) == ("Fake GPU", "9.0", cupy.__version__)
    assert facts["NumPy"] == np.__version__
    assert {"driver", "CUDA runtime", "cuBLAS", "NVRTC", "PyTorch", "date", "processor"} <= set(facts)


@requires_compiler
def test_tests(cupy_of_children: None) -> None:
    """Of the two tests one needs a GPU, which the fake passes for; the other is not run."""
    (row,) = rows_of(parts.tests)
    assert [row[key] for key in ("tests", "passed", "failed", "skipped", "ok")] == ["on the GPU", 1, 0, 0, True]


def test_tests_that_need_a_gpu_are_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = parts.run_tests(TINY, "gpu", 60)
    assert (found["failed"], found["skipped"], found["ok"]) == (1, 0, False)


@pytest.mark.parametrize("workers", [1, 2])
def test_tests_that_fail_or_take_too_long(workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_a(): pass\ndef test_b(): 1/0\ndef test_c(): time.sleep(60)"
    )
    if workers > 1:
        pytest.importorskip("xdist")
    job = replace(TINY, tests=("-c", "/dev/null", str(tmp_path)), test_workers=workers)
    failed = parts.run_tests(replace(job, tests=(*job.tests, "-k", "not test_c")), "not gpu", 60)
    assert (failed["passed"], failed["failed"], failed["ok"], failed["reason"]) == (1, 1, False, "pytest ended with 1")
    assert failed["processes"] == workers
    assert "test_it.py:3: ZeroDivisionError: division by zero" in failed["tail"]
    stopped = parts.run_tests(job, "not gpu", 20)
    assert (stopped["passed"], stopped["failed"], stopped["reason"]) == (1, 1, "stopped after 20 s")


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
    found = parts.run_tests(job, "not gpu", 60)
    assert (found["passed"], found["ok"], found["reason"]) == (1, False, "pytest ended with 1")
    assert "No module named 'no_such_module'" in found["tail"] and "UserWarning: of ours" in found["tail"]
    (told,) = (line for line in found["tail"].splitlines() if line.startswith("FAILED "))
    assert told.endswith(f"test_other - UserWarning: of ours: {90 * '!'}"), "the summary names the reason of each"


def test_no_test_that_needs_a_gpu_is_in_a_file_that_is_left_out(request: pytest.FixtureRequest) -> None:
    """Of all tests that run now: where that is the whole suite, none is forgotten."""
    named = parts.gpu_tests()
    assert "tests/ops/test_backends.py" in named and len(named) < 25
    marked = {item.path for item in request.session.items if item.get_closest_marker("gpu")}
    assert {path.relative_to(ROOT).as_posix() for path in marked} <= set(named)


def test_those_tests_are_run_that_may_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_) -> SimpleNamespace:
        asked.append([argument for argument in command if argument.startswith("tests")])
        return SimpleNamespace(returncode=0)

    asked: list[list[str]] = []
    monkeypatch.setattr(parts.subprocess, "run", run)
    for job in (Job(), TINY):
        parts.run_tests(job, "gpu", 60)
    assert asked == [parts.gpu_tests(), list(TINY.tests)]


def test_without_xdist_one_process_runs_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_a(): pass")
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    found = parts.run_tests(replace(TINY, tests=("-c", "/dev/null", str(tmp_path))), "not gpu", 60)
    assert (found["processes"], found["passed"], found["ok"]) == (1, 1, True)


def test_tests_are_counted_in_the_output_of_several_processes() -> None:
    """That of pytest-xdist 3.8, ended before its summary."""
    output = "bringing up nodes...\n.....F....s.......\n..E.x\nFEEDING is no line of tests\n....\n"
    assert parts.count_tests(output) == {"passed": 16 + 4 + 4, "failed": 2, "skipped": 1}


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the part `kernels` record two small networks."""
    monkeypatch.setattr(ops, "BATCH_SIZE", 2)

    def steps(backend) -> Iterator:
        model = Sequential([Conv2D(4, 3, groups=2), ReLU(), Flatten(), Dense(10)])
        yield ops.training(backend, model, (5, 5, 2), SoftmaxCrossEntropy(), SGD(0.01, 0.9))

    monkeypatch.setattr(ops, "steps", steps)


@requires_compiler
def test_kernels(few_steps: None, cupy: ModuleType) -> None:
    rows = rows_of(parts.kernels)
    for row in rows:
        assert "left_out" in row or (row["error"] <= row["bound"] and row["ok"]), row
    checked = {row["operation"]: row for row in rows if "calls" in row}
    assert {"relu_dx", "max_pool2d", "dense", "matmul", "sgd_step", "gather_batch"} <= set(checked)
    assert checked["dense"]["error"] > 0, "sums in float32 are not those in float64"
    assert {row["convolution"] for row in rows if row["operation"] == "conv2d"} == {"columns", "implicit"}
    assert [row["operation"] in parts.PRODUCTS for row in rows if "calls" in row].index(False) > 3, "products first"


@requires_compiler
@pytest.mark.parametrize("wrong", ["scaled", "unwritten", "product"])
def test_wrong_kernels_are_seen(wrong: str, few_steps: None, cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend("gpu")
    x = backend.from_host(np.random.default_rng(0).standard_normal((4, 6), dtype=np.float32))
    out = backend.empty((4, 4)) if wrong == "product" else backend.relu(x)
    name, arguments = ("matmul", (x, x.T.copy())) if wrong == "product" else ("relu", (x,))
    call = name, arguments, {"out": out}
    references = cache(partial(parts.make_references, [call], backend))
    assert parts.check_operation(references, "gpu", name, "float32", "")["ok"]

    def broken(self, *arguments, out):
        if wrong == "unwritten":
            return out
        out[...] = original(self, *arguments, out=out) * 1.001
        return out

    original = getattr(type(backend), name)
    monkeypatch.setattr(type(backend), name, broken)
    found = parts.check_operation(references, "gpu", name, "float32", "")
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
    bounds = [parts.error_bound("conv2d", precision) for precision in ("float32", "tf32", "bf16")]
    assert bounds == sorted(bounds)
    assert bounds[0] < 1e-4 < bounds[1]
    assert parts.error_bound("relu", "bf16") == bounds[0]
    assert len(parts.variants("conv2d", TINY.precisions)) == 2
    assert parts.variants("relu", ("bf16", "tf32")) == [("float32", "")]
    assert parts.variants("dense", ("bf16", "tf32")) == [("bf16", ""), ("tf32", "")]
    assert parts.variants("conv2d", ("bf16",)) == [("bf16", "implicit"), ("bf16", "columns")]


@requires_compiler
def test_graph(cupy: ModuleType) -> None:
    (row,) = rows_of(parts.graph)
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

    original = parts.trained
    monkeypatch.setattr(parts, "trained", trained)
    monkeypatch.setattr(Trainer, "train_epoch", lambda self, *_: self.backend.to_host(self._totals))
    row = parts.compare_epochs(replace(TINY, batches=1), "lenet5")
    assert (row["identical"], row["ok"]) == (False, False)
    assert row["reason"].startswith("conv2d2.w: 2,400 of 2,400 elements differ, by 0.25 at most")


def test_the_first_difference_is_one_of_bits() -> None:
    first, second = (Sequential([Dense(2), Dense(1)]) for _ in range(2))
    for model in (first, second):
        model.build((3,), "cpu", seed=0)
        model.layers[1].b.value[0] = np.nan
    assert parts.first_difference(first, second) == ""
    second.layers[1].w.value[1, 0] += 0.125
    assert parts.first_difference(first, second) == "dense2.w: 1 of 2 elements differ, by 0.125 at most"
    first.layers[0].b.value[0], second.layers[0].b.value[0] = 0.0, -0.0
    assert parts.first_difference(first, second) == "dense1.b: 1 of 2 elements differ, by 0 at most"


@requires_compiler
def test_determinism(cupy: ModuleType) -> None:
    (row,) = rows_of(parts.determinism)
    assert row["same"] and row["ok"] and len(row["weights_sha256"]) == 64
    assert "reason" not in row


@requires_compiler
def test_runs_that_differ_say_in_what(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [get_backend("gpu") for _ in range(3)]
    for number, backend in enumerate(models):
        models[number] = Sequential([Dense(2)])
        models[number].build((3,), backend, seed=0)
    trainers = iter([SimpleNamespace(model=model, backend=model.backend) for model in models])
    monkeypatch.setattr(parts, "trained", lambda *_, **__: (next(trainers), None, None))
    models[1].layers[0].b.value[1] = 3
    row = parts.compare_runs(TINY, "lenet5", "float32")
    assert (row["ok"], row["reason"]) == (False, "dense1.b: 1 of 2 elements differ, by 3 at most")
    trainers = iter([SimpleNamespace(model=models[0], backend=models[0].backend)] * 3)
    row = parts.compare_runs(TINY, "lenet5", "float32")
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
        parts.graph_facts(SimpleNamespace(graph=SimpleNamespace(debug_dot_str=lambda text=text: text)))
        for text in (BRIEF, DETAILED)
    )
    assert (brief["nodes"], brief["nodes of cuBLAS"]) == (5, 1)
    assert brief["kernels of cuBLAS"].startswith("1 x _Z13gemv2N_kernel")
    assert (detailed["nodes"], detailed["nodes of cuBLAS"]) == (2, 1)
    assert detailed["kernels of cuBLAS"].startswith("1 x _ZN7cutlass7Kernel")
    assert parts.graph_facts(SimpleNamespace(graph=None)) == {}, "what CuPy cannot tell hides nothing else"


@requires_compiler
def test_a_precision_that_fails_hides_no_other(cupy: ModuleType) -> None:
    wrong, right = rows_of(parts.determinism, replace(TINY, precisions=("float8", "float32")))
    assert (wrong["precision"], wrong["ok"], right["ok"]) == ("float8", False, True)
    assert "unknown precision 'float8'" in wrong["reason"]


@requires_compiler
def test_accuracy(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    name, dataset = parts.images(None)
    assert (name, dataset.image_shape) == ("digits", (32, 32, 1))
    few = parts.Split(dataset.train.images[:8, ::4, ::4].copy(), dataset.train.labels[:8])
    dataset = replace(dataset, train=few, test=few)
    monkeypatch.setattr(parts, "images", lambda _: ("digits", dataset))
    (row,) = rows_of(parts.accuracy)
    assert (row["epochs"], row["data"], row["network"], row["target"]) == (1, "digits", "mnist", 0.97)
    assert 0 <= row["accuracy"] <= 1 and row["seconds"] > 0
    assert row["ok"] == (row["accuracy"] >= 0.97)


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
    first, second, foreign = parts.hazards(RACES, {"implicit_conv2d_bf16", "softmax"})
    assert (first["kernel"], first["hazards"], first["severity"], first["ok"]) == (
        *("implicit_conv2d_bf16", 48, "Error", False),
    )
    assert first["reason"].endswith("and Read access at implicit_conv2d_bf16+0x5e0 [32 hazards]")
    assert (second["kernel"], second["hazards"], second["severity"], second["ok"]) == ("softmax", 1, "Warning", False)
    assert foreign["ok"] and foreign["kernel"].startswith("void gemm")
    by_address = RACES.replace("implicit_conv2d_bf16+0xa70", "0xa70 in k.cu:3:implicit_conv2d_bf16")
    nameless = RACES.replace("implicit_conv2d_bf16+0xa70", "0xa70 in k.cu:3")
    found = [next(parts.hazards(report, {"implicit_conv2d_bf16"})) for report in (by_address, nameless)]
    assert [(row["kernel"], row["ok"]) for row in found] == [
        *(("implicit_conv2d_bf16", False), ("0xa70 in k.cu:3", False))
    ]
    assert list(parts.hazards(CLEAN, {"softmax"})) == []


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compute-sanitizer that writes a report and prints what a program would."""
    path = tmp_path / "compute-sanitizer"
    path.write_text('#!/bin/sh\ncp "$(dirname "$0")/found" "$4"\necho kernel softmax\necho kernel clip_norm\n')
    path.chmod(0o755)
    monkeypatch.setattr(parts, "TOOLKITS", (str(tmp_path),))
    return path


def test_sanitizer(tool: Path) -> None:
    found = tool.with_name("found")
    found.write_text(CLEAN)
    rows = rows_of(parts.sanitizer)
    assert [(row["kernel"], row["hazards"], row["ok"]) for row in rows] == [
        *(("softmax", 0, True), ("clip_norm", 0, True))
    ]
    found.write_text(RACES)
    assert {row["kernel"]: row["ok"] for row in rows_of(parts.sanitizer)} == {
        **{
            "implicit_conv2d_bf16": False,
            "softmax": False,
            "void gemm<float, (int)64>(float *)": True,
            "clip_norm": True,
        }
    }
    found.write_text(CLEAN.splitlines()[0])
    *others, last = rows_of(parts.sanitizer)
    assert last["reason"] == "its report has no end"
    assert [row["left_out"] for row in others] == [last["reason"]] * 2, "nothing says that they are clean"
    tool.write_text("#!/bin/sh\necho no GPU; exit 3\n")
    (row,) = rows_of(parts.sanitizer)
    assert (row["ok"], row["reason"], row["tail"]) == (False, "compute-sanitizer ended with 3", "no GPU")
    tool.write_text("#!/bin/sh\nsleep 60\n")
    (row,) = parts.sanitizer(TINY, Clock(0.5))
    assert (row["ok"], row["reason"]) == (False, "stopped after 1 s")


@pytest.mark.parametrize("option", ["--kernel-name-exclude", "--kernel-regex-exclude", None])
def test_kernels_of_cublas_are_not_watched(option: str | None, tool: Path) -> None:
    """By whatever the option is called, if there is one; none of ours has such a name."""
    tool.write_text(f'#!/bin/sh\n[ $1 = --help ] && echo "{option} arg" && exit\necho "$@"\nexit 3\n')
    (row,) = rows_of(parts.sanitizer)
    excluded = [part for name in parts.CUBLAS for part in (option, f"kns={name}")] if option else []
    expected = " ".join([*excluded, sys.executable, str(Path(race.__file__))])
    assert row["tail"].partition("/report ")[2].startswith(expected + " --device")
    own = [*(record.name for record in parts.hand_written()), *parts.OWN_KERNELS]
    assert not [name for name in own if any(part in name for part in parts.CUBLAS)]
    for dot in (BRIEF, DETAILED):
        foreign = [name for name in parts.kernel_names(dot) if "gemm" in name or "gemv" in name]
        assert foreign and all(any(part in name for part in parts.CUBLAS) for name in foreign)


def test_without_the_sanitizer_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "TOOLKITS", ())
    monkeypatch.setenv("PATH", "")
    (row,) = rows_of(parts.sanitizer)
    assert row["missing"] == "compute-sanitizer, which comes with the CUDA toolkit, is not on this machine"
    assert check.judged(Outcome("sanitizer", "", rows=[row]), "").status == "passed"


@requires_compiler
def test_all_hand_written_kernels_are_launched_for_the_sanitizer(
    cupy: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, smaller in {"N": 2, "SHAPE": (5, 6, 3), "WIDE": 5}.items():
        monkeypatch.setattr(race, name, smaller)
    race.main([])
    launched = {line.removeprefix("kernel ") for line in capsys.readouterr().out.splitlines()}
    assert launched == {record.name for record in parts.hand_written()}
