"""Cases of the updates of the optimizers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from case import Case, Draw, cases_of


@cases_of
def optimizers(dtype: str) -> Iterator[Case]:
    hypers = {"plain": (0.1, 0.0, 0.0), "momentum": (0.1, 0.9, 0.0), "momentum and decay": (0.05, 0.8, 0.3)}
    for label, hyperparameters in hypers.items():
        for nesterov in (False, True):
            title = f"{label}{', Nesterov' if nesterov else ''}"
            draw = Draw(f"sgd_step {title}", dtype)
            arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37)}
            arguments |= {"hyperparameters": np.array(hyperparameters, dtype), "nesterov": nesterov}
            yield Case("sgd_step", title, dtype, arguments, {}, changed=("w", "v"))
    hypers = {"usual": (0.01, 0.9, 0.999, 1e-8, 0.0), "decay": (0.1, 0.8, 0.95, 1e-3, 0.2)}
    for label, hyperparameters in hypers.items():
        for step in (0, 1, 10):
            draw, size = Draw(f"adam_step {label} {step}", dtype), 37
            mean_rstd = (draw.normal(size), draw.normal(size) ** 2) if step else (np.zeros(size, dtype),) * 2
            arguments = {
                "w": draw.normal(size),
                "g": draw.normal(size),
                "m": mean_rstd[0],
                "v": mean_rstd[1].copy(),
            }
            for name in "wg" if step == 0 else "wgmv":
                arguments[name][5] = 0.0  # the gaps of an arena hold zeros and keep them
            powers = np.array([hyperparameters[1] ** step, hyperparameters[2] ** step], dtype)
            arguments |= {"powers": powers, "hyperparameters": np.array(hyperparameters, dtype)}
            title = f"{label}, step {step}"
            for decoupled in (False, True):
                more, how = ("decoupled, ", {"decoupled": True}) if decoupled else ("", {})
                given = {name: value.copy() for name, value in arguments.items()} | how
                yield Case("adam_step", more + title, dtype, given, {}, changed=("w", "m", "v", "powers"))
    hypers = {"usual": (0.01, 0.99, 1e-8, 0.0, 0.0), "all": (0.1, 0.8, 1e-3, 0.7, 0.2)}
    for label, hyperparameters in hypers.items():
        draw = Draw(f"rmsprop_step {label}", dtype)
        arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37) ** 2, "b": draw.normal(37)}
        arguments["hyperparameters"] = np.array(hyperparameters, dtype)
        yield Case("rmsprop_step", label, dtype, arguments, {}, changed=("w", "v", "b"))
    for label, hyperparameters in {"usual": (0.01, 1e-10, 0.0), "decay": (0.1, 1e-3, 0.2)}.items():
        draw = Draw(f"adagrad_step {label}", dtype)
        arguments = {"w": draw.normal(37), "g": draw.normal(37), "v": draw.normal(37) ** 2}
        yield Case(
            "adagrad_step",
            label,
            dtype,
            arguments | {"hyperparameters": np.array(hyperparameters, dtype)},
            {},
            changed=("w", "v"),
        )


@cases_of
def clipping(dtype: str) -> Iterator[Case]:
    for label, limit in {"shrunk": 0.5, "kept": 100.0, "barely kept": 7.0}.items():
        draw = Draw(f"clip_norm {label}", dtype)
        g = draw.normal(37)
        if label == "barely kept":  # the norm is the limit, and 1e-6 makes the share less than 1
            g *= 7.0 / np.linalg.norm(g)
        yield Case("clip_norm", label, dtype, {"g": g, "limit": np.array([limit], dtype)}, {}, changed=("g",))
    for label, value in {"NaN": np.nan, "zero": 0.0}.items():
        g = Draw(f"clip_norm {label}", dtype).normal(37) * (label == "NaN")
        g[5], g[9] = value, 0.0  # the gaps of an arena hold zeros and keep them
        yield Case("clip_norm", label, dtype, {"g": g, "limit": np.array([0.5], dtype)}, {}, changed=("g",))
    g = Draw("clip_norm huge", dtype).normal(600) * np.array(1e30, dtype)  # the square of one is beyond float32
    yield Case("clip_norm", "huge", dtype, {"g": g, "limit": np.array([2.0], dtype)}, {}, changed=("g",))
    g = Draw("clip_norm large", dtype).normal(20_000)  # more than one block on both devices
    arguments = {"g": g, "limit": np.array([70.0], dtype)}
    yield Case("clip_norm", "large", dtype, arguments, {}, changed=("g",), large=True)


@cases_of
def rates(dtype: str) -> Iterator[Case]:
    for clock in (0, 2, 3, 4, 1 << 40):
        arguments = {"rates": np.array([0.5, 0.25, 0.125, 0.1], dtype), "clock": np.array([clock], np.int64)}
        arguments["hyperparameters"] = np.array([9.0, 0.9, 0.01], dtype)
        yield Case("apply_scheduled_rate", f"step {clock}", dtype, arguments, {}, changed=("clock", "hyperparameters"))


@cases_of
def averages(dtype: str) -> Iterator[Case]:
    for decay in (0.0, 0.5, 0.999):
        for step in (0, 1, 10):
            draw = Draw(f"average_step {decay} {step}", dtype)
            arguments = {"w": draw.normal(37), "mean": draw.normal(37) if step else np.zeros(37, dtype)}
            total_weight = sum(decay**age for age in range(step))
            arguments |= {"total_weight": np.array([total_weight], dtype), "hyperparameters": np.array([decay], dtype)}
            title = f"decay {decay}, step {step}"
            yield Case("average_step", title, dtype, arguments, {}, changed=("mean", "total_weight"))
