"""Products in tf32 and bf16: how the reference rounds, what it rounds, and that a GPU's results are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, run
from device.fake_cublas import round_bits
from device.fake_cupy import make_fake_cupy
from device.fixtures import absent_cupy, installed_cupy
from test_reference import expected
from tolerances import ROUNDED_FACTOR, assert_close, tolerance

from gpucnn import (
    SGD,
    BatchNorm2D,
    Conv2D,
    Dense,
    Flatten,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    get_backend,
)
from gpucnn.backend.cpu import CpuBackend
from gpucnn.backend.reference import Backend
from gpucnn.data import DeviceDataset, Normalization, Split
from gpucnn.errors import DeviceError, InputError

MANTISSA_BITS = {"tf32": 10, "bf16": 7}

# The arguments of an operation that are factors of its products; a bias gradient is a sum, of what was not rounded.
FACTORS = {"matmul": ("a", "b"), "dense": ("x", "w"), "dense_dx": ("dy", "w"), "dense_dw_db": ("x", "dy")}
FACTORS |= {"conv2d": ("x", "w"), "conv2d_dx": ("dy", "w"), "conv2d_dw_db": ("x", "dy")}


def is_finite(case: Case) -> bool:
    """Whether no argument has NaN or infinity, of which no error is a number."""
    return all(np.isfinite(value).all() for value in case.arguments.values() if isinstance(value, np.ndarray))


PRODUCTS = [case for case in CASES if case.operation in FACTORS and case.dtype == "float32" and not case.large]
PRODUCTS = [case for case in PRODUCTS if is_finite(case)]


@pytest.fixture(params=MANTISSA_BITS)
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


def changed(case: Case, change: Callable[[np.ndarray], np.ndarray], names: tuple[str, ...]) -> Case:
    """Return the case with some of its arrays changed."""
    return replace(case, arguments=case.arguments | {name: change(case.arguments[name]) for name in names})


# ---- rounding -----------------------------------------------------------------------------------------------------


def rounded(precision: str, x: np.ndarray, xp: Any = np) -> np.ndarray:
    """What the reference makes of numbers as factors: their products with 1."""
    ones = xp.asarray(np.ones((1, 1), x.dtype))
    with np.errstate(over="ignore"):
        return np.asarray(Backend(precision, xp=xp).matmul(xp.asarray(x.reshape(-1, 1)), ones)).reshape(x.shape)


def from_bits(bits: Any) -> np.ndarray:
    return np.asarray(bits, np.uint32).view(np.float32)


@pytest.mark.parametrize("module", ["numpy", "array_api_strict"])
def test_rounds_to_nearest_even_at_every_exponent(module: str, precision: str) -> None:
    """Random bits, the middle between two neighbours and what lies beside it: normal and subnormal, of both signs."""
    dropped = 23 - MANTISSA_BITS[precision]
    random = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    middle = (random >> np.uint32(dropped) << np.uint32(dropped)) | np.uint32(1 << (dropped - 1))
    small = np.concatenate([np.arange(1 << 18), (1 << 31) + np.arange(1 << 18)])
    for bits in (random, middle, middle - 1, middle + 1, small):
        x = from_bits(bits)
        x = x[np.isfinite(x)]
        np.testing.assert_array_equal(rounded(precision, x, pytest.importorskip(module)), round_bits(x, 23 - dropped))


def test_ties_go_to_the_even_neighbour(precision: str) -> None:
    unit = 2.0 ** -MANTISSA_BITS[precision]
    x = np.array([1 + unit / 2, 1 + 3 * unit / 2, -1 - unit / 2, 2 - unit / 2], "float32")
    np.testing.assert_array_equal(rounded(precision, x), [1, 1 + 2 * unit, -1, 2])


def test_zeros_infinities_and_nan_stay(precision: str) -> None:
    x = np.array([0.0, np.inf, -np.inf, np.nan, 1.0, -0.5], "float32")
    np.testing.assert_array_equal(rounded(precision, x), x)


def test_the_largest_numbers_round_to_the_largest_or_to_infinity(precision: str) -> None:
    largest = from_bits(0x7F7FFFFF >> (23 - MANTISSA_BITS[precision]) << (23 - MANTISSA_BITS[precision]))
    x = np.array([largest, -largest, np.finfo("float32").max, -np.finfo("float32").max], "float32")
    np.testing.assert_array_equal(rounded(precision, x), [largest, -largest, np.inf, -np.inf])


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_other_types_are_not_rounded(dtype: str, precision: str) -> None:
    x = np.array([2**20 + 1, 3, -(2**31) - 1]).astype(dtype)
    np.testing.assert_array_equal(rounded(precision, x), x)


# ---- operations ---------------------------------------------------------------------------------------------------


@pytest.mark.each_case(PRODUCTS)
def test_the_reference_rounds_the_factors_of_every_product(case: Case, precision: str) -> None:
    """Loops in float64 on rounded factors; the sum of a bias gradient is of numbers as they are."""
    oracle = expected(changed(case, lambda x: round_bits(x, MANTISSA_BITS[precision]), FACTORS[case.operation]))
    if "db" in oracle:
        oracle["db"] = expected(case)["db"]
    for name, result in run(Backend(precision), case).items():
        assert_close(result, oracle[name], case.dtype, case.terms, case.scale, name)


ALGORITHMS = [
    (case, way) for case in PRODUCTS for way in ("columns", "implicit")[: 1 + case.operation.startswith("conv2d")]
]


@pytest.mark.parametrize(
    "backend_name", [pytest.param("fake-gpu", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)]
)
@pytest.mark.each_case(ALGORITHMS, "way")
def test_a_gpu_agrees_with_the_reference(
    case: Case, way: str, precision: str, backend_name: str, make_backend: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake GPU to the rounding of float32; a real one, which may round less, as exactly as factors are.

    With groups no GPU rounds, and the implicit way rounds ties in tf32 away from zero: these kernels are our own.
    """
    backend = make_backend(backend_name, precision)
    monkeypatch.setattr(backend, "convolution", way)
    results = run(backend, case)
    reference = run(make_backend("reference", precision), case)
    rounds_alike = backend_name == "fake-gpu" and not is_grouped(case) and (way, precision) != ("implicit", "tf32")
    factor = 0.0 if rounds_alike else ROUNDED_FACTOR[precision]
    arrays = tuple(name for name, value in case.arguments.items() if isinstance(value, np.ndarray))
    sums = run(make_backend("reference", "float32"), changed(case, np.abs, arrays))
    close = tolerance("float32", case.terms, case.scale)
    for name, result in results.items():
        moved = 0.0 if name == "db" else (2 * factor + factor**2) * sums[name]
        limit = moved + close["atol"] + close["rtol"] * abs(reference[name])
        assert (abs(result - reference[name]) <= limit).all(), name


def is_grouped(case: Case) -> bool:
    """Whether it is a convolution whose kernels see fewer channels than there are."""
    if not case.operation.startswith("conv2d"):
        return False
    x_shape = case.arguments["x_shape"] if "x_shape" in case.arguments else case.arguments["x"].shape
    w_shape = case.arguments["w"].shape if "w" in case.arguments else case.outputs["dw"].shape
    return w_shape[2] < x_shape[3]


def test_sums_of_rows_are_never_rounded(precision: str) -> None:
    rows = np.random.default_rng(0).standard_normal((33, 5)).astype("float32")
    with installed_cupy(make_fake_cupy()):
        for device in ("reference", "gpu"):
            backend = get_backend(device, precision)
            result = backend.to_host(backend.sum_rows(backend.from_host(rows)))
            assert_close(result, rows.astype("float64").sum(0), "float32", terms=33)


# ---- backends and who uses them -----------------------------------------------------------------------------------


def test_what_a_backend_says_of_itself(precision: str) -> None:
    with installed_cupy(make_fake_cupy()):
        for device in ("reference", "gpu", "auto"):
            backend = get_backend(device, precision)
            assert (backend.precision, backend.matmul_precision) == ("float32", precision)
            assert backend.zeros((2,)).dtype == "float32"
    for exact in ("float32", "float64"):
        for device in ("reference", "cpu"):
            backend = get_backend(device, np.dtype(exact))
            assert (backend.precision, backend.matmul_precision) == (exact, exact)


def test_a_cpu_refuses_and_says_where_they_are(precision: str) -> None:
    message = rf"^products in {precision} are for a GPU, and for the device reference, .* float32 or float64 on a CPU"
    for make in (partial(get_backend, "cpu"), partial(get_backend, "auto"), CpuBackend):
        with absent_cupy(), pytest.raises(InputError, match=message):
            make(precision)


def test_memory_is_not_saved(precision: str) -> None:
    """Weights, gradients and all buffers are those of float32: what is rounded are factors."""
    planned, held = set(), set()
    for name in ("float32", precision):
        backend = get_backend("reference", name)
        model = Sequential([Conv2D(3, 3, padding=1), BatchNorm2D(), ReLU(), Flatten(), Dense(2)])
        model.build((6, 6, 2), backend, max_batch=4, seed=0)
        trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1, 0.9), batch_size=4)
        trainer.step(np.ones((4, 6, 6, 2), "float32"), np.zeros(4, np.int32))
        planned.add(model.plan(4).peak)
        held.add(model.held_bytes())
        assert {str(array.dtype) for array in model.arrays().values()} == {"float32"}
    assert len(planned) == len(held) == 1


def test_a_trainer_wants_model_and_data_in_one_precision(precision: str) -> None:
    model = Sequential([Dense(2)])
    model.build((3,), get_backend("reference", precision), max_batch=2)
    split = Split(np.zeros((2, 1, 1, 3), np.uint8), np.zeros(2, np.int32))
    data = DeviceDataset(split, get_backend("reference"), Normalization(split.images))
    with pytest.raises(DeviceError, match=rf"on reference in {precision}, the data on reference in float32; give both"):
        Trainer(model, SoftmaxCrossEntropy(), SGD()).evaluate(data)


def test_a_layer_built_for_a_precision_keeps_it() -> None:
    """Its arrays are float32 like those of others, and do not tell."""
    layer, x = Dense(1, bias=False), np.full((1, 1), 1 + 2.0**-9, "float32")
    layer.build((1,), get_backend("reference", "bf16"))
    layer.w.value[...] = 1
    assert layer(x, train=True)[0, 0] == 1
    assert layer.backend.matmul_precision == "bf16"
