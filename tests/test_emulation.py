"""The CUDA emulation itself: what it computes, and that it finds the mistakes it is there to find."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from device.emulator import (
    BlockProgram,
    DeadlockError,
    DivergentBarrierError,
    ElementwiseProgram,
    EmulationError,
    SourceError,
    parse_parameters,
)
from device.fixtures import requires_compiler

from gpucnn.backend.kernels import Block, Elementwise

pytestmark = requires_compiler

ORDERS = ["forward", "reverse", 0, 1, 2]

ADD = Elementwise("scaled_add", "T x, T y, float32 alpha", "T z", "z = x + T(alpha) * y")
GATHER = Elementwise(
    "gather", "raw T table, raw int64 rows, int32 C", "T y", "const ptrdiff_t r = i / C; y = table[rows[r] * C + i % C]"
)
BLOCK_SUM = Block(
    "block_sum",
    """
extern "C" __global__ void block_sum(const T* __restrict__ x, T* sums, const int n) {
  __shared__ T partial[64];
  const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  partial[t] = i < n ? x[i] : T(0);
  __syncthreads();
  for (int half = 32; half > 0; half /= 2) {
    if (t < half) partial[t] += partial[t + half];
    __syncthreads();  // every round reads what other threads wrote
  }
  if (t == 0) sums[blockIdx.x] = partial[0];
}
""",
    threads=64,
)
WARP_SUM = Block(
    "warp_sum",
    """
extern "C" __global__ void warp_sum(const T* x, T* sums) {
  T v = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
  if (threadIdx.x % 32 == 0) sums[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = v;
}
""",
    threads=96,
)


def random(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def sum_blocks(record: Block, x: np.ndarray, order: str | int) -> np.ndarray:
    sums = np.full(-(-x.size // record.threads), np.nan, x.dtype)
    BlockProgram(record).run(sums.size, record.threads, (x, sums, np.int32(x.size)), order=order)
    return sums


# ----------------------------------------------------------------------------- elementwise kernels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
def test_elementwise_broadcasts_and_walks_over_strides(dtype, order):
    x, y = random(4, 3, 5, dtype=dtype).transpose(2, 0, 1), random(3, dtype=dtype)
    z = np.full((5, 6, 4), np.nan, dtype)[:, ::2].transpose(0, 2, 1)  # (5, 4, 3), not contiguous
    result = ElementwiseProgram(ADD)(x, y, 0.5, z, order=order)
    assert result is z
    np.testing.assert_array_equal(z, x + np.asarray(0.5, dtype) * y)


def test_elementwise_allocates_outputs_that_are_not_given():
    x = random(7)
    np.testing.assert_array_equal(ElementwiseProgram(ADD)(x, np.float32([2]), 1), x + 2)
    assert ElementwiseProgram(ADD)(x[:0], x[:0], 1).shape == (0,)


def test_elementwise_in_place_and_with_two_outputs():
    record = Elementwise("relu", "T x", "T y, uint8 kept", "kept = x > T(0); y = kept ? x : T(0)")
    x, kept = random(2, 9), np.empty((2, 9), np.uint8)
    expected = np.maximum(x, 0)
    ElementwiseProgram(record)(x, x, kept)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(kept, expected > 0)


def test_elementwise_reads_raw_arrays_by_their_flat_index():
    table, rows = random(6, 3), np.array([5, 0, 5, 2])
    y = np.empty((4, 3), np.float32)
    np.testing.assert_array_equal(ElementwiseProgram(GATHER)(table, rows, 3, y), table[rows])


def test_elementwise_with_raw_output_only_needs_a_size():
    record = Elementwise("scatter", "raw T x, int32 step", "raw T y", "y[i * step] = x[i] + _ind.size()")
    y = np.zeros(6)
    ElementwiseProgram(record)(np.arange(3.0), 2, y, size=3)
    np.testing.assert_array_equal(y, [3, 0, 4, 0, 5, 0])
    with pytest.raises(ValueError, match="Loop size"):
        ElementwiseProgram(record)(np.arange(3.0), 2, y)


@pytest.mark.parametrize(("row", "index"), [(6, 18), (-1, -3)])
def test_elementwise_reports_a_raw_access_out_of_bounds(row, index):
    y = np.empty((2, 3), np.float32)
    with pytest.raises(IndexError, match=rf"'gather': index {index} .* 'table' of size 18, at element i = 3"):
        ElementwiseProgram(GATHER)(random(6, 3), np.array([0, row]), 3, y)


def test_elementwise_finds_an_in_place_kernel_that_reads_its_neighbours():
    record = Elementwise("shift", "raw T x", "T y", "y = x[i + 1 < _ind.size() ? i + 1 : i]")
    shifted = [ElementwiseProgram(record)(x, x, order=order) for order in ORDERS for x in [np.arange(8.0)]]
    assert any((result != shifted[0]).any() for result in shifted)


@pytest.mark.parametrize(
    ("x", "y", "alpha", "error", "message"),
    [
        (np.ones(2, "f4"), np.ones(2, "f8"), 1, TypeError, "Type is mismatched"),
        (np.ones(2, "f2"), np.ones(2, "f2"), 1, TypeError, "Type is mismatched"),
        (np.ones(2, "f4"), np.ones(2, "f4"), np.ones(2), TypeError, "alpha: received float64"),
        (np.ones(2, "f4"), np.ones(3, "f4"), 1, ValueError, "broadcast"),
        (np.ones(2, "f4"), np.ones(2, "f4"), "1", TypeError, "unsupported type"),
    ],
)
def test_elementwise_refuses_arguments_that_do_not_fit(x, y, alpha, error, message):
    with pytest.raises(error, match=message):
        ElementwiseProgram(ADD)(x, y, alpha)


def test_elementwise_refuses_what_a_device_would_silently_get_wrong():
    y = np.empty((2, 3), np.float32)
    with pytest.raises(ValueError, match="'table': a raw array must be C-contiguous"):
        ElementwiseProgram(GATHER)(random(3, 6).T, np.array([0, 1]), 3, y)
    with pytest.raises(TypeError, match=r"'C': expected an integer, received 3.0"):
        ElementwiseProgram(GATHER)(random(6, 3), np.array([0, 1]), 3.0, y)
    with pytest.raises(ValueError, match="Out shape is mismatched"):
        ElementwiseProgram(ADD)(random(2, 3), random(2, 3), 1, random(3))
    with pytest.raises(TypeError, match="Wrong number of arguments"):
        ElementwiseProgram(ADD)(random(2))


def test_elementwise_inputs_are_const_and_errors_name_the_line_of_the_body():
    record = dataclasses.replace(ADD, body="z = x;\nx = y;")
    with pytest.raises(SourceError, match=r"body of scaled_add:2"):
        ElementwiseProgram(record)(random(2), random(2), 1)


@pytest.mark.parametrize("name", ["INFINITY", "NAN"])
def test_names_that_nvrtc_lacks_are_missing_here_too(name):
    with pytest.raises(SourceError, match=name):
        ElementwiseProgram(dataclasses.replace(ADD, body=f"z = {name}"))(random(2), random(2), 1)


@pytest.mark.parametrize("text", ["x", "half x", "rare T x", "T i", "raw T"])
def test_parameter_strings_are_checked(text):
    with pytest.raises(ValueError, match=r"parameter|Can not use 'i'"):
        parse_parameters(text)


# ----------------------------------------------------------------------------- block kernels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
def test_block_sum_is_right_in_every_order(dtype, order):
    x = random(150, dtype=dtype)
    expected = [x[:64].sum(dtype="f8"), x[64:128].sum(dtype="f8"), x[128:].sum(dtype="f8")]
    np.testing.assert_allclose(sum_blocks(BLOCK_SUM, x, order), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_barrier_changes_the_result_in_some_order(which):
    parts = BLOCK_SUM.source.split("__syncthreads();")
    kept = ["" if k in (which, 2) else "__syncthreads();" for k in range(3)]
    source = "".join(part + barrier for part, barrier in zip(parts, kept, strict=True))
    x = random(64)
    record = dataclasses.replace(BLOCK_SUM, source=source)
    results = [sum_blocks(record, x, order)[0] for order in ORDERS]
    assert not np.allclose(results, x.sum(), rtol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_warp_shuffles(order):
    x, sums = random(192), np.full(6, np.nan, np.float32)
    BlockProgram(WARP_SUM).run((2, 1, 1), (96,), (x, sums), order=order)
    np.testing.assert_allclose(sums, x.reshape(6, 32).sum(1), rtol=1e-5, atol=1e-6)


def test_indices_of_a_grid_in_three_dimensions():
    record = Block(
        "where",
        """extern "C" __global__ void where(int* out) {
      const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
      const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
      out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 100 + thread; }""",
    )
    out = np.full(24 * 12, -1, np.int32)
    BlockProgram(record).run((2, 3, 4), (3, 2, 2), (out,), order=3)
    np.testing.assert_array_equal(out, (np.arange(24)[:, None] * 100 + np.arange(12)).ravel())


def run_source(body: str, threads: int = 64) -> np.ndarray:
    x = np.zeros(64, np.float32)
    source = f'extern "C" __global__ void sample(T* x) {{ const int t = threadIdx.x; {body} }}'
    BlockProgram(Block("sample", source)).run(1, threads, (x,))
    return x


@pytest.mark.parametrize(
    "body",
    [
        "if (t < 10) return;\n__syncthreads();",
        "if (t < 10)\n__syncthreads();",
        "if (t < 10)\n__syncthreads();\nelse\n__syncthreads();",
    ],
)
def test_a_divergent_barrier_is_found(body):
    with pytest.raises(DivergentBarrierError, match="__syncthreads of line"):
        run_source(body)


def test_a_deadlock_is_found():
    with pytest.raises(DeadlockError):
        run_source("if (t < 10) __syncwarp(); else __syncthreads();")


def test_block_accesses_outside_of_an_array_are_found():
    with pytest.raises(IndexError, match="writes outside of argument 'x'"):
        run_source("x[t + 1] = T(1);")
    assert np.isnan(run_source("x[t] = x[t + 1];")[63])


def test_block_arguments_are_checked_against_the_signature():
    program, x, sums = BlockProgram(BLOCK_SUM), random(64), random(1)
    n = np.int32(64)
    for args, message in [
        ((x, sums), "takes 3 arguments, received 2"),
        ((x, sums.astype("f8"), n), "'sums': expected float32, received float64"),
        ((x, sums, np.int64(64)), "'n': expected int32, received int64"),
        ((x, sums, 64), "'n': expected a NumPy scalar"),
        ((x, np.float32(0), n), "'sums': expected an array"),
    ]:
        with pytest.raises(TypeError, match=message):
            program.run(1, 64, args)
    with pytest.raises(ValueError, match="'x': expected a C-contiguous array"):
        program.run(1, 64, (random(128)[::2], sums, n))
    with pytest.raises(ValueError, match="'x' and 'sums' overlap"):
        program.run(1, 64, (x, x[:1], n))
    with pytest.raises(EmulationError, match="more than 1024 threads"):
        program.run(1, 1025, (x, sums, n))


def test_the_same_array_may_be_passed_twice():
    source = 'extern "C" __global__ void twice(const T* x, T* y) { y[threadIdx.x] = 2 * x[threadIdx.x]; }'
    x = np.arange(4.0)
    BlockProgram(Block("twice", source)).run(1, 4, (x, x))
    np.testing.assert_array_equal(x, [0, 2, 4, 6])
