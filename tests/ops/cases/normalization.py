"""Cases of normalization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import oracles
from case import LAYOUTS, Case, Draw, Output, cases_of, fields

# More rows, and more channels, than one block of threads or one pass through the cache takes.
LARGE = ((12000, 3), (3000, 16), (40, 300), (300, 1))


def batch_norm_cases(shape: tuple[int, ...], layout: str | None, dtype: str) -> Iterator[Case]:
    """Three operations on one batch."""
    draw, C = Draw(f"batch_norm {shape} {layout}", dtype), shape[-1:]
    label = f"{shape} {layout or ''}".strip()
    x, gamma, beta = 2 + draw.normal(*shape), draw.normal(*C), draw.normal(*C)
    running = np.stack([draw.normal(*C), abs(draw.normal(*C))])
    scale = {"gamma": gamma, "beta": beta, "running": running}
    layouts = {"layouts": layout} if layout else {}
    more = {"terms": x.size // C[0], "scale": 8.0, "large": shape in LARGE}

    outputs = {"out": Output(shape, dtype), "mean_rstd": Output((2, *C), dtype)}
    given = {"x": x, **scale, "momentum": 0.3, "eps": 1e-3}
    yield Case("batch_norm", label, dtype, given, outputs, changed=("running",), **more, **fields(layouts, "x"))

    given, outputs = {"x": x, **scale, "eps": 1e-3}, {"out": Output(shape, dtype)}
    yield Case("batch_norm_inference", label, dtype, given, outputs, **more, **fields(layouts, "x"))

    rows = x.reshape(-1, *C).astype("float64")
    mean_rstd = np.stack([rows.mean(axis=0), 1 / np.sqrt(rows.var(axis=0) + 1e-3)])
    given = {"dy": draw.normal(*shape), "x": x, "gamma": gamma, "mean_rstd": mean_rstd.astype(dtype)}
    outputs = {"out": Output(shape, dtype), "dgamma": Output(C, dtype), "dbeta": Output(C, dtype)}
    yield Case("batch_norm_dx", label, dtype, given, outputs, **more, **fields(layouts, "x", "dy"))


@cases_of
def batch_norm(dtype: str) -> Iterator[Case]:
    for shape in ((6, 4), (2, 3, 5, 4), (1, 2, 2, 1), (9, 1)):
        for layout in (None, *LAYOUTS):
            yield from batch_norm_cases(shape, layout, dtype)
    for shape in LARGE:
        yield from batch_norm_cases(shape, None, dtype)


@cases_of
def fold_batch_norm(dtype: str) -> Iterator[Case]:
    for shape, bias in (((3, 2, 4, 5), True), ((1, 1, 1, 1), True), ((2, 3, 4), False)):
        draw, OC = Draw(f"fold_batch_norm {shape}", dtype), shape[-1:]
        running = np.stack([draw.normal(*OC), abs(draw.normal(*OC))])
        scale = {"gamma": draw.normal(*OC), "beta": draw.normal(*OC), "running": running, "eps": 1e-3}
        given = {"w": draw.normal(*shape), "b": draw.normal(*OC) if bias else None, **scale}
        outputs = {"folded_w": Output(shape, dtype), "folded_b": Output(OC, dtype)}
        label = f"{shape} {'with' if bias else 'without'} bias"
        yield Case("fold_batch_norm", label, dtype, given, outputs, scale=4.0)


@cases_of
def group_norm(dtype: str) -> Iterator[Case]:
    for shape, groups in (((4, 6), 3), ((2, 3, 4, 6), 1), ((2, 3, 4, 6), 2), ((2, 2, 3, 4), 4), ((1, 2, 2, 1), 1)):
        for layout in (None, *LAYOUTS):
            draw, C = Draw(f"group_norm {shape} {groups} {layout}", dtype), shape[-1:]
            label = f"{shape} in {groups} {layout or ''}".strip()
            x, gamma, beta = 2 + draw.normal(*shape), draw.normal(*C), draw.normal(*C)
            further = {"layouts": layout} if layout else {}
            more = {"terms": x.size, "scale": 8.0}
            given = {"x": x, "gamma": gamma, "beta": beta, "groups": groups, "eps": 1e-3}
            mean_rstd = oracles.group_norm(**given)[1].astype(dtype)
            outputs = {"out": Output(shape, dtype), "mean_rstd": Output(mean_rstd.shape, dtype)}
            yield Case("group_norm", label, dtype, given, outputs, **more, **fields(further, "x"))
            given = {"dy": draw.normal(*shape), "x": x, "gamma": gamma, "mean_rstd": mean_rstd}
            outputs = {"out": Output(shape, dtype), "dgamma": Output(C, dtype), "dbeta": Output(C, dtype)}
            yield Case("group_norm_dx", label, dtype, given, outputs, **more, **fields(further, "dy", "x"))
