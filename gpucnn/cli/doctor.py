"""What this machine offers gpucnn: `gpucnn doctor`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version

import numpy as np
from threadpoolctl import threadpool_limits

from gpucnn.backend import available_devices
from gpucnn.backend.cpu.threads import core_count
from gpucnn.backend.gpu import missing_gpu_reason
from gpucnn.cli.blas import FAST_KERNELS, VARIABLE, cpu_facts, libraries, slow_kernels

__all__ = ["examine", "processor", "product_rate"]

OPTIONAL = {"cupy": "GPU", "PIL": "pictures as data", "onnx": "ONNX models"}
SIZE, RUNS = 2048, 5  # of the matrix product that is timed


def examine() -> Iterator[str]:
    """Yield lines for people: processor, BLAS and its speed, devices, optional packages."""
    cores = core_count()
    yield f"processor: {processor()}, {_count(cores, 'core')}"
    yield from _blas_lines()
    rates = (f"{product_rate(count) / 1e9:,.0f} GFLOP/s on {_count(count, 'thread')}" for count in sorted({1, cores}))
    yield f"matrix product {SIZE} x {SIZE} x {SIZE}, float32: {', '.join(rates)}"
    reason = missing_gpu_reason()
    yield f"devices: {'cpu' if reason else ', '.join(available_devices())}"
    if reason:
        yield f"no GPU: {reason}"
    yield from _package_lines()


def processor() -> str:
    """Return the processor's name, with family and model where the system tells them."""
    facts = cpu_facts()
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def product_rate(threads: int) -> float:
    """Return the multiplications and additions per second of a large matrix product, in the best of some runs."""
    a, b, out = (np.ones((SIZE, SIZE), np.float32) for _ in range(3))
    seconds = []
    with threadpool_limits(threads, user_api="blas"):
        for _ in range(RUNS):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + "s" * (number != 1)


def _blas_lines() -> Iterator[str]:
    found = libraries()
    for library in found:
        kernels = f", {library['architecture']} kernels" if library.get("architecture") else ""
        name = f"{library['internal_api']} {library['version'] or ''}".rstrip()
        yield f"BLAS: {name}{kernels}, {_count(library['num_threads'], 'thread')}"
    if not found:
        yield "BLAS: one that threadpoolctl does not know"
    if slow := slow_kernels(found, cpu_facts()):
        yield f"warning: the {slow} kernels leave the processor's AVX-512 aside, which may double the time; {_cure()}"


def _cure() -> str:
    chosen = os.environ.get(VARIABLE)
    setting = f"{VARIABLE}={FAST_KERNELS}"
    if chosen is None:
        return f"set {setting} before Python starts (gpucnn train does so itself)"
    if chosen.lower() == FAST_KERNELS.lower():
        return f"{setting} is set, but this build of OpenBLAS has no such kernels: install NumPy from PyPI"
    return f"{VARIABLE}={chosen} chose them: set {setting} before Python starts"


def _package_lines() -> Iterator[str]:
    distributions = packages_distributions()
    for package, use in OPTIONAL.items():
        found = [f"{name} {version(name)}" for name in sorted(set(distributions.get(package, [])))]
        yield f"{package} ({use}): {', '.join(found) or 'not installed'}"
