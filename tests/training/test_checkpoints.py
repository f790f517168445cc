"""Checkpoints: what is written is what is read, damage is found, and a run that stopped goes on bit for bit."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler

from gpucnn import (
    SGD,
    BatchNorm2D,
    Conv2D,
    Dense,
    DivergedError,
    Dropout,
    Flatten,
    InputError,
    MaxPool2D,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    WeightAverage,
    get_backend,
)
from gpucnn.data import DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization
from gpucnn.optim.optimizers import get_optimizer
from gpucnn.optim.schedules import Cosine
from gpucnn.training.checkpoints import Checkpoint, Checkpoints, DamagedError, Run, read, write
from gpucnn.training.checkpoints import file as checkpoint_file
from gpucnn.training.checkpoints.describe import describe_layer, differences, settings_of

ARRAYS = {
    "model.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "counter": np.array([7], np.int64),
    "order": np.arange(4, dtype=np.int32),
    "double": np.array([0.1, np.nan, np.inf]),
    "empty": np.zeros((0, 3), np.float32),
}
ABOUT = {"step": 5, "settings": {"rate": 0.1, "shape": [2, 3]}, "nothing": None}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name


# ---- a file -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, ARRAYS, ABOUT)
    arrays, about = read(path)
    assert_same(arrays, ARRAYS)
    assert about == ABOUT
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert_same(safetensors.numpy.load_file(path), ARRAYS)  # others can read it too


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_a_file_cut_short_is_damaged(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, ARRAYS, ABOUT)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DamagedError, match=r"a\.safetensors: is damaged"):
        read(path)


def test_every_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, ARRAYS, ABOUT)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            arrays, about = read(path)
        except DamagedError:
            continue
        assert_same(arrays, ARRAYS)  # a bit of the white space behind the header, say
        assert about == ABOUT


@pytest.mark.parametrize(
    ("metadata", "arrays", "message"),
    [
        (None, {}, "it has no description"),
        ({"gpucnn": "{}"}, {}, "it has no description"),
        ({"gpucnn": "{}", "sha256": "0"}, {}, "its checksum does not match"),
        ({"gpucnn": "[1]"}, {}, "not a JSON object"),
        ({"gpucnn": "{"}, {}, "is not JSON"),
        ({"gpucnn": "[" * 100_000}, {}, "is not JSON"),
        ({"gpucnn": "{}"}, {"a": np.zeros(2, np.float16)}, "it holds F16"),
    ],
)
def test_files_of_others_are_refused(metadata: Any, arrays: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if metadata and "checksum" not in message and "no description" not in message:
        metadata["sha256"] = checkpoint_file.checksum(arrays, metadata["gpucnn"])
    safetensors.numpy.save_file(arrays, path, metadata)
    with pytest.raises(DamagedError, match=message):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("failing", ["open", "write", "fsync", "replace"])
def test_a_failed_write_leaves_the_file_before(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write(path, ARRAYS, ABOUT)

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[:100])
            fail()

    if failing in ("fsync", "replace"):
        monkeypatch.setattr(os, failing, fail)
    else:
        opened = (lambda *_: Full(open(*_))) if failing == "write" else fail  # noqa: SIM115
        monkeypatch.setattr(checkpoint_file, "open", opened, raising=False)
    with pytest.raises(OSError, match="No space left"):
        write(path, ARRAYS, {"step": 6})
    monkeypatch.undo()
    assert read(path)[1] == ABOUT
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_data_and_name_are_on_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole content before the name that stands for it, and then the folder."""
    done, sizes = [], []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write(tmp_path / "a.safetensors", ARRAYS, ABOUT)
    assert done == [str(tmp_path / f".a.safetensors.{os.getpid()}.part"), "replace", str(tmp_path)]
    assert sizes[0] == (tmp_path / "a.safetensors").stat().st_size


def test_a_second_signal_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.safetensors", ARRAYS, ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_the_first_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the temporary file cannot be removed either."""

    def failing(number: int) -> Any:
        def fail(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", failing(errno.EROFS))
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a.safetensors", ARRAYS, ABOUT)


# ---- a folder -----------------------------------------------------------------------------------------------------


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new" / "folder", keep=2)
    assert checkpoints.newest() is None
    for step in (5, 10, 100):
        checkpoints.save(step, ARRAYS, {"step": step})
    checkpoints.save_best(ARRAYS, {"step": 5})
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "best.safetensors",
        "step-00000010.safetensors",
        "step-00000100.safetensors",
    ]
    assert checkpoints.newest().about == {"step": 100}
    assert read(checkpoints.folder / "best.safetensors")[1] == {"step": 5}


def test_a_damaged_one_is_passed_over_and_that_is_said(tmp_path: Path) -> None:
    checkpoints, said = Checkpoints(tmp_path), []
    for step in (1, 2, 3):
        checkpoints.save(step, ARRAYS, {"step": step})
    first, second, third = checkpoints.paths()
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    assert checkpoints.newest(said.append).path == third
    assert [line.split(":")[0] for line in said] == [str(first), str(second)]
    assert all(line.endswith("; trying the one before") for line in said)
    third.write_bytes(b"no")
    assert checkpoints.newest(said.append) is None


def test_the_old_goes_when_the_new_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, ARRAYS, {"step": 1})

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        checkpoints.save(2, ARRAYS, {"step": 2})
    assert checkpoints.newest().about == {"step": 1}


def test_steps_are_numbers(tmp_path: Path) -> None:
    """A name with one digit more is not one that comes before."""
    for step in (99_999_999, 100_000_000):
        write(tmp_path / f"step-{step:08}.safetensors", ARRAYS, {"step": step})
    assert Checkpoints(tmp_path).newest().about == {"step": 100_000_000}


def test_a_run_that_began_again_keeps_its_own(tmp_path: Path) -> None:
    """Of more steps are only those that were damaged: they must not take the place of the new ones."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (90, 100):
        checkpoints.save(step, ARRAYS, {"step": step})
    for path in checkpoints.paths():
        path.write_bytes(b"damaged")
    assert checkpoints.newest(str) is None
    checkpoints.save(10, ARRAYS, {"step": 10})
    assert checkpoints.newest(str).about == {"step": 10}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010.safetensors"]


def test_an_old_one_that_stays_is_only_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, ARRAYS, {"step": 1})

    def fail(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        checkpoints.save(2, ARRAYS, {"step": 2})
    assert [read(path)[1]["step"] for path in checkpoints.paths()] == [2, 1]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.safetensors.123.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    Checkpoints(tmp_path).save(2, ARRAYS, {"step": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step-00000002.safetensors"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(InputError, match=r"cannot hold checkpoints .*Read-only.*; name one that can be written to"):
        Checkpoints(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.*: cannot hold checkpoints .*; name one that can be written to"):
        Checkpoints(tmp_path / "file" / "folder")
    with pytest.raises(InputError, match="keep must be an integer of at least 1"):
        Checkpoints(tmp_path, keep=0)


# ---- descriptions -------------------------------------------------------------------------------------------------


def test_differences_are_sentences() -> None:
    before = {"model": {"layers": {"dense1": {"units": 84}}}, "seed": 0, "rate": 0.1, "same": [1, 2]}
    now = {"model": {"layers": {"dense1": {"units": 100}}}, "seed": 1, "decay": 2, "same": [1, 2]}
    assert list(differences(before, now)) == [
        "model.layers.dense1.units was 84 and is 100",
        "seed was 0 and is 1",
        "rate was 0.1 and is nothing",
        "decay was nothing and is 2",
    ]
    assert list(differences(before, before)) == []


def test_layers_and_optimizers_are_described() -> None:
    model = network()
    model.build((8, 8, 1))
    described = describe_layer(model)["layers"]
    assert described["conv2d1"] == {
        **{"kind": "Conv2D", "filters": 4, "kernel_size": 3, "stride": 1, "padding": "same", "dilation": 1},
        **{"bias": True, "groups": 1, "name": "conv2d1", "output": (8, 8, 4)},
        "parameters": {"w": (3, 3, 1, 4), "b": (4,)},
    }
    assert described["dropout1"]["rate"] == 0.2
    optimizer = {"kind": "SGD", "learning_rate": 0.1, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0}
    assert settings_of(SGD(0.1, 0.5)) == optimizer | {"clip_norm": None}


# ---- a run --------------------------------------------------------------------------------------------------------


def network() -> Sequential:
    layers = [Conv2D(4, 3, padding="same"), BatchNorm2D(), ReLU(), MaxPool2D(2), Flatten(), Dropout(0.2), Dense(4)]
    return Sequential(layers)


def make_run(device: str = "cpu", optimizer: str = "sgd", *, seed: int = 0, settings: Any = None) -> Run:
    """Return a run of two epochs of five batches with all that a run may carry along."""
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 255, (19, 8, 8, 1), dtype=np.uint8), rng.integers(0, 4, 19, dtype=np.int32))
    model = network()
    model.build((8, 8, 1), get_backend(device), max_batch=4, seed=seed)
    updates = get_optimizer(optimizer, 0.01, momentum=0.9 if optimizer in ("sgd", "rmsprop") else None)
    updates.set_schedule(Cosine(), 10)
    average = WeightAverage(0.9)
    trainer = Trainer(model, SoftmaxCrossEntropy(), updates, average=average, batch_size=4, seed=seed)
    data = DeviceDataset(split, model.backend, Normalization(split.images))
    return Run(trainer, data, settings or {"seed": seed}, {"device": device})


class Stopped(Exception):
    """The run was interrupted."""


def train(run: Run, *, stop_at: int | None = None) -> list:
    """Train to the end, or stop after a step; return the metrics of the epochs that ended."""
    metrics = []

    def on_batch(N: int) -> None:
        run.advance()
        if run.step == stop_at:
            raise Stopped

    while run.epoch < 2:
        metrics.append(run.trainer.train_epoch(run.data, run.epoch, on_batch, done=run.batch))
        run.end_epoch()
    return metrics


@pytest.fixture(params=["cpu", "reference", "gpu"])
def device(request: pytest.FixtureRequest):
    if request.param != "gpu":
        yield request.param
        return
    with installed_cupy(make_fake_cupy()):
        yield "gpu"


@requires_compiler
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adagrad"])
def test_a_run_goes_on_bit_for_bit(device: str, optimizer: str, tmp_path: Path) -> None:
    """From any step, in the middle of an epoch and at its end, again and again."""
    whole = make_run(device, optimizer)
    expected = train(whole), whole.trainer.model.weights_sha256()
    state = whole.held()[0]
    for stop in ((1, 7), (4, 5), (5,), (9,), (10,)) if device == "cpu" else ((3, 6),):
        for step in stop:
            run = make_run(device, optimizer)
            if checkpoint := Checkpoints(tmp_path).newest():
                assert run.resume(checkpoint) == []
            with pytest.raises(Stopped):
                train(run, stop_at=step)
            Checkpoints(tmp_path).save(run.step, *run.held())
        run = make_run(device, optimizer)
        assert run.resume(Checkpoints(tmp_path).newest()) == []
        metrics = train(run)
        assert metrics == expected[0][2 - len(metrics) :]
        assert run.trainer.model.weights_sha256() == expected[1]
        assert_same(run.held()[0], state)
        assert run.trainer.evaluate(run.data) == whole.trainer.evaluate(whole.data)
        for path in tmp_path.iterdir():
            path.unlink()


def test_another_run_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(Stopped):
        train(run, stop_at=3)
    checkpoint = Checkpoint(tmp_path / "a", *run.held())
    other = make_run(seed=1)
    before = other.trainer.model.weights_sha256()
    with pytest.raises(InputError, match=r"is of another run: seed was 0 and is 1; give the same settings"):
        other.resume(checkpoint)
    adam = make_run(optimizer="adam")
    with pytest.raises(InputError, match=r"has other arrays: optimizer\.velocity was .* and is nothing"):
        adam.resume(checkpoint)
    assert other.trainer.model.weights_sha256() == before
    assert (other.step, adam.step) == (0, 0)


def test_the_time_of_all_sessions_is_counted(tmp_path: Path) -> None:
    """And what else was known is known again."""
    run = make_run()
    run.results = {"best_loss": 0.5}
    with pytest.raises(Stopped), run.timed():
        train(run, stop_at=3)
    again = make_run()
    again.resume(Checkpoint(tmp_path, *run.held()))
    assert again.seconds == run.seconds > 0
    assert again.results["best_loss"] == 0.5


def test_another_place_is_told(tmp_path: Path) -> None:
    run = make_run()
    arrays, about = run.held()
    about["place"] = {"device": "gpu:0"}
    assert make_run().resume(Checkpoint(tmp_path, arrays, about)) == ["device was 'gpu:0' and is 'cpu'"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, this gpucnn reads 1"),
        ({"format": None}, "has format None"),
        ({"step": -1}, "its description lacks something"),
        ({"batch": 1.5}, "its description lacks something"),
        ({"settings": []}, "its description lacks something"),
        ({"results": None}, "its description lacks something"),
        ({"place": "here"}, "its description lacks something"),
    ],
)
def test_descriptions_that_are_none_of_ours(change: dict, message: str, tmp_path: Path) -> None:
    arrays, about = make_run().held()
    with pytest.raises(InputError, match=message):
        make_run().resume(Checkpoint(tmp_path, arrays, about | change))


def test_a_loss_that_is_no_number_is_not_kept() -> None:
    run = make_run()
    run.trainer.model.layers[0].w.value[...] = np.nan
    with pytest.raises(Stopped):
        train(run, stop_at=2)
    with pytest.raises(
        DivergedError,
        match=r"NaN or infinite in epoch 1, step 1, at .* which began in conv2d1\.w at the start of the epoch",
    ):
        run.held()
