"""Who may look at whom (docs/architecture.md): read from the source, so that imports inside functions count too."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

from tests.project.tree import ROOT, modules, packages, parse, place

LAW: dict[str, set[str]] = {
    "chio_core": set(),
    "chio_asgi": {"chio_core"},
    "chio_fastapi": {"chio_asgi", "chio_core"},
    "chio_sidecar": {"chio_core"},
    "chio_django": {"chio_core"},
    "chio_flask": {"chio_core"},
    "chio_pytest": {"chio_core"},
    "chio_wsgi": {"chio_core"},
}
LAZY = {
    ("chio_core/client/in_process.py", "chio_sidecar"),
    ("chio_core/client/client.py", "chio_sidecar"),
    *(("chio_sidecar/cli/application.py", package) for package in ("chio_asgi", "chio_django", "chio_flask")),
}
"""The one place that may look at the sidecar, and only when it is called; a name for the type checker; and the
commands that read the routes of an application which they have imported."""

EXTRA_OF = {
    "chio_core/guards": "guards",
    "chio_core/telemetry/metrics.py": "metrics",
    "chio_core/telemetry/spans.py": "otel",
    "chio_core/outbound": "outbound",
    "chio_fastapi": "fastapi",
    "chio_sidecar/store/postgresql": "postgresql",
    "chio_sidecar": "sidecar",
    "adapters/chio_django/drf": "drf",
    "adapters/chio_django": "django",
    "adapters/chio_flask": "flask",
}
"""The extra whose libraries a folder or a module may import besides the unconditional ones."""

TAKEN_WHEN_THERE = {("chio_sidecar/cli/serving.py", "uvloop")}

SQLITE = "chio_sidecar/store/driver.py"
"""The one module that chooses a SQLite library: two of them in one process must not open the same file."""

LOADED_BY = {("adapters/chio_pytest/__init__.py", "pytest")}
"""A plugin and what loads it: that is there, or the plugin is not loaded."""

ELSEWHERE = {
    "benchmarks/app/guards_peer.py",
    "tests/interop/framework_programs.py",
    "tests/interop/published_clients.py",
    "tests/interop/trio_programs.py",
}
"""Runs in an environment of its own."""

COMES_WITH = {
    "anyio": "starlette",
    "asgiref": "django",
    "pydantic_core": "pydantic",
    "referencing": "jsonschema",
    "werkzeug": "flask",
}
"""Import names that a declared distribution brings along at a version of its own choosing."""

FOUND = packages()
DISTRIBUTIONS = metadata.packages_distributions()
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
DEVELOPMENT = SETTINGS["dependency-groups"]["dev"]


@dataclass(frozen=True)
class Import:
    """One name that an import statement brings.

    Attributes:
        dotted: the full name, `module` or `module.name`.
        lazy: the import is inside a function, or for the type checker only.
        typing: the import is for the type checker only.
    """

    path: Path
    line: int
    dotted: str
    lazy: bool
    typing: bool

    @property
    def name(self) -> str:
        """The top-level name."""
        return self.dotted.partition(".")[0]

    def __str__(self) -> str:
        return f"{place(self.path)}:{self.line} imports {self.name}"


def imports(folder: Path) -> list[Import]:
    return [found for path in modules(folder) for found in _imports_of(path)]


@cache
def _imports_of(path: Path) -> list[Import]:
    return list(_visit(parse(path), path))


def _visit(node: ast.AST, path: Path, *, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(path, child.lineno, alias.name, lazy, typing)
        elif isinstance(child, ast.ImportFrom):
            module = folder_of(path) if child.level else child.module or ""
            for alias in child.names:
                yield Import(path, child.lineno, f"{module}.{alias.name}", lazy, typing)
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):  # expressions have no imports
            checked = typing or _is_type_checking(child)
            inner = lazy or checked or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _visit(child, path, lazy=inner, typing=checked)


def folder_of(path: Path) -> str:
    return next(name for name, folder in FOUND.items() if path.is_relative_to(folder))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def test_every_package_has_a_law() -> None:
    assert set(FOUND) <= set(LAW), "write down in LAW and in docs/architecture.md what the new package may import"


@pytest.mark.parametrize("package", FOUND)
def test_a_package_looks_only_at_those_that_the_law_allows(package: str) -> None:
    broken = [
        str(found)
        for found in imports(FOUND[package])
        if found.name in LAW
        and found.name != package
        and found.name not in LAW[package]
        and not (found.lazy and (place(found.path), found.name) in LAZY)
    ]
    assert not broken


def test_folders_import_each_other_in_one_direction_only() -> None:
    rooms = {_dotted(path): _room(path) for folder in FOUND.values() for path in modules(folder)}
    arrows: dict[str, set[str]] = {room: set() for room in rooms.values()}
    for found in (found for folder in FOUND.values() for found in imports(folder) if not found.typing):
        target = rooms.get(found.dotted) or rooms.get(found.dotted.rpartition(".")[0])
        if target not in (None, _room(found.path)):
            arrows[_room(found.path)].add(target)
    tuple(TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("package", FOUND)
def test_a_package_imports_only_libraries_that_are_declared_for_it(package: str) -> None:
    broken = []
    for found in imports(FOUND[package]):
        if found.name in LAW or found.name in sys.stdlib_module_names:
            continue
        if (place(found.path), found.name) in TAKEN_WHEN_THERE and found.lazy:
            continue
        if (place(found.path), found.name) in LOADED_BY:
            continue
        if not _declared(place(found.path)) & {_normal(name) for name in _owners(found.name)}:
            broken.append(str(found))
    assert not broken, "declare the library in pyproject.toml"


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "scripts", "tests"])
def test_what_is_no_package_imports_only_libraries_that_are_declared_somewhere(folder: str) -> None:
    declared = _names(DEVELOPMENT).union(*map(_names, PROJECT["optional-dependencies"].values()))
    declared |= _names(PROJECT["dependencies"])
    inside = list(modules(ROOT / folder))
    ours = {*LAW, "benchmarks", "tests", *(path.stem for path in inside), *(path.parent.name for path in inside)}
    broken = [
        str(found)
        for found in imports(ROOT / folder)
        if found.name not in ours | sys.stdlib_module_names
        and place(found.path) not in ELSEWHERE
        and not declared & {_normal(name) for name in _owners(found.name)}
    ]
    assert not broken, "declare the library in the group `dev` of pyproject.toml"


def test_only_one_module_chooses_the_sqlite_library() -> None:
    folders = [*FOUND.values(), ROOT / "tests", ROOT / "benchmarks"]
    found = [str(one) for folder in folders for one in imports(folder) if one.name in ("sqlite3", "pysqlite3")]
    assert [one for one in found if not one.startswith(SQLITE)] == [], f"import sqlite3 from {SQLITE}"


def test_the_folder_of_the_adapters_is_no_package() -> None:
    assert not (ROOT / "adapters" / "__init__.py").exists()


def test_no_module_imports_a_package_through_the_folder_of_the_adapters() -> None:
    folders = [*FOUND.values(), ROOT / "tests", ROOT / "examples", ROOT / "benchmarks", ROOT / "scripts"]
    found = [str(one) for folder in folders for one in imports(folder) if one.name == "adapters"]
    assert not found, "import chio_django or chio_flask by their own names"


def _dotted(path: Path) -> str:
    return place(path).removeprefix("adapters/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _room(path: Path) -> str:
    # A folder directly in a package, or a module there: `__init__.py` of the package too.
    parts = place(path).removeprefix("adapters/").split("/")
    return "/".join(parts[:2])


def _declared(path: str) -> set[str]:
    name = next((name for part, name in EXTRA_OF.items() if f"{path}/".startswith(f"{part}/")), "")
    return _names(PROJECT["dependencies"]) | _names(PROJECT["optional-dependencies"].get(name, []))


def _owners(name: str) -> list[str]:
    return [COMES_WITH[name]] if name in COMES_WITH else DISTRIBUTIONS.get(name, [name])


def _names(requirements: list[str]) -> set[str]:
    return {_normal(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in requirements}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
