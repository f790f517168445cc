"""The script that runs other people's tests: what it counts, and that README.md has a row for each suite."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
import pytest

SUITE = "some good"
EXCLUDED = {"first": "one-dimensional", "second": "of integers", "third": "of integers"}

@pytest.mark.parametrize("number", range(3))
def test_number(number):
    assert number != 1

def test_elsewhere():
    pytest.skip("no such package")

@pytest.fixture
def broken():
    raise OSError

def test_set_up(broken):
    pass
"""


MODULES = {
    "test_good_here.py": GOOD,
    "test_skipped_here.py": 'SUITE = "skipped"\nimport pytest\npytest.skip("no torch", allow_module_level=True)',
    "test_broken_here.py": 'SUITE = "broken"\nraise ValueError("a mistake")',
    "test_empty_here.py": 'SUITE = "empty"',
    "test_uncounted_here.py": "def test_nothing(): pass",
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("conformance", ROOT / "scripts" / "conformance.py")
    module = sys.modules["conformance"] = importlib.util.module_from_spec(spec)  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["conformance"]


@pytest.fixture(scope="module")
def suites(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """MODULES as the script sees them."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    found, all_passed = script.run(folder)
    assert not all_passed
    return {suite.title: suite for suite in found}


def test_readme_has_a_row_for_each_suite(script: ModuleType) -> None:
    table = (ROOT / "README.md").read_text().partition(script.BEGIN)[2].partition(script.END)[0]
    shown = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert shown == list(script.titles().values()), "run python scripts/conformance.py --write"


def test_counts_and_reasons(script: ModuleType, suites: dict) -> None:
    good = suites["some good"]
    assert good.passed == 2
    assert good.failed == ["test_number[1]", "test_set_up"]
    assert good.excluded["test_elsewhere"] == "no such package"
    row = "| some good | 2 | 2 | 4 | 2 x of integers; 1 x one-dimensional; 1 x no such package |\n"
    assert script.table([good]).endswith(row)


def test_a_suite_that_cannot_run_says_why(suites: dict) -> None:
    obstacles = {title: suite.obstacle for title, suite in suites.items()}
    assert obstacles == {
        "some good": "",
        "skipped": "no torch",
        "broken": "E   ValueError: a mistake",
        "empty": "no test ran",
    }


@pytest.mark.parametrize(
    ("obstacle", "all_passed", "status"), [("", True, 0), ("", False, 1), ("no torch", True, 1), ("no torch", False, 1)]
)
def test_exit_status(
    script: ModuleType, monkeypatch, tmp_path: Path, capsys, obstacle: str, all_passed: bool, status: int
) -> None:
    suite = script.Suite("one", excluded={"b": "of integers"}, obstacle=obstacle)
    monkeypatch.setattr(script, "run", lambda: ([suite], all_passed))
    monkeypatch.setattr(sys, "argv", ["conformance.py", "--json", str(tmp_path / "found.json")])
    assert script.main() == status
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["versions"].keys() == set(script.PACKAGES)
    assert found["suites"][0]["excluded"] == {"b": "of integers"}
    shown = capsys.readouterr()
    assert script.table([suite]) in shown.out
    assert (script.INSTALL in shown.err) == bool(suite.obstacle)


def test_writing_leaves_the_rest_of_the_readme(script: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{script.BEGIN}old\n{script.END}\nafter")
    script.write_readme("new\n")
    assert (tmp_path / "README.md").read_text() == f"before\n{script.BEGIN}new\n{script.END}\nafter"
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(SystemExit, match=r"lacks <!-- conformance -->"):
        script.write_readme("new\n")
