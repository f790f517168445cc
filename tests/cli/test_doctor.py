"""`gpucnn doctor`: what it says of this machine, and what of others."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import absent_cupy, installed_cupy, requires_compiler

import gpucnn
from gpucnn.cli import blas, doctor
from gpucnn.cli import main as cli

ROOT = Path(gpucnn.__file__).parents[1]
HASWELL = {"internal_api": "openblas", "version": "0.3.31", "architecture": "Haswell", "num_threads": 2}
AVX512 = {"flags": "avx512f avx512bw avx512dq avx512vl", "model name": "AMD EPYC 9999"}


@pytest.fixture
def examine(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Give a function that runs `gpucnn doctor` with a small matrix product and returns what it prints."""
    monkeypatch.setattr(doctor, "SIZE", 64)

    def function() -> str:
        assert cli.main(["doctor"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return function


def test_it_describes_this_machine(examine) -> None:
    with absent_cupy():
        out = examine()
    lines = out.splitlines()
    assert lines[0] == f"gpucnn {gpucnn.__version__}, python {platform.python_version()}, numpy {np.__version__}"
    assert re.fullmatch(r"processor: .+, \d+ cores?", lines[1])
    assert "\nBLAS: " in out
    assert re.search(r"\nmatrix product 64 x 64 x 64, float32: [\d,]+ GFLOP/s on 1 thread\b", out)
    assert "\ndevices: cpu\nno GPU: CuPy is not installed" in out
    for package in doctor.OPTIONAL:
        assert f"\n{package} (" in out


@requires_compiler
def test_it_names_the_gpu(examine) -> None:
    with installed_cupy(make_fake_cupy()):
        out = examine()
    assert "\ndevices: gpu:0, cpu\n" in out
    assert "no GPU" not in out


WARNINGS = {
    None: "set OPENBLAS_CORETYPE=SkylakeX before Python starts (gpucnn train does so itself)",
    "Zen": "OPENBLAS_CORETYPE=Zen chose them: set OPENBLAS_CORETYPE=SkylakeX before Python starts",
    "SkylakeX": "OPENBLAS_CORETYPE=SkylakeX is set, but this build of OpenBLAS has no such kernels",
}


@pytest.mark.parametrize("chosen", WARNINGS)
def test_slow_kernels(chosen: str | None, examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "libraries", lambda: [HASWELL])
    monkeypatch.setattr(doctor, "cpu_facts", lambda: AVX512)
    monkeypatch.delenv(blas.VARIABLE, raising=False)
    if chosen is not None:
        monkeypatch.setenv(blas.VARIABLE, chosen)
    out = examine()
    assert "processor: AMD EPYC 9999 (family ?, model ?), " in out
    assert "\nBLAS: openblas 0.3.31, Haswell kernels, 2 threads\nwarning: the Haswell kernels leave " in out
    assert WARNINGS[chosen] in out


def test_other_libraries(examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_facts", lambda: {})
    monkeypatch.setattr(doctor, "libraries", lambda: [{"internal_api": "mkl", "version": None, "num_threads": 1}])
    assert "\nBLAS: mkl, 1 thread\nmatrix" in examine()
    monkeypatch.setattr(doctor, "libraries", lambda: [])
    assert "\nBLAS: one that threadpoolctl does not know\nmatrix" in examine()


openblas_with_avx512 = pytest.mark.skipif(
    not any(library["internal_api"] == "openblas" for library in blas.libraries())
    or not blas.slow_kernels([HASWELL], blas.cpu_facts()),
    reason="needs OpenBLAS under NumPy, and a processor with AVX-512",
)


@openblas_with_avx512
@pytest.mark.parametrize("kernels", ["Haswell", "SkylakeX"])
def test_the_kernels_that_the_user_chose(kernels: str, tmp_path: Path) -> None:
    environment = {**os.environ, blas.VARIABLE: kernels, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gpucnn", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert f"{kernels} kernels, " in done.stdout
    assert ("warning: " in done.stdout) == (kernels == "Haswell")
