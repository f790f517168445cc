"""The command line stops and goes on: checkpoints, signals, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gpucnn
from gpucnn import Trainer, data, zoo
from gpucnn.cli.main import main
from gpucnn.training.checkpoints import Checkpoints, read
from gpucnn.training.checkpoints import folder as checkpoint_folder

SCRIPT = Path(gpucnn.__file__).parents[1] / "scripts" / "train.py"
RUN = ("--dataset", "digits", "--model", "paper", "--device", "cpu", "--threads", "1", "--epochs", "3")
RUN += ("--batch-size", "100", "--average", "0.9", "--shift", "1", "--optimizer", "sgd", "--learning-rate", "0.05")
STEPS = 15  # of an epoch


@pytest.fixture
def run(capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., tuple[int, str, str, dict]]:
    """Give a function that trains: it returns the exit code, both outputs, and the summary."""

    def function(*arguments: str) -> tuple[int, str, str, dict]:
        summary = tmp_path / "summary.json"
        summary.unlink(missing_ok=True)
        capsys.readouterr()
        code = main(["train", *RUN, "--summary", str(summary), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err, json.loads(summary.read_text()) if summary.exists() else {}

    return function


def stop_after(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal to this process in the middle of a step."""
    steps, whole = [], Trainer.step

    def step_and_signal(self, x, y):
        steps.append(1)
        if len(steps) == step:
            os.kill(os.getpid(), number)
        whole(self, x, y)

    monkeypatch.setattr(Trainer, "step", step_and_signal)


def known(summary: dict) -> dict:
    """Return what of a summary does not depend on the time."""
    return {name: value for name, value in summary.items() if name not in ("seconds", "images_per_second")}


@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(
    number: str, code: int, word: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, _, whole = run()
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoints"))
    with monkeypatch.context() as patch:
        stop_after(STEPS + 4, getattr(signal, number), patch)
        stopped = run(*folder)
    assert stopped[0] == code
    assert f"stopped after step {STEPS + 4}; --resume goes on from there" in stopped[1]
    assert stopped[2] == f"gpucnn: {word}\n"
    assert (stopped[3]["status"], stopped[3]["epochs_done"]) == ("interrupted", 1)
    again = run(*folder, "--resume")
    assert again[0] == 0
    assert f"going on after step {STEPS + 4}, from {tmp_path}" in again[1]
    assert [line.split()[1] for line in again[1].splitlines() if line.startswith("epoch ")] == ["2/3", "3/3"]
    assert again[3]["weights_sha256"] == whole["weights_sha256"]
    left_out = {"best_loss", "host_syncs_per_epoch"}
    assert {name: value for name, value in known(again[3]).items() if name not in left_out} == {
        name: value for name, value in known(whole).items() if name not in left_out
    }


def test_checkpoints_while_it_runs(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so many steps and after each epoch; the newest few and the best stay."""
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *held: (saved.append(step), save(self, step, *held)))
    folder = tmp_path / "checkpoints"
    assert run("--checkpoint-dir", str(folder), "--checkpoint-every", "10", "--keep", "2")[0] == 0
    assert saved == [10, 15, 20, 30, 30, 40, 45]
    names = ["best.safetensors", "step-00000040.safetensors", "step-00000045.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    _, best = read(folder / "best.safetensors")
    assert best["results"]["best_loss"] == best["results"]["train_loss"]


def test_a_run_that_is_done_is_tested_again(run, tmp_path: Path) -> None:
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoints"))
    first = run(*folder)
    again = run(*folder, "--resume")
    assert again[0] == 0
    assert again[1].splitlines()[-1] == first[1].splitlines()[-1]
    assert again[3]["weights_sha256"] == first[3]["weights_sha256"]


def test_nothing_to_go_on_from(run, tmp_path: Path) -> None:
    code, out, _, _ = run("--checkpoint-dir", str(tmp_path / "new"), "--resume", "--epochs", "1")
    assert code == 0
    assert f"no checkpoint in {tmp_path / 'new'}: starting afresh" in out


def test_a_damaged_checkpoint_is_passed_over(run, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    _, _, _, whole = run("--checkpoint-dir", str(folder))
    newest, second, *_ = Checkpoints(folder).paths()
    newest.write_bytes(newest.read_bytes()[:-9])
    code, out, _, summary = run("--checkpoint-dir", str(folder), "--resume")
    assert code == 0
    assert f"{newest}: is damaged" in out
    assert f"going on after step 30, from {second}" in out
    assert summary["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (("--model", "mnist"), r"model\.layers\..* was .* and is "),
        (("--seed", "1"), "seed was 0 and is 1"),
        (("--epochs", "4"), "epochs was 3 and is 4"),
        (("--learning-rate", "0.1"), r"optimizer\.learning_rate was 0\.05 and is 0\.1"),
        (("--schedule", "cosine"), "schedule was 'linear' and is 'cosine'"),
        (("--batch-size", "50"), "batch_size was 100 and is 50"),
        (("--flip",), "flip was False and is True"),
        (("--precision", "float64"), "precision was 'float32' and is 'float64'"),
        (("--optimizer", "adam"), r"optimizer\.kind was 'SGD' and is 'Adam'"),
        (("--momentum", "0.5"), r"optimizer\.momentum was 0\.9 and is 0\.5"),
        (("--clip-norm", "1"), r"optimizer\.clip_norm was nothing and is 1\.0"),
        (("--warm-up", "0.1"), r"warm_up was 0\.0 and is 0\.1"),
        (("--average", "0.99"), r"average was 0\.9 and is 0\.99"),
        (("--shift", "2"), "shift was 1 and is 2"),
    ],
)
def test_another_run_is_refused(change: tuple, difference: str, run, tmp_path: Path) -> None:
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoints"))
    assert run(*folder)[0] == 0
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    code, _, err, _ = run(*folder, "--resume", *change)
    assert code == 2
    assert re.search(rf"is of another run: .*{difference}", err)
    assert files == {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}


def test_other_images_are_refused(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same number and size, and one pixel is another."""
    folder, load = ("--checkpoint-dir", str(tmp_path / "checkpoints")), data.load
    run(*folder)

    def other(*arguments: Any, **options: Any) -> data.Dataset:
        dataset = load(*arguments, **options)
        images = dataset.train.images.copy()
        images[5, 4, 3, 0] ^= 1
        return replace(dataset, train=replace(dataset.train, images=images))

    monkeypatch.setattr(data, "load", other)
    code, _, err, _ = run(*folder, "--resume")
    assert code == 2
    assert re.search(r"is of another run: data\.sha256 was '\w+\.\.\. and is '\w+\.\.\.; give the same", err)


def test_another_loss_is_refused(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoints"))
    run(*folder)
    recipe = zoo.get_recipe("paper")
    monkeypatch.setattr(zoo, "get_recipe", lambda name: replace(recipe, loss="softmax_cross_entropy"))
    code, _, err, _ = run(*folder, "--resume")
    assert code == 2
    assert "is of another run: loss.kind was 'SigmoidCrossEntropy' and is 'SoftmaxCrossEntropy'" in err


def test_another_number_of_threads_is_told(run, tmp_path: Path) -> None:
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoints"))
    run(*folder)
    code, out, _, _ = run(*folder, "--resume", "--threads", "2")
    assert code == 0
    assert "threads was 1 and is 2: results may differ in the last bits" in out


def test_old_checkpoints_are_not_overwritten_unasked(run, tmp_path: Path) -> None:
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoints"))
    run(*folder)
    code, _, err, _ = run(*folder)
    assert code == 2
    assert "has checkpoints already; add --resume to go on, or name another folder" in err


def test_options_that_need_a_folder(run) -> None:
    for option in (("--resume",), ("--checkpoint-every", "5")):
        code, _, err, _ = run(*option)
        assert (code, err) == (
            2,
            "gpucnn: --resume and --checkpoint-every need --checkpoint-dir DIR, where the checkpoints are\n",
        )


def test_a_full_disk_does_not_end_the_run(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, _, whole = run()
    write, calls = checkpoint_folder.write, []

    def failing(path, arrays, about):
        calls.append(path)
        if len(calls) in (2, 3, 4):
            raise OSError(28, "No space left on device")
        write(path, arrays, about)

    monkeypatch.setattr(checkpoint_folder, "write", failing)
    folder = tmp_path / "checkpoints"
    code, out, _, summary = run("--checkpoint-dir", str(folder), "--checkpoint-every", "10")
    assert code == 0
    assert out.count(" has no checkpoint ([Errno 28] No space left on device); going on with those before it") == 3
    assert summary["weights_sha256"] == whole["weights_sha256"]
    assert Checkpoints(folder).newest().about["step"] == 45


def test_the_best_one_is_there_before_others_tell_of_it(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be written no other checkpoint says that it was."""
    write = checkpoint_folder.write

    def failing(path, arrays, about):
        if path.name == "best.safetensors" and about["epoch"] > 1:
            raise OSError(28, "No space left on device")
        write(path, arrays, about)
        if path.name != "best.safetensors":
            best = read(path.with_name("best.safetensors"))[1]
            assert about["results"]["best_loss"] == best["results"]["best_loss"] == best["results"]["train_loss"]

    monkeypatch.setattr(checkpoint_folder, "write", failing)
    assert run("--checkpoint-dir", str(tmp_path / "checkpoints"))[0] == 0
    assert read(tmp_path / "checkpoints" / "best.safetensors")[1]["epoch"] == 1


def test_only_a_smaller_loss_is_the_best(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, train_epoch = iter([0.5, 0.7, 0.6]), Trainer.train_epoch
    monkeypatch.setattr(
        Trainer, "train_epoch", lambda *a, **options: replace(train_epoch(*a, **options), loss=next(losses))
    )
    run("--checkpoint-dir", str(tmp_path / "checkpoints"))
    assert read(tmp_path / "checkpoints" / "best.safetensors")[1]["results"]["best_loss"] == 0.5


@pytest.mark.parametrize(("at", "stopped_after"), [(15, 16), (45, 45)])
def test_a_signal_while_an_epoch_ends(
    at: int, stopped_after: int, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the next step; after the last one before it is tested."""
    _, _, _, whole = run()
    folder = ("--checkpoint-dir", str(tmp_path / "checkpoints"))
    save = Checkpoints.save

    def save_and_signal(self, step, *held):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return save(self, step, *held)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_signal)
        code, out, err, summary = run(*folder)
    assert (code, err, summary["status"]) == (143, "gpucnn: terminated\n", "interrupted")
    assert f"stopped after step {stopped_after}; --resume goes on from there" in out
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert Checkpoints(folder[1]).newest().about["step"] == stopped_after
    assert run(*folder, "--resume")[3]["weights_sha256"] == whole["weights_sha256"]


def test_a_diverged_run_keeps_its_last_good_checkpoint(run, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    code, _, err, summary = run(
        *("--checkpoint-dir", str(folder), "--checkpoint-every", "1", "--model", "mnist", "--learning-rate", "1e9")
    )
    assert code == 3
    assert re.search(
        r"the loss became NaN or infinite in epoch 1, step \d+, at .*, which began in .*\"(conv|dense)", err
    )
    assert summary["status"] == "diverged"
    for path in Checkpoints(folder).paths():
        arrays, _ = read(path)
        assert abs(arrays["totals"][0]) < float("inf")


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """In a process of its own, which gets both in the middle of a step; the checkpoints before are there."""
    program = (
        "import signal, sys, gpucnn.cli.main as cli\n"
        "from gpucnn import Trainer\n"
        "step, steps = Trainer.step, []\n"
        "def interrupted(self, x, y):\n"
        "    step(self, x, y)\n"
        "    steps.append(0)\n"
        "    for _ in range(2 * (len(steps) == 3)):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "Trainer.step = interrupted\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    options = ["--checkpoint-dir", str(tmp_path), "--checkpoint-every", "1"]
    done = subprocess.run([sys.executable, "-c", program, "train", *RUN, *options], capture_output=True, check=False)
    assert done.returncode == 130
    assert Checkpoints(tmp_path).newest().about["step"] == 2


def test_automatic_batch_size(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpucnn.backend.reference import Backend

    code, _, _, summary = run("--batch-size", "auto", "--epochs", "1")
    assert (code, summary["batch_size"]) == (0, 1438)  # all of them fit
    monkeypatch.setattr(Backend, "free_bytes", lambda self: 12_000_000)
    code, _, _, summary = run("--batch-size", "auto", "--epochs", "1")
    assert code == 0
    assert 100 < summary["batch_size"] < 1438
    code, _, err, _ = run("--batch-size", "1400", "--epochs", "1")
    assert code == 2
    assert re.search(r'Sequential "paper": a batch of 1,400 takes .* where by plan a batch of \d+ fits', err)
