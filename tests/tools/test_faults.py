"""The campaign of faults in small: every kind once, no promise broken; and that a broken promise is found."""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from faults import kinds, run
from faults.victim import CHILD, Victim

RUN = ("--dataset", "digits", "--model", "paper", "--device", "cpu", "--threads", "1", "--average", "0.9")
RUN += ("--epochs", "8", "--batch-size", "60", "--shift", "1", "--learning-rate", "0.05")
STEPS, OF_EPOCH = 192, 24


def find(kind: str) -> kinds.Kind:
    (found,) = (found for found in kinds.KINDS if found.name.startswith(kind))
    return found


def victim(folder: Path, change: str = "") -> Victim:
    """Return a run that is about to be hurt, in processes that a piece of code has changed."""
    child = folder / "child.py"
    child.write_text(f"import sys\nsys.path.insert(0, {str(CHILD.parents[1])!r})\nfrom faults import child\n{change}\n")
    with child.open("a") as file:
        file.write("sys.exit(child.start(sys.argv[1:]))\n")
    made = Victim(list(RUN), folder, 4, random.Random(0), child)
    made.run_in_peace()
    return made


def test_no_promise_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "found.json"
    code = run.main(["--runs", "1", "--kills", "3", "--model", "paper", "--epochs", "16", "--json", str(path)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "no promise was broken" in out
    found = json.loads(path.read_text())
    assert found["steps"] == [368]
    assert sum(row["times"] for row in found["rows"]) == 3 + len(kinds.KINDS) - 1
    assert all(row["most_lost"] <= row["most_allowed"] and row["checkpoints_lost"] == 0 for row in found["rows"])
    assert all(row["runs"] == row["runs_equal"] == 1 for row in found["rows"])
    assert run.table(found) in out


def test_every_kind_of_fault_does_what_it_says(tmp_path: Path) -> None:
    """A killed session ends in the middle; steps are lost, and made again; the weights are the same."""
    hurt = victim(tmp_path)
    assert hurt.steps == STEPS
    for step, kind in enumerate(("full disk", "newest checkpoint cut", "SIGTERM", "folder that cannot"), 2):
        hurt.suffer(find(kind), 8 * step)
    full, cut, terminated, refused = hurt.injuries
    assert 8 <= full.lost <= full.allowed == 12  # two checkpoints were not written
    assert 4 <= cut.lost <= cut.allowed == 8
    assert (terminated.lost, terminated.allowed, refused.lost) == (0, 0, 0)
    codes = [session.process.returncode for session in hurt.sessions]
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 143, 2]
    hurt.end()
    assert (hurt.broken, hurt.is_equal) == ([], True)


# ---- broken promises ----------------------------------------------------------------------------------------------

IN_PLACE = """
def write(path, arrays, about):  # without a temporary file
    text = checkpoint_file.json.dumps(about)
    metadata = {"gpucnn": text, "sha256": checkpoint_file.checksum(arrays, text)}
    content = safetensors.numpy.save(dict(arrays), metadata)
    with checkpoint_file.open(path, "wb") as file:
        file.write(content)
import safetensors.numpy
from gpucnn.training.checkpoints import file as checkpoint_file, folder
folder.write = write
"""
NO_CURSOR = """
from gpucnn.data import DeviceDataset
state = DeviceDataset.state
DeviceDataset.state = lambda self: {name: a for name, a in state(self).items() if name != "cursor"}
"""
OLD_ONE = """
from gpucnn.training.checkpoints import Checkpoint, Checkpoints, read
Checkpoints.newest = lambda self, say: next((Checkpoint(path, *read(path)) for path in self.paths()[::-1]), None)
"""
NO_SIGNALS = """
from contextlib import contextmanager
from gpucnn.training.checkpoints import Saver
Saver.listening = contextmanager(lambda self: (yield))
"""
SELDOM = """
from gpucnn.training.checkpoints import Saver
on_batch = Saver.on_batch
Saver.on_batch = lambda self: self.run.step % 16 == 0 and on_batch(self)
"""


@pytest.mark.parametrize(
    ("change", "kind", "step", "promise"),
    [
        # the second checkpoint of step 24, that of the epoch, comes after the one for every 4 steps and the best
        (IN_PLACE, ("SIGKILL", ("write",), 2), OF_EPOCH, "of 24 a checkpoint was written, 20 is left"),
        (NO_CURSOR, "kill -9 in the middle", 9, "the weights are not those of the run in peace"),
        (OLD_ONE, "SIGTERM", 30, "the newest whole one was of"),
        (NO_SIGNALS, "SIGTERM", 9, r"SIGTERM: exit code -15, expected \(143,\)"),
        (SELDOM, "kill -9 in the middle", 33, "16 steps lost, allowed are 4"),
    ],
    ids=["written in place", "a counter left out", "an old checkpoint", "signals not heard", "too seldom"],
)
def test_a_broken_promise_is_found(change: str, kind: object, step: int, promise: str, tmp_path: Path) -> None:
    hurt = victim(tmp_path, change)
    fault = find(kind) if isinstance(kind, str) else exactly(*kind)
    hurt.suffer(fault, step)
    hurt.suffer(find("temporary files"), step + 4)
    hurt.end()
    assert any(re.search(promise, broken) for broken in hurt.broken), hurt.broken


def exactly(do: str, moments: tuple[str, ...], skip: int) -> kinds.Kind:
    """Return a fault at a chosen moment."""
    return kinds.Kind(
        "chosen", lambda hurt, step: hurt.start({"step": step, "moments": moments, "skip": skip, "do": do})
    )


@pytest.mark.parametrize("hurt", [kinds.cut, kinds.flip])
def test_an_empty_file_is_hurt_no_more(hurt: Callable[[Path, random.Random], None], tmp_path: Path) -> None:
    """What is written in place may be empty when its process is killed."""
    (empty := tmp_path / "empty").touch()
    hurt(empty, random.Random(0))
    assert empty.read_bytes() == b""


def test_temporary_files_are_left_beside_an_empty_one(tmp_path: Path) -> None:
    (empty := tmp_path / "step-00000004.safetensors").touch()
    hurt = SimpleNamespace(folder=tmp_path, paths=lambda: [empty], rng=random.Random(0))
    assert kinds.leave_temporary_files(hurt) == 0
    assert sum(path.suffix == ".part" for path in tmp_path.iterdir()) == 3


def test_a_broken_promise_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    class Broken:
        injuries, broken, steps, is_equal = [], ["the weights are not those of the run in peace"], 10, False

    monkeypatch.setattr(run, "campaign", lambda *_: Broken)
    assert run.main(["--runs", "1"]) == 1
    assert "run 1: the weights are not those of the run in peace" in capsys.readouterr().out


def test_the_cost_is_measured(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--cost", "--runs", "1", "--model", "paper", "--epochs", "2"]
    monkeypatch.setattr(run, "MAX_COST", 1.0)
    assert run.main(arguments) == 0
    assert "of the time spent in writing" in capsys.readouterr().out
    monkeypatch.setattr(run, "MAX_COST", 0.0)
    assert run.main(arguments) == 1


def test_the_settings_are_different_runs() -> None:
    options = argparse.Namespace(seed=0)
    assert len(set(run.SETTINGS)) == len(run.SETTINGS) == 5
    assert run.faults_of(2, random.Random(options.seed)) != run.faults_of(2, random.Random(1))


def test_the_committed_campaign_is_in_the_document() -> None:
    root = Path(run.__file__).parents[2] / "docs"
    found = json.loads(max((root / "benchmarks").glob("cpu-faults-*.json")).read_text())
    assert f"<!-- faults -->\n{run.table(found)}\n<!-- end -->" in (root / "reliability.md").read_text()
    assert found["broken"] == []
