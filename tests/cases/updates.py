"""Cases of the updates of the optimizers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from case import Case, Draw, cases_of


@cases_of
def optimizers(dtype: str) -> Iterator[Case]:
    hypers = {"plain": (0.1, 0.0, 0.0), "momentum": (0.1, 0.9, 0.0), "momentum and decay": (0.05, 0.8, 0.3)}
    for label, hyper in hypers.items():
        for nesterov in (False, True):
            title = f"{label}{', Nesterov' if nesterov else ''}"
            draw = Draw(f"sgd_step {title}", dtype)
            arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37)}
            arguments |= {"hyper": np.array(hyper, dtype), "nesterov": nesterov}
            yield Case("sgd_step", title, dtype, arguments, {}, changed=("w", "v"))
    hypers = {"usual": (0.01, 0.9, 0.999, 1e-8, 0.0), "decay": (0.1, 0.8, 0.95, 1e-3, 0.2)}
    for label, hyper in hypers.items():
        for step in (0, 1, 10):
            draw, size = Draw(f"adam_step {label} {step}", dtype), 37
            moments = (draw.normal(size), draw.normal(size) ** 2) if step else (np.zeros(size, dtype),) * 2
            arguments = {
                "w": draw.normal(size),
                "g": draw.normal(size),
                "m": moments[0],
                "v": moments[1].copy(),
            }
            for name in "wg" if step == 0 else "wgmv":
                arguments[name][5] = 0.0  # the gaps of an arena hold zeros and keep them
            powers = np.array([hyper[1] ** step, hyper[2] ** step], dtype)
            arguments |= {"powers": powers, "hyper": np.array(hyper, dtype)}
            title = f"{label}, step {step}"
            for decoupled in (False, True):
                more, how = ("decoupled, ", {"decoupled": True}) if decoupled else ("", {})
                given = {name: value.copy() for name, value in arguments.items()} | how
                yield Case("adam_step", more + title, dtype, given, {}, changed=("w", "m", "v", "powers"))
    hypers = {"usual": (0.01, 0.99, 1e-8, 0.0, 0.0), "all": (0.1, 0.8, 1e-3, 0.7, 0.2)}
    for label, hyper in hypers.items():
        draw = Draw(f"rmsprop_step {label}", dtype)
        arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37) ** 2, "b": draw.normal(37)}
        arguments["hyper"] = np.array(hyper, dtype)
        yield Case("rmsprop_step", label, dtype, arguments, {}, changed=("w", "v", "b"))
    for label, hyper in {"usual": (0.01, 1e-10, 0.0), "decay": (0.1, 1e-3, 0.2)}.items():
        draw = Draw(f"adagrad_step {label}", dtype)
        arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37) ** 2}
        yield Case("adagrad_step", label, dtype, arguments | {"hyper": np.array(hyper, dtype)}, {}, changed=("w", "v"))
