"""The command line: what a run prints and writes, how it ends, and one sentence for every bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import absent_cupy, broken_cupy, installed_cupy, requires_compiler

import gpucnn
from gpucnn import SGD, Metrics, Trainer, data
from gpucnn.cli.main import main
from gpucnn.data import Split
from gpucnn.optim.schedules import get_schedule

ROOT = Path(gpucnn.__file__).parents[1]
SCRIPT = ROOT / "scripts" / "train.py"
SHA256 = re.compile("[0-9a-f]{64}")
LAST_LINE = re.compile(r"test accuracy (\d+\.\d\d)% \(\d+ of \d+\), loss \d+\.\d{4}")
QUICK = ("--dataset", "digits", "--device", "cpu", "--epochs", "1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, list[str], list[str]]]:
    """Give a function that runs `gpucnn train` and returns its exit code and the lines of both its outputs."""

    def function(*arguments: str, command: tuple[str, ...] = ("train",)) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = main([*command, *arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return function


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the data set down to 40 images for training and 20 for testing."""
    load = data.load

    def load_few(*arguments, **settings):
        dataset = load(*arguments, **settings)
        train, test = dataset.train, dataset.test
        return replace(
            dataset,
            train=Split(train.images[:40], train.labels[:40]),
            test=Split(test.images[:20], test.labels[:20]),
        )

    monkeypatch.setattr(data, "load", load_few)


def subprocess_run(*arguments: str, **settings) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **settings)


# ---- a run --------------------------------------------------------------------------------------------------------


def test_a_run_and_its_summary(run, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    code, out, err = run(*QUICK, "--model", "paper", "--seed", "3", "--summary", str(path))
    assert (code, err) == (0, [])
    assert out[0].startswith("device: cpu (")
    assert out[1] == "data: digits, 1,438 images to train on, 359 to test"
    assert any(line.startswith("conv2d1 ") for line in out)
    assert sum(line.startswith("epoch 1/1  loss ") for line in out) == 1
    summary = json.loads(path.read_text())
    settings = {"dataset": "digits", "model": "paper", "epochs": 1, "batch_size": 64, "seed": 3}
    assert summary.items() >= {"status": "done", "device": "cpu", **settings}.items()
    assert summary["host_syncs_per_epoch"] == 1
    assert SHA256.fullmatch(summary["weights_sha256"])
    assert summary["versions"]["numpy"] == np.__version__
    assert {"gpucnn", "python"} <= set(summary["versions"])
    for name in ("train_loss", "test_loss", "seconds", "images_per_second"):
        assert isinstance(summary[name], float)
        assert summary[name] > 0
    assert summary["images_per_second"] == pytest.approx(1438 / summary["seconds"])
    accuracy = LAST_LINE.fullmatch(out[-1]).group(1)
    assert float(accuracy) == pytest.approx(100 * summary["test_accuracy"], abs=0.005)
    assert out[-1].endswith(f"loss {summary['test_loss']:.4f}")
    assert list(tmp_path.iterdir()) == [path], "something else was left there"


def test_equal_runs_give_equal_weights(run, tmp_path: Path) -> None:
    hashes = []
    for seed in ("1", "1", "2"):
        path = tmp_path / "summary.json"
        run(*QUICK, "--seed", seed, "--summary", str(path))
        hashes.append(json.loads(path.read_text())["weights_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.usefixtures("few_digits")
def test_options_reach_the_training(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, rates = [], []
    train_epoch = Trainer.train_epoch

    def spy(self, *arguments, **keywords):
        seen.append((self.optimizer, self.batch_size, self.backend, self.seed))
        metrics = train_epoch(self, *arguments, **keywords)
        rates.append(self.optimizer.learning_rate_at(1))
        return metrics

    monkeypatch.setattr(Trainer, "train_epoch", spy)
    options = ("--optimizer", "nesterov", "--learning-rate", "0.25", "--momentum", "0.5", "--weight-decay", "0.125")
    code, out, _ = run(
        *("--device", "reference", "--precision", "float64", "--epochs", "3", "--batch-size", "7", "--seed", "11"),
        *options,
    )
    assert code == 0
    assert out[0].startswith("device: reference (")
    assert rates == pytest.approx([0.25 * 13 / 18, 0.25 * 7 / 18, 0.25 / 18])  # linear, over three epochs of six steps
    optimizer, batch_size, backend, seed = seen[0]
    assert isinstance(optimizer, SGD)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.5, 0.125)
    assert optimizer.nesterov
    assert (batch_size, backend.name, backend.precision, seed) == (7, "reference", "float64", 11)


@requires_compiler
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("device", ["reference", "gpu"])
def test_precisions(device: str, run, tmp_path: Path) -> None:
    """The summary says what was asked for, and the weights are others with each."""
    hashes, path = set(), tmp_path / "summary.json"
    for precision in ("float32", "tf32", "bf16"):
        with installed_cupy(make_fake_cupy()):
            options = ("--precision", precision, "--model", "mnist", "--epochs", "1", "--summary", str(path))
            options += ("--convolution", "columns") * (device == "gpu")  # the emulation of tensor cores takes a minute
            code, _, err = run("--device", device, *options)
        assert (code, err) == (0, [])
        summary = json.loads(path.read_text())
        assert summary["precision"] == precision
        hashes.add(summary["weights_sha256"])
    assert len(hashes) == 3


@pytest.mark.usefixtures("few_digits")
def test_schedule_clipping_and_average(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainers: list[Trainer] = []
    evaluate = Trainer.evaluate

    def spy(self, data):
        trainers.append(self)
        return evaluate(self, data)

    monkeypatch.setattr(Trainer, "evaluate", spy)
    path = tmp_path / "summary.json"
    options = ("--schedule", "one-cycle", "--warm-up", "0.25", "--clip-norm", "0.5", "--average", "0.75")
    code, out, err = run(*QUICK, "--batch-size", "10", *options, "--summary", str(path))
    assert (code, err) == (0, [])
    (trainer,) = trainers
    summary = json.loads(path.read_text())
    recorded = {"schedule": "one-cycle", "warm_up": 0.25, "clip_norm": 0.5, "average": 0.75}
    assert summary.items() >= recorded.items()
    factors = [get_schedule("one-cycle", 0.25)(t / 4) for t in range(4)]
    np.testing.assert_allclose(trainer.optimizer.rates, 0.003 * np.array(factors), rtol=1e-6)
    assert np.linalg.norm(trainer.model.arena.gradients) == pytest.approx(0.5, rel=1e-4)
    assert trainer.average.total_weight == 1 + 0.75 + 0.75**2 + 0.75**3
    np.testing.assert_array_equal(trainer.model.arena.values, trainer.average.mean)
    assert summary["weights_sha256"] == trainer.model.weights_sha256()


@pytest.mark.usefixtures("few_digits")
def test_without_options_nothing_is_clipped_or_averaged(run, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    run(*QUICK, "--summary", str(path))
    summary = json.loads(path.read_text())
    recorded = {"schedule": "linear", "warm_up": 0.0, "clip_norm": None, "average": None}
    assert summary.items() >= (recorded | {"shift": 0, "flip": False}).items()


@pytest.mark.usefixtures("few_digits")
def test_shift_and_flip_are_for_the_training_images(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits, hashes, path = [], [], tmp_path / "summary.json"

    def spy(*arguments):
        splits.append(arguments)
        return data.DeviceDataset(*arguments)

    monkeypatch.setattr("gpucnn.cli.train.DeviceDataset", spy)
    for options in ((), ("--shift", "2"), ("--flip",), ("--shift", "2", "--flip"), ("--shift", "2", "--flip")):
        code, _, err = run(*QUICK, *options, "--seed", "4", "--summary", str(path))
        assert (code, err) == (0, [])
        summary = json.loads(path.read_text())
        assert (summary["shift"], summary["flip"]) == (2 * ("--shift" in options), "--flip" in options)
        hashes.append(summary["weights_sha256"])
    assert hashes[3] == hashes[4]
    assert len(set(hashes)) == 4
    train, test = splits[-2:]
    assert train[3:] == (data.Augmentation(2, flip=True), 4)
    assert test[3:] == ()


@pytest.mark.usefixtures("few_digits")
def test_a_batch_larger_than_the_data_is_the_data(run) -> None:
    code, out, err = run(*QUICK, "--batch-size", "100000")
    assert (code, err) == (0, [])
    assert LAST_LINE.fullmatch(out[-1])


def test_quiet_prints_one_line(run) -> None:
    code, out, err = run(*QUICK, "--quiet")
    assert (code, len(out), err) == (0, 1, [])
    assert LAST_LINE.fullmatch(out[0])


def test_default_settings_learn_the_digits(run) -> None:
    code, out, _ = run("--device", "cpu")
    assert code == 0
    assert float(LAST_LINE.fullmatch(out[-1]).group(1)) >= 97


def test_the_script_runs_from_anywhere(tmp_path: Path) -> None:
    done = subprocess_run(*QUICK, "--summary", "result.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "done"


def test_the_script_refuses_in_one_line(tmp_path: Path) -> None:
    done = subprocess_run("--epochs", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpucnn: --epochs: expected a whole number of at least 1, received '0'")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main([option])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert ("train" in out) if option == "--help" else (out == f"gpucnn {gpucnn.__version__}\n")


def test_the_help_of_train_names_the_choices(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for words in ("digits, mnist", "paper, lenet5", "sgd, nesterov, adam", "one-cycle", "float64, tf32, bf16", "gpu:N"):
        assert words in out


def test_a_terminal_shows_bars_with_the_results() -> None:
    pty = pytest.importorskip("pty", reason="pseudo-terminals are of Unix")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "50", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--epochs", "2", "--device", "cpu"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        text = b"".join(read_all(ours)).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "\x1b[" in text, "no bars"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    for epoch in (1, 2):
        results = rf"epoch {epoch}/2\W.*100%.*loss \d+\.\d{{4}}  accuracy +\d+\.\d\d%  [\d,]+ images/s"
        assert re.search(results, plain), plain
    assert LAST_LINE.fullmatch(plain.strip().splitlines()[-1])


def read_all(descriptor: int) -> Iterator[bytes]:
    """Read a pseudo-terminal until its other end is closed, which Linux reports as an error."""
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:
            return
        if not part:
            return
        yield part


# ---- bad input ----------------------------------------------------------------------------------------------------

BAD_INPUT = {
    "batch size 0": (("--batch-size", "0"), "--batch-size: expected a whole number of at least 1, received '0'"),
    "batch size 1.5": (("--batch-size", "1.5"), "--batch-size: expected a whole number of at least 1, received '1.5'"),
    "epochs 0": (("--epochs", "0"), "--epochs: expected a whole number of at least 1, received '0'"),
    "epochs -1": (("--epochs=-1",), "--epochs: expected a whole number of at least 1, received '-1'"),
    "seed -1": (("--seed=-1",), "--seed: expected a whole number of at least 0, received '-1'"),
    "rate": (("--learning-rate=-0.1",), "--learning-rate: expected a finite number of at least 0, received '-0.1'"),
    "rate nan": (("--learning-rate", "nan"), "--learning-rate: expected a finite number of at least 0, received 'nan'"),
    "rate inf": (("--learning-rate", "inf"), "--learning-rate: expected a finite number of at least 0, received 'inf'"),
    "rate word": (("--learning-rate", "x"), "--learning-rate: expected a finite number of at least 0, received 'x'"),
    "decay": (("--weight-decay=-1",), "--weight-decay: expected a finite number of at least 0, received '-1'"),
    "momentum": (
        ("--optimizer", "sgd", "--momentum", "1"),
        "momentum must be a number of at least 0 and below 1, received 1.0",
    ),
    "clip norm": (("--clip-norm", "0"), "clip_norm must be above 0, else nothing is learned"),
    "clip norm inf": (("--clip-norm", "inf"), "--clip-norm: expected a finite number of at least 0, received 'inf'"),
    "average": (("--average", "1"), "WeightAverage: decay must be a number of at least 0 and below 1, received 1.0"),
    "warm-up": (("--warm-up", "1.5"), "WarmUp: share must be a number of at least 0 and below 1, received 1.5"),
    "shift": (("--shift", "8"), "Augmentation: shift 8 moves images of 8x8 pixels out of sight; it must be below 8"),
    "shift -1": (("--shift=-1",), "--shift: expected a whole number of at least 0, received '-1'"),
    "shift 0.5": (("--shift", "0.5"), "--shift: expected a whole number of at least 0, received '0.5'"),
    "schedule": (("--schedule", "one_cycle"), "unknown schedule 'one_cycle': did you mean 'one-cycle'?"),
    "dataset": (("--dataset", "digit"), "unknown data set 'digit': did you mean 'digits'?"),
    "model": (("--model", "lenet"), "unknown model 'lenet': did you mean 'lenet5'?"),
    "optimizer": (("--optimizer", "adan"), "unknown optimizer 'adan': did you mean 'adam'?"),
    "device": (("--device", "cpuu"), "unknown device 'cpuu': did you mean 'cpu'?"),
    "device number": (("--device", "gpu:x"), "unknown device 'gpu:x': did you mean 'gpu:0'?"),
    "precision": (("--precision", "float16"), "unknown precision 'float16': did you mean "),
    "precision of a GPU": (("--precision", "bf16"), "products in bf16 are for a GPU, and for the device reference"),
    "data dir": (("--dataset", "mnist", "--data-dir", "/nowhere/at/all"), "/nowhere/at/all"),
    "no data dir": (("--dataset", "folder"), "--data-dir DIR"),
    "model too deep": (
        ("--model", "lenet5"),
        'Conv2D "conv2d2": kernel 5x5 does not fit input 4x4 (OH = (4 + 0 + 0 - 5)//1 + 1 = 0)',
    ),
    "summary folder": (("--summary", "/nowhere/x.json"), "--summary /nowhere/x.json: cannot be written there"),
    "summary is a folder": (("--summary", "/"), "--summary /: cannot be written there"),
    "option": (("--epoch", "3"), "unrecognized arguments: --epoch 3"),
    "option without value": (("--epochs",), "--epochs: expected one argument"),
    "argument": (("lenet5",), "unrecognized arguments: lenet5"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case: str, run) -> None:
    arguments, message = BAD_INPUT[case]
    code, out, err = run("--device", "cpu", *arguments)
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith("gpucnn: ")
    assert message in err[0]
    assert "Traceback" not in err[0]
    assert not any("test accuracy" in line for line in out)


@pytest.mark.parametrize("command", [(), ("trian",)], ids=["none", "misspelt"])
def test_a_command_is_needed(command: tuple[str, ...], run) -> None:
    code, out, err = run(command=command)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("gpucnn: ")
    assert err[0].endswith("see gpucnn --help")


def test_names_are_checked_before_the_data_is_read(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("the data was read"))
    for option in ("--model", "--optimizer", "--device", "--precision", "--schedule"):
        assert run(option, "x")[0] == 2
    for option in ("--average", "--warm-up"):
        assert run(option, "2")[0] == 2
    assert run("--summary", "/nowhere/x.json")[0] == 2


# ---- the states of CuPy -------------------------------------------------------------------------------------------


def cupy_that_counts_no_device() -> AbstractContextManager:
    """A driver is there, but every GPU is hidden from it."""
    cupy = make_fake_cupy()
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    return installed_cupy(cupy)


STATES: dict[str, tuple[Callable[[], AbstractContextManager], str]] = {
    "absent": (absent_cupy, 'CuPy is not installed; pip install "cupy-cuda12x[ctk]"'),
    "broken": (broken_cupy, "CuPy is installed but cannot be imported (ImportError: libcublas.so.12: cannot open"),
    "no driver": (lambda: installed_cupy(make_fake_cupy(0)), "CuPy finds no NVIDIA GPU (CUDARuntimeError: "),
    "no device": (cupy_that_counts_no_device, "CuPy finds no NVIDIA GPU (the driver shows none)"),
}


@pytest.mark.parametrize("device", ["gpu", "gpu:1"])
@pytest.mark.parametrize("state", STATES)
def test_gpu_without_one(state: str, device: str, run) -> None:
    context, message = STATES[state]
    with context():
        code, out, err = run("--device", device, "--epochs", "1")
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"gpucnn: {message}")


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("state", STATES)
def test_auto_without_a_gpu_says_why(state: str, run) -> None:
    context, message = STATES[state]
    with context():
        code, out, err = run("--device", "auto", "--epochs", "1")
    assert (code, err) == (0, [])
    assert out[0].startswith("device: cpu (")
    assert out[1].startswith(f"no GPU: {message}")


@pytest.mark.usefixtures("few_digits")
def test_cpu_does_not_ask_for_a_gpu(run) -> None:
    with broken_cupy(AssertionError("cupy was imported")):
        code, out, _ = run(*QUICK)
    assert code == 0
    assert not any("no GPU" in line for line in out)


@requires_compiler
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("device", ["gpu", "auto"])
def test_gpu_with_one(device: str, run, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with installed_cupy(make_fake_cupy()):
        code, out, err = run("--device", device, "--epochs", "2", "--summary", str(path))
    assert (code, err) == (0, [])
    assert out[0].startswith("device: gpu:0 (")
    assert not any("no GPU" in line for line in out)
    summary = json.loads(path.read_text())
    assert (summary["device"], summary["host_syncs_per_epoch"]) == ("gpu:0", 1)
    assert summary["versions"]["cupy"]


def test_a_gpu_that_is_not_there(run) -> None:
    with installed_cupy(make_fake_cupy()):
        code, _, err = run("--device", "gpu:7")
    assert (code, len(err)) == (2, 1)
    assert err[0].startswith("gpucnn: gpu:7 is not there")


# ---- other ends ---------------------------------------------------------------------------------------------------


class PoisonedSGD(SGD):
    """Makes the loss of step 5 NaN."""

    steps = 0

    def step(self) -> None:
        super().step()
        self.steps += 1
        if self.steps == 4:
            self.arena.values[...] = np.nan


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["", "quiet"])
def test_divergence(quiet: tuple[str, ...], run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    monkeypatch.setattr("gpucnn.cli.train.get_optimizer", lambda *_: PoisonedSGD(0.01))
    arguments = ("--device", "cpu", "--epochs", "5", "--batch-size", "512", "--summary", str(path), *quiet)
    code, out, err = run(*arguments, "--schedule", "constant")  # three steps in an epoch
    assert (code, len(err)) == (3, 1)
    assert err[0].startswith("gpucnn: the loss became NaN or infinite in epoch 2, step 2, at learning rate 0.01")
    assert not any("test accuracy" in line for line in out)
    summary = json.loads(path.read_text())
    assert summary["status"] == "diverged"
    assert summary["model"] == "paper"
    assert summary["epochs"] == 5
    assert summary["train_loss"] > 0
    assert summary["test_accuracy"] is None
    assert summary["weights_sha256"] is None


def test_divergence_in_the_last_step_shows_in_the_test(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    monkeypatch.setattr("gpucnn.cli.train.get_optimizer", lambda *_: PoisonedSGD(0.01))
    arguments = ("--device", "cpu", "--epochs", "1", "--batch-size", "384", "--summary", str(path))  # four steps
    code, _, err = run(*arguments)
    assert (code, err) == (
        3,
        ["gpucnn: the test loss is NaN or infinite after epoch 1; try a smaller learning rate"],
    )
    summary = json.loads(path.read_text())
    assert summary["status"] == "diverged"
    assert summary["train_loss"] > 0
    assert summary["test_loss"] is None


def test_one_class_is_not_enough(run, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "cats").mkdir()
    for number in range(6):
        image.new("L", (8, 8)).save(tmp_path / "cats" / f"{number}.png")
    code, _, err = run("--dataset", "folder", "--data-dir", str(tmp_path))
    assert (code, len(err)) == (2, 1)
    assert "has the one class 'cats'; training needs two or more" in err[0]


def test_divergence_in_the_first_epoch_still_writes_a_summary(run, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with np.errstate(all="ignore"):
        code, _, _ = run(*QUICK, "--optimizer", "sgd", "--learning-rate", "1e38", "--summary", str(path))
    assert code == 3
    summary = json.loads(path.read_text())
    assert (summary["status"], summary["train_loss"]) == ("diverged", None)


def test_divergence_is_one_line_without_warnings() -> None:
    """Overflow in the step where it happens is what the error is about; NumPy need not warn of it as well."""
    done = subprocess_run(
        *("--device", "cpu", "--model", "vgg", "--optimizer", "sgd", "--learning-rate", "1e6", "--batch-size", "512"),
        *("--epochs", "1"),
    )
    assert done.returncode == 3
    assert done.stderr.startswith("gpucnn: the loss became NaN or infinite in epoch 1, step ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("after", [0, 1])
def test_an_interrupt(after: int, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_epoch(self, split, epoch, on_batch=None, *, done=0):
        if epoch == after:
            raise KeyboardInterrupt
        return Metrics(0.5, 0.25, 40)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    path = tmp_path / "summary.json"
    try:
        code, _, err = run("--device", "cpu", "--epochs", "9", "--summary", str(path))
    except KeyboardInterrupt:
        pytest.fail("the interrupt was not caught")
    assert (code, err) == (130, ["gpucnn: interrupted"])
    summary = json.loads(path.read_text())
    assert summary["status"] == "interrupted"
    assert summary["train_loss"] == (0.5 if after else None)


def test_an_old_summary_is_replaced_whole(run, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("x" * 100_000)
    assert run(*QUICK, "--summary", str(path))[0] == 0
    assert json.loads(path.read_text())["status"] == "done"
