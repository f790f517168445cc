"""The parts of the check of a GPU that say how fast everything is, on the strict fake device, and its peer."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from device.fixtures import fake_cupy, requires_compiler
from gpu_job_of_tests import BROKEN, TINY, cupy_of_children, rows_of

from gpu import engines, speed
from gpu.job import Clock, Job, Row, attempt
from gpu.model import CARDS, SHARE, predict
from gpucnn import zoo

__all__ = ["cupy_of_children"]  # a fixture of the tests below
cupy = fake_cupy  # under the name that the tests speak of


@requires_compiler
def test_steps(cupy: ModuleType, cupy_of_children: None) -> None:
    peer, *rows = rows_of(speed.steps)
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
    monkeypatch.setattr(speed, "Worker", Worker)
    monkeypatch.setattr(speed, "time_network", time_network)
    monkeypatch.setattr(speed, "make_backend", lambda device: backend)
    job = Job(timed=(("lenet5", 64), ("vgg", 512)))
    rows = rows_of(speed.steps, job)
    assert [order[:2] for order in asked[:6]] == [
        (precision, network) for precision in ("bf16", "tf32", "float32") for network in ("lenet5", "vgg")
    ]
    assert asked[0][2] == ("graph, implicit", "graph, columns", "torch graph")
    assert ["torch compiled" in kinds for *_, kinds in asked] == [False] * 12 + [True] * 6
    step = predict("vgg", 512, "bf16", "implicit", CARDS["H100"])
    assert rows[1]["graph, implicit, predicted, ms"] == pytest.approx(1e3 * step.seconds)
    assert rows[1]["graph, implicit, predicted, ms"] < rows[1]["graph, columns, predicted, ms"]
    assert rows[1]["PyTorch's precision"] == "autocast to bf16"


def test_ratios_are_those_of_a_round() -> None:
    kinds = "eager, columns", "graph, columns", "torch eager", "torch graph"
    answers = {kind: {"size": 1.0, "bytes": 2e6} for kind in kinds}
    rounds = [dict(zip(kinds, seconds, strict=True)) for seconds in ((4.0, 1.0, 9.0, 2.0), (9, 3, 3, 9), (4, 2, 9, 10))]
    found = speed.summary(answers, rounds)
    assert (found["ratio"], found["ratio, from"], found["ratio, to"]) == (2.0, 1.0, 4.5)
    assert (found["graph, columns, ms"], found["gpucnn, MB"], found["ok"]) == (2000, 2, True)
    answers["torch eager"]["size"] = 1.1
    assert not speed.summary(answers, rounds)["ok"], "they compute different things"


def test_what_the_peer_cannot_do_is_no_failure_of_ours() -> None:
    answers = {"graph": {"size": 1.0, "bytes": 1}, "torch compiled": {"error": "no compiler"}}
    found = speed.summary(answers, [{"graph": 1.0}])
    assert found["ok"] and found["missing"] == "torch compiled: no compiler" and "ratio" not in found
    answers = {"graph": {"error": "refused"}, "torch eager": {"size": 1.0, "bytes": 1}}
    assert not speed.summary(answers, [{"torch eager": 1.0}])["ok"]
    answers["graph"] = {"left_out": "no time left"}
    assert speed.summary(answers, [{"torch eager": 1.0}])["ok"]


def test_a_worker_that_died_is_started_anew() -> None:
    worker = speed.Worker()
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


class Worker(speed.Worker):
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
    (tmp_path / "engines.py").write_text(STUB)
    monkeypatch.setattr(speed, "FOLDER", tmp_path)
    monkeypatch.setenv("FAULTS", "{}")
    monkeypatch.setenv("KINDS", json.dumps(GRAPHS))
    found = {"gpucnn": Worker(), "torch": Worker()}
    yield found
    for worker in found.values():
        worker.close(at_once=True)


def time_lenet5(workers: dict[str, Worker], clock: Clock) -> Row:
    return speed.time_network(TINY, clock, workers, GRAPHS, "lenet5", 2, "float32")


@pytest.mark.parametrize("slow", GRAPHS)
def test_a_set_up_that_is_stopped_takes_no_other_process_with_it(
    slow: str, workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own forgets what was set up before; what comes later is not asked for."""
    monkeypatch.setenv("FAULTS", json.dumps({f"set up {slow}": {"sleep": 60}}))
    for name in ("SET_UP", "PEER_SET_UP"):
        monkeypatch.setattr(speed, name, 0.1)
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
    assert speed.set_up_seconds(GRAPHS) == 2 * speed.SET_UP + speed.PEER_SET_UP
    assert speed.set_up_seconds(["torch compiled"]) > speed.PEER_SET_UP
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
    row = speed.time_network(replace(TINY, rounds=5), Clock(60), workers, GRAPHS, "lenet5", 2, "float32")
    assert (row["ok"], row["missing"], row["graph, implicit, ms"]) == (False, "graph, implicit: refused", 10)
    assert workers["torch"].orders.count("turn torch graph") == 3
    assert workers["gpucnn"].process is None, "it serves no other network"
    monkeypatch.setenv("FAULTS", json.dumps({"turn torch graph": {"sleep": 60}}))
    monkeypatch.setattr(speed, "TURN", 0.5)
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
    monkeypatch.setattr(speed, "IMPORT_MOST", 60 if ends == "at once" else 0.1)
    monkeypatch.setattr(speed, "make_backend", lambda device: None)
    rows = rows_of(speed.steps)
    missing = "PyTorch, which is still being imported"
    if ends == "never":
        assert rows.pop() == {"network": "all", "missing": "PyTorch, whose import took longer than all steps of gpucnn"}
        assert [row["missing"] for row in rows] == [missing] * 2
    else:
        assert [row.get("missing") for row in rows] == [missing if ends == "later" else None, None, None]
        assert ["ratio" in row for row in rows] == [ends == "at once", True, True]
    assert all(row["ok"] and "graph, implicit, ms" in row for row in rows)


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
        assert engines.answer({**turn, "device": device}, {}) == {"error": "KeyError: 'graph'"} | more


@requires_compiler
def test_bandwidth(cupy: ModuleType) -> None:
    copy, *rows = rows_of(speed.bandwidth)
    assert (copy["kernel"], copy["bytes"], copy["share"]) == ("copy", 2 * 2 * 6 * 6 * 4 * 4, 1)
    assert [row["kernel"] for row in rows] == list(speed.MEMORY_BOUND)
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
    x, card = np.zeros(Job().images, np.uint8), CARDS["H100"]
    found = {name: speed.expected(card, name, x)["predicted, ms"] for name in speed.MEMORY_BOUND}
    moved = 2 * 4 * x.size
    assert found["relu"] == pytest.approx(1e3 * moved / card.bandwidth / SHARE)
    assert min(found.values()) > 0 and max(found, key=found.get) == "im2col 3x3"


@requires_compiler
def test_costs(cupy: ModuleType, cupy_of_children: None) -> None:
    rows = rows_of(speed.costs)
    assert all(row["microseconds"] > 0 for row in rows)
    graphs = [row["what"] for row in rows if "graph" in row["what"]]
    assert graphs == ["graph of 1 kernels", "graph of 3 kernels", "graph of a matrix product"]
    assert [row["what"].split()[-1] for row in rows][-2:] == ["cold", "warm"]


# ---- PyTorch, without a GPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch graph", "torch graph NCHW"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_step_of_pytorch_is_a_step_of_ours(precision: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from bench.torch_nets import save_network
    from bench.worker import make_batch, make_trainer

    model, shape = zoo.lenet5(), (28, 28, 1)
    model.build(shape, "cpu", seed=0)
    save_network(model, str(tmp_path / "lenet5"))
    x, labels = make_batch(8, shape)
    order = {"path": str(tmp_path / "lenet5"), "precision": precision, "kind": kind}
    step = engines.TorchStep(order, x, labels, "cpu")
    within = {"float32": 1e-5, "tf32": 1e-5, "bf16": 2e-2}[precision]  # a CPU has no tf32
    assert step.size() == pytest.approx(np.abs(model.predict(x)).mean(), rel=within)
    trainer = make_trainer(model, len(x))
    for _ in range(2):
        trainer.step(x, labels)
        step()
    theirs = dict(step.model.named_parameters())["0.bias"].detach().numpy()
    np.testing.assert_allclose(theirs, model.layers[0].b.value, rtol=10 * within, atol=within)


def test_pytorch_without_a_gpu_is_said() -> None:
    answer = engines.answer({"do": "import torch"}, {})
    assert "PyTorch" in answer.get("unavailable", "") or set(answer) == {"torch"}
