"""A GPU is there for the tests that are marked `gpu`, and for no other: what would depend on it depends on nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from device.fixtures import requires_compiler

import gpucnn

ROOT = Path(gpucnn.__file__).parents[1]

# A module that imports like an installed CuPy with one GPU. Like CUDA it looks at the environment once, when it begins.
CUPY = """
import os, sys
from device.fake_cupy import make_fake_cupy
from gpucnn.backend.gpu import gemm

made = make_fake_cupy(0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1" else 1, executes=False)
gemm.open_library = lambda cupy: made.libcublas
sys.modules |= {"cupy": made, "cupy.cuda": made.cuda, "cupy.cuda.runtime": made.cuda.runtime}
"""
TESTS = """
import subprocess, sys
import pytest
from device.fixtures import absent_cupy, fake_cupy
from gpucnn import available_devices, get_backend

def devices():
    code = "from gpucnn import get_backend; print(get_backend('auto').name)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return get_backend("auto").name, available_devices(), child

HERE, NOT_HERE = ("gpu:0", ["gpu:0", "cpu"], "gpu:0"), ("cpu", ["cpu"], "cpu")

@pytest.fixture
def device_in_a_fixture():
    yield get_backend("auto").name
    assert get_backend("auto").name == "cpu"

@pytest.mark.gpu
def test_marked():
    assert devices() == HERE

def test_plain(device_in_a_fixture):
    assert device_in_a_fixture == "cpu"
    assert devices() == NOT_HERE

@pytest.mark.parametrize("device", [pytest.param("gpu:0", marks=pytest.mark.gpu), "cpu"])
def test_a_marked_parameter(device):
    assert get_backend("auto").name == device

def test_fake(fake_cupy):
    assert devices() == (*HERE[:2], "cpu")

def test_absent():
    with absent_cupy():
        assert devices() == NOT_HERE
    assert devices() == NOT_HERE

def test_a_backend_for_all_tests(make_backend):
    assert make_backend("fake-gpu", "float32").name == "gpu:0"
    assert get_backend("auto").name == "cpu"

@pytest.mark.gpu
def test_marked_again():
    assert devices() == HERE
"""


@requires_compiler
def test_only_marked_tests_see_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text(CUPY)
    (tmp_path / "test_devices.py").write_text(TESTS)
    path = os.pathsep.join(map(str, (tmp_path, ROOT / "tests", ROOT / "tests" / "gpu", ROOT)))
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command += ["-c", str(ROOT / "pyproject.toml"), str(tmp_path / "test_devices.py")]
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GPU: usable" in done.stdout
    assert "8 passed" in done.stdout
