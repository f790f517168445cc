"""The modules of the package, by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import gpucnn

PACKAGE = Path(gpucnn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: str) -> str:
    """Return the name of the module in a file of the package, given relative to its folder."""
    return ".".join(["gpucnn", *Path(file).with_suffix("").parts]).removesuffix(".__init__")


def modules() -> list[str]:
    return [module_of(path.relative_to(PACKAGE).as_posix()) for path in FILES]


def module(name: str) -> ModuleType:
    """Import a module; skip where a package is missing that it is there for."""
    if name.startswith("gpucnn.onnx"):
        pytest.importorskip("onnx")
    return import_module(name)
