"""The programs of docs/examples run as they stand, and end well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
EXAMPLES = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
MAX_LINES = 50


def output_of(name: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parents[1])}
    command = [sys.executable, "-W", "error", str(EXAMPLES[name])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mnist(tmp_path: Path) -> None:
    out = output_of("mnist", tmp_path)
    assert float(re.search(r"test: .*accuracy=([\d.]+)", out)[1]) > 0.95
    assert "and was taken for a" in out
    weights = load_file(tmp_path / "digits.safetensors")
    assert weights["conv2d1.w"].shape == (3, 3, 1, 16)


def test_own_layer(tmp_path: Path) -> None:
    errors, *_ = output_of("own_layer", tmp_path).splitlines()
    assert all(float(error) < 1e-6 for error in re.findall(r"'([\d.e+-]+)'", errors))
    assert len(re.findall("e-", errors)) == 2


def test_own_loop(tmp_path: Path) -> None:
    out = output_of("own_loop", tmp_path)
    assert float(re.search(r"accuracy on what it was trained on: ([\d.]+)%", out)[1]) > 90


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short_and_tested(name: str) -> None:
    assert len(EXAMPLES[name].read_text().splitlines()) <= MAX_LINES
    assert f"test_{name}" in globals()
