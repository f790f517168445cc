"""The shape of the package: imports run one way, optional packages stay optional, everything is documented."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, FunctionType

import numpy as np
import pytest
from package_modules import FILES, PACKAGE, module, module_of, modules

from gpucnn import Conv2D, get_backend

MAX_FILES, MAX_FOLDERS = 10, 8  # at the top level
MAX_LINES = 600

# From the ground up. A module may import from the rows before its own, and from modules of its own name; within a row
# only where `ALSO` says so. A package stands for all its modules.
ROWS = [
    ["errors", "representation"],
    ["checks", "geometry"],
    ["backend"],
    ["execution", "optim"],
    ["layers", "losses", "data"],
    ["model", "gradcheck"],
    ["zoo", "onnx"],
    ["training"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, row in enumerate(ROWS) for name in row}
ALSO: set[tuple[str, str]] = set()
IMPORT = (ast.Import, ast.ImportFrom)

SOURCES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in FILES}


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, ast.stmt]]:
    """Yield every imported module by full name: of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: -node.level + 1 or None] if node.level else []
            module = ".".join([*parent, *([node.module] if node.module else [])])
            yield module, node
            yield from ((f"{module}.{alias.name}", node) for alias in node.names)


def package_of(file: str) -> str:
    return ".".join(["gpucnn", *Path(file).parts[:-1]])


def part_of(file: str) -> str:
    """Name of the row's entry that a file belongs to: of backend/random.py "backend"."""
    return Path(file).parts[0].removesuffix(".py")


def mentioned_parts(file: str) -> set[str]:
    names = {name for name, _ in imports(SOURCES[file], package_of(file))}
    return {name.split(".")[1] for name in names if name.startswith("gpucnn.") and name.split(".")[1] in LEVEL}


def import_graph(sources: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Return what each module imports, in a function or for types too; of `from a import b` a.b, if it is a module."""
    files = {module_of(file): file for file in sources}
    graph: dict[str, set[str]] = {name: set() for name in files}
    for user, file in files.items():
        for node in ast.walk(sources[file]):
            names = [name for name, _ in imports(node, package_of(file))] if isinstance(node, IMPORT) else []
            if isinstance(node, ast.ImportFrom):
                names = [name if name in files else names[0] for name in names[1:]]
            graph[user] |= set(names) & files.keys()
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the sets of nodes that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        found, pending = set(), [start]
        while pending:
            new = graph[pending.pop()] - found
            found |= new
            pending.extend(new)
        reached[start] = found
    return {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}


def functions_around(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node, and whether a function contains it."""
    pending = [(tree, False)]
    while pending:
        node, inside = pending.pop()
        yield node, inside
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        pending.extend((child, inside) for child in ast.iter_child_nodes(node))


# ---- imports ------------------------------------------------------------------------------------------------------


def test_every_file_has_its_place() -> None:
    assert {part_of(file) for file in SOURCES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("file", [file for file in SOURCES if file != "__init__.py"])
def test_imports_run_one_way(file: str) -> None:
    part = part_of(file)
    allowed = {other for other in LEVEL if LEVEL[other] < LEVEL[part]} | {part}
    allowed |= {other for user, other in ALSO if user == part}
    assert mentioned_parts(file) <= allowed


def test_no_modules_import_each_other() -> None:
    assert circles(import_graph(SOURCES)) == set()


def test_the_circles_of_imports() -> None:
    sources = {
        "__init__.py": "from gpucnn.a import A",
        "a.py": "from gpucnn.b import c",
        "b/__init__.py": "",
        "b/c.py": "if TYPE_CHECKING:\n    from gpucnn.d import D",
        "d.py": "def f():\n    import gpucnn.a",
        "e.py": "from . import a, b\nfrom .b.c import x",
    }
    graph = import_graph({file: ast.parse(text) for file, text in sources.items()})
    assert graph == {
        "gpucnn": {"gpucnn.a"},
        "gpucnn.a": {"gpucnn.b.c"},
        "gpucnn.b": set(),
        "gpucnn.b.c": {"gpucnn.d"},
        "gpucnn.d": {"gpucnn.a"},
        "gpucnn.e": {"gpucnn.a", "gpucnn.b", "gpucnn.b.c"},
    }
    assert circles(graph) == {frozenset({"gpucnn.a", "gpucnn.b.c", "gpucnn.d"})}
    assert circles(graph | {"gpucnn.d": set()}) == set()


def crowd(folder: Path) -> str:
    """Return how many files and folders of Python a folder has, if that is more than a reader takes in."""
    files = len(list(folder.glob("*.py")))
    folders = sum(any(path.glob("*.py")) for path in folder.iterdir() if path.is_dir())
    allowed = files <= MAX_FILES and folders <= MAX_FOLDERS
    return "" if allowed else f"{files} files and {folders} folders, expected at most {MAX_FILES} and {MAX_FOLDERS}"


def test_the_top_level_is_taken_in_at_a_glance(tmp_path: Path) -> None:
    assert crowd(PACKAGE) == ""
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.py").touch()
    assert crowd(tmp_path) == "11 files and 0 folders, expected at most 10 and 8"


@pytest.mark.parametrize(
    "file", [file for file in SOURCES if file not in ("__init__.py", "cli/main.py", "cli/train.py")]
)
def test_only_the_command_line_imports_the_whole_package(file: str) -> None:
    assert "gpucnn" not in {name for name, node in imports(SOURCES[file], package_of(file))}


def test_the_reading_of_imports() -> None:
    tree = ast.parse("import a.b\nfrom . import c\nfrom ..d import e\ndef f():\n    from g import h")
    assert {name for name, _ in imports(tree, "p.q")} == {"a.b", "p.q", "p.q.c", "p.d", "p.d.e", "g", "g.h"}


def test_the_foundation_imports_no_arrays() -> None:
    for file in ("errors.py", "checks.py", "geometry.py", "backend/memory.py", "backend/philox.py"):
        assert "numpy" not in {name.partition(".")[0] for name, _ in imports(SOURCES[file], "gpucnn")}, file


def test_cupy_is_imported_inside_functions_of_the_gpu_backend_only() -> None:
    found = []
    for file, tree in SOURCES.items():
        for node, inside in functions_around(tree):
            if isinstance(node, IMPORT):
                names = {name.partition(".")[0] for name, _ in imports(ast.Module([node], []), package_of(file))}
                if names & {"cupy", "cupyx", "cupy_backends"}:
                    found.append((file, inside))
    assert found
    assert set(found) == {("backend/gpu/device.py", True)}


def test_onnx_is_imported_by_its_own_package_only() -> None:
    users = {file for file, tree in SOURCES.items() if "onnx" in {name for name, _ in imports(tree, package_of(file))}}
    assert users
    assert {part_of(file) for file in users} == {"onnx"}


@pytest.mark.parametrize("file", SOURCES)
def test_nothing_dangerous(file: str) -> None:
    modules = {name.partition(".")[0] for name, _ in imports(SOURCES[file], package_of(file))}
    forbidden = {"pickle", "marshal", "shelve", "subprocess"}
    if file != "backend/gpu/gemm.py":
        forbidden |= {"ctypes"}
    if file != "data/download.py":
        forbidden |= {"urllib", "http", "socket", "ftplib", "requests"}
    assert not modules & forbidden
    for node in ast.walk(SOURCES[file]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}, node.lineno
        if isinstance(node, ast.keyword):
            assert not (node.arg == "allow_pickle" and getattr(node.value, "value", None) is not False)


IMPORTED = """
import sys
before = set(sys.modules)
import gpucnn
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""


def test_importing_takes_no_package_that_is_needed_later() -> None:
    """A slow import is felt at every start: CuPy, Rich and Pillow are imported when they are asked for."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{IMPORTED}"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert imported - sys.stdlib_module_names == {"gpucnn", "numpy", "threadpoolctl"}
    assert not {"argparse", "tomllib"} & imported


def test_without_onnx_its_package_says_what_to_install() -> None:
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); sys.modules['onnx'] = None; import gpucnn.onnx"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: gpucnn.onnx needs the package onnx: pip install onnx" in done.stderr


# ---- documentation and size ---------------------------------------------------------------------------------------


def undocumented(name: str) -> Iterator[str]:
    """Yield what a module defines in public without a docstring of its own or of what it overrides."""
    found = module(name)
    if not found.__doc__:
        yield name
    for key, value in vars(found).items():
        if key.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        if isinstance(value, (type, FunctionType)) and not value.__doc__:
            yield f"{name}.{key}"
        if isinstance(value, type):
            yield from undocumented_members(value)


def undocumented_members(kind: type) -> Iterator[str]:
    for key, value in vars(kind).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not key.startswith("_") and isinstance(function, (FunctionType, property)) and not inspect.getdoc(
            getattr(kind, key)
        ):  # fmt: skip
            yield f"{kind.__module__}.{kind.__qualname__}.{key}"


@pytest.mark.parametrize("name", modules())
def test_everything_public_has_a_docstring(name: str) -> None:
    assert list(undocumented(name)) == []


@pytest.mark.parametrize("name", modules())
def test_public_names_exist_and_are_sorted(name: str) -> None:
    found = module(name)
    for public in getattr(found, "__all__", []):
        assert hasattr(found, public)
    assert len(set(getattr(found, "__all__", []))) == len(getattr(found, "__all__", []))


def lines_run(work: Callable[[], object]) -> dict[str, set[int]]:
    """Return the lines of the package that run, by file."""
    found: dict[str, set[int]] = {}

    def trace(frame: FrameType, event: str, _: object) -> Callable | None:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(PACKAGE):
            return None
        if event == "line":
            found.setdefault(path.relative_to(PACKAGE).as_posix(), set()).add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return found


@pytest.mark.parametrize(("device", "lines", "files"), [("reference", 110, 6), ("cpu", 140, 13)])
def test_the_path_of_a_convolution_is_short(device: str, lines: int, files: int) -> None:
    """Of a layer that is called alone, forward: what runs is what a reader is asked to follow."""
    layer, x = Conv2D(8, 3), np.ones((4, 28, 28, 4), np.float32)
    layer.build(x.shape[1:], get_backend(device))
    layer(x)
    found = lines_run(lambda: layer(x))
    assert sum(map(len, found.values())) <= lines, found
    assert len(found) <= files, sorted(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
