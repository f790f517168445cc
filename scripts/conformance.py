"""Run on gpucnn the tests that others wrote for their software, and tabulate what passes and what is left out.

    python scripts/conformance.py                # a Markdown table; ends with 1 if a test fails or a suite cannot run
    python scripts/conformance.py --write        # puts the table into README.md too
    python scripts/conformance.py --json FILE    # writes versions, counts and names too

A suite is a module of tests/third_party with a SUITE, its title, and perhaps EXCLUDED, which maps the names of tests
that are left out to reasons. The other test modules there look after the suites; they are run, but not counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
FOLDER = ROOT / "tests" / "third_party"
BEGIN, END = "<!-- conformance -->\n", "<!-- end of conformance -->"
PACKAGES = ("gpucnn", "numpy", "torch", "onnx", "onnxruntime", "array-api-strict")
INSTALL = 'python -m pip install ".[test,conformance]"'


@dataclass
class Suite:
    """What came of the tests of one module."""

    title: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)  # name -> reason
    obstacle: str = ""  # why none of its tests could run

    def row(self) -> str:
        """Return the suite as a row of the table."""
        reasons = Counter(self.excluded.values()).most_common()
        why = "; ".join(f"{count:,} x {reason}" for reason, count in reasons)
        return f"| {self.title} | {self.passed:,} | {len(self.failed):,} | {len(self.excluded):,} | {why} |\n"


class Collector:
    """A plugin of pytest that counts for each module, and keeps the names of what failed and of what was skipped."""

    def __init__(self, suites: dict[str, Suite]):
        self.suites = suites  # by file name

    def suite_of(self, nodeid: str) -> Suite | None:
        """Return the suite that a test or a module belongs to."""
        return self.suites.get(Path(nodeid.partition("::")[0]).name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note why a module was skipped or could not be imported."""
        suite = self.suite_of(report.nodeid)
        if suite is not None and not report.passed:
            suite.obstacle = reason_of(report)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read what the modules leave out."""
        for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
            suite = self.suite_of(Path(module.__file__).name)
            if suite is not None:
                suite.excluded |= getattr(module, "EXCLUDED", {})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one test; its set-up and clean-up only where they fail or skip it."""
        suite = self.suite_of(report.nodeid)
        name = report.nodeid.partition("::")[2]
        if suite is None:
            return
        if report.failed:
            suite.failed.append(name)
        elif report.skipped:
            suite.excluded[name] = reason_of(report)
        elif report.when == "call":
            suite.passed += 1


def reason_of(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return the reason of a skip, or the last line of an error."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr).strip().rpartition("\n")[2]


def titles(folder: Path = FOLDER) -> dict[str, str]:
    """Return the SUITE of each test module by file name, without importing any."""
    found = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["SUITE"]:
                found[path.name] = ast.literal_eval(node.value)
    return found


def run(folder: Path = FOLDER) -> tuple[list[Suite], bool]:
    """Run all tests of a folder; return the suites, and whether everything passed, counted or not."""
    suites = {file: Suite(title) for file, title in titles(folder).items()}
    arguments = ["-q", "-rfE", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    status = pytest.main([str(folder), *arguments], plugins=[Collector(suites)])
    for suite in suites.values():
        if not suite.passed and not suite.failed and not suite.obstacle:
            suite.obstacle = "no test ran"
    return list(suites.values()), status == pytest.ExitCode.OK


def table(suites: list[Suite]) -> str:
    """Return the Markdown table."""
    head = "| tests | passed | failed | left out | what is left out |\n|---|---|---|---|---|\n"
    return head + "".join(suite.row() for suite in suites)


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that matter; None for one that is missing."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def write_readme(text: str) -> None:
    """Put the table between its two marks in README.md."""
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md lacks {BEGIN.strip()} or {END}")
    readme.write_text(before + begin + text + end + after)


def main() -> int:
    """Run the suites, and report as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write versions, counts and names to FILE")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    suites, all_passed = run()
    print("\n" + table(suites))
    if options.json:
        options.json.write_text(json.dumps({"versions": versions(), "suites": list(map(asdict, suites))}, indent=2))
    obstacles = [f"{suite.title}: {suite.obstacle}" for suite in suites if suite.obstacle]
    if obstacles:
        print("\n".join(obstacles) + f"\nInstall what the suites need: {INSTALL}", file=sys.stderr)
    elif options.write:
        write_readme(table(suites))
    return 0 if all_passed and not obstacles else 1


if __name__ == "__main__":
    sys.exit(main())
