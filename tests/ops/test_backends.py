"""Every other backend against the reference, on the same inputs, side effects included."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, Case, run
from tolerances import assert_close

from gpucnn.backend.reference import Backend

BACKENDS = [
    *("cpu", "cpu-3-threads"),
    pytest.param("fake-gpu", marks=[pytest.mark.slow]),
    pytest.param("gpu", marks=[pytest.mark.gpu]),
]
SMALL = [case for case in CASES if not case.large]
RECTIFIED = [case for case in CASES if case.operation in ("conv2d", "dense") and "relu" in case.arguments]


IN_PLACE = [
    (operation, argument)
    for operation, function in inspect.getmembers(Backend, inspect.isfunction)
    for argument in getattr(function, "in_place", ())
]


def compare(backend: Backend, reference: Backend, case: Case) -> None:
    """Compare the results of a case, with result arrays given and without."""
    for give_outputs in (True, False):
        results = run(backend, case, give_outputs=give_outputs)
        references = run(reference, case, give_outputs=give_outputs)
        assert results.keys() == references.keys()
        for name, result in results.items():
            assert_close(result, references[name], case.dtype, case.terms, case.scale, name)


@pytest.mark.each_case(CASES)
def test_agrees_with_the_reference(case: Case, backend_name: str, make_backend: Callable) -> None:
    compare(make_backend(backend_name, case.dtype), make_backend("reference", case.dtype), case)


def check_rectified(backend: Backend, case: Case) -> None:
    plain = replace(case, arguments={**case.arguments, "relu": False})
    with np.errstate(invalid="ignore"):
        y, rectified = (run(backend, each)["out"] for each in (plain, case))
    assert np.any(y < 0)
    assert rectified.tobytes() == backend.to_host(backend.relu(backend.from_host(y))).tobytes()


@pytest.mark.each_case(RECTIFIED)
def test_rectified_it_is_relu_of_it_to_the_bit(case: Case, backend_name: str, make_backend: Callable) -> None:
    check_rectified(make_backend(backend_name, case.dtype), case)


@pytest.mark.each_case(RECTIFIED)
def test_rectified_the_reference_is_relu_of_it_to_the_bit(case: Case, make_backend: Callable) -> None:
    check_rectified(make_backend("reference", case.dtype), case)


@pytest.mark.parametrize("name", ["reference", *BACKENDS])
@pytest.mark.parametrize(("operation", "argument"), IN_PLACE)
def test_a_result_over_an_argument_is_that_elsewhere_to_the_bit(
    name: str, operation: str, argument: str, make_backend: Callable
) -> None:
    cases = [case for case in CASES if case.operation == operation and not case.layouts]
    assert len({case.dtype for case in cases}) == 2
    for case in cases:
        backend = make_backend(name, case.dtype)
        elsewhere, over = (outputs_of(backend, case, where) for where in (None, argument))
        assert over == elsewhere, case


def outputs_of(backend: Backend, case: Case, over: str | None) -> list[bytes]:
    """Return the bits of all outputs of a case, the first of which lies over one of its arguments."""
    arguments = {
        name: backend.from_host(value) if isinstance(value, np.ndarray) else value
        for name, value in case.arguments.items()
    }
    outputs = {
        name: backend.zeros(output.shape, getattr(backend.xp, output.dtype)) for name, output in case.outputs.items()
    }
    if over is not None:
        outputs["out"] = arguments[over]
    with np.errstate(all="ignore"):
        getattr(backend, case.operation)(**arguments, **outputs)
    return [backend.to_host(output).tobytes() for output in outputs.values()]


@pytest.mark.each_case(SMALL)
def test_reference_uses_only_the_array_api_standard(case: Case, make_backend: Callable) -> None:
    compare(make_backend("array_api_strict", case.dtype), make_backend("reference", case.dtype), case)


def test_overrides_have_the_signature_of_the_reference(backend_name: str, make_backend: Callable) -> None:
    kind = type(make_backend(backend_name, "float32"))
    for name, method in inspect.getmembers(Backend, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(kind, name)) == inspect.signature(method), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_new_arrays(dtype: str, backend_name: str, make_backend: Callable) -> None:
    backend = make_backend(backend_name, dtype)
    for create in (backend.empty, backend.zeros):
        assert backend.to_host(create((2, 3))).dtype == dtype
        array = create((3, 0, 2), backend.xp.int32)
        assert array.shape == (3, 0, 2)
        assert array.dtype == backend.xp.int32
    np.testing.assert_array_equal(backend.to_host(backend.zeros((2, 3))), np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32", "float64"])
def test_transfers_copy(dtype: str, backend_name: str, make_backend: Callable) -> None:
    backend = make_backend(backend_name, "float32")
    numbers = np.arange(24).reshape(4, 6).astype(dtype)
    for host in (numbers.copy(), numbers.T, numbers[::2, 1::2], numbers[1, 2:3].reshape(())):
        kept, reads = host.copy(), backend.host_reads
        device = backend.from_host(host)
        assert backend.owns(device)
        back = backend.to_host(device)
        assert backend.host_reads == reads + 1
        assert back.shape == host.shape
        assert back.dtype == dtype
        assert type(back) is np.ndarray
        np.testing.assert_array_equal(back, kept)
        back[...] = 99
        np.testing.assert_array_equal(backend.to_host(device), kept)
        np.testing.assert_array_equal(host, kept)
        out = backend.zeros(host.shape, backend.xp.float64)
        assert backend.from_host(host, out=out) is out
        np.testing.assert_array_equal(backend.to_host(out), kept.astype("float64"))
    host = numbers.copy()
    device = backend.from_host(host)
    host[...] = 99
    np.testing.assert_array_equal(backend.to_host(device), numbers)


def test_does_not_own_what_is_no_array(backend_name: str, make_backend: Callable) -> None:
    backend = make_backend(backend_name, "float32")
    assert not backend.owns([1.0])
    assert not backend.owns(1.0)
    assert not backend.owns(None)
