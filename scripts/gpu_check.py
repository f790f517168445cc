"""Say within minutes whether everything works on this machine's GPU, and how fast it is.

    python scripts/gpu_check.py --data-dir MNIST --json gpu.json --markdown gpu.md
    python scripts/gpu_check.py --only kernels,graph

Each part is a process of its own, so that one that fails or hangs, or leaves the GPU in an error, stops no other. The
parts share the time: what one leaves, the later ones have; what no time is left for is named. The files are written
anew after each part, whole or not at all. A Markdown file that has the marks of docs/performance.md gets the tables
between them.

Ends with 0 if all parts passed, with 1 if one failed or was not begun, with 2 if there is no GPU or an option is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gpu_parts
import gpu_speed
from gpu_job import Clock, Job, Row, make_backend

from gpucnn.errors import GpucnnError, InputError, lookup

PASSED, FAILED, BAD_INPUT = 0, 1, 2
LEAST_SECONDS = 3.0  # with which a part is begun
GRACE_SECONDS = 10.0  # which a part may take longer than it has, before it is stopped
BEGIN, END = "<!-- gpu -->\n", "<!-- end -->"
LAST, HIDDEN = ("ok", "missing", "reason", "left_out"), ("tail",)  # columns of the tables


@dataclass(frozen=True)
class Part:
    """A function that yields rows, and its share of the time: about its seconds if all parts run."""

    find: Callable[[Job, Clock], Iterator[Row]]
    share: float


PARTS = {
    "machine": Part(gpu_parts.machine, 10),
    "kernels": Part(gpu_parts.kernels, 75),
    "graph": Part(gpu_parts.graph, 25),
    "determinism": Part(gpu_parts.determinism, 25),
    "costs": Part(gpu_speed.costs, 40),
    "bandwidth": Part(gpu_speed.bandwidth, 20),
    "steps": Part(gpu_speed.steps, 160),
    "accuracy": Part(gpu_parts.accuracy, 45),
    "tests": Part(gpu_parts.tests, 130),
}


@dataclass
class Outcome:
    """What came of a part: "passed", "failed", or "skipped" because no time was left."""

    part: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    rows: Sequence[Row] = ()
    output: str = ""  # the end of what a part that failed has printed


# ---- running parts ------------------------------------------------------------------------------------------------


def run_parts(names: Sequence[str], job: Job, minutes: float, after: Callable[[list[Outcome]], None]) -> list[Outcome]:
    """Run parts one after another within so many minutes; `after` is called with all outcomes so far."""
    clock, found = Clock(60 * minutes), []
    for number, name in enumerate(names):
        shares = [PARTS[other].share for other in names[number:]]
        if clock.left < LEAST_SECONDS:
            found.append(Outcome(name, "skipped", f"no time left of {minutes:g} minutes"))
        else:
            print(f"{name} ...", flush=True)
            found.append(run_part(name, job, clock.left * shares[0] / sum(shares)))
        print(told(found[-1]), flush=True)
        after(found)
    return found


def run_part(name: str, job: Job, seconds: float) -> Outcome:
    """Run a part in a process of its own; keep the rows that it has found even if it crashes or has to be stopped."""
    start = time.perf_counter()
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name]
    order = json.dumps({"seconds": seconds, "job": asdict(job)})
    with tempfile.TemporaryFile("w+") as log:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
        try:
            text, _ = process.communicate(order, timeout=seconds + GRACE_SECONDS)
            reason = f"the process ended with {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            text, _ = process.communicate()
            reason = f"stopped after {seconds + GRACE_SECONDS:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        log.seek(0)
        output = log.read()
    rows = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    last = output.strip().splitlines()[-1:]  # of a traceback: the error
    return judged(
        Outcome(name, "", ": ".join([reason, *last]) if reason else "", time.perf_counter() - start, rows), output
    )


def judged(outcome: Outcome, output: str) -> Outcome:
    """Say whether a part passed: its process ended well and no row says otherwise."""
    bad = sum(row.get("ok") is False for row in outcome.rows)
    left_out = sum("left_out" in row for row in outcome.rows)
    reasons = [outcome.reason] if outcome.reason else [] if outcome.rows else ["it found nothing"]
    reasons += [f"{bad} of {len(outcome.rows)} rows failed"] * (bad > 0)
    status = "failed" if reasons else "passed"
    reasons += [f"{left_out} of {len(outcome.rows)} rows left out"] * (left_out > 0)
    kept = "\n".join(output.splitlines()[-gpu_parts.TAIL :]) if outcome.reason else ""
    return replace(outcome, status=status, reason="; ".join(reasons), output=kept)


def do_part(name: str) -> int:
    """Run a part here, as `run_part` has asked for: an order on the input, a line for each row on the output."""
    order = json.loads(sys.stdin.read())
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no row
    for row in PARTS[name].find(Job(**order["job"]), Clock(order["seconds"])):
        print(json.dumps({key: plain(value) for key, value in row.items()}), file=rows, flush=True)
    return PASSED


def plain(value: Any) -> Any:
    """Return what JSON can hold: a NaN or an infinity by its name."""
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


# ---- the report ---------------------------------------------------------------------------------------------------


def told(outcome: Outcome) -> str:
    """Return an outcome for the terminal: all rows that failed, and a word on the others."""
    lines = [f"{outcome.part}: {outcome.status}, {len(outcome.rows)} rows in {outcome.seconds:.0f} s"]
    lines[0] += f" ({outcome.reason})" if outcome.reason else ""
    lines += [f"    {row}" for row in outcome.rows if row.get("ok") is False]
    return "\n".join([*lines, *(f"    {line}" for line in outcome.output.splitlines())])


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return a table of the parts, and one of the rows of each."""
    parts = [{"part": f"`{found.part}`", "result": found.status, "why": found.reason} for found in outcomes]
    tables = [table(parts), *(f"`{found.part}`\n\n{table(found.rows)}" for found in outcomes if found.rows)]
    return "\n\n".join(tables) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, with a column for each key that one of them has."""
    keys = dict.fromkeys(key for row in rows for key in row)
    keys = [*(key for key in keys if key not in LAST + HIDDEN), *(key for key in LAST if key in keys)]
    lines = [keys, ["---"] * len(keys), *([shown(row.get(key)) for key in keys] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(value: Any) -> str:
    """Return a cell: numbers with three digits or without a fraction, hashes by their beginning."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = "" if value is None else f"{value:,}" if type(value) is int else str(value)
    text = text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text
    return text.replace("|", "\\|").replace("\n", " ")


def document(path: Path, tables: str) -> str:
    """Return what a Markdown file becomes: the tables, between its marks if it has any."""
    before, begin, rest = path.read_text().partition(BEGIN) if path.exists() else ("", "", "")
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{tables}\n{end}{after}" if end else tables


def write(path: Path, text: str) -> None:
    """Write a file whole, or leave it as it is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(options: argparse.Namespace, job: Job, outcomes: Sequence[Outcome]) -> None:
    """Write the files that were asked for."""
    if options.json:
        found = {"job": asdict(job), "minutes": options.minutes, "parts": list(map(asdict, outcomes))}
        write(options.json, json.dumps(found, indent=2, allow_nan=False) + "\n")
    if options.markdown:
        write(options.markdown, document(options.markdown, markdown(outcomes)))


# ---- the command --------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"of {', '.join(PARTS)}"
    found.add_argument("--only", metavar="A,B", help=names)
    found.add_argument("--skip", metavar="A,B", default="", help=names)
    found.add_argument("--minutes", type=float, default=9.0, metavar="M", help="in all (default: %(default)g)")
    found.add_argument("--device", default="gpu:0", help="default: %(default)s")
    found.add_argument("--data-dir", metavar="DIR", help="folder of MNIST, which is then trained on")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    found.add_argument("--markdown", type=Path, metavar="FILE", help="write tables there")
    found.add_argument("--part", help=argparse.SUPPRESS)
    return found


def chosen(options: argparse.Namespace) -> list[str]:
    """Return the names of the parts to run, in their own order."""
    only, skip = (set(filter(None, (text or "").split(","))) for text in (options.only, options.skip))
    for name in only | skip:
        lookup("part", name, PARTS)
    return [name for name in PARTS if (not only or name in only) and name not in skip]


def check(options: argparse.Namespace) -> None:
    """Raise if there is no GPU or a file cannot be written."""
    for path in filter(None, (options.json, options.markdown)):
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"{path}: cannot be written there; name a file in a folder that exists")
    backend = make_backend(options.device)
    if not backend.name.startswith("gpu"):
        raise InputError(f"--device {options.device}: expected a GPU (gpu:0), received {backend.name}")
    print(backend.describe(), flush=True)


def main(arguments: Sequence[str] | None = None, sizes: Job | None = None) -> int:
    """Run the command; `sizes` says how much the parts do, if not as much as a GPU is for."""
    options = parser().parse_args(arguments)
    if options.part:
        return do_part(options.part)
    try:
        names = chosen(options)
        check(options)
    except GpucnnError as error:
        print(f"gpu_check.py: {error}", file=sys.stderr)
        return BAD_INPUT
    job = replace(sizes or Job(), device=options.device, data_dir=options.data_dir)
    outcomes = run_parts(names, job, options.minutes, lambda found: save(options, job, found))
    print("\n" + markdown(outcomes))
    print(f"{sum(found.status == 'passed' for found in outcomes)} of {len(outcomes)} parts passed")
    return PASSED if all(found.status == "passed" for found in outcomes) else FAILED


if __name__ == "__main__":
    sys.exit(main())
