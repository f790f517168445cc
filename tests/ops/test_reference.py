"""The reference backend against nested loops, and its derivatives against finite differences."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import oracles
import pytest
from cases import CASES, ELEMENT_LOSSES, OPERATIONS, RESULTS, Case, Draw, Output, border, run
from tolerances import DIFFERENCE_STEP, GRADIENT, assert_close

from gpucnn.backend.reference import Backend
from gpucnn.geometry import Window

SMALL = [case for case in CASES if not case.large]
FIRST = list({case.operation: case for case in reversed(CASES) if case.dtype == "float64"}.values())
SMOOTH = [case for case in SMALL if case.smooth and case.dtype == "float64"]

# Public methods that are no operations: memory, transfers, words for people, and parts of operations.
NO_OPERATIONS = {"empty", "zeros", "from_host", "to_host", "cast", "owns", "on_device", "describe", "versions"}
NO_OPERATIONS |= {
    "limit_blas_threads",
    "scratch",
    "result",
    "store",
    "finish",
    "pool_counts",
    "pad",
    "taps",
    "sum_taps",
    "argmax_dtype",
    "conv2d_workspace",
    "together",
    "record",
    "keep",
    "free_bytes",
    "memory_of",
    "rehearsal",
}


def expected(case: Case) -> dict[str, np.ndarray]:
    """Results of a case by the loops; of those that the case doesn't ask for, no matter what."""
    sizes = {
        **{"gather_batch": {"N": 0}, "one_hot": {"K": 1}, "label_targets": {"K": 1}},
        **{"conv2d_dw_db": {"CG": 2}, "slice_channels": {"C": -1}},
    }.get(case.operation, {})
    first = next(iter(case.outputs.values()), None)
    sizes = {name: first.shape[axis] for name, axis in sizes.items()}
    results = getattr(oracles, case.operation)(**case.arguments, **sizes)
    results = results if isinstance(results, tuple) else (results,)
    return dict(zip(RESULTS.get(case.operation, ("out",)), results, strict=True))


@pytest.mark.each_case(SMALL)
def test_agrees_with_loops(case: Case, make_backend: Callable) -> None:
    backend = make_backend("reference", case.dtype)
    oracle = expected(case)
    for give_outputs in (True, False):
        results = run(backend, case, give_outputs=give_outputs)
        wanted = [*case.outputs, *case.changed] if give_outputs else [*case.returned, *case.changed]
        assert set(wanted) <= set(results)
        for name, result in results.items():
            assert_close(result, oracle[name], case.dtype, case.terms, case.scale, name)


def test_every_operation_has_cases() -> None:
    public = {name for name, _ in inspect.getmembers(Backend, inspect.isfunction) if not name.startswith("_")}
    assert public - NO_OPERATIONS == set(OPERATIONS)
    for operation in OPERATIONS:
        quick = [case for case in SMALL if case.operation == operation and not case.slow]
        assert {case.dtype for case in quick} == {"float32", "float64"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cases_ask_for_every_result(operation: str) -> None:
    asked = {name for case in SMALL if case.operation == operation for name in (*case.outputs, *case.changed)}
    assert asked == set(RESULTS.get(operation, ("out",)))


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_new_results_share_no_memory(case: Case) -> None:
    backend = Backend(case.dtype)
    arrays = {name: value.copy() for name, value in case.arguments.items() if isinstance(value, np.ndarray)}
    parameters = inspect.signature(getattr(Backend, case.operation)).parameters
    given = {
        name: np.zeros(output.shape, output.dtype)
        for name, output in case.outputs.items()
        if parameters[name].default is inspect.Parameter.empty
    }
    calls = [getattr(backend, case.operation)(**{**case.arguments, **arrays, **given}) for _ in range(2)]
    first, second = (call if isinstance(call, tuple) else (call,) for call in calls)
    for result, again in zip(first, second, strict=True):
        if isinstance(result, np.ndarray) and not any(result is array for array in given.values()):
            assert not any(np.shares_memory(result, other) for other in (again, *arrays.values()))


# ---- derivatives -------------------------------------------------------------------------------------------


def gradients(backend: Backend, case: Case, dy: np.ndarray) -> dict[str, np.ndarray]:
    """Gradient of sum(dy * operation) in each argument that has one, by the operation's derivative."""
    given, operation = case.arguments, case.operation
    if operation in LOSSES:
        outputs = next(iter(given))
        dx = np.empty_like(given[outputs])
        getattr(backend, operation)(**{**given, "totals": None}, dx=dx)
        return {outputs: dx * dy}
    x = given["x"]
    if operation in ("conv2d", "dense"):
        how = {"window": given["window"]} if operation == "conv2d" else {}
        dw, db = np.empty_like(given["w"]), np.empty(given["w"].shape[-1])
        getattr(backend, f"{operation}_dw_db")(x, dy, dw=dw, db=db, **how)
        shape = {"x_shape": x.shape} if operation == "conv2d" else {}
        dx = getattr(backend, f"{operation}_dx")(dy, given["w"], **shape, **how)
        return {"x": dx, "w": dw, "b": db}
    y = getattr(backend, operation)(**given)
    y, argmax = y if isinstance(y, tuple) else (y, None)
    known = {**given, "dy": dy, "y": y, "argmax": argmax, "x_shape": x.shape}
    names = inspect.signature(getattr(Backend, f"{operation}_dx")).parameters.keys() & known.keys()
    return {"x": getattr(backend, f"{operation}_dx")(**{name: known[name] for name in names})}


def value(backend: Backend, case: Case, arguments: dict[str, Any]) -> np.ndarray:
    arguments = {name: argument for name, argument in arguments.items() if name != "totals"}
    result = getattr(backend, case.operation)(**arguments)
    return result[0] if isinstance(result, tuple) else result


DIFFERENTIABLE = {operation.removesuffix("_dx") for operation in OPERATIONS if operation.endswith("_dx")}
LOSSES = {"softmax_cross_entropy", "soft_cross_entropy", "sigmoid_cross_entropy", *ELEMENT_LOSSES}
DIFFERENTIABLE |= LOSSES
DIFFERENTIABLE -= {"binary_step"}  # its derivative is 0, its slope at 0 is infinite
DIFFERENTIABLE -= {"batch_norm", "group_norm"}  # by tests/layers/test_layers.py, with their parameters
DIFFERENTIABLE -= {"dropout"}  # its loops are exact, and each call draws anew


@pytest.mark.each_case([case for case in SMOOTH if case.operation in DIFFERENTIABLE])
def test_gradient_agrees_with_finite_differences(case: Case, make_backend: Callable) -> None:
    """Along one random direction in each argument, with a random gradient from above."""
    backend, draw = make_backend("reference", "float64"), Draw(f"differences {case}", "float64")
    dy = draw.normal(*value(backend, case, case.arguments).shape)
    for name, gradient in gradients(backend, case, dy).items():
        if case.arguments[name] is None:
            continue
        direction = draw.normal(*gradient.shape)
        step = direction * (DIFFERENCE_STEP / np.linalg.norm(direction))
        moved = [{**case.arguments, name: case.arguments[name] + sign * step} for sign in (-1, 1)]
        ends = [value(backend, case, arguments) for arguments in moved]
        slope = np.sum(dy * (ends[1] - ends[0])) / (2 * DIFFERENCE_STEP)
        analytic = np.sum(gradient * direction) / np.linalg.norm(direction)
        np.testing.assert_allclose(analytic, slope, **GRADIENT, err_msg=name)


# ---- several steps, and parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("hyperparameters", [(0.01, 0.9, 0.999, 1e-8, 0.0), (0.1, 0.5, 0.7, 1e-2, 0.1)])
def test_adam_over_several_steps(hyperparameters: tuple[float, ...]) -> None:
    draw, backend = Draw("adam", "float64"), Backend("float64")
    start, steps = draw.normal(11), draw.normal(6, 11)
    w, m, v, powers = start.copy(), np.zeros(11), np.zeros(11), np.ones(2)
    for g in steps:
        backend.adam_step(w, g, m, v, powers, np.array(hyperparameters))
    assert_close(w, oracles.adam_run(start, steps, np.array(hyperparameters)), "float64", terms=len(steps))
    np.testing.assert_allclose(powers, [hyperparameters[1] ** 6, hyperparameters[2] ** 6])


def test_dropout_draws_anew_in_each_call() -> None:
    backend, counter, x = Backend("float64"), np.array([4], np.int64), np.ones((50, 4))
    masks = [backend.dropout(x, 0.5, (1, 2), counter)[1] for _ in range(3)]
    assert counter[0] == 7
    for call, mask in enumerate(masks):
        assert_close(mask, oracles.dropout(x, 0.5, (1, 2), np.array([4 + call]))[1], "float64")
    assert not np.array_equal(masks[0], masks[1])


def test_totals_add_up_over_batches() -> None:
    backend, draw = Backend("float32"), Draw("totals", "float32")
    totals, loss_sum, hits = np.zeros(4), 0.0, 0
    for N in (5, 5, 2):
        logits, labels = draw.normal(N, 3), draw.labels(N, 3)
        loss_sum += N * float(backend.softmax_cross_entropy(logits, labels, totals=totals))
        hits += sum(oracles.largest(row) == label for row, label in zip(logits, labels, strict=True))
    assert_close(totals, [loss_sum, hits, 12, 12], "float32", terms=12)


def test_totals_do_not_count_samples_after_a_loss_became_infinite() -> None:
    backend, totals = Backend("float64"), np.zeros(4)
    for output in (1.0, np.inf, 1.0):
        backend.mean_squared_error(np.full((2, 3), output), np.zeros((2, 3)), totals=totals)
    np.testing.assert_array_equal(totals, [np.inf, 6, 6, 2])


@pytest.mark.parametrize("fill", [0.0, -np.inf])
def test_pad(fill: float) -> None:
    window, x = Window((2, 2), padding=border(1, 2, 0, 3)), Draw("pad", "float32").normal(2, 3, 4, 2)
    padded = Backend().pad(x, window, fill)
    assert padded.shape == (2, 6, 7, 2)
    assert padded.dtype == np.float32
    for n, i, j, c in oracles.indices(padded):
        inside = 1 <= i < 4 and j < 4
        assert padded[n, i, j, c] == (x[n, i - 1, j, c] if inside else fill)


@pytest.mark.parametrize(("kernel", "dtype"), [((1, 1), "uint8"), ((15, 17), "uint8"), ((16, 16), "int32")])
def test_winner_dtype_holds_every_tap_and_none(kernel: tuple[int, int], dtype: str) -> None:
    assert np.dtype(Backend().argmax_dtype(Window(kernel))).name == dtype
    assert np.iinfo(dtype).max >= kernel[0] * kernel[1]


def test_run_notices_a_changed_argument_and_an_unwritten_result() -> None:
    class Faulty(Backend):
        def relu(self, x: Any, *, out: Any = None) -> Any:
            x[0, 0] = -0.0
            return out

    case = next(case for case in CASES if str(case) == "relu-rows-float64")
    with pytest.raises(AssertionError, match="argument x was changed"):
        run(Faulty("float64"), case)
    assert np.isnan(run(Faulty("float64"), replace(case, changed=("x",)))["out"]).all()
    with pytest.raises(AssertionError, match="out"):
        run(Backend("float64"), replace(case, outputs={"out": Output((9, 5), "float64")}), give_outputs=False)
