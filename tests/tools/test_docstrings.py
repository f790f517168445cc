"""Every public class and function says in one sentence what it is, and shows an example, which runs."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType

import numpy as np
import pytest
from package_modules import module, modules

import gpucnn

# Where users import from, beside the package itself.
PUBLIC = [
    "gpucnn",
    *("gpucnn.data", "gpucnn.layers", "gpucnn.losses", "gpucnn.onnx", "gpucnn.training.checkpoints", "gpucnn.zoo"),
    *("gpucnn.optim.averaging", "gpucnn.optim.hyperparameters", "gpucnn.optim.optimizers", "gpucnn.optim.schedules"),
    *("gpucnn.checks", "gpucnn.errors", "gpucnn.geometry", "gpucnn.gradcheck", "gpucnn.representation"),
]

# What examples find: as after `import numpy as np` and `from gpucnn import *`, beside what their module holds.
NAMES = {"np": np} | {name: getattr(gpucnn, name) for name in gpucnn.__all__}


def public_things(name: str) -> Iterator[tuple[str, object]]:
    """Yield the classes and functions that a module offers, by name."""
    found = module(name)
    for key in found.__all__:
        value = getattr(found, key)
        if isinstance(value, (type, FunctionType, MethodType)):
            yield key, value


def docstring(thing: object) -> str:
    """Return a docstring of a thing's own, not of what it derives from."""
    return (vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__) or ""


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str) -> None:
    found = module(name)
    assert doctest.testmod(found, globs=NAMES | vars(found) | {"__name__": "__main__"}).failed == 0


def without_example(name: str) -> set[str]:
    parser = doctest.DocTestParser()
    return {key for key, thing in public_things(name) if not parser.get_examples(docstring(thing))}


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_has_an_example(name: str) -> None:
    assert without_example(name) == set(), "give it an example that runs"


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_begins_with_a_sentence(name: str) -> None:
    firsts = {key: docstring(thing).partition("\n")[0] for key, thing in public_things(name)}
    assert {key: first for key, first in firsts.items() if not first.endswith(".")} == {}


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(gpucnn.__file__).with_name("py.typed").exists()
