"""Convolution on a GPU without columns: each arithmetic against the loops, and what its kernels need to be right."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import oracles
import pytest
from cases import CASES, Case, run
from device.fake_cupy import make_fake_cupy
from device.fixtures import fake_cupy, installed_cupy, requires_compiler
from tolerances import assert_close

from gpucnn import InputError, Window
from gpucnn.backend.gpu import GpuBackend, implicit

__all__ = ["fake_cupy"]  # a fixture of the tests below

RECORDS = {"conv2d": implicit.CONV2D, "conv2d_dx": implicit.CONV2D_DX, "conv2d_dw_db": implicit.CONV2D_DW}
SIGNIFICANT_BITS = {"tf32": 11, "bf16": 8}
ORDERS = ("forward", "reverse", 0, 1)
DEVICES = [pytest.param("fake-gpu", marks=requires_compiler), pytest.param("gpu", marks=pytest.mark.gpu)]


def has_groups(case: Case) -> bool:
    w = case.arguments["w"] if "w" in case.arguments else case.outputs["dw"]
    x_shape = case.arguments["x"].shape if "x" in case.arguments else case.arguments["x_shape"]
    return w.shape[2] < x_shape[3]


PLAIN = [case for case in CASES if case.operation in RECORDS and not case.large and not has_groups(case)]
SINGLE = [case for case in PLAIN if case.dtype == "float32"]
ROUNDED = [case for case in SINGLE if "tiles" in case.label or "stride" in case.label or "no bias" in case.label]
CALLS = [(case, case.dtype) for case in PLAIN] + [(case, products) for products in SIGNIFICANT_BITS for case in ROUNDED]
WINDOWS, STEPS = (  # a kernel gradient in several parts; and several tiles to be summed up by each operation
    {case.operation: case for case in SINGLE if case.label == f"tiles, many {what}"} for what in ("windows", "steps")
)


@functools.cache
def make_backend(device: str, products: str, order: str | int = "forward") -> GpuBackend:
    """Return a backend without columns; `order` is that of the threads that the fake device emulates."""
    with installed_cupy(make_fake_cupy(order=order)) if device == "fake-gpu" else nullcontext():
        backend = GpuBackend("float32" if products in SIGNIFICANT_BITS else products, convolution="implicit")
    backend.matmul_precision = products
    return backend


def rounded(x: Any, products: str) -> Any:
    """Round as a tensor core's factor is: ties of tf32 away from zero, ties of bf16 to even."""
    if products not in SIGNIFICANT_BITS or not isinstance(x, np.ndarray):
        return x
    bits = SIGNIFICANT_BITS[products]
    significand, exponent = np.frexp(x.astype("float64"))  # at least 0.5, below 1
    whole = np.ldexp(significand, bits)
    whole = np.rint(whole) if products == "bf16" else np.copysign(np.floor(np.abs(whole) + 0.5), whole)
    return np.ldexp(whole, exponent - bits)


def expected(case: Case, products: str) -> dict[str, np.ndarray]:
    """Results by the loops, which sum in float64, on rounded factors; what is only added is not rounded."""
    arguments = {name: value if name == "b" else rounded(value, products) for name, value in case.arguments.items()}
    if case.operation != "conv2d_dw_db":
        return {"out": getattr(oracles, case.operation)(**arguments)}
    dw, _ = oracles.conv2d_dw_db(**arguments, CG=case.outputs["dw"].shape[2])
    return {"dw": dw, "db": case.arguments["dy"].sum((0, 1, 2), dtype="float64")}


def compare(backend: GpuBackend, case: Case) -> None:
    oracle = expected(case, backend.matmul_precision)
    for name, result in run(backend, case).items():
        assert_close(result, oracle[name], case.dtype, case.terms, name=name)


def agrees(backend: GpuBackend, case: Case) -> bool:
    try:
        compare(backend, case)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("case", "products"), CALLS, ids=str)
def test_agrees_with_loops(case: Case, products: str, device: str) -> None:
    compare(make_backend(device, products), case)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("products", ["float32", "bf16"])
def test_what_is_negative_becomes_zero(products: str, device: str) -> None:
    """Behind the bias, in the same kernel; a NaN stays, as it does in ReLU."""
    backend, case = make_backend(device, products), STEPS["conv2d"]
    x, w, b, window = case.arguments.values()
    b = b.copy()
    b[0] = np.nan
    oracle = expected(replace(case, arguments={"x": x, "w": w, "b": b, "window": window}), products)["out"]
    out = backend.from_host(np.full(oracle.shape, -1, x.dtype))
    sizes = implicit.implicit_sizes(x.shape, w.shape[-1], window)
    implicit.implicit_conv2d(backend, *map(backend.from_host, (x, w, b)), sizes, out, relu=True)
    assert_close(backend.to_host(out), np.maximum(oracle, 0), x.dtype, case.terms)


# ---- threads ------------------------------------------------------------------------------------------------------


@requires_compiler
@pytest.mark.parametrize("products", ["float32", "tf32"])
@pytest.mark.parametrize("operation", RECORDS)
def test_threads_may_run_in_any_order(operation: str, products: str) -> None:
    """The results have the same bits: sums are made in a fixed order."""
    results = [run(make_backend("fake-gpu", products, order), WINDOWS[operation]) for order in ORDERS]
    for name, first in results[0].items():
        assert len({result[name].tobytes() for result in results}) == 1, name
        assert not np.isnan(first).any()


@requires_compiler
@pytest.mark.parametrize("products", ["float32", "tf32"])
@pytest.mark.parametrize(("what", "instead"), [("__syncthreads();", ""), ("turn ^= 1", "turn ^= 0")])
@pytest.mark.parametrize("operation", RECORDS)
def test_the_barrier_and_the_second_tile_are_needed(
    operation: str, what: str, instead: str, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RECORDS[operation][products]
    assert record.source.count(what) == 1
    monkeypatch.setitem(RECORDS[operation], products, replace(record, source=record.source.replace(what, instead)))
    assert not all(agrees(make_backend("fake-gpu", products, order), STEPS[operation]) for order in ORDERS)


# ---- memory and refusals ------------------------------------------------------------------------------------------


@requires_compiler
def test_nothing_but_parts_of_a_kernel_gradient_is_held(fake_cupy: Any) -> None:
    """As `conv2d_workspace` foretells; where the windows are few, or the tiles many, there is one part."""
    window = Window((3, 3), padding=((1, 1), (1, 1)))
    for (N, C, OC), parts in {(2, 3, 4): 3, (5, 3, 4): 7, (1, 3, 4): 0, (99, 600, 1200): 0}.items():
        backend = GpuBackend(convolution="implicit")
        shapes = (N, 9, 12, C), (3, 3, C, OC)
        foretold = [backend.conv2d_workspace(*shapes, window, train=train) for train in (False, True)]
        assert foretold == [0, parts * 3 * 3 * C * OC * 4]
        if N < 99:
            x, w, dy = (backend.zeros(shape) for shape in (*shapes, (N, 9, 12, OC)))
            backend.conv2d(x, w, None, window)
            backend.conv2d_dx(dy, w, x.shape, window)
            backend.conv2d_dw_db(x, dy, window, dw=w, db=None)
            assert backend.workspace.nbytes == foretold[1]


@requires_compiler
def test_what_32_bit_indices_cannot_reach_is_refused(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.backend.gpu.arrays.INDEX_LIMIT", 2 * 4 * 25)
    backend, window = GpuBackend(convolution="implicit"), Window((3, 3), padding=((1, 1), (1, 1)))
    w = backend.zeros((3, 3, 1, 4))
    backend.conv2d(backend.zeros((2, 5, 5, 1)), w, None, window)
    with pytest.raises(InputError, match="a batch of 3 images of 5x5x1 is too large for one kernel"):
        backend.conv2d(backend.zeros((3, 5, 5, 1)), w, None, window)


def test_other_convolutions_are_refused(fake_cupy: Any) -> None:
    with pytest.raises(InputError, match="^unknown convolution 'implict': did you mean 'implicit'"):
        GpuBackend(convolution="implict")
