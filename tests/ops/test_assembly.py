"""How backends get their operations, and what is checked of them when they are imported."""

from __future__ import annotations

import gc
import inspect
import weakref
from types import ModuleType

import numpy as np
import pytest
from cases import CASES, run

from gpucnn.backend import Backend, CpuBackend
from gpucnn.backend.assembly import in_place, with_operations
from gpucnn.backend.cpu.sharing import shared
from gpucnn.backend.reference import activations
from gpucnn.geometry import Window

MAX_ANCESTORS = 4
SHARED = [name for name, operation in inspect.getmembers(CpuBackend) if hasattr(operation, "__wrapped__")]

Array = np.ndarray


def test_topics_are_siblings() -> None:
    for kind in (Backend, CpuBackend):
        assert len(kind.__mro__) - 1 <= MAX_ANCESTORS


def test_two_topics_cannot_have_one_operation() -> None:
    topic = ModuleType("rectifiers")
    topic.relu, topic.__all__ = activations.relu, ["relu"]
    kind = with_operations(topic)(type("Kind", (), {}))
    assert kind.relu is activations.relu
    with pytest.raises(TypeError, match="Kind: relu is there already; gpucnn.backend.reference.activations defines it"):
        with_operations(activations)(kind)


def test_only_arguments_can_be_worked_on_in_place() -> None:
    with pytest.raises(TypeError, match="relu: has no argument y to lie over"):
        in_place("y")(Backend.relu)


# ---- what threads share -------------------------------------------------------------------------------------------


def test_only_arguments_are_shared_and_all_results() -> None:
    def relu(self, x: Array, *, other: Array = None, out: Array = None) -> Array: ...

    for rows, message in [
        (("x", "y", "out"), r"relu: cannot share the rows of \['y'\]; its arguments are \['x', 'out'\]"),
        (("x", "out", "other"), r"relu: cannot share the rows of \['other'\]"),  # which the reference does not have
        (("x", "out"), r"relu: each thread would write all of \['other'\]; share their rows too"),
    ]:
        with pytest.raises(TypeError, match=message):
            shared(*rows)(relu)


@pytest.mark.parametrize("operation", SHARED)
def test_threads_share_what_is_declared(operation: str) -> None:
    """Each of them a part, and all of them together the whole."""
    backend, runs = CpuBackend("float64", threads=3), []
    backend.shares_everything = True
    together = backend.run
    backend.run = lambda jobs: runs.append(len(jobs)) or together(jobs)
    for case in CASES:
        if case.operation == operation and case.dtype == "float64" and not case.large:
            run(backend, case)
    assert max(runs) > 1


def test_small_arrays_are_not_shared() -> None:
    backend = CpuBackend(threads=2)
    backend.run = lambda jobs: pytest.fail("shared")
    backend.relu(np.ones(1000, np.float32), out=np.empty(1000, np.float32))


def test_memory_goes_back_with_the_backend() -> None:
    """At once, as nothing that it keeps refers to it."""
    backend = CpuBackend(threads=2)
    backend.shares_everything = True
    out = np.empty((2, 14, 14, 10), np.float32)
    backend.conv2d(
        np.ones((2, 16, 16, 10), np.float32), np.ones((3, 3, 10, 10), np.float32), None, Window((3, 3)), out=out
    )
    gone = [weakref.ref(kept) for kept in (backend, *backend.workers)]
    assert any(worker.held_bytes() for worker in backend.workers)
    gc.disable()
    try:
        del backend
        assert [ref() for ref in gone] == [None] * 3
    finally:
        gc.enable()
