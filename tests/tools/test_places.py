"""Adding an activation touches three places beside its tests; for each one forgotten a sentence says what is missing.

The places: the formula and its derivative in gpucnn/backend/reference/activations.py, the layer in
gpucnn/layers/activations.py, which exports it everywhere, and its name in README.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import oracles
import pytest
from cases import OPERATIONS

import gpucnn
from gpucnn.backend.reference import Backend
from gpucnn.layers import activations

FORMULAS, LAYERS = "gpucnn/backend/reference/activations.py", "gpucnn/layers/activations.py"
README = Path(__file__).resolve().parents[2] / "README.md"


@dataclass(frozen=True)
class Places:
    """What stands in each place: names of operations, and of layers with the operation of each."""

    formulas: frozenset[str]
    layers: dict[str, str]
    exported: frozenset[str]
    readme: frozenset[str]
    oracles: frozenset[str]
    cases: frozenset[str]


def places() -> Places:
    """Return what stands in each place today."""
    formulas = {
        name
        for name, function in inspect.getmembers(Backend, inspect.isfunction)
        if function.__module__ == FORMULAS.removesuffix(".py").replace("/", ".") and not name.startswith("_")
    }
    kinds = [kind for _, kind in inspect.getmembers(activations, inspect.isclass)]
    layers = {kind.__name__: kind.operation for kind in kinds if hasattr(kind, "operation")}
    (row,) = re.findall(r"^\| activations \|.*$", README.read_text(), re.MULTILINE)
    return Places(
        formulas=frozenset(formulas),
        layers=layers,
        exported=frozenset(name for name in layers if hasattr(gpucnn, name) and name in activations.__all__),
        readme=frozenset(re.findall(r"`(\w+)`", row)),
        oracles=frozenset(name for name, _ in inspect.getmembers(oracles, inspect.isfunction)),
        cases=frozenset(OPERATIONS),
    )


def missing(found: Places) -> Iterator[str]:
    """Yield a sentence for each place that lacks an activation which another place has."""
    for operation in sorted(name for name in found.formulas if f"{name}_dx" in found.formulas):
        if operation not in found.layers.values():
            yield f"{operation}: {LAYERS} has no layer with `operation = {operation!r}`"
    for layer, operation in sorted(found.layers.items()):
        for name, what in ((operation, "formula"), (f"{operation}_dx", "derivative")):
            if name not in found.formulas:
                yield f"{layer}: {FORMULAS} has no {what} `{name}`"
            if name not in found.oracles:
                yield f"{layer}: tests/ops/oracles/activations.py has no oracle `{name}`, written with loops"
            if name not in found.cases:
                yield f"{layer}: tests/ops/cases/activations.py has no case of `{name}`"
        if layer not in found.exported:
            yield f"{layer}: `__all__` of {LAYERS} does not name it, so `gpucnn.{layer}` does not exist"
        if layer not in found.readme:
            yield f"{layer}: the row `activations` of README.md does not name it"


def test_every_activation_stands_in_all_its_places() -> None:
    found = list(missing(places()))
    assert not found, "\n".join(found)


MISH = Places(
    formulas=frozenset({"mish", "mish_dx"}),
    layers={"Mish": "mish"},
    exported=frozenset({"Mish"}),
    readme=frozenset({"Mish"}),
    oracles=frozenset({"mish", "mish_dx"}),
    cases=frozenset({"mish", "mish_dx"}),
)


@pytest.mark.parametrize(
    ("forgotten", "sentence"),
    [
        ({}, None),
        ({"layers": {}}, "mish: gpucnn/layers/activations.py has no layer with `operation = 'mish'`"),
        (
            {"formulas": frozenset({"mish_dx"})},
            "Mish: gpucnn/backend/reference/activations.py has no formula `mish`",
        ),
        (
            {"formulas": frozenset({"mish"})},
            "Mish: gpucnn/backend/reference/activations.py has no derivative `mish_dx`",
        ),
        (
            {"exported": frozenset()},
            "Mish: `__all__` of gpucnn/layers/activations.py does not name it, so `gpucnn.Mish` does not exist",
        ),
        ({"readme": frozenset()}, "Mish: the row `activations` of README.md does not name it"),
        (
            {"oracles": frozenset({"mish"})},
            "Mish: tests/ops/oracles/activations.py has no oracle `mish_dx`, written with loops",
        ),
        ({"cases": frozenset({"mish"})}, "Mish: tests/ops/cases/activations.py has no case of `mish_dx`"),
    ],
)
def test_a_place_that_was_forgotten_is_named(forgotten: dict, sentence: str | None) -> None:
    assert list(missing(replace(MISH, **forgotten))) == ([] if sentence is None else [sentence])
