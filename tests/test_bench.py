"""The benchmark: what it counts, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bench
import bench_ops
import numpy as np
import pytest
from bench_table import table

from gpucnn import Conv2D, Dense, Flatten, Residual, Sequential, get_backend, zoo

SCRIPT = Path(bench.__file__)


def test_arithmetic_is_that_of_the_matrix_products() -> None:
    model = Sequential([Conv2D(4, 3), Residual(Conv2D(4, 1)), Flatten(), Dense(5)])
    model.build((6, 5, 2), "reference")
    first, second, dense = 2 * (4 * 3) * (3 * 3 * 2 * 4), 2 * (4 * 3) * (4 * 4), 2 * (4 * 3 * 4) * 5
    assert bench.arithmetic(model, training=False) == first + second + dense
    assert bench.arithmetic(model, training=True) == 2 * first + 3 * (second + dense)


def test_every_engine_computes_the_same() -> None:
    class Engine:
        def __init__(self, name: str, total: float):
            self.name, self.about = name, {"sum": total}

    bench.check_alike([Engine("gpucnn", 1.0), Engine("torch", 1.001)])
    with pytest.raises(SystemExit, match="compute different things"):
        bench.check_alike([Engine("gpucnn", 1.0), Engine("torch", 1.2)])


def test_operations_are_recorded_once_for_each_shape() -> None:
    backend = get_backend("cpu", threads=1)
    x = np.ones((2, 3), np.float32)
    calls = bench_ops.record(backend, lambda: [backend.relu(x), backend.relu(x), backend.relu(x[:1])])
    assert [name for name, _, _ in calls.values()] == ["relu", "relu"]
    assert "relu" not in vars(backend)


@pytest.mark.parametrize("command", ["step", "predict"])
def test_it_runs_and_writes_what_it_found(command: str, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    options = ["--models", "lenet5", "--batch-sizes", "2", "--rounds", "1", "--threads", "1", "--json", str(file)]
    done = subprocess.run([sys.executable, str(SCRIPT), command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    (result,) = found["results"]
    assert (result["model"], result["batch_size"], found["machine"]["threads"]) == ("lenet5", 2, 1)
    assert result["seconds"] > 0
    assert result["peak_bytes"] > 2**20


def test_the_committed_results_are_in_the_document() -> None:
    root = SCRIPT.parent.parent / "docs"
    document = (root / "performance.md").read_text()
    for command in ("step", "predict"):
        newest = max((root / "benchmarks").glob(f"cpu-{command}-*.json"))
        assert table(json.loads(newest.read_text())) in document


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_the_onnx_models_are_the_networks(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx_nets import save_onnx
    from torch_nets import save_network

    from gpucnn.onnx import prepare

    model, shape = zoo.get_recipe(name).model(), (28, 28, 1)
    model.build(shape, "cpu", seed=1)
    save_network(model, str(tmp_path / name))
    save_onnx(str(tmp_path / name), shape)
    x = np.random.default_rng(0).standard_normal((3, *shape), dtype=np.float32)
    (y,) = prepare(onnx.load(tmp_path / f"{name}.onnx")).run([x.transpose(0, 3, 1, 2)])
    np.testing.assert_allclose(y, model.predict(x), rtol=1e-3, atol=1e-3)
