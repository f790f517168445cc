"""What the tests of the check of a GPU share: a job of tiny networks, and a fake that other processes find too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu import check
from gpu.job import Clock, Job, Row

ROOT = Path(__file__).resolve().parents[2]
TINY = Job(
    precisions=("float32",),
    tests=(
        "tests/gpu/test_gpu_step.py::test_gpu_numbers",
        "tests/gpu/test_gpu_step.py::test_real_gpu_trains_as_the_cpu",
    ),
    test_workers=2,
    networks=("lenet5",),
    batch_size=4,
    batches=2,
    classifiers=("mnist",),
    epochs=1,
    timed=(("lenet5", 2),),
    rounds=2,
    turn_seconds=0.01,
    images=(2, 6, 6, 4),
    nodes=(1, 3),
)
# `import cupy` in a process that finds this file gives the fake.
FAKE = """
import sys
from device.fake_cupy import make_fake_cupy
from gpucnn.backend.gpu import gemm
fake = sys.modules["cupy"] = make_fake_cupy()
gemm.open_library = lambda cupy: cupy.libcublas
sys.modules.update({"cupy.cuda": fake.cuda, "cupy.cuda.runtime": fake.cuda.runtime})
"""


@pytest.fixture
def cupy_of_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that are started find the fake, and no PyTorch."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "cupy.py").write_text(FAKE)
    (folder / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (folder, ROOT / "tests" / "gpu", ROOT))))


def rows_of(part, job: Job = TINY) -> list[Row]:
    rows = list(part(job, Clock(600)))
    json.dumps([{key: check.plain(value) for key, value in row.items()} for row in rows], allow_nan=False)
    return rows


def in_an_error(device: int) -> SimpleNamespace:
    """A device after an illegal access."""

    def synchronize() -> None:
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    return SimpleNamespace(synchronize=synchronize if device == 1 else lambda: None)


BROKEN = SimpleNamespace(cuda=SimpleNamespace(Device=in_an_error))
