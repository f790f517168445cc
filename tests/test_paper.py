"""Each formula of the paper has its function, and docs/paper.md says which."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_table", ROOT / "scripts" / "paper_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_formula_has_exactly_one_function(script: ModuleType) -> None:
    found = script.functions()
    assert {place: names for place, names in found.items() if len(names) != 1} == {}
    assert found.keys() == script.PLACES.keys()


def test_the_table_is_up_to_date(script: ModuleType) -> None:
    written = (ROOT / "docs" / "paper.md").read_text()
    assert written == script.table(), "run python scripts/paper_table.py"
