"""Hostile input: the fuzzer finds what is wrong, and the readers answer with errors of the library's own."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dataset_files import CIFAR_FILES, IDX_FILES, write_cifar, write_mnist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.readers import READERS, Reader, _checkpoint_run
from fuzz.run import fuzz, make_input, table
from fuzz.run import main as run_fuzz
from gpucnn.cli.main import main
from gpucnn.data import load
from gpucnn.errors import InputError
from gpucnn.training.checkpoints import Checkpoint, read, write

derandomized = partial(
    settings, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# ---- the fuzzer ---------------------------------------------------------------------------------------------------

INPUTS = {"idx": 800, "cifar": 800, "images": 500, "checkpoint": 600, "onnx": 300, "cli": 100, "toml": 300}


@pytest.mark.parametrize("name", READERS)
def test_readers_answer_hostile_input(name: str, tmp_path: Path) -> None:
    if READERS[name].is_missing():
        pytest.skip(f"{READERS[name].needs} is not installed")
    result = fuzz(name, READERS[name], 0, INPUTS[name], 600.0, tmp_path)
    assert result.failures == []
    assert result.inputs == INPUTS[name]
    assert min(result.accepted, result.refused) > 0  # neither all nor nothing gets through


def files() -> list[bytes]:
    return [b"one", b"another"]


def open_broken(folder: Path, kind: str) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        if content[1:] == b"one":
            return
        if kind == "KeyError":
            raise KeyError("wrong")
        if kind == "memory":
            np.ones(1 << 28)
        while kind == "hang":
            pass
        if kind == "waiting":
            time.sleep(60)
        if kind == "outside":
            (folder.parent / "elsewhere").write_bytes(b"")
        if kind == "died":
            os.abort()
        raise InputError("refused")

    return read


def keep(rng: object, content: bytes, other: bytes) -> bytes:
    return content


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("KeyError", "KeyError: 'wrong' (test_fuzz.py:"),
        ("memory", "memory"),
        ("hang", "hang"),
        ("waiting", "hang"),
        ("outside", "opens "),
        ("died", "died: -6"),
    ],
)
def test_what_goes_wrong_is_found_and_kept(kind: str, what: str, tmp_path: Path) -> None:
    reader = Reader(files, partial(open_broken, kind=kind), keep)
    count = next(i for i in range(1, 99) if make_input(reader, files(), 0, i - 1)[1:] == b"another") + 1
    result = fuzz("broken", reader, 0, count, 600.0, tmp_path)
    assert result.inputs == count
    assert result.failures
    assert all(found.what.startswith(what) and found.path.read_bytes()[1:] == b"another" for found in result.failures)


def test_what_is_refused_is_no_failure(tmp_path: Path) -> None:
    result = fuzz("refusing", Reader(files, partial(open_broken, kind="none"), keep), 0, 50, 600.0, tmp_path)
    assert (result.inputs, result.failures) == (50, [])
    assert min(result.accepted, result.refused) > 10
    written = table({"refusing": result})
    assert f"| refusing | 50 | {result.accepted} | {result.refused} | 0 |" in written


def test_equal_seeds_give_equal_inputs() -> None:
    reader = READERS["idx"]
    inputs = [[make_input(reader, reader.files(), seed, i) for i in range(40)] for seed in (0, 0, 1)]
    assert inputs[0] == inputs[1] != inputs[2]


def test_the_command(capsys: pytest.CaptureFixture) -> None:
    assert run_fuzz(["--inputs", "40", "--readers", "cifar"]) == 0
    assert "| cifar | 40 | " in capsys.readouterr().out
    assert run_fuzz(["--readers", "cifer"]) == 2
    assert "unknown reader 'cifer': did you mean 'cifar'?" in capsys.readouterr().err


# ---- properties ---------------------------------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 2, 5, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


@derandomized(max_examples=80)
@given(magic=st.sampled_from([2051, 2049, 0, 2052]), shape=st.tuples(SIZES, SIZES, SIZES), body=st.binary(max_size=200))
def test_idx_headers_hold_what_is_there_or_are_refused(magic: int, shape: tuple, body: bytes, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    header = b"".join(number.to_bytes(4, "big") for number in (magic, *shape))
    (tmp_path / IDX_FILES[0]).write_bytes(header + body)
    fits = magic == 2051 and math.prod(shape) == len(body) and shape == (6, 5, 4)
    if fits:
        assert load("mnist", tmp_path).train.images.tobytes() == body
    else:
        with pytest.raises(InputError, match=IDX_FILES[0] if magic != 2051 else "."):
            load("mnist", tmp_path)


@derandomized(max_examples=30)
@given(size=st.integers(0, 10000) | st.sampled_from([3073, 6146]), fill=st.integers(0, 255))
def test_cifar_files_hold_whole_records_or_are_refused(size: int, fill: int, tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / CIFAR_FILES[1]).write_bytes(bytes([fill]) * size)
    if size and size % 3073 == 0 and fill < 10:
        assert len(load("cifar10", tmp_path).train.labels) == 7 + size // 3073
    else:
        with pytest.raises(InputError, match="data_batch_2.bin"):
            load("cifar10", tmp_path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(SCALARS, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts))
ABOUT = ("format", "settings", "place", "epoch", "batch", "step", "results")


@derandomized(max_examples=70)
@given(change=st.dictionaries(st.sampled_from(ABOUT), JSON, min_size=1))
def test_descriptions_are_taken_whole_or_not_at_all(change: dict) -> None:
    run = _checkpoint_run()
    arrays, about = run.held()
    about["results"]["seconds"] = 1.5
    before = {name: array.tobytes() for name, array in run.held()[0].items()}
    changed = {name: np.ones_like(array) if name.startswith("model") else array for name, array in arrays.items()}
    try:
        run.resume(Checkpoint(Path("a"), changed, about | change))
    except InputError:
        assert {name: array.tobytes() for name, array in run.held()[0].items()} == before
        assert (run.epoch, run.batch, run.step, run.results) == (0, 0, 0, {})
    else:
        json.dumps(run.held()[1], allow_nan=False)


KEYS = st.sampled_from(["epochs", "batch-size", "batch_size", "model", "flip", "data-dir", "seed", "config", "x"])
VALUES = st.one_of(
    st.integers().map(str), st.floats().map(str), st.booleans().map(lambda value: str(value).lower()),
    st.text(max_size=6).map(json.dumps), st.sampled_from(["[]", "{}", "1979-05-27", "[[1]]", '"auto"']),
)  # fmt: skip


@derandomized(max_examples=80)
@given(lines=st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=3))
def test_options_in_a_file_are_refused_in_one_sentence(lines: list, tmp_path: Path, capsys) -> None:
    path = tmp_path / "run.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in lines), encoding="utf-8")
    code = main(["train", "--config", str(path), "--device", "cpu", "--dataset", "none of them"])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith(f"gpucnn: {path}: ") or "unknown data set 'none of them'" in err or "unknown model" in err
    assert len(err.splitlines()) == 1


# ---- what was found -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "class", "half"])
def test_links_out_of_a_folder_of_images_are_refused(kind: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image").new("L", (3, 4))
    folder, outside = tmp_path / "pictures", tmp_path / "outside" / "cat"
    for half in ("train", "test"):
        (folder / half / "cat").mkdir(parents=True)
        image.save(folder / half / "cat" / "0.png")
    outside.mkdir(parents=True)
    image.save(outside / "1.png")
    (folder / "train" / "cat" / "inside.png").symlink_to(folder / "test" / "cat" / "0.png")
    assert len(load("folder", folder).train.labels) == 2
    links = {"file": "train/cat/1.png", "class": "train/dog", "half": "train"}
    link = folder / links[kind]
    if kind == "half":
        (folder / "train").rename(tmp_path / "train")
        outside = tmp_path / "train"
    link.symlink_to(outside / "1.png" if kind == "file" else outside)
    with pytest.raises(InputError, match=f"{link} is a link that leads out of {folder}"):
        load("folder", folder)


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").symlink_to(tmp_path / "cat")
    with pytest.raises(InputError, match="cat"):
        load("folder", tmp_path)


def test_a_file_of_mnist_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_mnist(folder)
    (folder / IDX_FILES[0]).rename(tmp_path / "images")
    (folder / IDX_FILES[0]).symlink_to(tmp_path / "images")
    with pytest.raises(InputError, match="is a link that leads out of"):
        load("mnist", folder)


def test_a_home_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load("mnist", "~nobody of that name/set")


def test_a_chunk_that_claims_two_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    from gpucnn.data.datasets import _File

    (tmp_path / "a").write_bytes(b"123")
    with _File(tmp_path / "a") as file:
        assert file.read(1 << 62) == b"123"


def test_images_beyond_measure_are_refused_by_their_header(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image").new("1", (8192, 4096))
    for half in ("train", "test"):
        (tmp_path / half / "a").mkdir(parents=True)
        image.save(tmp_path / half / "a" / "0.png")
    with pytest.raises(InputError, match="8192 x 4096 pixels, more than 16,777,216"):
        load("folder", tmp_path)


@pytest.mark.parametrize(
    ("about", "message"),
    [({"a": [math.nan]}, "NaN"), ({"a": 1e999}, "NaN"), ({"a": json.loads("[" * 200 + "]" * 200)}, "too deep")],
)
def test_descriptions_that_could_not_be_written_again(about: dict, message: str, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.safetensors"
    dumps = json.dumps
    monkeypatch.setattr(json, "dumps", lambda value, **_: dumps(value))
    write(path, {}, about)
    with pytest.raises(InputError, match=message):
        read(path)


@pytest.mark.parametrize(
    "results",
    [{}, {"seconds": 1}, {"seconds": math.nan}, {"seconds": 1.0, "best_loss": "a"}, {"seconds": 1.0, "x": 1e999}],
)
def test_results_that_are_no_numbers_are_refused(results: dict) -> None:
    run = _checkpoint_run()
    arrays, about = run.held()
    with pytest.raises(InputError, match="is not a checkpoint of gpucnn"):
        run.resume(Checkpoint(Path("a"), arrays, about | {"results": results}))


def test_an_array_of_too_many_axes_is_damage(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match="is damaged"):
        read(tmp_path / "a")


def test_what_is_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")  # which would wait for somebody to write
    with pytest.raises(InputError, match="not a regular file"):
        read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["data.order", "data.cursor"])
def test_places_that_are_none_are_refused(name: str) -> None:
    run = _checkpoint_run()
    arrays, about = run.held()
    about |= {"batch": 1, "step": 1}
    about["results"]["seconds"] = 1.5
    arrays["data.cursor"][...] = 2
    run.resume(Checkpoint(Path("a"), arrays, about))
    for change in (-5, 1):
        changed = arrays | {name: arrays[name] + np.array(change, arrays[name].dtype)}
        with pytest.raises(InputError, match="its place in the data does not exist"):
            run.resume(Checkpoint(Path("a"), changed, about))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "100000"), "threads must be an integer of at most 1,024, received 100000"),
        (("--epochs", "1000000000"), "steps must be an integer of at most 10,000,000"),
        (("--seed", "9" * 5000), "--seed: expected at most 18 digits, received 5000"),
    ],
)
def test_numbers_beyond_measure(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err
