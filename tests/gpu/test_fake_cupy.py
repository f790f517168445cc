"""The fake `cupy` itself: it refuses what a device array refuses, and counts what a device would do."""

from __future__ import annotations

import gc
import importlib.util
import math
import pickle
import resource
import sys

import numpy as np
import pytest
from device.emulator import ElementwiseProgram, EmulationError
from device.fake_cupy import ForbiddenInStep, make_fake_cupy
from device.fixtures import absent_cupy, broken_cupy, fake_cupy, installed_cupy, requires_compiler
from device.variants import variant_of

from gpucnn.backend.gpu.records import Elementwise

__all__ = ["fake_cupy"]  # the fixture of the tests below


@pytest.fixture
def cp():
    return make_fake_cupy()


@pytest.fixture
def x(cp):
    return cp.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))


# ----------------------------------------------------------------------------- leaks to the host

REFUSED = {
    "np.asarray": lambda cp, x: np.asarray(x),
    "np.array": lambda cp, x: np.array(x),
    "np.add": lambda cp, x: np.add(x, 1),
    "np.sum": lambda cp, x: np.sum(x),
    "np.concatenate": lambda cp, x: np.concatenate([x, x]),
    "numpy on the left": lambda cp, x: np.ones((3, 4)) * x,
    "numpy on the right": lambda cp, x: x + np.ones((3, 4)),
    "numpy argument": lambda cp, x: cp.add(x, np.ones((3, 4))),
    "list argument": lambda cp, x: cp.add(x, [1, 2, 3, 4]),
    "numpy out": lambda cp, x: cp.add(x, x, out=np.ones((3, 4))),
    "numpy index": lambda cp, x: x[np.array([0, 1])],
    "list index": lambda cp, x: x[[0, 1]],
    "iteration": lambda cp, x: list(x),
    "membership": lambda cp, x: 1.0 in x,
    "unpacking": lambda cp, x: (lambda a, b, c: a)(*x),
    "numpy assignment": lambda cp, x: np.zeros((3, 4)).__setitem__(slice(None), x),
    "pickle": lambda cp, x: pickle.dumps(x),
    "hash": lambda cp, x: hash(x),
}


@pytest.mark.parametrize("leak", REFUSED)
def test_refused_everywhere(cp, x, leak):
    with cp.stats.counting() as counts, pytest.raises(TypeError):
        REFUSED[leak](cp, x)
    assert counts.d2h_copies == counts.h2d_copies == counts.syncs == 0


SYNCHRONISING = {
    "get": lambda cp, x: x.get(),
    "asnumpy": lambda cp, x: cp.asnumpy(x),
    "item": lambda cp, x: x[0, 0].item(),
    "tolist": lambda cp, x: x.tolist(),
    "float": lambda cp, x: float(x.sum()),
    "int": lambda cp, x: int(x[0, 0]),
    "index": lambda cp, x: [0, 1][cp.argmax(x[0, :1])],
    "if": lambda cp, x: 1 if x.sum() > 0 else 0,
    "f-string": lambda cp, x: f"{x[0, 0]}",
    "print": lambda cp, x: str(x),
    "math": lambda cp, x: math.sqrt(x[0, 1]),
    "boolean mask": lambda cp, x: x[x > 0],
    "where": lambda cp, x: cp.where(x > 0),
    "device": lambda cp, x: cp.cuda.Device().synchronize(),
    "stream": lambda cp, x: cp.cuda.Stream.null.synchronize(),
    "event": lambda cp, x: cp.cuda.Event().synchronize(),
    "runtime": lambda cp, x: cp.cuda.runtime.deviceSynchronize(),
}


@pytest.mark.parametrize("leak", SYNCHRONISING)
def test_synchronising_operations_are_counted_and_forbidden_in_a_step(cp, x, leak):
    with cp.stats.counting() as counts:
        SYNCHRONISING[leak](cp, x)
    assert counts.syncs == 1
    cp.stats.allocate = lambda what, nbytes: None  # only the synchronisation shall be found here
    with pytest.raises(ForbiddenInStep), cp.stats.step():
        SYNCHRONISING[leak](cp, x)


@pytest.mark.parametrize("name", ["__array_interface__", "__array_struct__", "__buffer__", "ctypes"])
def test_no_attribute_of_the_inner_array_leaks(x, name):
    assert not hasattr(x, name)


def test_the_array_class_looks_like_that_of_cupy(cp, x):
    assert type(x) is cp.ndarray
    assert (type(x).__module__, type(x).__name__) == ("cupy", "ndarray")
    assert not isinstance(x, np.ndarray)
    assert cp.get_array_module(x) is cp
    assert cp.get_array_module(np.ones(2)) is np
    assert x.device.id == 0


# ----------------------------------------------------------------------------- counting


def counts_of(cp, function) -> dict[str, int]:
    with cp.stats.counting() as counts:
        function()
    return {name: value for name, value in vars(counts).items() if value}


def test_views_are_free(cp, x):
    def views():
        assert x.reshape(2, 6).T.shape == (6, 2)
        assert x[1:, ::2].strides == (16, 8)
        assert x[1, 2].shape == ()
        x.ravel(), x.transpose(1, 0), x.view(), x[None], x.squeeze(), cp.expand_dims(x, 0), x.swapaxes(0, 1)
        cp.broadcast_to(x, (2, 3, 4))

    assert counts_of(cp, views) == {}
    x[1:, ::2].fill(0)
    assert x.get()[1:].tolist() == [[0, 5, 0, 7], [0, 9, 0, 11]]


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: x.T.reshape(-1),
        lambda x: x.T.ravel(),
        lambda x: x.copy(),
        lambda x: x.flatten(),
        lambda x: x.astype(np.int32),
        lambda x: x + 1,
        lambda x: -x,
        lambda x: x > 0,
    ],
)
def test_copies_and_results_cost_an_allocation_and_a_launch(cp, x, copy):
    counts = counts_of(cp, lambda: copy(x))
    assert counts == {"allocations": 1, "allocated_bytes": copy(x).nbytes, "launches": 1}


def test_astype_without_copy_is_free(cp, x):
    assert counts_of(cp, lambda: x.astype(np.float32, copy=False)) == {}


def test_results_are_in_c_order_and_new_memory_is_poisoned(cp, x):
    assert (x.T + 1).flags.c_contiguous
    assert np.isnan(cp.empty((2, 2), np.float32).get()).all()
    assert cp.zeros(3).get().tolist() == [0, 0, 0]


def test_writes_in_place_are_single_launches(cp, x):
    y = cp.empty_like(x)
    for write in (
        lambda: cp.add(x, 1, out=y),
        lambda: cp.exp(x, y),
        lambda: x.fill(0),
        lambda: y.__iadd__(x),
        lambda: y.__setitem__(slice(1, 2), 3),
        lambda: y.__setitem__(slice(None), x),
        lambda: cp.copyto(y, x),
        lambda: cp.maximum(x, 0, out=x),
    ):
        assert counts_of(cp, write) == {"launches": 1}


def test_an_operand_that_overlaps_the_output_is_copied_first(cp, x):
    counts = counts_of(cp, lambda: cp.multiply(x.ravel(), 2, out=x.reshape(-1)))
    assert counts == {"launches": 2, "allocations": 1, "allocated_bytes": 48}


def test_transfers(cp, x):
    host = np.ones((3, 4), np.float32)
    to_device = {"h2d_copies": 1, "h2d_bytes": 48}
    assert counts_of(cp, lambda: x.set(host)) == to_device
    assert counts_of(cp, lambda: x.__setitem__(slice(None), host)) == to_device
    new = {"allocations": 1, "allocated_bytes": 48, "pinned_bytes": 48}
    assert counts_of(cp, lambda: cp.asarray(host)) == to_device | new
    assert counts_of(cp, lambda: x.__setitem__(0, host[0]))["h2d_bytes"] == 16
    assert counts_of(cp, lambda: cp.asarray(x)) == {}
    out = np.empty((3, 4), np.float32)
    assert counts_of(cp, lambda: x.get(out=out)) == {"d2h_copies": 1, "d2h_bytes": 48, "syncs": 1}
    assert (out[0] == 1).all()


def test_transfers_check_shape_and_dtype(x):
    for error, call in [
        (TypeError, lambda: x.set(np.ones((3, 4)))),
        (TypeError, lambda: x.set([1.0])),
        (ValueError, lambda: x.set(np.ones((4, 3), np.float32))),
        (RuntimeError, lambda: x[:, ::2].set(np.ones((3, 2), np.float32))),
        (ValueError, lambda: x.__setitem__(slice(None), np.ones((3, 4)))),
        (TypeError, lambda: x.get(out=np.ones((3, 4)))),
        (ValueError, lambda: x.get(out=np.ones((4, 3), np.float32))),
    ]:
        with pytest.raises(error):
            call()


@pytest.mark.parametrize(
    ("product", "allocations", "launches"),
    [
        (lambda cp, a, b, c: cp.matmul(a, b, out=c), 0, 1),
        (lambda cp, a, b, c: cp.matmul(a, b.reshape(5, 4).T, out=c), 0, 1),
        (lambda cp, a, b, c: cp.matmul(a.reshape(4, 3).T, b, out=c), 0, 1),
        (lambda cp, a, b, c: a @ b, 1, 1),
        (lambda cp, a, b, c: cp.matmul(cp.broadcast_to(a[0], (3, 4)), b, out=c), 1, 2),  # strides 0: a copy
        (lambda cp, a, b, c: cp.matmul(a, b, out=c.reshape(5, 3).T), 1, 2),  # the output must be in C order
        (lambda cp, a, b, c: cp.matmul(a, b[:, :3], out=a[:, :3]), 2, 3),  # a slice, and out overlaps a
    ],
    ids=["C", "b transposed", "a transposed", "new", "broadcast", "F output", "slices and overlap"],
)
def test_matmul_allocates_where_cupy_does(cp, product, allocations, launches):
    a, b, c = cp.ones((3, 4)), cp.ones((4, 5)), cp.empty((3, 5))
    with cp.stats.counting() as counts:
        result = product(cp, a, b, c)
    assert (counts.allocations, counts.launches) == (allocations, launches)
    assert (result.get() == 4).all()


def test_products_check_the_output(cp):
    a, b = cp.ones((3, 4)), cp.ones((4, 5))
    with pytest.raises(ValueError, match="invalid size"):
        cp.matmul(a, b, out=cp.empty((5, 3)))  # CuPy looks at the number of elements only, and fills it
    with pytest.raises(ValueError, match="C-contiguous"):
        cp.dot(a, b, out=cp.empty((5, 3)).T)


@pytest.mark.parametrize("name", ["sum", "max", "mean", "argmax"])
def test_reductions(cp, x, name):
    full = getattr(cp, name)(x)
    assert full.shape == ()
    np.testing.assert_array_equal(full.get(), getattr(np, name)(x.get()))
    rows = getattr(x, name)(axis=1)
    np.testing.assert_array_equal(rows.get(), getattr(np, name)(x.get(), axis=1))
    columns = cp.empty(4, rows.dtype)
    assert counts_of(cp, lambda: getattr(cp, name)(x, axis=0, out=columns)) == {"launches": 1}
    scalar = cp.empty((), full.dtype)
    assert counts_of(cp, lambda: getattr(cp, name)(x, out=scalar))["allocations"] == 1  # by way of CUB


def test_a_step_allows_launches_only(cp, x):
    y, host = cp.empty_like(x), np.ones((3, 4), np.float32)
    with cp.stats.step() as counts:
        cp.multiply(x, 2, out=y)
        y[1:] += 1
        cp.maximum(y, 0, out=y)
    assert (counts.launches, counts.allocations, counts.syncs) == (4, 0, 0)  # `y[1:] += 1` takes two
    for what, call in [
        ("allocation", lambda: x + 1),
        ("host-to-device", lambda: x.set(host)),
        ("device-to-host", lambda: x.get()),
        ("allocation", lambda: cp.zeros(3)),
    ]:
        with pytest.raises(ForbiddenInStep, match=what), cp.stats.forbid():
            call()
    x.get()  # allowed again


# ----------------------------------------------------------------------------- memory and devices


def test_the_pool_knows_what_is_alive(cp):
    pool = cp.get_default_memory_pool()
    a, b = cp.empty(100, np.float32), cp.zeros(1000, np.float32)
    view = b[10:]
    assert pool.used_bytes() == pool.total_bytes() == 512 + 4096
    del a, b
    gc.collect()
    assert (pool.used_bytes(), pool.total_bytes()) == (4096, 4608)
    del view
    gc.collect()
    pool.free_all_blocks()
    assert (pool.used_bytes(), pool.total_bytes()) == (0, 0)


def test_arrays_may_be_placed_in_the_memory_of_another(cp):
    arena = cp.zeros(8, np.float32)
    part = cp.ndarray((2, 2), np.float32, memptr=arena.data + 8)
    part.fill(1)
    assert part.data.ptr == arena.data.ptr + 8 == arena[2:].data.ptr
    assert arena.get().tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_devices_and_streams():
    cp = make_fake_cupy(device_count=2)
    assert cp.is_available()
    assert cp.cuda.is_available()
    assert cp.cuda.runtime.getDeviceCount() == 2
    assert cp.cuda.runtime.getDeviceProperties(1)["name"] == b"Fake GPU"
    with cp.cuda.Device(1):
        y = cp.zeros(3)
    assert (y.device.id, cp.cuda.Device().id) == (1, 0)
    with pytest.raises(ValueError, match="different from the current device"):
        cp.add(y, 1)
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="invalid device ordinal"):
        cp.cuda.Device(2).use()
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        assert cp.cuda.get_current_stream() is stream
    assert cp.cuda.get_current_stream() is cp.cuda.Stream.null


def test_cupy_without_a_device():
    cp = make_fake_cupy(device_count=0)
    assert cp.is_available() is False
    assert cp.cuda.is_available() is False
    cp.ElementwiseKernel("T x", "T y", "y = x", "copy"), cp.RawKernel("", "nothing"), cp.cuda.Device(0)
    cp.show_config()
    for call in (
        cp.cuda.runtime.getDeviceCount,
        lambda: cp.zeros(3),
        lambda: cp.asarray(np.ones(3)),
        cp.cuda.Stream,
        cp.cuda.Event,
        cp.get_default_memory_pool().used_bytes,
    ):
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="cudaErrorInsufficientDriver"):
            call()


# ----------------------------------------------------------------------------- kernels


@requires_compiler
def test_elementwise_kernels_run_and_count_one_launch(cp, x):
    kernel = cp.ElementwiseKernel(
        "T x, T alpha", "T y, uint8 positive", "positive = x > 0; y = positive ? x : alpha * x", "leaky"
    )
    y, positive = cp.empty_like(x), cp.empty(x.shape, np.uint8)
    assert counts_of(cp, lambda: kernel(x, 0.1, y, positive)) == {"launches": 1}
    assert counts_of(cp, lambda: kernel(x, 0.1))["allocations"] == 2
    np.testing.assert_array_equal(y.get(), x.get())
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
        kernel(x, np.ones(1, np.float32))


X = np.empty((3, 4, 5), np.float32)
BINARY = ("float32 x, float32 b", "float32 y", "y = x + b")
LARGE = np.empty((1 << 29) + 1, np.float32)  # one element more than CuPy addresses by 32-bit indices of bytes


@pytest.mark.parametrize(
    ("x", "b", "loop", "arguments"),
    [  # of each array: axes, is contiguous, has 32-bit indices
        (X, X, (1, True), [(1, True, True)] * 3),
        (X[0, 0, 0, ...], X[0, 0, 0, ...], (0, True), [(0, True, True)] * 3),
        (X[0], 2.0, (1, True), [(1, True, True), None, (1, True, True)]),
        (X, X[0, 0], (2, True), [(2, True, True), (2, False, True), (2, True, True)]),
        (X, X[:, :, :1], (2, True), [(2, True, True), (2, False, True), (2, True, True)]),
        (X, X[:, :1], (3, True), [(3, True, True), (3, False, True), (3, True, True)]),
        (X[0, :, ::2], 2.0, (2, True), [(2, False, True), None, (2, True, True)]),
        (X.transpose(2, 0, 1), 2.0, (2, True), [(2, False, True), None, (2, True, True)]),
        (X[:, ::4, :], 2.0, (2, True), [(2, False, True), None, (2, True, True)]),
        (LARGE, 2.0, (1, True), [(1, True, False), None, (1, True, False)]),
    ],
)
def test_variants_are_those_of_cupy(x, b, loop, arguments):
    """Written down from its source: axes that can be walked as one become one, if there are more than two."""
    program = ElementwiseProgram(Elementwise("sum", *BINARY))
    y = np.empty(np.broadcast_shapes(x.shape, np.shape(b)), np.float32)
    variant = variant_of(program, [x, b, y], None)
    assert (variant.ndim, variant.index_32_bits) == loop
    found = [(a.ndim, a.contiguous, a.index_32_bits) if a.is_array else None for a in variant.arguments]
    assert found == arguments
    assert {a.dtype for a in variant.arguments} == {"float32"}


@requires_compiler
def test_variants_keep_the_axes_of_raw_arrays_and_the_types_of_scalars(cp):
    kernel = cp.ElementwiseKernel("raw T x, int32 n, T by, raw int64 k", "raw T y", "y[i] = by * x[i % n] + k[0]")
    x, k = cp.zeros((3, 4), np.float64), cp.zeros((), np.int64)
    with cp.launches.noted() as launches:
        kernel(x, 3, 1, k, x[0], size=4)
    (launch,) = launches
    assert (launch.variant.ndim, launch.blocks, launch.threads) == (1, 1, 4)
    found = [(a.dtype, a.is_array, a.ndim) for a in launch.variant.arguments]
    wanted = [
        ("float64", True, 2),
        ("int32", False, 0),
        ("float64", False, 0),
        ("int64", True, 0),
        ("float64", True, 1),
    ]
    assert found == wanted


@requires_compiler
def test_raw_kernels_run_and_count_one_launch(cp, x):
    code = (
        'extern "C" __global__ void twice(const float* x, float* y, int n) {'
        " const int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = 2 * x[i]; }"
    )
    kernel, y = cp.RawKernel(code, "twice"), cp.empty_like(x)
    assert counts_of(cp, lambda: kernel((3,), (5,), (x, y, np.int32(12)))) == {"launches": 1}
    np.testing.assert_array_equal(y.get(), 2 * x.get())
    for args, message in [((x, y, 12), "a NumPy scalar"), ((x, y.get(), np.int32(12)), "pass device arrays")]:
        with pytest.raises(TypeError, match=message):
            kernel((3,), (5,), args)


@requires_compiler
def test_an_empty_grid_is_one_block_as_in_cupy(cp):
    """Which reads and writes outside of arrays that are empty; the guard zones give NaN, and find what is written."""
    kernel = cp.RawKernel('extern "C" __global__ void copied(const float* x, float* y) { *y = *x; }', "copied")
    empty, y = cp.empty(0, np.float32), cp.zeros(1, np.float32)
    assert counts_of(cp, lambda: kernel((0,), (0,), (empty, y))) == {"launches": 1}
    assert np.isnan(y.get()[0])
    y.fill(1)
    with pytest.raises(IndexError, match="writes outside of argument 'y'"):
        kernel((0, 1), (1,), (y, empty))


@requires_compiler
@pytest.mark.parametrize("executes", [True, False])
def test_what_cuda_does_not_launch_is_refused_at_the_launch(executes):
    cp = make_fake_cupy(executes=executes)
    kernel = cp.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
    stream = cp.cuda.Stream(non_blocking=True)
    for call in (lambda: kernel((1, 65536), (1,), ()), lambda: kernel((1,), (1025,), ())):
        with pytest.raises(EmulationError, match="CUDA launches"):
            call()
        with stream:
            stream.begin_capture()
            with pytest.raises(EmulationError, match="CUDA launches"):
                call()
            stream.end_capture()


def test_memory_that_nobody_computes_on_is_not_touched():
    cp = make_fake_cupy(executes=False)
    for fill in (cp.empty, cp.zeros, cp.ones):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        array = fill((1 << 28,), np.float32)
        assert array.nbytes == 1 << 30
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 17  # kilobytes, or less elsewhere
        np.full(5, np.nan)  # what may lie there now
        assert fill((5,)).get().tolist() == [0] * 5  # so that a program which reads it sees the same in each run


# ----------------------------------------------------------------------------- in the place of cupy


def test_every_name_exists_in_the_real_cupy(cp, x):
    real = pytest.importorskip("cupy", exc_type=ImportError)
    public = {name for name in vars(cp) if not name.startswith("_")} - {"launches", "libcublas", "stats"}
    assert public - set(dir(real)) == set()
    assert {name for name in dir(x) if not name.startswith("__")} - set(dir(real.ndarray)) == {
        "_array",
        "_memory",
        "_set_from_host",
        "_to_host",
        "_view_or_copy",
        "_world",
        "_wrap",
    }
    assert {name for name in vars(cp.cuda) if not name.startswith("_")} - set(dir(real.cuda)) == set()
    assert {name for name in vars(cp.cuda.runtime) if not name.startswith("_")} <= set(dir(real.cuda.runtime))


def test_the_fixture_is_what_import_finds(fake_cupy):
    import cupy
    import cupy.cuda.runtime

    assert cupy is fake_cupy
    assert cupy.cuda.runtime.getDeviceCount() == 1
    assert importlib.util.find_spec("cupy") is not None


def test_absent_and_broken_cupy_are_restored():
    before = sys.modules.get("cupy"), list(sys.meta_path)
    with absent_cupy():
        assert importlib.util.find_spec("cupy") is None
        with pytest.raises(ModuleNotFoundError):
            import cupy
    with broken_cupy():
        assert importlib.util.find_spec("cupy") is not None
        with pytest.raises(ImportError, match="libcublas") as caught:
            import cupy.cuda
        assert not isinstance(caught.value, ModuleNotFoundError)
    with broken_cupy(AttributeError("partially initialized module")), pytest.raises(AttributeError):
        import cupy
    with installed_cupy(make_fake_cupy()) as fake:
        import cupy

        assert cupy is fake
    assert (sys.modules.get("cupy"), sys.meta_path) == before
