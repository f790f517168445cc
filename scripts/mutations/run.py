"""Break the library in many ways, one at a time, and see that the tests notice: `python scripts/mutations/run.py`.

Each mutation replaces one piece of the source in a copy of the project and runs the tests that are there to catch it.
One that no test notices is a hole in the tests. Those that no longer fit the source are named first: mend them in
scripts/mutations/list.py. `--write` puts the list and the score into docs/mutations.md.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from mutations.list import MUTATIONS, Mutation

COPIED = ("gpucnn", "tests", "scripts", "docs", "pyproject.toml", "README.md")

HEAD = """# Mutations: what the tests catch

Written by `python scripts/mutations/run.py --write`. Each row is one way to break the library, done to a copy of it,
and the first test that failed. Of {count} mutations the tests caught {caught}.

| file | what is broken | caught by |
|---|---|---|
"""


def misfit(mutation: Mutation, root: Path) -> str:
    """Return why a mutation no longer fits the source, as one line; empty if it fits."""
    missing = [name for name in (mutation.file, *map(file_of, mutation.tests)) if not (root / name).exists()]
    if missing:
        return f"{mutation.what}: there is no {missing[0]}"
    source = (root / mutation.file).read_text()
    times = source.count(mutation.before)
    if times != 1:
        return f"{mutation.what}: expected {mutation.before!r} once in {mutation.file}, found it {times} times"
    try:
        ast.parse(source.replace(mutation.before, mutation.after))
    except SyntaxError as error:
        return f"{mutation.what}: {mutation.file} is not Python with it: {error}"
    return ""


def file_of(argument: str) -> str:
    """Return the file that an argument of pytest names; the root, ".", if it names none."""
    file = argument.partition("::")[0]
    return file if file.endswith(".py") else "."


def first_failure(mutation: Mutation) -> str:
    """Return the name of the first test that notices a mutation; empty if none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            path = ROOT / name
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / name)
        file = copy / mutation.file
        file.write_text(file.read_text().replace(mutation.before, mutation.after))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    failed = re.search(r"^FAILED (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:  # a broken import proves nothing
        raise SystemExit(f"{mutation.what}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr}")
    return failed[1]


def main() -> int:
    """Run all mutations, or those whose description contains a text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="run the mutations whose description contains this")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutations at a time (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/mutations.md")
    options = parser.parse_args()
    wanted = [mutation for mutation in MUTATIONS if options.only in mutation.what]
    misfits = {mutation: reason for mutation in wanted if (reason := misfit(mutation, ROOT))}
    for reason in misfits.values():
        print(f"MISFIT    {reason}", flush=True)
    chosen = [mutation for mutation in wanted if mutation not in misfits]
    rows, survivors = [], []
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutation, failure in zip(chosen, pool.map(first_failure, chosen), strict=True):
            print(f"{'caught  ' if failure else 'SURVIVED'}  {mutation.what}  {failure}", flush=True)
            rows.append(f"| `{mutation.file}` | {mutation.what} | {f'`{failure}`' if failure else 'nothing'} |\n")
            survivors += [] if failure else [mutation]
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} caught; {len(misfits)} no longer fit the source")
    if options.write and not (options.only or misfits):
        head = HEAD.format(count=len(chosen), caught=len(chosen) - len(survivors))
        (ROOT / "docs" / "mutations.md").write_text(head + "".join(rows))
    return 1 if survivors or misfits else 0


if __name__ == "__main__":
    sys.exit(main())
