"""What both emulators share: the host compiler and its errors, C types, scalars and poisoned arrays."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "C_TYPES",
    "DTYPES",
    "DeadlockError",
    "DivergentBarrierError",
    "EmulationError",
    "SourceError",
    "compile_library",
    "missing_compiler",
    "missing_gpu_arithmetic",
    "order_number",
    "poisoned",
    "shared_bytes",
    "to_scalar",
]

HEADER = Path(__file__).with_name("cuda_emulation.h")
FLAGS = (
    "-std=c++17",
    "-O2",
    "-shared",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-gnu-unique",  # else kernels of one name share the __shared__ arrays of their templates, whatever their types
    "-Werror=return-type",
    "-Werror=uninitialized",
    "-Wno-unknown-pragmas",
)
GPU_ARITHMETIC = ("-DEMULATION_GPU_ARITHMETIC", "-ffp-contract=fast", "-mfma")  # what CuPy's kernels are compiled for
C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    "int8": "signed char",
    "uint8": "unsigned char",
    "bool": "bool",
}
DTYPES = {c_type: np.dtype(name) for name, c_type in C_TYPES.items()} | {
    "unsigned": np.dtype("uint32"),
    "int32_t": np.dtype("int32"),
    "int64_t": np.dtype("int64"),
    "uint8_t": np.dtype("uint8"),
    "uint32_t": np.dtype("uint32"),
    "uint64_t": np.dtype("uint64"),
    "ptrdiff_t": np.dtype("int64"),
    "size_t": np.dtype("uint64"),
    "long": np.dtype("int64"),
}


class EmulationError(RuntimeError):
    """A kernel cannot be run as it was asked for."""


class SourceError(EmulationError):
    """The compiler rejects the kernel; the message is the compiler's."""


class DivergentBarrierError(EmulationError):
    """Not all threads of a block reach the same `__syncthreads`."""


class DeadlockError(EmulationError):
    """Threads of a block wait for each other at different barriers."""


def missing_compiler() -> str | None:
    """Return why kernels cannot be emulated here, or None if they can."""
    return None if shutil.which("g++") else "the CUDA emulation needs g++, which is not installed"


@functools.cache
def missing_gpu_arithmetic() -> str | None:
    """Return why this processor cannot compute as a GPU does, or None if it can."""
    about = Path("/proc/cpuinfo")
    if platform.machine() == "x86_64" and about.exists() and re.search(r"^flags\b.*\bfma\b", about.read_text(), re.M):
        return missing_compiler()
    return "the arithmetic of a GPU needs an x86-64 processor with fused multiply-add"


@functools.cache
def _cache_folder() -> Path:
    named = os.environ.get("GPUCNN_EMULATION_CACHE")
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)
        return Path(named)
    temporary = tempfile.TemporaryDirectory(prefix="gpucnn-emulation-")
    _cache_folder.owner = temporary  # removed when the process ends
    return Path(temporary.name)


@functools.cache
def _precompiled_header(flags: tuple[str, ...]) -> Path:
    """Return a folder with the header as the compiler has read it, which half of the time of each source goes into."""
    digest = hashlib.sha256("\0".join([HEADER.read_text(), *flags]).encode()).hexdigest()[:24]
    folder = _cache_folder() / f"header-{digest}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            target = Path(made, "header", f"{HEADER.name}.gch")
            target.parent.mkdir()
            options = [flag for flag in flags if flag != "-shared"]
            command = ["g++", *options, "-w", "-x", "c++-header", str(HEADER), "-o", str(target)]
            subprocess.run(command, capture_output=True, check=True)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(target.parent, folder)
    return folder


@functools.cache
def compile_library(name: str, source: str, gpu_arithmetic: bool = False) -> ctypes.PyDLL:
    """Compile and load a source; calls hold the interpreter lock, since the emulation has static state."""
    if reason := missing_gpu_arithmetic() if gpu_arithmetic else missing_compiler():
        raise EmulationError(reason)
    flags = (*FLAGS, *GPU_ARITHMETIC) if gpu_arithmetic else FLAGS  # the last of two that contradict each other counts
    digest = hashlib.sha256("\0".join([source, HEADER.read_text(), *flags]).encode()).hexdigest()[:24]
    library = _cache_folder() / f"{name}-{digest}.so"
    with _alone(library):  # a process that needs what another one compiles waits for it
        if not library.exists():
            _build(name, source, flags, library)
    return ctypes.PyDLL(str(library))


def _build(name: str, source: str, flags: tuple[str, ...], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        file = Path(folder, f"{name}.cpp")
        file.write_text(source)
        headers = (f"-I{_precompiled_header(flags)}", f"-I{HEADER.parent}")
        command = ["g++", *flags, *headers, str(file), "-o", f"{folder}/built.so"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SourceError(f"kernel {name!r} does not compile:\n{done.stderr}")
        os.replace(f"{folder}/built.so", library)  # atomic: several processes may share the folder


@contextlib.contextmanager
def _alone(library: Path) -> Iterator[None]:
    """Let no other process of this machine do the same meanwhile."""
    if library.exists() or fcntl is None:
        yield
        return
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def shared_bytes(library: ctypes.PyDLL) -> int:
    """Return the bytes of the `__shared__` variables of a kernel: here the static ones inside of functions."""
    listed = subprocess.run(["nm", "--print-size", library._name], capture_output=True, text=True, check=True).stdout
    symbols = [fields for fields in map(str.split, listed.splitlines()) if len(fields) == 4]
    return sum(int(size, 16) for _, size, kind, name in symbols if kind in "bBdDuV" and name.startswith("_ZZ"))


def order_number(order: str | int) -> int:
    """Translate "forward", "reverse" or a seed into the number the header expects."""
    named = {"forward": 0, "reverse": 1}
    return named[order] if isinstance(order, str) else 2 + int(order)


def to_scalar(value: Any, dtype: np.dtype, where: str) -> np.ndarray:
    """Convert a scalar to a 0-d array; unlike CuPy, refuse to truncate a float to an integer."""
    if not isinstance(value, (bool, int, float, np.generic)):
        raise TypeError(f"{where}: unsupported type {type(value)}")
    if dtype.kind in "iu" and isinstance(value, (float, np.floating)):
        raise TypeError(f"{where}: expected an integer, received {value!r}")
    result = np.empty((), dtype)
    result[()] = value
    return result


def poisoned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocate an array with all bits set: NaN, or the largest unsigned number, so that a gap is seen."""
    result = np.empty(shape, dtype)
    result.reshape(-1).view(np.uint8).fill(1 if dtype.kind == "b" else 0xFF)
    return result
