"""Where the time of a training step goes: by operation of the backend, and by layer, as Markdown tables."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from bench.engine import image_shape
from bench.ops import operations, replaced
from bench.worker import make_batch, make_trainer
from gpucnn import Trainer, get_backend, zoo

Times = dict[Hashable, list[float]]  # seconds of each call of the things that a step consists of

OTHER = "all else"


class Stopwatch:
    """Notes the seconds of each call of some functions; what one of them calls of the others counts as part of it."""

    def __init__(self) -> None:
        self._times: Times = {}
        self._runs = False

    def timed(self, key: Hashable, function: Callable) -> Callable:
        """Return the function, to be called instead, so that its times are noted under a key."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            if self._runs:
                return function(*arguments, **keywords)
            self._runs, start = True, time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self._times.setdefault(key, []).append(time.perf_counter() - start)
                self._runs = False

        return run

    def take(self) -> Times:
        """Return what was noted since the last call."""
        taken, self._times = self._times, {}
        return taken


def leaves(layer: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return the layers that contain no others, with their names: "residual1.sequential1.conv2d1"."""
    parts = [(f"{name}.{part.name}".lstrip("."), part) for part in getattr(layer, "layers", [])]
    return [leaf for path, part in parts for leaf in leaves(part, path)] or [(name, layer)]


class StepTimes:
    """Sees the steps of a network, and notes the seconds of each by the name of its layer."""

    def __init__(self, names: dict[Any, str]):
        self._names = names
        self._times: Times = {}
        self._start = 0.0

    def before(self, layers: Sequence[Any], arrays: Sequence[Any]) -> None:
        """Look at the clock."""
        self._start = time.perf_counter()

    def after(self, what: str, layers: Sequence[Any], arrays: Sequence[Any]) -> None:
        """Note the time of a step: of two layers that compute together, for the one that has weights, or the last."""
        seconds = time.perf_counter() - self._start
        layer = next((layer for layer in layers if layer.parameters()), layers[-1])
        key = self._names[layer], "forward" if what == "the output of" else "backward"
        self._times.setdefault(key, []).append(seconds)

    def take(self) -> Times:
        """Return what was noted since the last call."""
        taken, self._times = self._times, {}
        return taken


def spans(trainer: Trainer) -> Iterator[tuple[Any, str, tuple[str, str]]]:
    """Yield what a step consists of beside the network: an object, its method, and its row and column of the table."""
    yield trainer.loss, "forward", ("loss", "forward")
    yield trainer.loss, "backward", ("loss", "backward")
    yield trainer.optimizer, "step", ("optimizer", "backward")


def profile(options: argparse.Namespace, model_name: str, batch_size: int) -> dict[str, Any]:
    """Time the parts of many training steps of one network; figures are medians over the steps."""
    backend = get_backend(options.device, threads=options.threads if options.device == "cpu" else None)
    shape = image_shape(model_name)
    model = zoo.get_recipe(model_name).model()
    model.build(shape, backend, max_batch=batch_size, seed=0)
    program = model.program
    program.front, program.rest = None, program.whole  # threads share the operations, each of which is seen as a whole
    trainer = make_trainer(model, batch_size)
    batch = tuple(map(backend.from_host, make_batch(batch_size, shape)))
    trainer.step(*batch)
    by_operation, by_layer = Stopwatch(), Stopwatch()
    names = {layer: name for name, layer in leaves(model)}
    by_step = StepTimes(names)
    rounds = []
    with ExitStack() as stack:
        methods = {name: by_operation.timed(name, getattr(backend, name)) for name in operations()}
        stack.enter_context(replaced(backend, methods))
        parts = list(spans(trainer))
        for owner, method, key in parts:
            stack.enter_context(replaced(owner, {method: by_layer.timed(key, getattr(owner, method))}))
        stack.enter_context(program.observed(by_step))
        for _ in range(options.rounds):
            start = time.perf_counter()
            trainer.step(*batch)
            seconds = time.perf_counter() - start
            rounds.append((seconds, by_operation.take(), by_step.take() | by_layer.take()))
    wholes, operation_times, layer_times = zip(*rounds, strict=True)
    return {
        "model": model_name,
        "batch_size": batch_size,
        "threads": backend.threads,
        "seconds": statistics.median(wholes),
        "operations": operation_rows(wholes, operation_times),
        "layers": layer_rows(wholes, layer_times, [*names.values(), *(name for *_, (name, _) in parts)]),
    }


def operation_rows(wholes: Sequence[float], times: Sequence[Times]) -> list[dict[str, Any]]:
    """Return a row for each operation, the longest first, and one for what is between them."""
    rows = [{"operation": name, "calls": len(times[0][name]), "seconds": median(times, name)} for name in times[0]]
    rows.sort(key=lambda row: -row["seconds"])
    return with_shares([*rows, {"operation": OTHER, "seconds": rest(wholes, times)}])


def layer_rows(wholes: Sequence[float], times: Sequence[Times], names: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row for each of the names that was called, and for the rest.

    Another layer may compute a ReLU, which then has no row.
    """
    rows = []
    called = {name for name, _ in times[0]}
    for name in (name for name in dict.fromkeys(names) if name in called):
        forward, backward = (median(times, (name, column)) for column in ("forward", "backward"))
        rows.append({"layer": name, "forward": forward, "backward": backward, "seconds": forward + backward})
    return with_shares([*rows, {"layer": OTHER, "seconds": rest(wholes, times)}])


def median(times: Sequence[Times], key: Hashable) -> float:
    """Return the median time that a step spends on one thing."""
    return statistics.median(sum(found.get(key, [])) for found in times)


def rest(wholes: Sequence[float], times: Sequence[Times]) -> float:
    """Return the median time that a step spends on what is not timed by itself."""
    return statistics.median(whole - sum(map(sum, found.values())) for whole, found in zip(wholes, times, strict=True))


def with_shares(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its share of their sum, which other programs lengthen less than the median of whole steps."""
    total = sum(row["seconds"] for row in rows)
    return [row | {"share": row["seconds"] / total} for row in rows]


def tables(found: dict[str, Any]) -> str:
    """Return both tables of one network as Markdown."""
    threads = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads that share the operations"
    lines = [
        f"`{found['model']}`, batch {found['batch_size']}, {threads}: {found['seconds'] * 1e3:.2f} ms a training step",
        *("", "| operation | calls | ms | share |", "|---|---|---|---|"),
    ]
    for row in found["operations"]:
        cells = row["operation"], row.get("calls", ""), milliseconds(row["seconds"]), f"{row['share']:.0%}"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| layer | forward, ms | backward, ms | both, ms | share |", "|---|---|---|---|---|"]
    for row in found["layers"]:
        times = (milliseconds(row.get(column)) for column in ("forward", "backward", "seconds"))
        lines.append(f"| {row['layer']} | {' | '.join(times)} | {row['share']:.0%} |")
    return "\n".join(lines)


def milliseconds(seconds: float | None) -> str:
    """Return a time as a cell of a table, empty if there is none."""
    return f"{seconds * 1e3:.2f}" if seconds else ""


def run_profiles(options: argparse.Namespace) -> dict[str, Any]:
    """Profile every network at every batch size."""
    if options.device not in ("cpu", "reference"):
        raise SystemExit("bench.py: profile times calls, and those of a GPU return before its work is done; use cpu")
    results = []
    for model in options.models:
        for batch_size in options.batch_sizes:
            results.append(profile(options, model, batch_size))
            print(tables(results[-1]), end="\n\n", flush=True)
    return {"command": "profile", "device": options.device, "rounds": options.rounds, "results": results}
