"""The benchmark: what it counts, and that it runs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import main, ops, profiling, scaling, worker
from bench.table import TABLES, table
from gpucnn import (
    SGD,
    Backend,
    Conv2D,
    Dense,
    Flatten,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    get_backend,
    zoo,
)
from gpucnn.cli import blas

SCRIPT = Path(main.__file__).parents[1] / "bench.py"


def test_arithmetic_is_that_of_the_matrix_products() -> None:
    model = Sequential([Conv2D(4, 3), Residual(Conv2D(4, 1)), Flatten(), Dense(5)])
    model.build((6, 5, 2), "reference")
    first, second, dense = 2 * (4 * 3) * (3 * 3 * 2 * 4), 2 * (4 * 3) * (4 * 4), 2 * (4 * 3 * 4) * 5
    assert main.arithmetic(model, training=False) == first + second + dense
    assert main.arithmetic(model, training=True) == 2 * first + 3 * (second + dense)


def test_every_engine_computes_the_same() -> None:
    class Engine:
        def __init__(self, name: str, total: float):
            self.name, self.about = name, {"sum": total}

    main.check_alike([Engine("gpucnn", 1.0), Engine("torch", 1.001)])
    with pytest.raises(SystemExit, match="compute different things"):
        main.check_alike([Engine("gpucnn", 1.0), Engine("torch", 1.2)])


def test_operations_are_recorded_once_for_each_shape() -> None:
    backend = get_backend("cpu", threads=1)
    x = np.ones((2, 3), np.float32)
    calls = ops.record(backend, lambda: [backend.relu(x), backend.relu(x), backend.relu(x[:1])])
    assert [name for name, _, _ in calls.values()] == ["relu", "relu"]
    assert "relu" not in vars(backend)


def test_a_recorded_call_finds_its_arguments_again() -> None:
    backend = get_backend("cpu", threads=1)
    x = np.full((2, 3), 1e-30, np.float32)
    calls = ops.record(backend, lambda: backend.sigmoid_dx(x, np.full_like(x, 0.5), out=x))
    ((_, (dy, y), keywords),) = calls.values()
    assert np.all(dy == np.float32(1e-30)), "a later operation changed it"
    assert not np.may_share_memory(dy, keywords["out"]), "the next call would have its result"


def test_every_override_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "BATCH_SIZE", 2)
    backend = get_backend("cpu", threads=1)
    calls = ops.record_all(backend)
    assert {name for name, _, _ in calls} == set(ops.overridden(backend))
    for call in calls:
        if call[0] == "gather_batch":  # of eight samples
            for owner in (backend, Backend()):
                run = ops.repeatable(call, owner)
                for _ in range(5):
                    run()


@pytest.mark.parametrize("default", ["columns", "implicit"])
def test_convolutions_of_a_gpu_are_timed_in_both_ways(default: str) -> None:
    backend, calls = (
        SimpleNamespace(convolution=default),
        [(name, (), {}) for name in ("conv2d", "conv2d_dw_db", "relu")],
    )
    found = [(name, call[0], backend.convolution) for name, call in ops.in_all_ways(calls, backend)]
    assert found == [
        ("conv2d, columns", "conv2d", "columns"),
        ("conv2d, implicit", "conv2d", "implicit"),
        ("conv2d_dw_db, columns", "conv2d_dw_db", "columns"),
        ("conv2d_dw_db, implicit", "conv2d_dw_db", "implicit"),
        ("relu", "relu", default),
    ]
    assert [call for _, call in ops.in_all_ways(calls, get_backend("cpu"))] == calls


def test_operations_are_summed_up() -> None:
    def timed(operation: str, override: float, reference: float) -> dict:
        return {"operation": operation, "seconds": {"override": override, "reference": reference}}

    results = [timed("add", 2.0, 1.9), timed("relu", 3.0, 1.0), timed("relu", 1.0, 5.0), timed("tanh", 1.0, 1.02)]
    rows = ops.totals(results)
    assert [(row["operation"], row["calls"], row["ratio"]) for row in rows] == [
        *(("add", 1, 0.95), ("relu", 2, 1.5), ("tanh", 1, 1.02))
    ]
    assert ops.verdict(rows).splitlines() == [
        *("slower than the reference: add 0.95",),
        *("level with it (what they save is memory: they allocate nothing): tanh 1.02",),
    ]
    assert ops.verdict(rows[1:2]).count("none") == 2


@pytest.mark.skipif(not worker.STATUS.exists(), reason="needs Linux")
def test_the_peak_of_a_worker_is_its_own() -> None:
    ours = b"x" * 2**28  # what `getrusage` would count as the worker's
    code = "from bench import worker; x = b'x' * 2**26; del x; print(worker.peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) < len(ours)


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_peak_of_a_worker_elsewhere(
    platform: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "without").write_text("Name:\tpython\n")
    monkeypatch.setattr(worker.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setattr(worker.sys, "platform", platform)
    for status in ("missing", "without"):
        monkeypatch.setattr(worker, "STATUS", tmp_path / status)
        assert worker.peak_bytes() == 5000 * unit


def run_bench(command: str, file: Path, **options: str) -> tuple[str, dict]:
    """Run a command on lenet5 at batch size 2, one round, one thread; return what it prints and what it writes."""
    options = {"models": "lenet5", "batch-sizes": "2", "rounds": "1", "threads": "1", "json": str(file)} | options
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = subprocess.run([sys.executable, str(SCRIPT), command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


@pytest.mark.parametrize("command", ["step", "predict"])
def test_it_runs_and_writes_what_it_found(command: str, tmp_path: Path) -> None:
    _, found = run_bench(command, tmp_path / "found.json")
    (result,) = found["results"]
    assert (result["model"], result["batch_size"], found["machine"]["threads"]) == ("lenet5", 2, 1)
    assert result["seconds"] > 0
    assert result["peak_bytes"] > 2**20
    assert result["versions"]["blas"] == found["machine"]["blas"], "the workers have other kernels"


def test_the_kernels_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(library["internal_api"] == "openblas" for library in blas.libraries()):
        pytest.skip("needs OpenBLAS under NumPy")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Sandybridge")
    out, found = run_bench("step", tmp_path / "found.json")
    described = found["machine"]["blas"]
    assert found["results"][0]["versions"]["blas"] == described
    assert described in out
    if platform.machine() == "x86_64":
        assert described.split()[-1] != "SkylakeX"


# ---- scaling ------------------------------------------------------------------------------------------------------


class TimedEngine:
    """An engine that has taken its turns."""

    def __init__(self, *seconds: float):
        self.seconds, self.peak_bytes, self.about = [*seconds], 0, {"versions": {}}


def test_scaling_compares_within_a_round() -> None:
    engines = {
        (64, 1): TimedEngine(1.0, 2.0, 9.0),
        (128, 1): TimedEngine(3.0, 6.0, 9.0),
        (64, 2): TimedEngine(0.5, 1.0, 3.0),
        (128, 2): TimedEngine(1.5, 2.0, 3.0),
    }
    found = {key: scaling.result("vgg", engines, *key) for key in engines}
    assert [found[key]["seconds_per_image"] for key in engines] == [2 / 64, 6 / 128, 1 / 64, 2 / 128]
    assert [found[key]["relative_to_smallest"] for key in engines] == [1, 1.5, 1, 1]
    assert [found[key]["speedup"] for key in engines] == [1, 1, 2, 3]


def test_scaling_finds_the_straight_line() -> None:
    engines = {(N, 1): TimedEngine(0.5 + 0.01 * N) for N in (64, 128, 256, 512)}
    for N, threads in engines:
        assert scaling.result("vgg", engines, N, threads)["relative_to_line"] == pytest.approx(1)
    engines[1024, 1] = TimedEngine(2 * (0.5 + 0.01 * 1024))
    assert scaling.result("vgg", engines, 1024, 1)["relative_to_line"] > 1.1


def test_scaling_runs(tmp_path: Path) -> None:
    options = {"batch-sizes": "1,2", "threads": "2", "models": "lenet5,paper"}
    out, found = run_bench("scaling", tmp_path / "found.json", **options)
    rows = [(result["model"], result["threads"], result["batch_size"]) for result in found["results"]]
    assert rows == [(model, threads, size) for model in ("lenet5", "paper") for threads in (1, 2) for size in (1, 2)]
    for result in found["results"]:
        assert min(result[name] for name in ("seconds", "speedup", "relative_to_smallest")) > 0
    assert len([line for line in out.splitlines() if line.lstrip().startswith(("lenet5 ", "paper "))]) == 8


# ---- profile ------------------------------------------------------------------------------------------------------


def test_a_stopwatch_counts_inner_calls_once() -> None:
    stopwatch = profiling.Stopwatch()
    inner = stopwatch.timed("inner", lambda: 1)
    outer = stopwatch.timed("outer", lambda: inner() + 1)
    failing = stopwatch.timed("failing", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing()
    assert (outer(), outer(), inner()) == (2, 2, 1)
    assert {key: len(calls) for key, calls in stopwatch.take().items()} == {"failing": 1, "outer": 2, "inner": 1}
    assert stopwatch.take() == {}


def test_the_rows_of_a_profile() -> None:
    times = [{("conv", "forward"): [1.0, 1.0], ("conv", "backward"): [2.0]}, {("conv", "forward"): [4.0]}]
    conv, other = profiling.layer_rows([5.0, 6.0], times, ["relu", "conv", "conv"])
    assert (conv["forward"], conv["backward"], conv["seconds"], other["seconds"]) == (3, 1, 4, 1.5)
    assert (conv["share"], other["share"]) == (4 / 5.5, 1.5 / 5.5)
    rows = profiling.operation_rows([6.0], [{"relu": [1.0], "conv2d": [2.0, 2.0]}])
    assert [(row["operation"], row.get("calls")) for row in rows] == [("conv2d", 2), ("relu", 1), ("all else", None)]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_profile_times_every_layer_and_operation(threads: str, tmp_path: Path) -> None:
    out, found = run_bench("profile", tmp_path / "found.json", rounds="2", threads=threads)
    (result,) = found["results"]
    assert (result["model"], result["batch_size"], result["threads"]) == ("lenet5", 2, int(threads))
    model = zoo.lenet5()
    layers = {row["layer"]: row for row in result["layers"]}
    names = [layer.name for layer in model.layers if "relu" not in layer.name]  # others compute them
    assert list(layers) == [*names, "loss", "optimizer", "all else"]
    for name in names:
        assert layers[name]["backward"] > 0
        assert layers[name]["forward"] > 0
    calls = {row["operation"]: row.get("calls") for row in result["operations"]}
    assert (calls["conv2d"], calls["conv2d_dw_db"], calls["conv2d_dx"], calls["sgd_step"]) == (2, 2, 1, 1)
    for rows in (result["operations"], result["layers"]):
        assert sum(row["share"] for row in rows) == pytest.approx(1)
    longest = result["operations"][0]["operation"]
    assert f"\n| operation | calls | ms | share |\n|---|---|---|---|\n| {longest} | " in out
    assert "\n| layer | forward, ms | backward, ms | both, ms | share |\n|---|---|---|---|---|\n| conv2d1 | " in out


def test_layers_inside_others_have_a_path() -> None:
    model = Sequential([Conv2D(4, 3), Residual(Sequential([Conv2D(4, 1)]))])
    assert [name for name, _ in profiling.leaves(model)] == [
        *("conv2d1", "residual1.sequential1.conv2d1", "residual1.identity1", "residual1.add1")
    ]


def test_the_committed_results_are_in_the_document() -> None:
    root = SCRIPT.parents[1] / "docs"
    document = (root / "performance.md").read_text()
    for command in TABLES:
        newest = max((root / "benchmarks").glob(f"cpu-{command}-*.json"))
        assert table(json.loads(newest.read_text())) in document


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_the_onnx_models_are_the_networks(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from bench.onnx_nets import save_onnx
    from bench.torch_nets import save_network
    from gpucnn.onnx import prepare

    model, shape = zoo.get_recipe(name).model(), (28, 28, 1)
    model.build(shape, "cpu", seed=1)
    save_network(model, str(tmp_path / name))
    save_onnx(str(tmp_path / name), shape)
    x = np.random.default_rng(0).standard_normal((3, *shape), dtype=np.float32)
    (y,) = prepare(onnx.load(tmp_path / f"{name}.onnx")).run([x.transpose(0, 3, 1, 2)])
    np.testing.assert_allclose(y, model.predict(x), rtol=1e-3, atol=1e-3)


def test_the_jax_networks_are_the_networks(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    from bench.jax_nets import load_network, make_steps
    from bench.torch_nets import save_network

    model, x = zoo.lenet5(), np.random.default_rng(0).standard_normal((3, 28, 28, 1), dtype=np.float32)
    model.build(x.shape[1:], "cpu", seed=1)
    save_network(model, str(tmp_path / "lenet5"))
    network, weights = load_network(str(tmp_path / "lenet5"))
    train, predict = make_steps(network, 0.1, 0.9)
    images, labels = x.transpose(0, 3, 1, 2), np.array([3, 0, 9], np.int32)
    np.testing.assert_allclose(predict(weights, images), model.predict(x), rtol=1e-4, atol=1e-5)

    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1, 0.9), batch_size=3)
    velocities = {name: np.zeros_like(weight) for name, weight in weights.items()}
    for _ in range(2):
        trainer.step(x, labels)
        weights, velocities = train(weights, velocities, images, labels)
    np.testing.assert_allclose(predict(weights, images), model.predict(x), rtol=1e-4, atol=1e-4)
