"""Kernels as data: their sources come with the package, and each record holds its own kernel and no other."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

import pytest

from gpucnn.backend.gpu.records import Block, all_records, kernel

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
FOLDER = files("gpucnn.backend.gpu")
SOURCES = sorted(entry.name for entry in FOLDER.iterdir() if entry.name.endswith((".cu", ".cuh")))
BLOCKS = [record for record in all_records().values() if isinstance(record, Block)]


def kernels_of(source: str) -> list[str]:
    """Names of the `__global__` functions of a source."""
    return re.findall(r"__global__[^(]*?(?:__launch_bounds__\(\w+\)\s*)?(\w+)\(", source)


def test_sources_come_with_the_package() -> None:
    setuptools = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]
    patterns = setuptools["package-data"]["gpucnn.backend.gpu"]
    assert "gpucnn.backend.gpu" in setuptools["packages"]
    assert SOURCES
    assert [name for name in SOURCES if not any(fnmatch(name, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize("record", BLOCKS, ids=lambda record: record.name)
def test_a_record_holds_its_own_kernel_alone(record: Block) -> None:
    assert kernels_of(record.source) == [record.name]


def test_every_kernel_has_a_record() -> None:
    found = {name for file in SOURCES for name in kernels_of((FOLDER / file).read_text())}
    assert found <= {record.name for record in BLOCKS}


def test_constants_and_another_name_go_into_the_source() -> None:
    record = kernel("renamed", "reductions.cuh", "updates.cu", function="clip_norm", threads=64, HALF=32)
    assert kernels_of(record.code("double")) == ["renamed"]
    assert record.code("double").startswith("typedef double T;\nenum { HALF = 32 };\n")
    assert record.threads == 64
