"""The CUDA emulation itself: what it computes, and that it finds the mistakes it is there to find."""

from __future__ import annotations

import dataclasses
import re

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

from gpucnn.backend.gpu.records import Block, Elementwise

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


def test_elementwise_runs_for_chosen_elements_alone():
    x, y = random(3, 4), np.zeros((4, 3), np.float32)[:, ::-1]
    ElementwiseProgram(ADD)(x.T, x.T, 1, y, indices=[11, 0, 4])
    expected = np.where(np.isin(np.arange(12).reshape(4, 3), [0, 4, 11]), 2 * x.T, 0)
    np.testing.assert_array_equal(y, expected)
    ElementwiseProgram(ADD)(x, x, 1, y.T, indices=[])
    np.testing.assert_array_equal(y, expected)
    for index in (-1, 12):
        with pytest.raises(ValueError, match="indices from 0 to 11"):
            ElementwiseProgram(ADD)(x, x, 1, y.T, indices=[0, index])


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


# One product by a warp of what is already rounded; each lane finds its fragments as the PTX manual lists them.
TENSOR_CORE = """
extern "C" __global__ void tensor_core(const float* a, const float* b, float* c) {
  const int group = threadIdx.x / 4, member = threadIdx.x % 4;
  unsigned left[4], right[2];
  for (int n = 0; n < 4; ++n) left[n] = pack(a + (group + n % 2 * 8) * DEPTH, member + n / 2 * 4, 1);
  for (int n = 0; n < 2; ++n) right[n] = pack(b + group, member + n * 4, 8);
  float sums[4];
  for (int n = 0; n < 4; ++n) sums[n] = c[(group + n / 2 * 8) * 8 + member * 2 + n % 2];
  MULTIPLY(sums, left, right);
  for (int n = 0; n < 4; ++n) c[(group + n / 2 * 8) * 8 + member * 2 + n % 2] = sums[n];
}
"""
PACKED = {
    "tf32": """
#define MULTIPLY mma_tf32
enum { DEPTH = 8 };
__device__ unsigned pack(const float* x, int word, int apart) { return to_tf32(x[word * apart]); }
""",
    "bf16": """
#define MULTIPLY mma_bf16
enum { DEPTH = 16 };
__device__ unsigned pack(const float* x, int word, int apart) {  // the first of the two in the lower half
  return to_bf16(x[2 * word * apart]) | (unsigned)to_bf16(x[(2 * word + 1) * apart]) << 16;
}
""",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("kind", "depth"), [("tf32", 8), ("bf16", 16)])
def test_a_tensor_core_adds_the_product_of_two_matrices(kind, depth, order):
    a, b, c = np.round(8 * random(16, depth)), np.round(8 * random(depth, 8, seed=1)), random(16, 8, seed=2)
    expected = c + a @ b
    BlockProgram(Block("tensor_core", PACKED[kind] + TENSOR_CORE)).run(1, 32, (a, b, c), order=order)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-4)


BITS = """
extern "C" __global__ void bits(const float* x, unsigned* tf32, unsigned* bf16) {
  tf32[threadIdx.x] = to_tf32(x[threadIdx.x]);
  bf16[threadIdx.x] = (unsigned)to_bf16(x[threadIdx.x]) << 16;
}
"""


def test_factors_of_tensor_cores_are_rounded():
    """Of tf32 ties go away from zero, of bf16 to even; what is too large becomes infinite, and NaN stays."""
    step, largest, infinity = 2.0**-10, np.finfo("float32").max, np.inf
    rows = [  # x, as tf32, as bf16
        (1, 1, 1),
        (1 + step / 2, 1 + step, 1),
        (-1 - step / 2, -1 - step, -1),
        (1 + 0.49 * step, 1, 1),
        (1 + 4 * step, 1 + 4 * step, 1),
        (1 + 12 * step, 1 + 12 * step, 1 + 16 * step),
        (1 + 4.01 * step, 1 + 4 * step, 1 + 8 * step),
        (largest, infinity, infinity),
        (-infinity, -infinity, -infinity),
        (np.nan, np.nan, np.nan),
        (-0.0, -0.0, -0.0),
    ]
    x, *expected = np.array(rows, np.float32).T.copy()
    found = [np.zeros(len(x), np.uint32) for _ in expected]
    BlockProgram(Block("bits", BITS)).run(1, len(x), (x, *found))
    for bits, values in zip(found, expected, strict=True):
        np.testing.assert_array_equal(bits.view("float32"), values)
    assert np.signbit(found[0].view("float32")[-1])


def test_a_tensor_core_reads_no_more_bits_than_its_format_has():
    source = """
extern "C" __global__ void unrounded(const float* x, float* y) {
  unsigned a[4], b[2];
  for (int n = 0; n < 4; ++n) a[n] = b[n % 2] = __float_as_uint(*x);
  float sums[4] = {0, 0, 0, 0};
  mma_tf32(sums, a, b);
  y[threadIdx.x] = sums[0];
}
"""
    x, y = np.float32([1 + 2.0**-10 + 2.0**-11]), np.zeros(32, np.float32)
    BlockProgram(Block("unrounded", source)).run(1, 32, (x, y))
    np.testing.assert_array_equal(y, np.float32(8 * (1 + 2.0**-10) ** 2))


def test_kernels_of_one_name_share_no_memory():
    """Of two types, that is: the arrays of their templates have one name."""
    source = """
struct Cell { T value[2]; };
template <class S> __device__ S& held() {
  __shared__ S cell;
  return cell;
}
extern "C" __global__ void same_name(T* x, int writes) {
  if (writes) held<Cell>().value[0] = *x;
  *x = held<Cell>().value[0];
}
"""
    for dtype, writes, expected in (("float32", 1, 5), ("float64", 0, 0), ("float32", 0, 5)):
        x = np.full(1, 5, dtype)
        BlockProgram(Block("same_name", source)).run(1, 1, (x, np.int32(writes)))
        assert x[0] == expected


def test_a_warp_waits_for_no_other():
    """Warps run ahead of each other: behind a barrier of the own one, what the others write may be missing."""
    source = """
extern "C" __global__ void exchange(T* x) {
  __shared__ T held[64];
  held[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  x[threadIdx.x] = held[63 - threadIdx.x];
}
"""
    results = []
    for seed, order in enumerate(ORDERS):
        x = random(64, seed=seed)
        expected = x[::-1].copy()
        BlockProgram(Block("exchange", source)).run(1, 64, (x,), order=order)
        results.append(np.array_equal(x, expected))
    assert not any(results)


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


def test_the_same_array_may_be_passed_twice():
    source = 'extern "C" __global__ void twice(const T* x, T* y) { y[threadIdx.x] = 2 * x[threadIdx.x]; }'
    x = np.arange(4.0)
    BlockProgram(Block("twice", source)).run(1, 4, (x, x))
    np.testing.assert_array_equal(x, [0, 2, 4, 6])


EMPTY = Block("empty", 'extern "C" __global__ void empty() {}')


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1, 65536), 1, "65536"),
        ((1, 1, 65536), 1, "65536"),
        (2**31, 1, "2147483648"),
        (0, 1, "received a grid of 0"),
        (1, 0, "blocks of 0"),
        (1, 1025, "at most (1024, 1024, 64) threads"),
        (1, (1, 1, 65), "at most (1024, 1024, 64) threads"),
        (1, (32, 33), "at most 1024 threads in all"),
    ],
)
def test_sizes_that_cuda_does_not_launch_are_refused(grid, block, message):
    BlockProgram(EMPTY).run((2, 3, 4), (1024, 1), ())
    with pytest.raises(EmulationError, match=re.escape(message)):
        BlockProgram(EMPTY).run(grid, block, ())


def test_arguments_beyond_four_kilobytes_are_refused():
    def run(count):
        declared = ", ".join(f"{'T*' if k % 2 else 'char'} p{k}" for k in range(count))  # 16 bytes for each two
        record = Block("many", f'extern "C" __global__ void many({declared}) {{}}')
        BlockProgram(record).run(1, 1, [None if k % 2 else np.int8(0) for k in range(count)])

    run(512)
    with pytest.raises(EmulationError, match="at most 4096 bytes of arguments, .* 4097 bytes"):
        run(513)


def shared(floats, where):
    source = {
        "kernel": "",
        "template": "template <class S> __device__ S* held() { __shared__ S cells[COUNT]; return cells; }",
    }[where]
    own = "__shared__ float cells[COUNT];" if where == "kernel" else "float* cells = held<float>();"
    code = f"enum {{ COUNT = {floats} }};\n{source}\n"
    code += f'extern "C" __global__ void holds(T* x) {{ {own} cells[threadIdx.x] = *x; *x = cells[COUNT - 1]; }}'
    BlockProgram(Block("holds", code)).run(1, 1, (np.zeros(1, np.float32),))


@pytest.mark.parametrize("where", ["kernel", "template"])
def test_shared_memory_beyond_48_kilobytes_is_refused(where):
    shared(12 << 10, where)
    with pytest.raises(EmulationError, match="49156 bytes of shared memory, at most 49152"):
        shared((12 << 10) + 1, where)
