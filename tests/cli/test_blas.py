"""The kernels of the BLAS: when a command starts itself again to get others, and that it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpucnn
from gpucnn.cli import blas

ROOT = Path(gpucnn.__file__).parents[1]
AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"
CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9999
flags\t\t: fpu sse avx avx2 fma {more}

processor\t: 1
model name\t: another
"""
WITH, WITHOUT = (blas.cpu_facts(CPUINFO.format(more=more)) for more in (AVX512, ""))


def openblas(kernels: str) -> dict:
    return {"internal_api": "openblas", "architecture": kernels}


RESTARTS = {
    "kernels for AVX2 on AVX-512": ([openblas("Haswell")], WITH, {}, True),
    "kernels for AVX": ([openblas("Sandybridge")], WITH, {}, True),
    "the oldest kernels": ([openblas("Katmai")], WITH, {}, True),
    "lower case": ([openblas("zen")], WITH, {}, True),
    "the second library": ([openblas("SkylakeX"), openblas("Haswell")], WITH, {}, True),
    "the user chose": ([openblas("Haswell")], WITH, {"OPENBLAS_CORETYPE": "Haswell"}, False),
    "the user chose nothing": ([openblas("Haswell")], WITH, {"OPENBLAS_CORETYPE": ""}, False),
    "the start before chose, in vain": ([openblas("Haswell")], WITH, {"OPENBLAS_CORETYPE": "SkylakeX"}, False),
    "no AVX-512": ([openblas("Haswell")], WITHOUT, {}, False),
    "some of AVX-512": ([openblas("Haswell")], blas.cpu_facts(CPUINFO.format(more="avx512f avx512cd")), {}, False),
    "no /proc/cpuinfo": ([openblas("Haswell")], {}, {}, False),
    "SkylakeX": ([openblas("SkylakeX")], WITH, {}, False),
    "Cooperlake": ([openblas("Cooperlake")], WITH, {}, False),
    "SapphireRapids": ([openblas("SapphireRapids")], WITH, {}, False),
    "kernels not known here": ([openblas("Zen7")], WITH, {}, False),
    "kernels not told": ([{"internal_api": "openblas"}], WITH, {}, False),
    "MKL": ([{"internal_api": "mkl"}], WITH, {}, False),
    "BLIS": ([{"internal_api": "blis", "architecture": "haswell"}], WITH, {}, False),
    "Accelerate": ([], WITH, {}, False),
}


@pytest.mark.parametrize("case", RESTARTS)
def test_when_a_restart_helps(case: str) -> None:
    libraries, facts, environment, expected = RESTARTS[case]
    assert blas.restart_helps(libraries, facts, environment) is expected


def test_the_facts_are_of_the_first_processor() -> None:
    assert WITH["model name"] == "AMD EPYC 9999"
    assert WITH["flags"].split()[-1] == "avx512vl"


RESTARTING = f"""
import os, sys
from gpucnn.cli import blas
print("start", *sys.argv[1:], os.environ.get("OPENBLAS_CORETYPE"), flush=True)
blas.libraries = lambda: [{openblas("Haswell")!r}]
blas.cpu_facts = lambda: {WITH!r}
MORE
blas.restart_with_fast_kernels()
print("work", flush=True)
"""


def starts(more: str = "") -> list[str]:
    """Run a program that finds itself with slow kernels; return the lines that it and its successors print."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    command = [sys.executable, "-c", RESTARTING.replace("MORE", more), "a b", "--c"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the processor's flags in /proc/cpuinfo")
def test_a_command_restarts_once_with_its_arguments() -> None:
    assert starts() == ["start a b --c None", "start a b --c SkylakeX", "work"]


@pytest.mark.parametrize("more", ["sys.platform = 'win32'", "sys.executable = ''", "sys.executable = '/nowhere'"])
def test_where_it_cannot_restart_it_goes_on(more: str) -> None:
    assert starts(more) == ["start a b --c None", "work"]
