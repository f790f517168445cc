"""Say within minutes whether everything works on this machine's GPU, and how fast it is.

    python scripts/gpu/check.py --plan first --out found
    python scripts/gpu/check.py --plan second --out found --data-dir MNIST --only kernels,graph
    python scripts/gpu/check.py --data-dir MNIST --json gpu.json --markdown gpu.md
    python scripts/gpu/check.py --only kernels,graph

A plan is a visit of about five minutes to a machine with a GPU: the first says whether everything works, the second
how fast it is, with the parts again that were mended between them (`--only`). It is made of blocks, each with a limit
of its own and a file of its own, PLAN-BLOCK.jsonl, to which each row is added as it is found, so that whatever ends
early leaves all that was found; PLAN.md has the tables. Without a plan all parts share the minutes: what one leaves,
the later ones have.

Each part is a process of its own, so that one that fails or hangs, or leaves the GPU in an error, stops no other. What
no time is left for is named. The files of --json and --markdown are written anew after each part, whole or not at all.
A Markdown file that has the marks of docs/performance.md gets the tables between them.

Ends with 0 if all parts passed, with 1 if one failed or was not begun, with 2 if there is no GPU or an option is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
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
from functools import partial
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from gpu.job import PRECISIONS, Clock, Job, Row, make_backend
from gpu.parts import TAIL, mnist
from gpu.plan import MENDED, PARTS, PLAN_TIMED, PLANS, Block
from gpucnn.errors import GpucnnError, InputError, lookup
from gpucnn.zoo import get_recipe

PASSED, FAILED, BAD_INPUT = 0, 1, 2
MIN_SECONDS = 3.0  # with which a part is begun
GRACE_SECONDS = 5.0  # which a part may take longer than it has, before it is stopped
RESTART_SECONDS = 10.0  # with which the rest of a part is begun in another process
MINUTES = 9.0  # without a plan
BEGIN, END = "<!-- gpu -->\n", "<!-- end -->"
LAST, HIDDEN = ("ok", "missing", "reason", "left_out"), ("tail",)  # columns of the tables
NOTE = """In bf16 and tf32 the factors of matrix products are rounded, to 8 and 11 significant bits. Arrays, weights and
sums are float32 as ever, and no fewer bytes are moved; PyTorch's autocast stores most arrays in bf16."""


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


def run_blocks(
    blocks: Sequence[Block], job: Job, files: Callable[[Block], Path] | None, after: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    """Run blocks one after another; `after` is called with all outcomes so far, `files` names the file of a block."""
    found: list[Outcome] = []
    for block in blocks:
        with open(files(block), "w+") if files else tempfile.TemporaryFile("w+") as file:
            add_line(file, {"block": block.name, "seconds": block.seconds, "job": asdict(job)})
            for outcome in run_parts(block, job, file):
                found.append(outcome)
                print(told(outcome), flush=True)
                after(found)
    return found


def run_parts(block: Block, job: Job, file: TextIO) -> Iterator[Outcome]:
    """Run the parts of a block, which share its time by what they are predicted to take; all rows go to its file."""
    clock = Clock(block.seconds)
    for number, name in enumerate(block.parts):
        shares = [PARTS[other].seconds(job) for other in block.parts[number:]]
        if clock.left < MIN_SECONDS:
            outcome = Outcome(name, "skipped", f"no time left of {block.seconds:.0f} seconds")
        else:
            print(f"{name} ...", flush=True)
            outcome = run_part(name, job, clock.left * shares[0] / sum(shares), file)
        add_line(file, {"part": name, "outcome": {**asdict(outcome), "rows": len(outcome.rows)}})
        yield outcome


def run_part(name: str, job: Job, seconds: float, file: TextIO) -> Outcome:
    """Run a part in a process of its own; keep the rows that it has found even if it crashes or has to be stopped.

    The process itself adds its rows to the file, so that they stay whatever happens here.
    """
    start, before = time.perf_counter(), file.seek(0, os.SEEK_END)
    order = json.dumps({"seconds": seconds, "job": asdict(job)})
    with tempfile.TemporaryFile("w+") as log:
        pipes = {"stdin": subprocess.PIPE, "stdout": file, "stderr": log}
        process = subprocess.Popen(part_command(name), text=True, start_new_session=True, **pipes)
        try:
            process.communicate(order, timeout=seconds + GRACE_SECONDS)
            reason = f"the process ended with {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"stopped after {seconds + GRACE_SECONDS:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started, and left behind
            process.wait()
        log.seek(0)
        output = log.read()
    file.seek(before)
    rows = list(rows_in(file.read()))
    last = output.strip().splitlines()[-1:]  # of a traceback: the error
    return judged(
        Outcome(name, "", ": ".join([reason, *last]) if reason else "", time.perf_counter() - start, rows), output
    )


def add_line(file: TextIO, value: dict[str, Any]) -> None:
    """Add a line to the file of a block, after one that may be broken off."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    file.write(("" if file.read() in ("", "\n") else "\n") + json.dumps(value, allow_nan=False) + "\n")
    keep(file)


def keep(file: TextIO) -> None:
    """Write what is buffered to the disk, so that it outlives this process, and the machine."""
    file.flush()
    with contextlib.suppress(OSError):  # of what is no file on a disk
        os.fsync(file.fileno())


def rows_in(text: str) -> Iterator[Row]:
    """Yield the rows of a part; a line that is broken off is none."""
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)["row"]


def judged(outcome: Outcome, output: str) -> Outcome:
    """Say whether a part passed: its process ended well and no row says otherwise."""
    bad = sum(row.get("ok") is False for row in outcome.rows)
    left_out = sum("left_out" in row for row in outcome.rows)
    reasons = [outcome.reason] if outcome.reason else [] if outcome.rows else ["it found nothing"]
    reasons += [f"{bad} of {len(outcome.rows)} rows failed"] * (bad > 0)
    status = "failed" if reasons else "passed"
    reasons += [f"{left_out} of {len(outcome.rows)} rows left out"] * (left_out > 0)
    kept = "\n".join(output.splitlines()[-TAIL:]) if outcome.reason else ""
    return replace(outcome, status=status, reason="; ".join(reasons), output=kept)


def do_part(name: str) -> int:
    """Run a part here, as `run_part` has asked for: an order on the input, a line for each row on the output.

    If the GPU gets into an error, such as an illegal access, which no later call of a process survives, another process
    does the rest.
    """
    order = json.loads(sys.stdin.read())
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no row
    job = Job(**order["job"])
    clock = Clock(order["seconds"], job.device, order.get("done", 0))
    for row in PARTS[name].find(job, clock):
        if clock.done and clock.attempts <= clock.done:
            continue  # which was found before
        values = {key: plain(value) for key, value in row.items()}
        rows.write(json.dumps({"part": name, "row": values}) + "\n")
        keep(rows)
        if clock.broken and clock.left > RESTART_SECONDS:
            order = json.dumps(order | {"seconds": clock.left, "done": clock.attempts})
            return subprocess.run(part_command(name), check=False, input=order, text=True, stdout=rows).returncode
    return PASSED


def part_command(name: str) -> list[str]:
    """Return the command that runs a part."""
    return [sys.executable, str(Path(__file__).resolve()), "--part", name]


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
    if any("precision" in row for found in outcomes for row in found.rows):
        tables.insert(1, NOTE)
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
    """Write the files that were asked for, beside those of the blocks."""
    if options.json:
        found = {"job": asdict(job), "plan": options.plan, "parts": list(map(asdict, outcomes))}
        write(options.json, json.dumps(found, indent=2, allow_nan=False) + "\n")
    for path in filter(None, (options.markdown, options.out and options.out / f"{options.plan or 'check'}.md")):
        write(path, document(path, markdown(outcomes)))


# ---- the command --------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"of {', '.join(PARTS)}"
    found.add_argument("--plan", choices=[*PLANS], help="one of two visits of five minutes, with --out")
    found.add_argument("--out", type=Path, metavar="DIR", help="write the files of the blocks there, and tables")
    found.add_argument("--only", metavar="A,B", help=f"{names}; in --plan second the parts that were mended")
    found.add_argument("--skip", metavar="A,B", default="", help=names)
    found.add_argument("--minutes", type=float, metavar="M", help=f"in all, without a plan (default: {MINUTES:g})")
    found.add_argument("--precisions", metavar="A,B", help=f"in this order (default: {','.join(PRECISIONS)})")
    found.add_argument("--timed", metavar="A:N,B:N", help="networks and batch sizes for `steps`, such as vgg:512")
    found.add_argument("--device", default="gpu:0", help="default: %(default)s")
    found.add_argument("--data-dir", metavar="DIR", help="folder of MNIST, which is then trained on")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    found.add_argument("--markdown", type=Path, metavar="FILE", help="write tables there")
    found.add_argument("--part", help=argparse.SUPPRESS)
    return found


def listed(text: str | None) -> list[str]:
    """Return the names of an option."""
    return list(filter(None, (text or "").split(",")))


def chosen(options: argparse.Namespace) -> list[Block]:
    """Return the blocks to run: those of a plan, or one of the parts that are wanted, in their own order."""
    only, skip = listed(options.only), listed(options.skip)
    for name in (*only, *skip):
        lookup("part", name, PARTS)
    wanted = tuple(name for name in PARTS if name in only and name not in skip)
    if options.plan is None:
        parts = tuple(name for name in PARTS if (not only or name in only) and name not in skip)
        return [Block("all", parts, 60 * (MINUTES if options.minutes is None else options.minutes))]
    if options.out is None or options.minutes is not None or (only and options.plan != "second"):
        raise InputError(
            "--plan needs --out DIR, and has its own times; --only names what was mended, in --plan second"
        )
    blocks = [
        replace(
            block, parts=wanted if block.name == MENDED else tuple(name for name in block.parts if name not in skip)
        )
        for block in PLANS[options.plan]
    ]
    return [block for block in blocks if block.parts]


def job_of(options: argparse.Namespace, sizes: Job) -> Job:
    """Return what the parts are asked to do."""
    precisions = listed(options.precisions) or sizes.precisions
    if options.precisions:
        for name in precisions:
            lookup("precision", name, dict.fromkeys(PRECISIONS))
    timed = [timed_network(text) for text in listed(options.timed)] or sizes.timed
    changes = {"precisions": tuple(precisions), "timed": tuple(timed)}
    return replace(sizes, device=options.device, data_dir=options.data_dir, **changes)


def timed_network(text: str) -> tuple[str, int]:
    """Return the network and the batch size of an option such as "vgg:512"."""
    name, _, size = text.partition(":")
    get_recipe(name)
    if not size.isdecimal() or int(size) < 1:
        raise InputError(f"--timed {text}: expected a network and a batch size, such as vgg:512")
    return name, int(size)


def check(options: argparse.Namespace, blocks: Sequence[Block]) -> None:
    """Raise if there is no GPU, a file cannot be written or would be lost, or the images are damaged."""
    for path in filter(None, (options.json, options.markdown)):
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"{path}: cannot be written there; name a file in a folder that exists")
    if options.out:
        try:
            options.out.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {options.out}: {error.strerror}; name a folder in one that exists") from error
        earlier = [path.name for path in (file_of(options, block) for block in blocks) if path.exists()]
        if earlier:
            raise InputError(f"--out {options.out}: has {earlier[0]} of an earlier visit; name another folder")
    backend = make_backend(options.device)
    if not backend.name.startswith("gpu"):
        raise InputError(f"--device {options.device}: expected a GPU (gpu:0), received {backend.name}")
    print(backend.describe(), flush=True)
    if mnist(options.data_dir) is None and options.data_dir is not None:
        print(f"--data-dir {options.data_dir}: has no MNIST; `accuracy` trains on digits", flush=True)


def file_of(options: argparse.Namespace, block: Block) -> Path:
    """Return the file of a block."""
    return options.out / f"{options.plan or 'check'}-{block.name}.jsonl"


def main(arguments: Sequence[str] | None = None, sizes: Job | None = None) -> int:
    """Run the command; `sizes` says how much the parts do, if not as much as a GPU is for."""
    options = parser().parse_args(arguments)
    if options.part:
        return do_part(options.part)
    try:
        blocks, job = chosen(options), job_of(options, sizes or (Job(timed=PLAN_TIMED) if options.plan else Job()))
        check(options, blocks)
    except GpucnnError as error:
        print(f"gpu/check.py: {error}", file=sys.stderr)
        return BAD_INPUT
    files = partial(file_of, options) if options.out else None
    outcomes = run_blocks(blocks, job, files, lambda found: save(options, job, found))
    print("\n" + markdown(outcomes))
    print(f"{sum(found.status == 'passed' for found in outcomes)} of {len(outcomes)} parts passed")
    return PASSED if all(found.status == "passed" for found in outcomes) else FAILED


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))  # so that the part that runs is ended too
    sys.exit(main())
