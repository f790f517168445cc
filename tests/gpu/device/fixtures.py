"""Skip marks, and context managers that put a fake, a broken or no `cupy` in the place of the real one."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from gpucnn.backend.gpu import gemm

from .fake_cupy import make_fake_cupy
from .host_compiler import missing_compiler

__all__ = ["absent_cupy", "broken_cupy", "fake_cupy", "installed_cupy", "requires_compiler"]

requires_compiler = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))


def _is_cupy(name: str) -> bool:
    return name.split(".")[0] in ("cupy", "cupyx", "cupy_backends")


@contextmanager
def _replaced_modules(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Replace every CuPy module in `sys.modules` by the given ones, and restore them afterwards."""
    saved = {name: module for name, module in sys.modules.items() if _is_cupy(name)}
    for name in saved:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_cupy(name)]:
            del sys.modules[name]
        sys.modules.update(saved)


@contextmanager
def installed_cupy(fake: ModuleType) -> Iterator[ModuleType]:
    """Make `import cupy` give `fake`, a module of `make_fake_cupy`, and let cuBLAS be its own."""
    modules = {"cupy": fake, "cupy.cuda": fake.cuda, "cupy.cuda.runtime": fake.cuda.runtime}
    open_library = gemm.open_library
    with _replaced_modules(modules):
        gemm.open_library = lambda cupy: cupy.libcublas
        try:
            yield fake
        finally:
            gemm.open_library = open_library


@contextmanager
def absent_cupy() -> Iterator[None]:
    """Make `import cupy` raise ModuleNotFoundError, as without CuPy."""
    with _replaced_modules(dict.fromkeys(("cupy", "cupyx", "cupy_backends"))):  # None stops an import
        yield


@contextmanager
def broken_cupy(error: Exception | None = None) -> Iterator[None]:
    """Make `import cupy` raise `error` from inside, by default that of a missing shared library."""
    default = "libcublas.so.12: cannot open shared object file: No such file or directory"
    finder = _FailingFinder(error or ImportError(default))
    with _replaced_modules({}):
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)


class _FailingFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the package `cupy` and fails to execute it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if _is_cupy(name) else None

    def exec_module(self, module):
        raise self.error


@pytest.fixture
def fake_cupy() -> Iterator[ModuleType]:
    """Give a strict fake `cupy` with one device, which `import cupy` finds during the test."""
    with installed_cupy(make_fake_cupy()) as module:
        yield module
