"""Options in a file: what they mean, that the command line wins, and one sentence for everything that is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from gpucnn.cli import main as cli
from gpucnn.cli.config import MAX_BYTES
from gpucnn.cli.main import main


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Give the options with which `train` was called."""
    calls: list[argparse.Namespace] = []
    monkeypatch.setattr(cli, "train", calls.append)
    return calls


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_keys_are_the_names_of_options(seen: list, tmp_path: Path) -> None:
    text = 'model = "lenet5"\nbatch-size = 32\nlearning_rate = 0.25\nepochs = 3\n'
    text += 'resume = true\nflip = false\ndata-dir = "a b"\n'
    assert main(["train", "--config", write(tmp_path, text)]) == 0
    (options,) = seen
    assert (options.model, options.batch_size, options.learning_rate, options.epochs) == ("lenet5", 32, 0.25, 3)
    assert (options.resume, options.flip, options.data_dir) == (True, False, Path("a b"))
    assert (options.dataset, options.keep) == ("digits", 3), "what neither names has its default"


def test_the_command_line_wins_wherever_it_stands(seen: list, tmp_path: Path) -> None:
    path = write(tmp_path, 'epochs = 3\nmodel = "vgg"\nflip = true\nbatch_size = "auto"\nseed = 7\nwarm-up = 1e-2')
    assert main(["train", "--epochs", "4", "--config", path, "--model=mnist", "--no-flip"]) == 0
    (options,) = seen
    assert (options.epochs, options.model, options.flip) == (4, "mnist", False)
    assert (options.batch_size, options.seed, options.warm_up) == (None, 7, 0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key 'epoch': did you mean 'epochs'?"),
        ('config = "other.toml"', "unknown key 'config'"),
        ("help = true", "unknown key 'help'"),
        ('epochs = "3"', "epochs: expected a number, received '3'"),
        ("epochs = true", "epochs: expected a number, received True"),
        ("epochs = [3]", "epochs: expected a number, received a list"),
        ("epochs = 1979-05-27", "epochs: expected a number, received datetime.date(1979, 5, 27)"),
        ("flip = 1", "flip: expected true or false, received 1"),
        ("model = 5", "model: expected text in quotes, received 5"),
        ('data-dir = "a\\u0000"', "data-dir: expected text in quotes, received 'a\\x00'"),
        ("[train]\nepochs = 3", "train: expected an option, received a table"),
        ("epochs.x = 3", "epochs: expected an option, received a table"),
        ("batch-size = 3\nbatch_size = 4", "batch_size: appears twice"),
        ("epochs = 0", "--epochs: expected a whole number of at least 1, received '0'; see gpucnn train --help"),
        ("average = nan", "--average: expected a finite number of at least 0, received 'nan'"),
        ("seed = -1", "--seed: expected a whole number of at least 0, received '-1'"),
        (f"seed = 0x{'f' * 5000}", "--seed: expected a whole number of at least 0, received 'a number of more than"),
        (f"seed = {'9' * 5000}", "expected TOML in UTF-8"),
        ("epochs = ", "expected TOML in UTF-8, such as: epochs = 3 (Invalid value"),
        (f"x = {'[' * 20000}", "expected TOML in UTF-8"),
        ("#" * (MAX_BYTES + 1), "expected options in at most 65,536 bytes, received more"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(
    text: str, message: str, seen: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(tmp_path, text)
    assert main(["train", "--config", path]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"gpucnn: {path}: {message}")
    assert len(err.splitlines()) == 1
    assert seen == []


def test_files_that_cannot_be_read(seen: list, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: does not exist; name a TOML file with options" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path)]) == 2
    assert f"{tmp_path}: is not a file; name a TOML file" in capsys.readouterr().err
    (tmp_path / "latin.toml").write_bytes(b'model = "\xe9"')
    assert main(["train", "--config", str(tmp_path / "latin.toml")]) == 2
    assert "latin.toml: expected TOML in UTF-8" in capsys.readouterr().err
    assert seen == []
