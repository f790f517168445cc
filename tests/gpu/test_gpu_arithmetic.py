"""Kernels in the arithmetic of a GPU, where tiny numbers are zero and products and sums are contracted.

CuPy always compiles with -ftz=true, and NVRTC contracts: float32 kernels round otherwise than on the CPU, and compare a
denormal number as if it were 0. What is claimed of them must hold then, too.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from cases import CASES, ELEMENT_LOSSES, Case, run
from device.emulator import BlockProgram, ElementwiseProgram
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy
from device.host_compiler import missing_gpu_arithmetic
from test_reference import expected
from tolerances import assert_close

from gpucnn import get_backend
from gpucnn.backend.gpu.records import Block, Elementwise
from gpucnn.backend.reference import Backend
from gpucnn.geometry import Window

pytestmark = pytest.mark.skipif(missing_gpu_arithmetic() is not None, reason=str(missing_gpu_arithmetic()))

TINY = np.float32(1e-45)  # the smallest denormal number
LEAST = np.finfo("float32").tiny  # the smallest that is none
OPERATIONS = {"clip_norm", "apply_scheduled_rate", "average_step", "label_targets", *ELEMENT_LOSSES}
OPERATIONS |= {f"{name}_step" for name in ("sgd", "adam", "rmsprop", "adagrad")}
OPERATIONS |= {f"{name}_cross_entropy" for name in ("softmax", "sigmoid", "soft")}
OPERATIONS |= {f"{name}{dx}" for name in ("relu", "sigmoid", "tanh", "gelu", "softmax") for dx in ("", "_dx")}
OPERATIONS |= {f"{name}_pool2d{dx}" for name in ("max", "average", "lp") for dx in ("", "_dx")}
SELECTED = [c for c in CASES if c.operation in OPERATIONS and c.dtype == "float32" and not c.large]
RECTIFIED = [case for case in CASES if case.arguments.get("relu") and case.dtype == "float32" and not case.large]


@functools.cache
def as_gpu(**options: Any) -> Backend:
    with installed_cupy(make_fake_cupy(gpu_arithmetic=True)):
        return get_backend("gpu", "float32", **options)


@pytest.mark.parametrize("case", SELECTED, ids=str)
def test_agrees_with_loops(case: Case) -> None:
    """The nested loops compute in float64, as a CPU does."""
    oracle = expected(case)
    for name, result in run(as_gpu(), case).items():
        assert_close(result, oracle[name], case.dtype, case.terms, case.scale, name)


def test_every_selected_operation_has_cases() -> None:
    assert {case.operation for case in SELECTED} == OPERATIONS


# ---- tiny numbers -------------------------------------------------------------------------------------------------

EDGES = np.float32([[-TINY, TINY, -LEAST / 2, LEAST / 2, -0.0, 0.0, -LEAST, LEAST, -1, 1, -np.inf, np.inf, np.nan]])


def on_device(backend: Backend, operation: str, *arrays: np.ndarray, **further: Any) -> np.ndarray:
    result = getattr(backend, operation)(*map(backend.from_host, arrays), **further)
    return backend.to_host(result[0] if isinstance(result, tuple) else result)


def test_relu_leaves_nothing_negative_and_its_gradient_agrees() -> None:
    y = on_device(as_gpu(), "relu", EDGES)
    assert not np.any(y < 0)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(EDGES))
    wanted = np.float32([[*[0] * 7, LEAST, 0, 1, 0, np.inf, np.nan]])  # what is tiny is 0
    np.testing.assert_array_equal(y, wanted)
    dx = on_device(as_gpu(), "relu_dx", np.ones_like(y), y)
    np.testing.assert_array_equal(dx, y > 0)


RECTIFYING = {
    "columns": ({}, "conv2d", (1, 1, 1, 1)),
    "implicit": ({"convolution": "implicit"}, "conv2d", (1, 1, 1, 1)),
    "dense": ({}, "dense", (1, 1)),
}


@pytest.mark.parametrize("name", RECTIFYING)
@pytest.mark.parametrize("bias", [-TINY, TINY, 0.0, -0.0, None])
def test_what_is_rectified_with_the_bias_is_relu_of_it_to_the_bit(name: str, bias: float | None) -> None:
    options, operation, shape = RECTIFYING[name]
    backend = as_gpu(**options)
    x, w = EDGES.reshape(-1, *shape[1:]), np.ones(shape, np.float32)
    b = None if bias is None else backend.from_host(np.float32([bias]))
    further = {"window": Window((1, 1))} if operation == "conv2d" else {}
    y, rectified = (on_device(backend, operation, x, w, b=b, relu=relu, **further) for relu in (False, True))
    assert rectified.tobytes() == on_device(backend, "relu", y).tobytes()
    assert not np.any(np.signbit(rectified) & ~np.isnan(rectified))


@pytest.mark.parametrize("case", RECTIFIED, ids=str)
def test_rectified_operations_agree_with_loops(case: Case) -> None:
    for options in ({}, {"convolution": "implicit"}):
        oracle = expected(case)
        for name, result in run(as_gpu(**options), case).items():
            assert_close(result, oracle[name], case.dtype, case.terms, case.scale, name)


def test_max_pooling_and_relu_in_one_is_one_after_the_other() -> None:
    backend, window = as_gpu(), Window((1, 2), stride=(1, 2))
    x = np.concatenate([EDGES[0], EDGES[0][::-1], EDGES[0], np.roll(EDGES[0], 3)]).reshape(1, 2, -1, 1)
    y, argmax = (backend.to_host(a) for a in backend.max_pool2d(backend.from_host(x), window, relu=True))
    separate = on_device(backend, "max_pool2d", on_device(backend, "relu", x), window=window)
    np.testing.assert_array_equal(y, separate)
    np.testing.assert_array_equal(argmax == 2, ~(y > 0))  # nobody wins where the output is not positive


# ---- the arithmetic itself ----------------------------------------------------------------------------------------

HALVE = Elementwise("halve", "T x", "T y", "y = T(0.5) * x")
DIFFERENCE = Elementwise("difference", "T a, T b, T c", "T y", "y = a * b - c")
COMPARE = Elementwise("compare", "T x", "T y", "y = x < T(0) ? T(-1) : x > T(0) ? T(1) : T(0)")
ONE_BLOCK = Block(
    "one_block",
    """extern "C" __global__ void one_block(const T* x, T* y) {
  __shared__ T held[2];
  held[threadIdx.x] = T(0.5) * x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = held[1 - threadIdx.x];
}""",
)


def both(record: Elementwise, *arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(ElementwiseProgram(record, gpu_arithmetic=as_gpu)(*arrays) for as_gpu in (False, True))


def test_results_are_flushed_and_operands_taken_for_zero() -> None:
    x = np.float32([LEAST, -LEAST, 2 * TINY, 3])
    plain, flushed = both(HALVE, x)
    np.testing.assert_array_equal(plain, x / 2)
    assert flushed.tobytes() == np.float32([0.0, -0.0, 0.0, 1.5]).tobytes()
    plain, flushed = both(COMPARE, np.float32([-TINY, TINY, -LEAST, LEAST]))
    np.testing.assert_array_equal(plain, [-1, 1, -1, 1])
    np.testing.assert_array_equal(flushed, [0, 0, -1, 1])


def test_products_and_sums_are_contracted() -> None:
    a = np.float32([1 + 2.0**-12])
    plain, contracted = both(DIFFERENCE, a, a, a * a)
    assert plain[0] == 0
    assert contracted[0] == float(a[0]) ** 2 - float(a[0] * a[0]) != 0


def test_float64_keeps_its_tiny_numbers() -> None:
    x = np.array([np.finfo("float64").tiny])
    for halved in both(HALVE, x):
        assert halved[0] == x[0] / 2 != 0


@pytest.mark.parametrize("order", ["forward", "reverse", 1])
def test_a_launch_of_blocks_computes_so_in_all_its_threads(order: str | int) -> None:
    x = np.float32([LEAST, 4])
    for gpu_arithmetic, wanted in ((False, LEAST / 2), (True, 0)):
        y = np.ones(2, np.float32)
        BlockProgram(ONE_BLOCK, gpu_arithmetic=gpu_arithmetic).run(1, 2, (x, y), order=order)
        np.testing.assert_array_equal(y, [2, wanted])


@pytest.mark.parametrize("fails", [False, True])
def test_the_host_computes_as_before_when_a_launch_has_ended(fails: bool) -> None:
    record = Elementwise("outside", "raw T x", "T y", "y = x[i + 1]") if fails else HALVE
    try:
        ElementwiseProgram(record, gpu_arithmetic=True)(np.float32([LEAST]), np.empty(1, np.float32))
    except IndexError:
        assert fails
    else:
        assert not fails
    assert np.float32([LEAST])[0] / np.float32(2) != 0
    assert (np.full(64, LEAST) / np.float32(2) != 0).all()
