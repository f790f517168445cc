"""The list of mutations and its table; `scripts/mutations/run.py` holds it to the source and runs it, in minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mutations.list import MUTATIONS, Mutation
from mutations.run import misfit

ROOT = Path(__file__).resolve().parents[2]
FITS = Mutation("a sign", "a.py", "x + y", "x - y", ("test_a.py::test_sum", "-k", "sum"))


def test_there_are_enough_and_none_twice() -> None:
    assert len({(mutation.file, mutation.before, mutation.after) for mutation in MUTATIONS}) == len(MUTATIONS) >= 40
    assert len({mutation.what for mutation in MUTATIONS}) == len(MUTATIONS)


def test_the_table_is_of_this_list_and_has_no_survivor() -> None:
    table = (ROOT / "docs" / "mutations.md").read_text()
    assert [mutation.what for mutation in MUTATIONS if f"| {mutation.what} |" not in table] == []
    assert "| nothing |" not in table


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"file": "b.py"}, "a sign: there is no b.py"),
        ({"tests": ("test_b.py",)}, "a sign: there is no test_b.py"),
        ({"before": "x * y"}, "a sign: expected 'x * y' once in a.py, found it 0 times"),
        ({"before": "x"}, "a sign: expected 'x' once in a.py, found it 2 times"),
        ({"after": "x -"}, "a sign: a.py is not Python with it: invalid syntax (<unknown>, line 1)"),
    ],
)
def test_what_no_longer_fits_the_source_is_named(change: dict, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("z = x + y; x = 0\n")
    (tmp_path / "test_a.py").touch()
    fits = replace(FITS, before="z = x + y", after="z = x - y")
    assert misfit(replace(fits, **change), tmp_path) == reason
