"""Which backends the tests run on, what happens where there is no GPU, and that a GPU changes no other test."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler
from device.host_compiler import missing_compiler

from gpucnn.backend import get_backend
from gpucnn.backend.reference import Backend
from gpucnn.errors import DeviceError

REQUIRE_GPU = "GPUCNN_REQUIRE_GPU"

# What a quick run leaves out, as measured: all that compiles kernels for the emulation (`requires_compiler`), files
# whose tests start programs or compute much, and some tests of other files.
SLOW_FILES = {
    *("test_step_graphs", "test_memory_plan", "test_memory_sharing", "test_out_of_memory", "test_resume"),
    *("test_devices", "test_emulation", "test_gpu_arithmetic", "test_gpu_kernels", "test_gpu_step", "test_graphs"),
    *("test_hidden_gpus", "test_implicit", "test_launches", "test_nvrtc"),
    *("test_bench", "test_faults", "test_fuzz", "test_gpu_check", "test_gpu_parts", "test_gpu_speed"),
    *("test_array_api_strict", "test_conformance"),
    *("test_onnx_cases", "test_onnx_converted", "test_onnx_models", "test_onnx_nodes"),  # which make data at import
}
SLOW_TESTS = {
    "test_a_run_goes_on_bit_for_bit",
    "test_a_step_on_the_cpu_allocates_no_array",
    "test_other_layers_and_losses_allocate_no_array_either",
    "test_sharing_among_threads_allocates_no_array_either",
    "test_precisions",
    "test_divergence_is_one_line_without_warnings",
    "test_the_largest_that_is_let_through_is_right",
    "test_every_layout",
    "test_nodes_are_about_the_launches_of_a_step",
    "test_between_those_values",
    "test_the_variance_of_numbers_far_from_zero",
    "test_one_thread_and_three_agree_to_rounding",
    "test_digits_equal_those_of_scikit_learn",
    "test_bomb_is_read_only_as_far_as_its_header_promises",
    "test_script_writes_the_embedded_digits",
    "test_sums_of_rows_are_never_rounded",
    "test_a_recording_keeps_what_its_products_use",
    "test_where_it_cannot_restart_it_goes_on",
    "test_parameter_counts",
    "test_a_terminal_shows_bars_with_the_results",
    "test_the_pool_knows_what_is_alive",
    "test_the_command_may_be_cut_off",
    "test_equal_runs_give_equal_weights",
    "test_mnist",
    "test_own_loop",
    "test_real_mnist",
    "test_real_mnist_has_the_checksums_of_the_downloads",
}
QUICK = "not slow"  # what `-m` asks for in a quick run

# Every backend that is compared with the reference; tests get their names from the fixture `backend_name`.
# "cpu-3-threads" shares even the smallest arrays; "fake-gpu" is the GPU backend on the fake of `tests/gpu/device`.
BACKENDS = ("cpu", "cpu-3-threads", "fake-gpu", "gpu")
MARKS = {"fake-gpu": [pytest.mark.slow], "gpu": [pytest.mark.gpu]}


@functools.cache
def make_backend(name: str, float_dtype: str) -> Backend:
    """Return the backend of this name; one object serves all tests, so they also meet its used buffers."""
    if name == "array_api_strict":
        return Backend(float_dtype, xp=pytest.importorskip("array_api_strict"))
    if name == "cpu-3-threads":
        backend = get_backend("cpu", float_dtype, threads=3)
        backend.shares_everything = True
        return backend
    if name == "fake-gpu":
        if missing_compiler() is not None:
            pytest.skip(missing_compiler())
        with installed_cupy(make_fake_cupy()):
            return get_backend("gpu", float_dtype)
    return get_backend(name, float_dtype)


@functools.cache
def gpu_state() -> str | None:
    """Return why no GPU can be used, or None where one can."""
    try:
        get_backend("gpu")
    except DeviceError as error:
        return str(error)
    return None


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in BACKENDS])
def backend_name(request: pytest.FixtureRequest) -> str:
    """Name of a backend to compare with the reference."""
    return request.param


@pytest.fixture(name="make_backend")
def make_backend_fixture() -> Callable[[str, str], Backend]:
    """Return the function (name, float_dtype) -> backend."""
    return make_backend


def is_quick(config: pytest.Config) -> bool:
    """Whether slow tests are left out, so that they need not even be collected, which takes a third of the time."""
    return config.option.markexpr == QUICK


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the files of slow tests out of a quick run."""
    return True if is_quick(config) and collection_path.stem in SLOW_FILES else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test for each of some cases, or rows of a case and further arguments; most of them are slow."""
    mark = metafunc.definition.get_closest_marker("each_case")
    if mark is None:
        return
    rows, *further = mark.args
    rows = [row if further else (row,) for row in rows]
    chosen = [pytest.param(*row, marks=[pytest.mark.slow] * row[0].slow) for row in rows]
    if is_quick(metafunc.config):
        chosen = [found for row, found in zip(rows, chosen, strict=True) if not row[0].slow]
    metafunc.parametrize(("case", *further), chosen, ids=str)


def is_slow(item: pytest.Item) -> bool:
    """Whether a test takes long, or is of those that do."""
    named = item.path.stem in SLOW_FILES or item.name.partition("[")[0] in SLOW_TESTS
    return named or requires_compiler.mark in item.iter_markers("skipif")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long."""
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)


def pytest_report_header() -> str:
    """Say at the top of the report whether a GPU takes part."""
    reason = gpu_state()
    return "GPU: usable" if reason is None else f"GPU: not used, {reason}"


@contextmanager
def hidden_gpus() -> Iterator[None]:
    """Let no GPU be seen in this process, where CUDA has begun, nor in those that it starts; the fake device stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # which CUDA reads when it begins
        patch.setattr(sys.modules["cupy"].cuda.runtime, "getDeviceCount", lambda: 0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Where there is a GPU, hide it from each test that is not marked `gpu`: "auto" is the CPU for it, as elsewhere."""
    if gpu_state() is not None or item.get_closest_marker("gpu"):
        return (yield)
    with hidden_gpus():
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `gpu` where no GPU can be used."""
    reason = gpu_state() if item.get_closest_marker("gpu") else None
    if reason is not None:
        pytest.skip(f"no GPU: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where a GPU is required, turn each skip of a test marked `gpu` into a failure, whoever skipped it."""
    report = yield
    if report.skipped and item.get_closest_marker("gpu") and os.environ.get(REQUIRE_GPU) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{REQUIRE_GPU}=1, but {reason}"
    return report
