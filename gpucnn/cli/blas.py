"""Which kernels the BLAS under NumPy computes with, and how a command gets those for AVX-512.

OpenBLAS chooses its kernels while it is loaded. On a processor that it does not know it may take those for AVX2, though
the processor has AVX-512 and they need up to twice the time. The environment variable OPENBLAS_CORETYPE chooses others,
but only before NumPy is first imported, which this package does before any other code of it can run. So a command that
finds itself with the slower kernels starts itself again with the variable set, which costs 0.15 seconds; where OpenBLAS
chose well, or the user did, nothing happens. A library must not do so; `gpucnn doctor` says what its user can do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

__all__ = ["cpu_facts", "describe", "libraries", "restart_helps", "restart_with_fast_kernels", "slow_kernels"]

VARIABLE, FAST_KERNELS = "OPENBLAS_CORETYPE", "SkylakeX"
CPUINFO = Path("/proc/cpuinfo")
NEEDED_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}

# The kernels in OpenBLAS's driver/others/dynamic.c that do without AVX-512. Those of other names, perhaps of processors
# yet to come, are left alone.
OLDER_KERNELS = {
    *("katmai", "coppermine", "northwood", "prescott", "banias", "atom", "core2", "penryn", "dunnington", "nehalem"),
    *("athlon", "opteron", "opteron_sse3", "barcelona", "nano", "sandybridge", "bobcat", "bulldozer", "piledriver"),
    *("haswell", "steamroller", "excavator", "zen"),
}


def libraries() -> list[dict[str, Any]]:
    """Return what threadpoolctl knows of each BLAS library that is loaded."""
    return [library for library in threadpool_info() if library["user_api"] == "blas"]


def describe() -> str:
    """Return name, version and kernels of the BLAS library: "openblas 0.3.31 SkylakeX"."""
    library = next(iter(libraries()), {})
    names = (library.get(name) for name in ("internal_api", "version", "architecture"))
    return " ".join(filter(None, names)) or "unknown"


def cpu_facts(cpuinfo: str | None = None) -> dict[str, str]:
    """Return what Linux says of the first processor, from the text of /proc/cpuinfo; empty on other systems."""
    if cpuinfo is None:
        cpuinfo = CPUINFO.read_text() if CPUINFO.exists() else ""
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def slow_kernels(libraries: Iterable[Mapping[str, Any]], facts: Mapping[str, str]) -> str | None:
    """Return the name of the kernels in use if they leave the AVX-512 of the processor aside, else None."""
    if not set(facts.get("flags", "").split()) >= NEEDED_FLAGS:
        return None
    names = (str(library.get("architecture")) for library in libraries if library["internal_api"] == "openblas")
    return next((name for name in names if name.lower() in OLDER_KERNELS), None)


def restart_helps(
    libraries: Iterable[Mapping[str, Any]], facts: Mapping[str, str], environment: Mapping[str, str]
) -> bool:
    """Whether the kernels are slow and the user, or a start before this one, has not chosen them."""
    return VARIABLE not in environment and slow_kernels(libraries, facts) is not None


def restart_with_fast_kernels() -> None:
    """Start this command again with the kernels for AVX-512 if that helps; else return."""
    if sys.platform == "linux" and sys.executable and restart_helps(libraries(), cpu_facts(), os.environ):
        with contextlib.suppress(OSError):  # slower is better than not at all
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {VARIABLE: FAST_KERNELS})
