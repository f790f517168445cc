"""Cases of losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from case import LAYOUTS, TOTALS, Case, Draw, Output, cases_of, fields


def loss_inputs(draw: Draw) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    yield "6x5", draw.normal(6, 5), {}
    yield "one sample", draw.normal(1, 4), {}
    yield "one class", draw.normal(3, 1), {}
    yield "two classes", draw.normal(33, 2), {}
    yield "ties", draw.few(12, 4), {"smooth": False}
    yield "wide", 30 * draw.normal(7, 10), {"smooth": False, "scale": 100.0}
    extreme = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [3.0, 1e4, -1e4]]
    yield "extreme", np.array(extreme, draw.dtype), {"smooth": False}
    for layout in LAYOUTS:
        yield layout, draw.normal(5, 4), {"layouts": layout}


def loss_case(operation: str, label: str, given: dict, further: dict, totals: Any = TOTALS) -> Iterator[Case]:
    """Yield the case with all results, and once for all the case without gradient and totals."""
    outputs = next(iter(given.values()))
    dtype, N = outputs.dtype.name, outputs.shape[0]
    loss, dx = Output((), dtype), Output(outputs.shape, dtype)
    arguments = {**given, "totals": np.array(totals, np.float64)}
    more = {"terms": outputs.size, **fields(further, *given)}
    yield Case(operation, label, dtype, arguments, {"loss": loss, "dx": dx}, changed=("totals",), **more)
    if label == "6x5":
        yield Case(operation, "loss alone", dtype, given, {"loss": loss}, terms=N)
        yield Case(operation, "no totals", dtype, given, {"loss": loss, "dx": dx}, terms=N)


@cases_of
def losses(dtype: str) -> Iterator[Case]:
    draw = Draw("losses", dtype)
    for label, logits, further in loss_inputs(draw):
        N, K = logits.shape
        labels = draw.labels(N, K)
        yield from loss_case("softmax_cross_entropy", label, {"logits": logits, "labels": labels}, further)
        targets = draw.uniform(N, K)
        yield from loss_case("sigmoid_cross_entropy", label, {"logits": logits, "targets": targets}, further)
        if label != "extreme":
            yield from loss_case("mean_squared_error", label, {"outputs": logits, "targets": targets}, further)
            for operation in ("squared_error", "absolute_error", "mean_absolute_error"):
                yield from loss_case(operation, label, {"outputs": logits, "targets": targets}, further)
            away_from_zero = {"outputs": logits, "targets": targets + np.asarray(0.5, dtype)}
            yield from loss_case("mean_absolute_percentage_error", label, away_from_zero, further)
            above_minus_one = {"outputs": abs(logits), "targets": targets}
            yield from loss_case("mean_squared_log_error", label, above_minus_one, further)
        given = {"logits": logits, "targets": np.eye(K, dtype=dtype)[labels]}
        yield from loss_case("sigmoid_cross_entropy", f"{label}, one-hot", given, further)
    given = {"logits": draw.normal(3, 4), "labels": draw.labels(3, 4).astype(np.int64)}
    yield from loss_case("softmax_cross_entropy", "int64 labels", given, {})
    given = {"outputs": draw.normal(3, 4), "targets": draw.normal(3, 4)}
    yield from loss_case("mean_squared_error", "diverged before", given, {}, (np.inf, 3.0, 8.0, 5.0))
    given = {"outputs": draw.normal(3, 4), "targets": draw.normal(3, 4)}
    given["outputs"][1, 2] = np.inf
    yield from loss_case("mean_squared_error", "diverges", given, {"smooth": False})
