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
    dtype = outputs.dtype.name
    loss, dx = Output((), dtype), Output(outputs.shape, dtype)
    arguments = {**given, "totals": np.array(totals, np.float64)}
    more = {"terms": outputs.size, **fields(further, *(name for name in given if np.ndim(given[name])))}
    yield Case(operation, label, dtype, arguments, {"loss": loss, "dx": dx}, changed=("totals",), **more)
    if label in ("6x5", "70x33"):
        yield Case(operation, f"{label}, loss alone", dtype, given, {"loss": loss}, **more)
        yield Case(operation, f"{label}, no totals", dtype, given, {"loss": loss, "dx": dx}, **more)


# Rows shorter and longer than the 32 threads that a GPU gives each of them, and many and few of them.
WARP_SHAPES = (300, 1), (7, 31), (1, 32), (70, 33), (3, 1000)


def far_ties(draw: Draw, special: float) -> np.ndarray:
    """Rows of 70 of which two or three are `special`: those that different threads of a GPU look at, and one alone."""
    rows = draw.uniform(4, 70)
    for row, places in zip(rows, ([36, 5], [5, 37, 69], [33, 64], [31, 32]), strict=True):
        row[places] = special
    return rows


@cases_of
def losses_of_warps(dtype: str) -> Iterator[Case]:
    draw = Draw("losses of warps", dtype)
    inputs = [(f"{N}x{K}", draw.normal(N, K), draw.labels(N, K), {"large": N * K > 2500}) for N, K in WARP_SHAPES]
    for name, special in (("ties", 1.0), ("NaN", np.nan)):  # the labels of the first three rows are their first maxima
        labels = np.array([5, 5, 33, 32], np.int32)
        inputs.append((f"far {name}", far_ties(draw, special), labels, {"smooth": False}))
    for label, logits, labels, further in inputs:
        N, K = logits.shape
        yield from loss_case("softmax_cross_entropy", label, {"logits": logits, "labels": labels}, further)
        targets = np.eye(K, dtype=dtype)[labels] if "far" in label else draw.uniform(N, K)
        yield from loss_case("sigmoid_cross_entropy", label, {"logits": logits, "targets": targets}, further)
        yield from loss_case("mean_squared_error", label, {"outputs": logits, "targets": targets}, further)
        targets = targets.copy()
        targets[3::4] = 0
        given = {"logits": logits, "targets": targets, "weights": draw.uniform(K), "smoothing": 0.1}
        yield from loss_case("soft_cross_entropy", label, {**given, "norm": np.asarray(1.7, dtype)}, further)
    given = {"outputs": np.full((2, 5), -np.inf, dtype), "targets": np.eye(2, 5, dtype=dtype)}
    yield from loss_case("mean_squared_error", "nothing but -inf", given, {"smooth": False})


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
            yield from loss_case("huber", label, {"outputs": logits, "targets": targets, "delta": 0.7}, further)
            signs = np.sign(targets - np.asarray(0.5, dtype))
            yield from loss_case("hinge", label, {"outputs": logits, "targets": signs}, further)
        given = {"logits": logits, "targets": np.eye(K, dtype=dtype)[labels]}
        yield from loss_case("sigmoid_cross_entropy", f"{label}, one-hot", given, further)
    given = {"logits": draw.normal(3, 4), "labels": draw.labels(3, 4).astype(np.int64)}
    yield from loss_case("softmax_cross_entropy", "int64 labels", given, {})
    for place, label in enumerate((-1, 4, 4 + 2 * 4, -(2**31), 2**31 - 1)):  # of none of the classes
        given = {"logits": draw.normal(5, 4), "labels": draw.labels(5, 4)}
        given["labels"][place] = label
        yield from loss_case("softmax_cross_entropy", f"label {label}", given, {"smooth": False})
    given = {"outputs": draw.normal(3, 4), "targets": draw.normal(3, 4)}
    yield from loss_case("mean_squared_error", "diverged before", given, {}, (np.inf, 3.0, 8.0, 5.0))
    given = {"outputs": draw.normal(3, 4), "targets": draw.normal(3, 4)}
    given["outputs"][1, 2] = np.inf
    yield from loss_case("mean_squared_error", "diverges", given, {"smooth": False})


@cases_of
def binary_cross_entropy(dtype: str) -> Iterator[Case]:
    draw = Draw("binary_cross_entropy", dtype)
    for label, (N, K), further in (
        ("6x5", (6, 5), {}),
        ("one output", (7, 1), {}),
        ("many", (33, 2), {}),
        *((layout, (5, 4), {"layouts": layout}) for layout in LAYOUTS),
    ):
        given = {"outputs": draw.uniform(N, K), "targets": draw.uniform(N, K)}
        yield from loss_case("binary_cross_entropy", label, given, {"scale": 3.0, **further})
    tiny = float(np.finfo(dtype).smallest_subnormal)
    given = {"outputs": np.array([[0.0, 1.0, 0.0, 1.0, tiny]], dtype), "targets": np.array([[0, 1, 1, 0, 1]], dtype)}
    yield from loss_case("binary_cross_entropy", "zeros and ones", given, {"smooth": False})


@cases_of
def label_targets(dtype: str) -> Iterator[Case]:
    draw = Draw("label_targets", dtype)
    for label, labels, K, weights, ignored in (
        ("plain", draw.labels(7, 5), 5, None, -1),
        ("weights", draw.labels(33, 5), 5, draw.uniform(5), -100),
        ("many", draw.labels(600, 3), 3, draw.uniform(3), 2),
        ("ignored", np.array([3, -100, 0, -100], np.int32), 4, draw.uniform(4), -100),
        ("a class ignored", np.array([3, 1, 0, 1], np.int32), 4, None, 1),
        ("255 ignored", np.array([255, 1, 0], np.int32), 2, draw.uniform(2), 255),
        ("all ignored", np.array([1, 1], np.int32), 3, draw.uniform(3), 1),
        ("weight 0", np.array([1, 1, 0], np.int32), 2, np.zeros(2, dtype), -1),
        ("one class", np.zeros(4, np.int32), 1, None, -1),
        ("32 classes", draw.labels(9, 32), 32, draw.uniform(32), 31),
        ("33 classes", draw.labels(300, 33), 33, None, 32),
    ):
        arguments = {"labels": labels, "weights": weights, "ignored": ignored}
        outputs = {"out": Output((len(labels), K), dtype), "norm": Output((), dtype)}
        yield Case("label_targets", label, dtype, arguments, outputs, terms=len(labels))
    arguments = {"labels": draw.labels(6, 4), "weights": draw.uniform(4), "ignored": 0}
    outputs = {"out": Output((6, 4), dtype), "norm": Output((), dtype)}
    layouts = {"labels": "strided", "weights": "strided"}
    yield Case("label_targets", "strided", dtype, arguments, outputs, layouts=layouts, terms=6)


@cases_of
def soft_cross_entropy(dtype: str) -> Iterator[Case]:
    draw = Draw("soft_cross_entropy", dtype)
    for number, (label, logits, further) in enumerate(loss_inputs(draw)):
        N, K = logits.shape
        targets = draw.uniform(N, K)
        targets[1::3] = 0  # samples without a target
        weights = draw.uniform(K) if number % 2 else None
        smoothing = (0.0, 0.3)[number // 2 % 2] if label != "extreme" else 0.0
        given = {"logits": logits, "targets": targets, "weights": weights, "smoothing": smoothing}
        yield from loss_case("soft_cross_entropy", label, {**given, "norm": np.asarray(1.7, dtype)}, further)
    many = draw.normal(600, 3), np.eye(3, dtype=dtype)[draw.labels(600, 3)]
    given = dict(zip(("logits", "targets"), many, strict=True))
    given |= {"weights": draw.uniform(3), "smoothing": 0.1, "norm": np.asarray(300, dtype)}
    yield from loss_case("soft_cross_entropy", "many", given, {})
    impossible = draw.normal(3, 4)
    impossible[:, 2] = -np.inf
    given = {"logits": impossible, "targets": np.array([[0, 1, 0, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 0]], dtype)}
    given |= {"weights": None, "smoothing": 0.0, "norm": np.asarray(2, dtype)}
    yield from loss_case("soft_cross_entropy", "-inf", given, {"smooth": False})
    given = {**given, "logits": draw.normal(3, 4), "targets": np.zeros((3, 4), dtype)}
    yield from loss_case("soft_cross_entropy", "no targets", given, {"smooth": False})
    given = {**given, "logits": draw.normal(3, 4), "targets": np.eye(3, 4, dtype=dtype)}
    given["logits"][1, 2] = np.nan
    yield from loss_case("soft_cross_entropy", "diverges", given, {"smooth": False})
