"""What the source of the package does without: private names of others, chains of types, patched methods, frames.

Each rule is a function that yields what breaks it in a piece of source. What still breaks it is listed by file, and the
lists are exact: what is mended must be taken out of them.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import gpucnn

PACKAGE = Path(gpucnn.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
MAX_ANCESTORS = 10  # beside object
MAX_TYPES = 2  # that one decision may tell apart

NAMED_TUPLE = {"_asdict", "_fields", "_replace"}  # public in spite of their names
FRAMES = {"tb_frame", "f_back", "f_locals", "f_globals", "_getframe", "currentframe", "getouterframes"}


# ---- the rules ----------------------------------------------------------------------------------------------------


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NAMED_TUPLE


def is_own(value: ast.expr) -> bool:
    """Whether it is `self`, `cls` or `super()`."""
    if isinstance(value, ast.Call):
        value = value.func
    return isinstance(value, ast.Name) and value.id in {"self", "cls", "super"}


def private_names_of_others(tree: ast.AST) -> Iterator[str]:
    """Yield `_name` where it is an attribute of anything but self, or is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and not is_own(node.value):
            yield node.attr
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if private(alias.name))


def asks_for_a_type(test: ast.AST) -> bool:
    """Whether a condition has `isinstance(...)`, or compares `type(...)`."""
    for node in ast.walk(test):
        operands = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        calls = [part.func.id for part in operands if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)]
        if "type" in calls:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            return True
    return False


def branches(node: ast.AST) -> list[ast.AST]:
    """Return the conditions of an `if` and its `elif`s, or of another decision; the patterns of a `match`."""
    if isinstance(node, ast.If):
        return [node.test, *(branches(node.orelse[0]) if len(node.orelse) == 1 else [])]
    if isinstance(node, ast.IfExp):
        return [node.test, *branches(node.orelse)]
    if isinstance(node, ast.BoolOp):
        return node.values
    return [case.pattern for case in node.cases] if isinstance(node, ast.Match) else []


def chains_of_types(tree: ast.AST) -> Iterator[str]:
    """Yield the line of each decision between three types or more; of `if`s that follow each other too."""
    for node in ast.walk(tree):
        tests = branches(node)
        decided = [any(isinstance(part, ast.MatchClass) for part in ast.walk(test)) for test in tests]
        decided = decided if isinstance(node, ast.Match) else [asks_for_a_type(test) for test in tests]
        if sum(decided) > MAX_TYPES:
            yield f"line {node.lineno}"
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            yield from rows_of_ifs(body if isinstance(body, list) else [])


def rows_of_ifs(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the line at which a third `if` in a row asks for a type."""
    row = 0
    for statement in body:
        row = row + 1 if isinstance(statement, ast.If) and asks_for_a_type(statement.test) else 0
        if row == MAX_TYPES + 1:
            yield f"line {statement.lineno}"


def patched_attributes(tree: ast.AST) -> Iterator[str]:
    """Yield `setattr` and `delattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"setattr", "delattr"}:
            yield node.func.id


def walked_frames(tree: ast.AST) -> Iterator[str]:
    """Yield what leads from a frame or a traceback to what its function knows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_inspect = isinstance(node.value, ast.Name) and node.value.id == "inspect"
            if node.attr in FRAMES or (of_inspect and node.attr in {"stack", "trace"}):
                yield node.attr
        if isinstance(node, ast.ImportFrom) and node.module in {"inspect", "sys"}:
            yield from (alias.name for alias in node.names if alias.name in FRAMES | {"stack", "trace"})


def ancestors(kind: type) -> int:
    """Return how many classes a class derives from, beside object."""
    return len(kind.__mro__) - 2


# ---- the rules on small sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "source", "expected"),
    [
        (private_names_of_others, "layer._forward(x)", ["_forward"]),
        (private_names_of_others, "self.model._x = other()._y", ["_x", "_y"]),
        (private_names_of_others, "from a import _b, c", ["_b"]),
        (private_names_of_others, "self._x + cls._y + super()._z + a.__dict__ + a.x + a._replace(b=1)", []),
        (chains_of_types, "if isinstance(x, A): 1\nelif isinstance(x, B): 2\nelif type(x) is C: 3", ["line 1"]),
        (chains_of_types, "if isinstance(x, A): 1\nelif isinstance(x, B): 2\nelif x: 3\nelse: 4", []),
        (chains_of_types, "if type(x) is A: 1\nif type(x) == B: 2\nif C is type(x): 3", ["line 3"]),
        (chains_of_types, "if isinstance(x, A): 1\ny = 1\nif isinstance(x, B): 2\nif isinstance(x, C): 3", []),
        (chains_of_types, "isinstance(x, A) or isinstance(x, B) or not isinstance(y, C)", ["line 1"]),
        (chains_of_types, "isinstance(x, (A, B, C)) and y and z", []),
        (chains_of_types, "1 if type(x) is A else 2 if type(x) is B else 3 if type(x) is C else 4", ["line 1"]),
        (chains_of_types, "match x:\n case A(): 1\n case B(): 2\n case C(): 3", ["line 1"]),
        (chains_of_types, "match x:\n case 1: 1\n case 2: 2\n case 3: 3", []),
        (patched_attributes, "setattr(layer, name, f)\ndelattr(layer, name)", ["setattr", "delattr"]),
        (patched_attributes, "layer.name = f", []),
        (walked_frames, "trace.tb_frame.f_locals", ["f_locals", "tb_frame"]),
        (walked_frames, "sys._getframe(1); inspect.stack(); xp.stack(x)", ["_getframe", "stack"]),
        (walked_frames, "from inspect import currentframe, signature", ["currentframe"]),
    ],
)  # fmt: skip
def test_a_rule_finds_what_breaks_it(rule: Callable, source: str, expected: list[str]) -> None:
    assert list(rule(ast.parse(source))) == expected


def test_the_count_of_ancestors() -> None:
    class A: ...

    class B(A, ValueError): ...

    assert (ancestors(A), ancestors(B)) == (0, 4)


# ---- the rules on the package -------------------------------------------------------------------------------------

# What breaks a rule today, by file. To be emptied; an entry with a comment stays.
PRIVATE: dict[str, set[str]] = {}
TYPES: dict[str, int] = {}
PATCHED: dict[str, set[str]] = {
    "backend/assembly.py": {"setattr"},  # a class gets its methods when it is made: this stays
}
WALKED: dict[str, set[str]] = {}
DEEP: set[str] = set()


def broken(rule: Callable[[ast.AST], Iterator[str]]) -> dict[str, list[str]]:
    """Return what breaks a rule in the package, by file."""
    found = {file: list(rule(tree)) for file, tree in SOURCES.items()}
    return {file: what for file, what in found.items() if what}


def test_private_names_stay_in_their_class() -> None:
    assert {file: set(names) for file, names in broken(private_names_of_others).items()} == PRIVATE


def test_no_decision_is_a_chain_of_types() -> None:
    found = broken(chains_of_types)
    assert {file: len(lines) for file, lines in found.items()} == TYPES, found


def test_no_method_is_patched_by_name() -> None:
    assert {file: set(names) for file, names in broken(patched_attributes).items()} == PATCHED


def test_no_frame_is_walked() -> None:
    assert {file: set(names) for file, names in broken(walked_frames).items()} == WALKED


def test_no_class_has_many_ancestors() -> None:
    found = {}
    for file in SOURCES:
        if file != "__main__.py" and not (file.startswith("onnx/") and find_spec("onnx") is None):
            name = ".".join(["gpucnn", *Path(file).with_suffix("").parts]).removesuffix(".__init__")
            kinds = inspect.getmembers(import_module(name), inspect.isclass)
            found[file] = [kind for kind, each in kinds if each.__module__ == name and ancestors(each) > MAX_ANCESTORS]
    assert {file for file, deep in found.items() if deep} == DEEP, found
