"""The check of a GPU: its parts on the strict fake device, with tiny networks, and what its command makes of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import bench_ops
import gpu_check
import gpu_engines
import gpu_parts
import gpu_speed
import numpy as np
import pytest
from device.fixtures import absent_cupy, fake_cupy, requires_compiler
from gpu_check import Outcome, Part
from gpu_job import Clock, Job, Row, attempt

from gpucnn import SGD, Conv2D, Dense, Flatten, ReLU, Sequential, SoftmaxCrossEntropy, get_backend, zoo

ROOT = Path(__file__).resolve().parent.parent
TINY = Job(
    precisions=("float32",),
    tests=("tests/test_gpu_step.py::test_gpu_numbers", "tests/test_gpu_step.py::test_real_gpu_trains_as_the_cpu"),
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
    """Of the two tests one needs a GPU, which the fake passes for."""
    on_gpu, others = rows_of(gpu_parts.tests)
    assert [(row["passed"], row["failed"], row["skipped"], row["ok"]) for row in (on_gpu, others)] == [
        *((1, 0, 0, True), (1, 0, 0, True))
    ]


def test_tests_that_need_a_gpu_are_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = gpu_parts.run_tests(TINY, "gpu", 60)
    assert (found["failed"], found["skipped"], found["ok"]) == (1, 0, False)


def test_tests_that_fail_or_take_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_a(): pass\ndef test_b(): 1/0\ndef test_c(): time.sleep(60)"
    )
    job = replace(TINY, tests=("-c", "/dev/null", str(tmp_path)))
    failed = gpu_parts.run_tests(replace(job, tests=(*job.tests, "-k", "not test_c")), "not gpu", 60)
    assert (failed["passed"], failed["failed"], failed["ok"], failed["reason"]) == (1, 1, False, "pytest ended with 1")
    assert "ZeroDivisionError" in failed["tail"]
    stopped = gpu_parts.run_tests(job, "not gpu", 5)
    assert (stopped["passed"], stopped["failed"], stopped["reason"]) == (1, 1, "stopped after 5 s")


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
    assert (1e-4 < found["error"] < 2e-3) if wrong != "unwritten" else np.isnan(found["error"])


def test_bounds_leave_room_for_the_rounding_of_factors() -> None:
    bounds = [gpu_parts.error_bound("conv2d", precision) for precision in ("float32", "tf32", "bf16")]
    assert bounds == sorted(bounds)
    assert bounds[0] < 1e-4 < bounds[1]
    assert gpu_parts.error_bound("relu", "bf16") == bounds[0]
    assert len(gpu_parts.variants("conv2d", TINY.precisions)) == 2
    assert gpu_parts.variants("relu", ("float32", "tf32")) == [("float32", "")]
    assert gpu_parts.variants("dense", ("float32", "tf32")) == [("float32", ""), ("tf32", "")]


@requires_compiler
def test_graph(cupy: ModuleType) -> None:
    (row,) = rows_of(gpu_parts.graph)
    assert (row["network"], row["identical"], row["host_reads_per_epoch"]) == ("lenet5", True, 1)
    assert (row["recorded"] > 0) == (row["reason"] == "") == row["ok"]


@requires_compiler
def test_determinism(cupy: ModuleType) -> None:
    (row,) = rows_of(gpu_parts.determinism)
    assert row["same"] and row["ok"] and len(row["weights_sha256"]) == 64


@requires_compiler
def test_a_precision_that_fails_hides_no_other(cupy: ModuleType) -> None:
    wrong, right = rows_of(gpu_parts.determinism, replace(TINY, precisions=("float8", "float32")))
    assert (wrong["precision"], wrong["ok"], right["ok"]) == ("float8", False, True)
    assert "unknown precision 'float8'" in wrong["reason"]


@requires_compiler
def test_accuracy(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    name, dataset = gpu_parts.images("nowhere")
    assert (name, dataset.image_shape) == ("digits", (32, 32, 1))
    few = gpu_parts.Split(dataset.train.images[:8, ::4, ::4].copy(), dataset.train.labels[:8])
    dataset = replace(dataset, train=few, test=few)
    monkeypatch.setattr(gpu_parts, "images", lambda _: ("digits", dataset))
    (row,) = rows_of(gpu_parts.accuracy)
    assert (row["epochs"], row["data"], row["network"], row["target"]) == (1, "digits", "mnist", 0.97)
    assert 0 <= row["accuracy"] <= 1 and row["seconds"] > 0
    assert row["ok"] == (row["accuracy"] >= 0.97)


@requires_compiler
def test_steps(cupy_of_children: None) -> None:
    peer, *rows = rows_of(gpu_speed.steps)
    assert peer["missing"] == "PyTorch is not installed"
    (row,) = rows
    assert (row["network"], row["batch"], row["precision"]) == ("lenet5", 2, "float32")
    assert row["eager, ms"] > 0
    assert row["alike"]
    assert row["gpucnn, MB"] > 0
    assert row["ok"] == ("missing" not in row)


def test_ratios_are_those_of_a_round() -> None:
    answers = {kind: {"size": 1.0, "bytes": 2e6} for kind in ("eager", "graph", "torch eager", "torch graph")}
    rounds = [
        {"eager": 4.0, "graph": 1.0, "torch eager": 9.0, "torch graph": 2.0},
        {"eager": 9.0, "graph": 3.0, "torch eager": 3.0, "torch graph": 9.0},
        {"eager": 4.0, "graph": 2.0, "torch eager": 9.0, "torch graph": 10.0},
    ]
    found = gpu_speed.summary(answers, rounds)
    assert (found["ratio"], found["ratio, from"], found["ratio, to"]) == (2.0, 1.0, 4.5)
    assert (found["graph, ms"], found["gpucnn, MB"], found["ok"]) == (2000, 2, True)
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


@requires_compiler
def test_costs(cupy: ModuleType, cupy_of_children: None) -> None:
    rows = rows_of(gpu_speed.costs)
    assert all(row["microseconds"] > 0 for row in rows)
    assert [row["what"] for row in rows if "graph" in row["what"]] == ["graph of 1 kernels", "graph of 3 kernels"]
    assert [row["what"].split()[-1] for row in rows][-2:] == ["cold", "warm"]


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


def test_a_part_that_takes_too_long_is_stopped_with_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "part.py"
    script.write_text("import time\nprint('{\"what\": 1}', flush=True)\ntime.sleep(60)")
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(gpu_check, "GRACE_SECONDS", 1.0)
    found = gpu_check.run_part("machine", TINY, 1.0)
    assert (found.status, found.reason, found.rows) == ("failed", "stopped after 2 s", [{"what": 1}])
    assert found.seconds < 30


def test_a_part_that_fails_stops_no_other(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpu_check, "run_part", lambda name, job, seconds: outcome(name, "failed" if name == "graph" else "passed")
    )
    assert gpu_check.main(["--skip", "tests"]) == 1
    assert gpu_check.main(["--skip", "tests,graph"]) == 0


def test_the_parts_share_the_time(gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    clock, given = [0.0], {}
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: clock[0])

    def run(name: str, job: Job, seconds: float) -> Outcome:
        given[name] = seconds
        clock[0] += {"first": 10.0, "second": 87.5}[name]
        return outcome(name)

    parts = {name: Part(None, share) for name, share in (("first", 1), ("second", 2), ("third", 1))}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    monkeypatch.setattr(gpu_check, "run_part", run)
    found = gpu_check.run_parts([*parts], TINY, 100 / 60, lambda _: None)
    assert given == pytest.approx({"first": 25.0, "second": 60.0}), "what the first left is for the others"
    assert [part.status for part in found] == ["passed", "passed", "skipped"]
    assert found[2].reason.startswith("no time left of 1.66667 minutes")
    monkeypatch.setattr(gpu_check, "run_parts", lambda *_: found)
    assert gpu_check.main([]) == 1, "what was not begun may not work"
    assert "2 of 3 parts passed" in capsys.readouterr().out


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


def test_the_script_names_its_parts() -> None:
    assert set(gpu_check.PARTS) == {
        *("machine", "tests", "kernels", "graph", "determinism"),
        *("accuracy", "steps", "bandwidth", "costs"),
    }
