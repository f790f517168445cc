"""Cases of normalization."""

from __future__ import annotations

from collections.abc import Iterator

import loops
import numpy as np
from case import LAYOUTS, Case, Draw, Output, cases_of, fields


@cases_of
def batch_norm(dtype: str) -> Iterator[Case]:
    for shape in ((6, 4), (2, 3, 5, 4), (1, 2, 2, 1), (9, 1)):
        for layout in (None, *LAYOUTS):
            draw, C = Draw(f"batch_norm {shape} {layout}", dtype), shape[-1:]
            label = f"{shape} {layout or ''}".strip()
            x, gamma, beta = 2 + draw.normal(*shape), draw.normal(*C), draw.normal(*C)
            running = np.stack([draw.normal(*C), abs(draw.normal(*C))])
            scale = {"gamma": gamma, "beta": beta, "running": running}
            further = {"layouts": dict.fromkeys(("x", "dy"), layout)} if layout else {}
            more = {"terms": x.size, "scale": 8.0, **fields({"layouts": layout} if layout else {}, "x")}
            outputs = {"out": Output(shape, dtype), "moments": Output((2, *C), dtype)}
            given = {"x": x, **scale, "momentum": 0.3, "eps": 1e-3}
            yield Case("batch_norm", label, dtype, given, outputs, changed=("running",), **more)
            given, out = {"x": x, **scale, "eps": 1e-3}, {"out": Output(shape, dtype)}
            yield Case("batch_norm_inference", label, dtype, given, out, **more)
            moments = loops.batch_norm(x, gamma, beta, running, 0.3, 1e-3)[1].astype(dtype)
            given = {"dy": draw.normal(*shape), "x": x, "gamma": gamma, "moments": moments}
            outputs = {"out": Output(shape, dtype), "dgamma": Output(C, dtype), "dbeta": Output(C, dtype)}
            yield Case("batch_norm_dx", label, dtype, given, outputs, terms=x.size, scale=8.0, **further)
