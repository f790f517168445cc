"""Sums and losses on a GPU beyond the cases of all backends: their order and how they are shared; empty arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, run
from device.emulator import BlockProgram
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy, requires_compiler
from tolerances import assert_close

from gpucnn import get_backend
from gpucnn.backend import Backend
from gpucnn.backend.gpu import arrays
from gpucnn.backend.kernels import losses as kernels
from gpucnn.backend.kernels.reductions import MOST_PARTIALS

LOSSES = ("softmax_cross_entropy", "soft_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error", "label_targets")
ORDERS = ("forward", "reverse", 5)


def case_of(operation: str, label: str) -> Case:
    [case] = [case for case in CASES if (case.operation, case.label, case.dtype) == (operation, label, "float32")]
    return case


SHARED = [case_of("sum_rows", "(512, 17)"), case_of("sum_rows", "(600, 257)"), case_of("label_targets", "33 classes")]
SHARED += [case_of(operation, "70x33") for operation in LOSSES[:-1]]
BATCH_NORMS = [case_of(operation, "(300, 1)") for operation in ("batch_norm", "batch_norm_dx")]


def gpu(order: str | int = "forward", **options: Any) -> Backend:
    """Return a GPU backend on a fake device of its own."""
    with installed_cupy(make_fake_cupy(order=order, **options)):
        return get_backend("gpu")


# ---- the order of sums --------------------------------------------------------------------------------------------


@requires_compiler
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_sums_do_not_depend_on_the_order_of_the_threads(case: Case) -> None:
    results = [run(gpu(order), case) for order in ORDERS]
    for name, first in results[0].items():
        assert {result[name].tobytes() for result in results} == {first.tobytes()}, name


@requires_compiler
@pytest.mark.parametrize("case", SHARED[1:], ids=str)
def test_few_blocks_share_all_rows(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with arrays that are too large to be emulated: each block takes more rows, each warp one after another."""
    for module in ("arrays", "losses"):
        monkeypatch.setattr(f"gpucnn.backend.gpu.{module}.MOST_PARTIALS", 3)
    results, backend = run(Backend("float32"), case), gpu()
    for name, result in run(backend, case).items():
        assert_close(result, results[name], case.dtype, case.terms, case.scale, name)
    assert backend.workspace.nbytes == (257 * 3 * 4 if case.operation == "sum_rows" else 3 * 3 * 8)


@requires_compiler
@pytest.mark.parametrize("case", [case_of("sum_rows", "(600, 257)"), *BATCH_NORMS], ids=str)
def test_a_block_adds_up_more_results_than_it_has_threads(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to four times as many: here each row is that of a block."""
    monkeypatch.setattr("gpucnn.backend.gpu.arrays.ELEMENTS", 1)
    results = run(Backend("float32"), case)
    for name, result in run(gpu(), case).items():
        assert_close(result, results[name], case.dtype, case.terms, case.scale, name)


@requires_compiler
def test_the_losses_of_many_blocks_are_added_up() -> None:
    partials = np.random.default_rng(0).integers(0, 99, (MOST_PARTIALS - 1, 3)).astype("float64")
    loss, totals = np.zeros((), "float32"), np.array([0.0, 1, 2, 3])
    arguments = partials, None, loss, totals, np.int32(5), np.int32(len(partials))
    BlockProgram(kernels.REPORT).run(1, kernels.REPORT.threads, arguments)
    np.testing.assert_array_equal(totals, [*(partials.sum(0) + [0, 1, 2]), 8])
    assert loss == np.float32(partials[:, 0].sum() / 5)


# Of the bias of LeNet-5, of vgg with batches of 512, of one column, and of many.
MANY_ROWS = [(50_176, 6), (524_288, 128), (1 << 23, 1), (1 << 20, 1000), (513, 70_000)]


@pytest.mark.parametrize("shape", MANY_ROWS, ids=str)
def test_sums_of_rows_keep_a_gpu_busy(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is much to read, by many blocks of threads; and no column has more parts than one block adds up."""
    grids = []
    backend = gpu(executes=False)
    monkeypatch.setattr(backend, "_launch", lambda record, grid, *arguments, **options: grids.append(grid))
    monkeypatch.setattr(backend, "_contiguous", lambda x: x)
    rows = np.broadcast_to(np.float32(0), shape)
    backend.sum_rows(rows, out=np.zeros(shape[1:], "float32"))
    (columns, blocks), second = grids
    assert second == (shape[1],)
    assert blocks <= MOST_PARTIALS
    elements = shape[0] * shape[1]
    assert columns * blocks >= min(132, elements // (2 * arrays.ELEMENTS))
    assert columns <= -(-shape[1] // arrays.CHANNELS)
