"""Matrix products by cuBLAS: every layout, type and precision, in graphs and out of them, and what is refused."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from itertools import product
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from device.fake_cublas import CublasMisuse, round_bits
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy
from tolerances import ROUNDED_FACTOR

from gpucnn.backend.gpu import GpuBackend, gemm
from gpucnn.backend.gpu.gemm import Gemm, is_readable, multiplies
from gpucnn.errors import DeviceError, InputError

SIZES = [(1, 1, 1), (1, 5, 1), (3, 1, 4), (4, 3, 1), (1, 2, 7), (5, 7, 3), (17, 33, 9)]
LAYOUTS = ("plain", "transposed", "wide", "transposed wide", "offset")

ROUNDED_RESULT = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

# dtype of the factors and of the result, and the precision asked for
KINDS = [
    ("float64", "float64", "float64"),
    ("float32", "float32", "float32"),
    ("float32", "float32", "tf32"),
    ("float32", "float32", "bf16"),
    ("float64", "float64", "bf16"),
    ("float16", "float16", "float32"),
    ("float16", "float32", "float32"),
    ("bfloat16", "bfloat16", "float32"),
    ("bfloat16", "float32", "float32"),
]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """CuPy, the strict fake and the real one."""
    if request.param == "real":
        yield pytest.importorskip("cupy")
    else:
        with installed_cupy(make_fake_cupy()) as module:
            yield module


@pytest.fixture
def fake() -> Iterator[ModuleType]:
    with installed_cupy(make_fake_cupy()) as module:
        yield module


def numpy_type(name: str) -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


def numbers(*shape: int, dtype: Any = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def place(cupy: ModuleType, array: np.ndarray, layout: str) -> Any:
    """Put a matrix on the device as a view of a larger one full of NaN, or as the transpose of one."""
    if layout.startswith("transposed"):
        return place(cupy, np.ascontiguousarray(array.T), layout.removeprefix("transposed").strip() or "plain").T
    rows, columns = array.shape
    above, left, right = {"plain": (0, 0, 0), "wide": (0, 0, 3), "offset": (2, 1, 2)}[layout]
    whole = np.full((above + rows, left + columns + right), np.nan, array.dtype)
    whole[above:, left : left + columns] = array
    return cupy.asarray(whole)[above:, left : left + columns]


def bound(a: np.ndarray, b: np.ndarray, result: str, precision: str) -> np.ndarray:
    """How far a product may be off: two rounded factors in each term, a sum of K terms, a rounded result."""
    unit = ROUNDED_RESULT["float64" if a.dtype == np.float64 else "float32"]
    factor = ROUNDED_FACTOR[precision] if a.dtype == np.float32 else 0.0
    relative = 2 * factor + factor**2 + (a.shape[1] + 1) * unit + ROUNDED_RESULT[result]
    return relative * (abs(a.astype("float64")) @ abs(b.astype("float64"))) + 1e-30


# ---- products -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "result", "precision"), KINDS, ids=map("-".join, KINDS))
def test_every_layout(cupy: ModuleType, dtype: str, result: str, precision: str) -> None:
    unit, names = Gemm(cupy, 0), product(SIZES, LAYOUTS, LAYOUTS, ("plain", "offset"))
    for (M, K, N), a_layout, b_layout, out_layout in names:
        a, b = (numbers(*shape, dtype=numpy_type(dtype), seed=K) for shape in ((M, K), (K, N)))
        out = place(cupy, np.full((M, N), np.nan, numpy_type(result)), out_layout)
        unit.multiply(place(cupy, a, a_layout), place(cupy, b, b_layout), out, precision)
        error = abs(cupy.asnumpy(out).astype("float64") - a.astype("float64") @ b.astype("float64"))
        assert (error <= bound(a, b, result, precision)).all(), (M, K, N, a_layout, b_layout, out_layout)


def test_the_fake_rounds_factors_alone(fake: ModuleType) -> None:
    """So that the comparisons of precisions elsewhere compare something."""
    a, b = numbers(5, 7), numbers(7, 3)
    for precision, bits in (("tf32", 10), ("bf16", 7)):
        out = fake.empty((5, 3), "float32")
        Gemm(fake, 0).multiply(fake.asarray(a), fake.asarray(b), out, precision)
        np.testing.assert_allclose(out.get(), round_bits(a, bits) @ round_bits(b, bits), rtol=1e-6)
        assert abs(out.get() - a @ b).max() > 2.0**-16


def test_what_lies_beside_a_result_stays(cupy: ModuleType) -> None:
    whole = cupy.asarray(np.full((6, 8), 7.0, "float32"))
    Gemm(cupy, 0).multiply(cupy.asarray(numbers(3, 4)), cupy.asarray(numbers(4, 2)), whole[1:4, 3:5])
    host = cupy.asnumpy(whole)
    np.testing.assert_allclose(host[1:4, 3:5], numbers(3, 4) @ numbers(4, 2), rtol=1e-5, atol=1e-6)
    host[1:4, 3:5] = 7
    assert (host == 7).all()


# ---- streams and graphs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_replayed_product_has_the_bits_of_the_eager_one(cupy: ModuleType, precision: str) -> None:
    unit, a, b = Gemm(cupy, 0), cupy.asarray(numbers(33, 65)), cupy.asarray(numbers(65, 9))
    eager, out = cupy.empty((33, 9), "float32"), cupy.zeros((33, 9), "float32")
    unit.multiply(a, b, eager, precision)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        unit.multiply(a, b, out, precision)
        graph = stream.end_capture()
    assert (cupy.asnumpy(out) == 0).all(), "it was computed instead of recorded"
    for seed in (0, 1):
        a.set(numbers(33, 65, seed=seed))
        graph.launch()
        unit.multiply(a, b, eager, precision)
        np.testing.assert_array_equal(cupy.asnumpy(out), cupy.asnumpy(eager))


def test_the_workspace_is_set_again_after_each_change_of_stream(fake: ModuleType) -> None:
    unit, a, out = Gemm(fake, 0), fake.ones((2, 2), "float32"), fake.empty((2, 2), "float32")
    streams = fake.cuda.Stream(), fake.cuda.Stream()
    calls = fake.libcublas.calls
    for stream, expected in ((streams[0], True), (streams[0], False), (streams[1], True), (streams[0], True)):
        calls.clear()
        with stream:
            unit.multiply(a, a, out)
        changes = ["cublasSetStream_v2", "cublasSetWorkspace_v2"] if expected else []
        assert calls == [*changes, "cublasGemmEx"]


def test_a_product_neither_allocates_nor_waits(fake: ModuleType) -> None:
    unit, a, out = Gemm(fake, 0), fake.ones((2, 2), "float32"), fake.empty((2, 2), "float32")
    with fake.stats.step() as counts:
        unit.multiply(a, a.T, out)
    assert counts.launches == 1


def test_a_handle_passes_on_instead_of_being_destroyed(fake: ModuleType) -> None:
    first, second = Gemm(fake, 0), Gemm(fake, 0)
    assert first._handle is not second._handle
    a, out = fake.ones((2, 2), "float32"), fake.empty((2, 2), "float32")
    first.multiply(a, a, out)
    handle = first._handle
    del first
    third = Gemm(fake, 0)
    assert third._handle is handle
    third.multiply(a, a, out)  # sets its own workspace: that of the first is gone
    assert fake.libcublas.calls.count("cublasCreate_v2") == 2


def test_a_recording_keeps_what_its_products_use(fake: ModuleType) -> None:
    """The arrays and the workspace live as long as the graph, whoever else has let go of them."""
    out = fake.zeros((3, 2), "float32")

    def recorded() -> Callable[[], None]:
        backend = GpuBackend()
        a, b = (backend.from_host(numbers(*shape)) for shape in ((3, 4), (4, 2)))
        backend.matmul(a, b, out=out)
        return backend.record(lambda: backend.matmul(a, b, out=out))

    recording = recorded()
    gc.collect()
    out.fill(0)
    recording()
    np.testing.assert_allclose(out.get(), numbers(3, 4) @ numbers(4, 2), rtol=1e-5, atol=1e-6)


def test_a_missing_library_is_named_when_the_backend_is_made(fake: ModuleType, monkeypatch) -> None:
    def missing(cupy: ModuleType) -> None:
        raise OSError("libcublas.so.12: cannot open shared object file")

    monkeypatch.setattr(gemm, "open_library", missing)
    with pytest.raises(DeviceError, match=r"cannot compute on it \(OSError: libcublas.so.12: .* pip install"):
        GpuBackend()


@pytest.mark.parametrize(("capability", "size"), [("75", 8), ("86", 8), ("90", 32), ("120", 32)])
def test_size_of_the_workspace(fake: ModuleType, monkeypatch, capability: str, size: int) -> None:
    monkeypatch.setattr(fake.cuda.Device, "compute_capability", capability)
    assert Gemm(fake, 0).workspace.nbytes == size << 20


# ---- what is refused ----------------------------------------------------------------------------------------------


def float32(cupy: ModuleType, *shape: int) -> Any:
    return cupy.zeros(shape, "float32")


REFUSED: dict[str, tuple[Callable, str]] = {
    "inner sizes": (lambda cp: (float32(cp, 2, 3), float32(cp, 4, 5), float32(cp, 2, 5)), r"received \(2, 3\) float32"),
    "size of the result": (lambda cp: (float32(cp, 2, 3), float32(cp, 3, 5), float32(cp, 5, 2)), r"-> \(5, 2\)"),
    "no rows": (lambda cp: (float32(cp, 0, 3), float32(cp, 3, 5), float32(cp, 0, 5)), r"\(0, 3\)"),
    "nothing to sum": (lambda cp: (float32(cp, 2, 0), float32(cp, 0, 5), float32(cp, 2, 5)), r"\(2, 0\)"),
    "two types": (lambda cp: (float32(cp, 2, 2), cp.zeros((2, 2), "float64"), float32(cp, 2, 2)), "float64"),
    "whole numbers": (lambda cp: (cp.zeros((2, 2), "int32"),) * 2 + (float32(cp, 2, 2),), "int32 in float32"),
    "result too narrow": (
        lambda cp: (*(cp.zeros((2, 2), "float64"),) * 2, float32(cp, 2, 2)),
        "products of float64 in float32 are not supported",
    ),
    "every second column": (
        lambda cp: (float32(cp, 2, 6)[:, ::2], float32(cp, 3, 2), float32(cp, 2, 2)),
        r"strides \(24, 8\), \(8, 4\) and \(8, 4\)",
    ),
    "one row for all": (
        lambda cp: (cp.broadcast_to(float32(cp, 3), (2, 3)), float32(cp, 3, 2), float32(cp, 2, 2)),
        r"strides \(0, 4\)",
    ),
    "rows backwards": (lambda cp: (float32(cp, 2, 2)[::-1], float32(cp, 2, 2), float32(cp, 2, 2)), r"\(-8, 4\)"),
    "a transposed result": (
        lambda cp: (float32(cp, 2, 3), float32(cp, 3, 5), float32(cp, 5, 2).T),
        r"and \(4, 8\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, fake: ModuleType) -> None:
    arrays, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        Gemm(fake, 0).multiply(*arrays(fake))
    assert "cublasGemmEx" not in fake.libcublas.calls


def test_sizes_that_an_int_cannot_hold_are_refused(fake: ModuleType) -> None:
    """ctypes would cut them off without a word."""
    long = SimpleNamespace(shape=(2**31, 1), strides=(4, 4), itemsize=4, dtype=np.dtype("float32"))
    one = SimpleNamespace(shape=(1, 1), strides=(4, 4), itemsize=4, dtype=np.dtype("float32"))
    with pytest.raises(InputError, match=r"end at 2,147,483,647, received \(2147483648, 1\)"):
        Gemm(fake, 0).multiply(long, one, long)


def test_what_is_readable(fake: ModuleType) -> None:
    x = fake.zeros((4, 6), "float32")
    for view in (x, x.T, x[::2], x[:, 1:4], x[1:2, ::2], x[::2, :1], x[::3, 2:].T):
        assert is_readable(view), view.strides
    for view in (x[:, ::2], x[::-1], x[:, ::-1].T, fake.broadcast_to(x[0], (3, 6))):
        assert not is_readable(view), view.strides


def test_what_is_a_product_for_cublas(fake: ModuleType) -> None:
    x = fake.zeros((3, 3), "float32")
    assert multiplies(x, x.T)
    for other in (fake.zeros((3,), "float32"), fake.zeros((2, 3, 3), "float32"), fake.zeros((3, 0), "float32")):
        assert not multiplies(x, other)
        assert not multiplies(other, x)
    assert not multiplies(x, fake.zeros((3, 3), "float64"))
    assert not multiplies(*[fake.zeros((3, 3), "int32")] * 2)


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("cublasCreate_v2", 1, "a new handle: CUBLAS_STATUS_NOT_INITIALIZED; see in nvidia-smi"),
        ("cublasSetStream_v2", 1, "a stream: CUBLAS_STATUS_NOT_INITIALIZED"),
        ("cublasSetWorkspace_v2", 1, "its workspace: CUBLAS_STATUS_NOT_INITIALIZED"),
        ("cublasGemmEx", 13, r"\(2, 3\) float32 @ \(3, 2\) float32 .* in tf32: CUBLAS_STATUS_EXECUTION_FAILED"),
    ],
)
def test_an_error_is_named(fake: ModuleType, function: str, status: int, message: str) -> None:
    a, out = fake.ones((2, 3), "float32"), fake.empty((2, 2), "float32")
    fake.libcublas.failing = {function: status}
    with pytest.raises(DeviceError, match=f"cuBLAS: {message}"):
        Gemm(fake, 0).multiply(a, a.T, out, "tf32")


# ---- the fake itself, and the real library ------------------------------------------------------------------------


def test_the_fake_notices_what_would_do_harm(fake: ModuleType) -> None:
    unit, a, out = Gemm(fake, 0), fake.ones((3, 3), "float32"), fake.empty((3, 3), "float32")
    library, one, zero = fake.libcublas, *gemm.ONE_AND_ZERO[ctypes.c_float]
    good = [unit._handle, 0, 0, 3, 3, 3, one, a.data.ptr, 0, 3, a.data.ptr, 0, 3, zero, out.data.ptr, 0, 3, 68, -1]
    with pytest.raises(CublasMisuse, match="no stream"):
        library.cublasGemmEx(*good)
    unit.multiply(a, a, out)
    assert library.cublasGemmEx(*good) == 0
    wrong = [(3, 4, "leading dimension"), (3, 2**31, "does not fit"), (5, -1, "sizes"), (6, 1234, "alpha and beta")]
    wrong += [(7, a.data.ptr + 4, "memory that is alive"), (8, 1, "no product"), (9, 2, "leading dimension")]
    wrong += [(12, 4, "memory that is alive"), (14, a.data.ptr, "overlaps")]
    wrong += [(17, 70, "no product"), (18, 0, "algorithm 0")]
    for place, value, message in wrong:
        with pytest.raises(CublasMisuse, match=message):
            library.cublasGemmEx(*good[:place], value, *good[place + 1 :])
    with pytest.raises(TypeError):
        library.cublasGemmEx(*good[:4], 3.5, *good[5:])
    library.cublasSetStream_v2(unit._handle, 0)
    with pytest.raises(CublasMisuse, match="no workspace since"):
        library.cublasGemmEx(*good)


def test_the_library_of_cupy_has_these_functions() -> None:
    """Where CuPy and cuBLAS are installed, with a GPU or without."""
    cupy = pytest.importorskip("cupy")
    try:
        library = gemm._declare(gemm.open_library(cupy))
    except OSError as error:
        pytest.skip(str(error))
    for name in ("cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasGemmEx"):
        assert getattr(library, name).argtypes
    assert library.cublasGetStatusName(15) == b"CUBLAS_STATUS_NOT_SUPPORTED"


def test_the_version_is_told() -> None:
    with installed_cupy(make_fake_cupy()) as cupy:
        assert Gemm(cupy, 0).version() == 130200
