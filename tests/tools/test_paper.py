"""Each formula of the paper has its function, and docs/paper.md says which."""

from __future__ import annotations

from pathlib import Path

from generate import paper

ROOT = Path(__file__).resolve().parents[2]


def test_every_formula_has_exactly_one_function() -> None:
    found = paper.functions()
    assert {place: names for place, names in found.items() if len(names) != 1} == {}
    assert found.keys() == paper.PLACES.keys()


def test_the_table_is_up_to_date() -> None:
    written = (ROOT / "docs" / "paper.md").read_text()
    assert written == paper.table(), "run python scripts/generate/paper.py"
