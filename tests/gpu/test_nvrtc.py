"""Every kernel record compiles with NVRTC for every architecture, and none spills registers in float32."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from device import nvrtc
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy
from device.nvrtc import KernelCompileError, Layout, compile_record, compile_variant
from parts import trainers, zoo_trainer

from gpucnn import get_backend
from gpucnn.backend.gpu.convolution import ALGORITHMS
from gpucnn.backend.gpu.records import Block, Elementwise, all_records
from gpucnn.zoo import MODELS

pytestmark = pytest.mark.skipif(nvrtc.missing_nvrtc() is not None, reason=str(nvrtc.missing_nvrtc()))

SAMPLES = {
    "sample_elementwise": Elementwise(
        "sample_elementwise",
        "T x, raw T w, int32 C, float32 alpha, uint8 mask",
        "T y, raw T sums",
        "if (isfinite(x) && mask) y = max(T(alpha) * x, w[i % C]);\nif (i == 0) sums[0] = x",
    ),
    "sample_block": Block(
        "sample_block",
        """
extern "C" __global__ void sample_block(const T* __restrict__ x, T* __restrict__ y, const int n) {
  __shared__ T tile[256];
  tile[threadIdx.x] = blockIdx.x * 256 + threadIdx.x < n ? x[blockIdx.x * 256 + threadIdx.x] : T(0);
  __syncthreads();
  y[blockIdx.x * 256 + threadIdx.x] = tile[255 - threadIdx.x];
}
""",
    ),
}
RECORDS = SAMPLES | all_records()
ELEMENTWISE = [name for name, record in RECORDS.items() if isinstance(record, Elementwise)]
STRIDED = Layout(ndim=4, contiguous=False)
LARGE = Layout(ndim=4, contiguous=False, index_32_bits=False)  # what asks most of the registers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECORDS)
def test_every_kernel_compiles_for_every_architecture(name, dtype):
    for architecture in nvrtc.supported_architectures():
        if int(architecture.removeprefix("sm_")) < getattr(RECORDS[name], "architecture", 0):
            continue
        compiled = compile_record(RECORDS[name], dtype, architecture)
        assert compiled.registers > 0
        if dtype == "float32":
            assert (compiled.spill_stores, compiled.spill_loads, compiled.stack) == (0, 0, 0), compiled.log


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_kernels_compile_for_large_strided_arrays(name):
    compiled = compile_record(RECORDS[name], "float32", "sm_90", LARGE)
    assert (compiled.spill_stores, compiled.spill_loads, compiled.stack) == (0, 0, 0), compiled.log


@functools.cache
def used_variants():
    """Return the variants of elementwise kernels that a training step and an evaluation take, of every kind of network.

    Of those of the zoo, by either algorithm of convolution, and of one with each layer, loss, optimizer and option.
    """
    found = {}
    with installed_cupy(make_fake_cupy(executes=False)) as cupy, np.errstate(all="ignore"):
        for algorithm in ALGORITHMS:
            backend = get_backend("gpu", convolution=algorithm)
            zoo = ((name, *zoo_trainer(name, backend, 64)) for name in MODELS)
            for name, trainer, data in itertools.chain(zoo, trainers(backend) if algorithm == "columns" else ()):
                with cupy.launches.noted() as launches:
                    trainer.train_epoch(data, 0)
                    trainer.evaluate(data)
                for launch in launches:
                    found.setdefault(launch.variant, name)
    found.pop(None, None)  # of launches that are not of elementwise kernels
    return found


def test_the_variants_that_a_run_uses_compile():
    variants = used_variants()
    names = {variant.name for variant in variants}
    records = {f"gpucnn_{record.name}" for record in RECORDS.values() if isinstance(record, Elementwise)}
    assert names == records - {"gpucnn_sample_elementwise"}
    problems = []
    for variant, network in variants.items():
        compiled = compile_variant(variant, "sm_90")
        if (compiled.spill_stores, compiled.spill_loads, compiled.stack) != (0, 0, 0):
            problems.append(f"{network}: {variant}: {compiled.log}")
    print(f"{len(variants)} variants of {len(names)} kernels")
    assert problems == []


def test_the_usual_architectures_are_known():
    assert set(nvrtc.supported_architectures()) >= {"sm_80", "sm_90"}


def test_the_source_is_the_one_of_cupy():
    source = nvrtc.cuda_source(SAMPLES["sample_elementwise"], "float64", STRIDED)
    assert "typedef double T;" in source
    assert "const CArray<double, 4, 0, 1> _raw_x, const CArray<double, 4, 1, 1> w, const int C" in source
    assert "CIndexer<4, 1> _ind" in source


def test_the_assembler_reports_shared_memory_and_stack():
    assert compile_record(SAMPLES["sample_block"], "float32", "sm_90").shared == 1024
    source = """extern "C" __global__ void stacked(T* x, int k) {
      T a[64];  // indexed by a variable: it cannot live in registers
      for (int j = 0; j < 64; ++j) a[(j * k) & 63] = x[j];
      x[0] = a[k & 63];
    }"""
    assert compile_record(Block("stacked", source), "float32", "sm_90").stack >= 256


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("sample_elementwise", {"body": "T z = x;\ny = z + undeclared_name;\n"}),
        ("sample_block", {"source": 'extern "C" __global__ void sample_block(T* x) {\n  *x = undeclared_name;\n}\n'}),
    ],
)
def test_an_error_is_reported_with_its_line(name, broken):
    record = dataclasses.replace(SAMPLES[name], **broken)
    with pytest.raises(KernelCompileError, match=r"undeclared_name;\n .*undefined") as caught:
        compile_record(record, "float32", "sm_90")
    assert "sm_90" in str(caught.value)
