"""The list of mutations fits the source; `scripts/mutations/run.py` runs them, which takes minutes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mutations.list import MUTATIONS, Mutation
from mutations.run import break_source

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what.replace(" ", "_"))
def test_every_mutation_fits_the_source(mutation: Mutation) -> None:
    ast.parse(break_source(mutation, ROOT))
    for argument in mutation.tests:
        assert not argument.endswith(".py") or (ROOT / argument).exists()


def test_there_are_enough_and_none_twice() -> None:
    assert len({(mutation.file, mutation.before, mutation.after) for mutation in MUTATIONS}) == len(MUTATIONS) >= 40
    assert len({mutation.what for mutation in MUTATIONS}) == len(MUTATIONS)


def test_the_table_is_of_this_list_and_has_no_survivor() -> None:
    table = (ROOT / "docs" / "mutations.md").read_text()
    assert [mutation.what for mutation in MUTATIONS if f"| {mutation.what} |" not in table] == []
    assert "| nothing |" not in table
