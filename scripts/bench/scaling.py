"""Time training steps of growing batches on one thread and on several: is the time linear, and what do threads gain?"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np

from bench.engine import Engine, make_job, take_turns

Engines = dict[tuple[int, int], Engine]  # by batch size and number of threads

HEADER = (
    f"{'model':>9} {'batch':>6} {'threads':>8} {'step':>13} {'per image':>13} {'relative':>9} {'on a line':>9} "
    f"{'speedup':>8}"
)


def measure(options: argparse.Namespace, model: str) -> list[dict[str, Any]]:
    """Time one network at all batch sizes, on one thread and on several, in turns: all are in memory meanwhile."""
    counts = sorted({1, options.threads}) if options.device == "cpu" else [options.threads]
    engines = {
        (batch_size, threads): Engine("gpucnn", make_job(options, "step", model, batch_size, threads))
        for threads in counts
        for batch_size in options.batch_sizes
    }
    take_turns(engines.values(), options.rounds)
    return [result(model, engines, *key) for key in engines]


def result(model: str, engines: Engines, batch_size: int, threads: int) -> dict[str, Any]:
    """Sum up the rounds of one engine, beside those of the first batch size and of the fewest threads."""
    engine = engines[batch_size, threads]
    first, fewest = (min(values) for values in zip(*engines, strict=True))
    seconds = statistics.median(engine.seconds)
    return {
        "model": model,
        "batch_size": batch_size,
        "threads": threads,
        "seconds": seconds,
        "seconds_per_image": seconds / batch_size,
        "relative_to_smallest": ratio(engine, engines[first, threads]) * first / batch_size,
        "relative_to_line": seconds / on_line(engines, batch_size, threads),
        "speedup": ratio(engines[batch_size, fewest], engine),
        "peak_bytes": engine.peak_bytes,
        "versions": engine.about["versions"],
    }


def ratio(one: Engine, other: Engine) -> float:
    """How many times as long one takes as the other: the median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def on_line(engines: Engines, batch_size: int, threads: int) -> float:
    """Return the seconds of a batch on the straight line through those of all, `a + b N`, by least relative squares."""
    times = {N: statistics.median(engine.seconds) for (N, count), engine in engines.items() if count == threads}
    if len(times) < 3:  # it goes through all points
        return times[batch_size]
    seconds = np.array(list(times.values()))
    return float(np.polyval(np.polyfit(list(times), seconds, 1, w=1 / seconds), batch_size))


def show(found: dict[str, Any]) -> None:
    """Print one row of the table."""
    print(
        f"{found['model']:>9} {found['batch_size']:>6,} {found['threads']:>8} {found['seconds'] * 1e3:>10.2f} ms "
        f"{found['seconds_per_image'] * 1e6:>10.1f} us {found['relative_to_smallest']:>9.2f} "
        f"{found['relative_to_line']:>9.2f} {found['speedup']:>8.2f}",
        flush=True,
    )


def run_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Time every network; print a row for each batch size and number of threads."""
    print(HEADER)
    results = []
    for model in options.models:
        for found in measure(options, model):
            show(found)
            results.append(found)
    print("\nrelative: time per image beside the smallest batch's; 1 or less: a step grows no faster than its batch")
    print("on a line: beside the straight line through the times of all batches: a fixed part, and one for each image")
    print("speedup: beside one thread, at the same batch")
    return {"command": "scaling", "rounds": options.rounds, "results": results}
