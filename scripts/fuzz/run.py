"""Give every reader of gpucnn changed files, and see that it answers with errors of the library's own.

    python scripts/fuzz/run.py                                # 200,000 inputs, and a table
    python scripts/fuzz/run.py --readers onnx --seed 1        # others, of one reader
    python scripts/fuzz/run.py --replay FILE --readers onnx   # one that failed, with its traceback

A reader must accept an input or refuse it with a `GpucnnError` or an `OSError`, in at most two seconds of a processor
and ten of the clock (so that a busy machine finds no more than an idle one), in little memory, and without opening a
file outside of its folder. It runs in a process of its own; if that dies, the input at which it did has failed too. The
same seed gives the same inputs. Ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from fuzz.readers import READERS, Reader
from gpucnn.errors import GpucnnError, unknown_name

SECONDS, WAITING = 2.0, 10.0  # of a processor, and of the clock, for one input
MEMORY = 512 << 20  # beside what the process has before its first input
READABLE = tuple(
    os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, ROOT, "/proc", "/sys", "/usr", "/etc")
)
TIMERS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}


class Hang(BaseException):
    """An input takes too long; no reader catches this."""


class Outside(BaseException):
    """A file outside of the reader's folder was opened."""


@dataclass(frozen=True)
class Failure:
    """An input that was neither accepted nor refused."""

    reader: str
    index: int
    what: str
    path: Path  # where it is kept


@dataclass
class Result:
    """What came of the inputs of one reader."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


def make_input(reader: Reader, files: list[bytes], seed: int, index: int) -> bytes:
    """Return an input: a number that says which file it is, and the file, changed."""
    rng = random.Random(f"{seed} {index}")
    which = rng.randrange(len(files))
    return bytes([which]) + reader.mutate(rng, files[which], rng.choice(files))


# ---- in a process of its own --------------------------------------------------------------------------------------


def work(reader: Reader, seed: int, indices: range, deadline: float, shared: Any, found: Connection) -> None:
    """Give inputs to a reader; `shared` counts (index, accepted, refused), what fails is sent to `found`."""
    files = reader.files()
    quick = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="gpucnn-fuzz-", dir=quick) as name, contextlib.chdir(name):
        os.environ["XDG_CACHE_HOME"] = name
        read = reader.open(Path(name))
        for number in TIMERS.values():
            signal.signal(number, _too_long)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders of images grumble there
        _limit_memory()
        sys.addaudithook(Watch(os.path.realpath(name)))
        for index in indices:
            if time.monotonic() > deadline:
                break
            shared[0] = index
            what = _answer(read, make_input(reader, files, seed, index))
            if what in ("accepted", "refused"):
                shared[1 if what == "accepted" else 2] += 1
            else:
                found.send((index, what))
        shared[0] = indices.stop  # it came to an end


def _answer(read: Any, content: bytes) -> str:
    """Return "accepted", "refused", or what is wrong."""
    started = time.process_time()
    _set_timers(SECONDS, WAITING)
    try:
        read(content)
        what = "accepted"
    except (Hang, Outside) as error:
        what = str(error)
    except (GpucnnError, OSError) as error:
        what = "memory" if _is_of_memory(error) else "refused"
    except Exception as error:
        what = "memory" if _is_of_memory(error) else f"{type(error).__name__}: {_where(error)}"
    finally:
        _set_timers(0.0, 0.0)
    return "hang" if time.process_time() - started > SECONDS else what


def _set_timers(processor: float, clock: float) -> None:
    for timer, seconds in zip(TIMERS, (processor, clock), strict=True):
        signal.setitimer(timer, seconds)


def _is_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out; an error of the library that foresaw it is no such."""
    while error is not None and (isinstance(error, GpucnnError) or not isinstance(error, MemoryError)):
        error = error.__cause__
    return error is not None


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{' '.join(str(error).split())[:80]} ({Path(frame.filename).name}:{frame.lineno})"


def _too_long(number: int, frame: Any) -> None:
    raise Hang("hang")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


class Watch:
    """Raises `Outside` where a file is opened that is not in the folder nor, to be read, of Python or the project."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self, event: str, arguments: tuple) -> None:
        if event != "open" or not isinstance(arguments[0], (str, bytes)):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        writes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if not path.startswith(self.folder) and (writes or not path.startswith(READABLE)):
            raise Outside(f"opens {path}")


# ---- and what watches it ------------------------------------------------------------------------------------------


def fuzz(name: str, reader: Reader, seed: int, count: int, seconds: float, kept: Path) -> Result:
    """Give a reader so many inputs, in at most so many seconds; a process that dies is followed by another."""
    result, started, first = Result(), time.monotonic(), 0
    while first < count and time.monotonic() - started < seconds:
        indices, first = range(first, count), count
        for index, what in _supervised(reader, seed, indices, started + seconds, result):
            content = make_input(reader, reader.files(), seed, index)
            path = kept / f"{name}-{seed}-{index}"
            kept.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            result.failures.append(Failure(name, index, what, path))
            if what.startswith("died"):
                first = index + 1
    result.inputs = result.accepted + result.refused + len(result.failures)
    result.seconds = time.monotonic() - started
    return result


def _supervised(
    reader: Reader, seed: int, indices: range, deadline: float, result: Result
) -> Iterator[tuple[int, str]]:
    """Run `work` in a process, and yield what failed; last the input at which it died, if it did."""
    context = multiprocessing.get_context("spawn")
    shared, (ours, theirs) = context.Array("q", [-1, 0, 0], lock=False), context.Pipe(duplex=False)
    process = context.Process(target=work, args=(reader, seed, indices, deadline, shared, theirs))
    process.start()
    theirs.close()
    last, since = -1, time.monotonic()
    is_alive = True
    while is_alive:
        is_alive = process.is_alive()  # before the last look at what it sent
        with contextlib.suppress(EOFError):
            while ours.poll():
                yield ours.recv()
        process.join(0.05)
        if shared[0] != last:
            last, since = shared[0], time.monotonic()
        elif last >= 0 and time.monotonic() - since > 2 * WAITING:  # in C, where no signal is heard
            process.kill()
    process.join()
    result.accepted, result.refused = result.accepted + shared[1], result.refused + shared[2]
    if shared[0] < 0:
        raise RuntimeError("the worker did not get as far as its first input")
    if process.exitcode:
        yield shared[0], "died: hang" if process.exitcode == -signal.SIGKILL else f"died: {process.exitcode}"


def table(results: dict[str, Result]) -> str:
    """Return the results in Markdown."""
    lines = ["| reader | inputs | accepted | refused | failed | inputs/s |", "|---|---|---|---|---|---|"]
    for name, found in results.items():
        counts = found.inputs, found.accepted, found.refused, len(found.failures)
        speed = found.inputs / max(found.seconds, 1e-9)
        lines.append(f"| {name} | {' | '.join(f'{count:,}' for count in counts)} | {speed:,.0f} |")
    return "\n".join([*lines, f"\n{sum(found.inputs for found in results.values()):,} inputs"])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--inputs", type=int, default=200_000, metavar="N", help="of all readers (default: %(default)s)"
    )
    parser.add_argument("--readers", default=",".join(READERS), metavar="NAMES", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds-each", type=float, default=float("inf"), metavar="S", help="at most, for each reader"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="readers at a time (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "gpucnn-fuzz"), metavar="DIR")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="give this input to the reader, and show what it does"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, print the table and what failed, and return 1 if anything did."""
    options = _options(arguments)
    names = options.readers.split(",")
    for name in set(names) - READERS.keys():
        print(unknown_name("reader", name, READERS), file=sys.stderr)
        return 2
    if options.replay:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            READERS[names[0]].open(Path(folder))(options.replay.resolve().read_bytes())
        return 0
    chosen = {name: READERS[name] for name in names}
    for name in [name for name, reader in chosen.items() if reader.is_missing()]:
        print(f"{name}: left out, the package {chosen.pop(name).needs} is not installed")
    total = sum(reader.share for reader in chosen.values())

    def run(name: str) -> Result:
        count = -(-options.inputs * chosen[name].share // total)
        return fuzz(name, chosen[name], options.seed, count, options.seconds_each, options.keep)

    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip(chosen, pool.map(run, chosen), strict=True))
    print(table(results))
    failures = [failure for found in results.values() for failure in found.failures]
    for failure in failures:
        print(f"{failure.reader}: input {failure.index} of seed {options.seed}: {failure.what}; kept as {failure.path}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
