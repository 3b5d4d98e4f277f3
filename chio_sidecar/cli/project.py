"""What `init` knows of frameworks: the web application in a folder, as its sources show it, and what is written for it.

Nothing is imported. For each framework there is a first test, and the lines that a person writes next.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

FACTORIES: Final = {"FastAPI": "fastapi", "Flask": "flask", "Starlette": "asgi"}
"""The classes of applications, and their frameworks."""

_FIRST = ("main.py", "app.py", "wsgi.py", "asgi.py")
_MOST_FILES = 500
_MOST_FOLDERS = 2_000
_DEEPEST = 4  # folders below the current one
_SKIPPED = ("node_modules", "site-packages", "__pycache__", "migrations", "build", "dist", "docs", "examples")
_OF_A_PROJECT = ("manage.py", "pyproject.toml", "setup.py", "Pipfile")
_LONGEST_FILE = 1_000_000
_DJANGO_SETTINGS = re.compile(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""")
_STORE = re.compile(r"""["']embedded:([^"'?{}\n]+)""")
_GOVERNED = re.compile(r"\bchio_(?:asgi|django|fastapi|flask|wsgi)\b")


@dataclass(frozen=True)
class Project:
    """What `init` must know about a folder.

    Attributes:
        framework: "fastapi", "flask", "asgi" or "django"; None if none was found.
        place: the application as `MODULE:APP` or `MODULE:FACTORY()`, in Django the settings module.
        source: the file to edit.
        governed: True if a source file uses one of the packages already.
        stores: the files of embedded sidecars that the sources name.
        root: the folder from which the application's modules are imported, relative to the current one: `.` or `src`.
        elsewhere: the folder of a project of its own, relative to the current one, if the application is in one.
    """

    framework: str | None
    place: str | None
    source: Path | None
    governed: bool
    stores: tuple[str, ...] = ()
    root: str = "."
    elsewhere: str | None = None


def read_project(folder: Path, place: str | None = None) -> Project:
    """Find the application in a folder: in its files, else in those of the folders in it, the nearest first.

    An application in a folder that is a project of its own, because it has a `manage.py` or a `pyproject.toml` for
    example, is only named: its modules are imported from there.

    Args:
        place: `MODULE:APP` or `MODULE:FACTORY()` if it is known; any ASGI application then, unless its class is found.
    """
    texts = dict(_sources(folder))
    governed = any(_GOVERNED.search(text) for text in texts.values())
    stores = tuple(
        dict.fromkeys(store for text in texts.values() for store in _STORE.findall(text) if "://" not in store)
    )

    # Django: its settings are named by manage.py, in text.
    named = _DJANGO_SETTINGS.search(texts.get(folder / "manage.py", ""))
    if place is not None:
        module_name, _, name = place.partition(":")
        source = _source_of(folder, module_name)
        framework = dict(_applications(texts.get(source, ""))).get(name) or ("asgi" if named is None else None)
        if framework is not None:
            found = _root_of(folder, source)
            return Project(framework, place, source, governed, stores, str(found.relative_to(folder)))
    if named is not None:
        return Project("django", named[1], _source_of(folder, named[1]), governed, stores)

    # Elsewhere an application is a variable of a module, or what a function of it makes.
    for path, text in texts.items():
        if path.name == "manage.py" and _DJANGO_SETTINGS.search(text):
            return Project("django", None, path, governed, stores, elsewhere=str(path.parent.relative_to(folder)))
        root = _root_of(folder, path)
        parts = path.relative_to(root).with_suffix("").parts
        for name, framework in _applications(text) if all(part.isidentifier() for part in parts) else ():
            module_name = ".".join(parts).removesuffix(".__init__")
            above = (one for one in path.parents if one.is_relative_to(folder))
            own = next((one for one in above if any((one / file).exists() for file in _OF_A_PROJECT)), folder)
            return Project(
                framework,
                f"{module_name}:{name}",
                path,
                governed,
                stores,
                str(root.relative_to(folder)),
                None if own == folder else str(own.relative_to(folder)),
            )
    return Project(None, None, None, governed, stores)


def _root_of(folder: Path, path: Path) -> Path:
    """Return the folder from which a module or a package is imported: `src` if it is in there, or the current one."""
    inner = folder / "src"
    return inner if path.is_relative_to(inner) and not (inner / "__init__.py").exists() else folder


def _source_of(folder: Path, module: str) -> Path:
    """Return the file of a module, which may not exist; in the current folder, else in `src`."""
    paths = [root.joinpath(*module.split(".")) for root in (folder, folder / "src")]
    found = [path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths]
    return found[1] if found[1].is_file() and not found[0].is_file() else found[0]


def _sources(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the Python files of a folder and of those in it with their text, the nearest and likeliest first; no tests.

    Environments, hidden folders and those of other tools are left out. Links are not followed.
    """
    files = [
        path
        for inside in islice(_folders(folder), _MOST_FOLDERS)
        for path in sorted(inside.glob("*.py"), key=lambda path: (path.name not in _FIRST, path))
        if not path.name.startswith("test")
    ]
    for path in files[:_MOST_FILES]:
        try:
            if path.is_file() and path.stat().st_size <= _LONGEST_FILE:
                yield path, path.read_text(encoding="utf-8")
        except (OSError, UnicodeError):
            continue  # a file that cannot be read holds no application that can be imported


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a folder and those in it, level by level."""
    level = [folder]
    for _ in range(_DEEPEST + 1):
        yield from level
        level = list(islice((inside for one in level for inside in _inside(one)), _MOST_FOLDERS))


def _inside(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        one
        for one in found
        if one.name not in _SKIPPED
        and not one.name.startswith((".", "test"))
        and one.is_dir()
        and not one.is_symlink()
        and not (one / "pyvenv.cfg").exists()
    ]


def _applications(text: str) -> Iterator[tuple[str, str]]:
    """Yield each application of a module, as `APP` or `FACTORY()`, with its framework; variables come first."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and (framework := _made_by(node.value)) is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, framework) for target in targets if isinstance(target, ast.Name))
    for node in body:
        if isinstance(node, ast.FunctionDef) and len(node.args.args) == len(node.args.defaults):
            made = [framework for inner in ast.walk(node) if (framework := _made_by(inner)) is not None]
            yield from ((f"{node.name}()", framework) for framework in made[:1])


def _made_by(value: ast.AST | None) -> str | None:
    """Return the framework whose application an expression makes, or None."""
    if not isinstance(value, ast.Call):
        return None
    called = value.func
    name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
    return FACTORIES.get(name)


TEST_FILE: Final = "test_chio.py"

_PYTEST: Final = '''\
"""Chio governs this application. The fixture `chio` is a sidecar in the process of the test; no store is written."""

import pytest
{imports}


@pytest.fixture
def client(chio):
    return {client}


def test_a_request_is_evaluated_and_the_response_names_its_receipt(chio, client):
    response = client.get("/not-found")
    assert chio.last.path == "/not-found"
    assert chio.receipt_of(response).verdict.verdict == "allow"


def test_a_write_without_a_capability_is_denied(chio, client):
    client.post("/not-found")  # while the setting `observe` is on, the receipt alone says so
    assert chio.receipts[-1].verdict.verdict == "deny"
'''

_DJANGO: Final = '''\
"""Chio governs this project. `ChioFixture` is a sidecar in the process of the test; no store is written."""

from django.test import SimpleTestCase, override_settings

from chio_core.testing import ChioFixture


class ChioTests(SimpleTestCase):
    def setUp(self):
        self.chio = self.enterContext(ChioFixture())
        self.enterContext(override_settings(**self.chio.django))

    def test_a_request_is_evaluated_and_the_response_names_its_receipt(self):
        response = self.client.get("/not-found")
        self.assertEqual(self.chio.last.path, "/not-found")
        self.assertEqual(self.chio.receipt_of(response).verdict.verdict, "allow")

    def test_a_write_without_a_capability_is_denied(self):
        self.client.post("/not-found")  # while the setting `observe` is on, the receipt alone says so
        self.assertEqual(self.chio.receipts[-1].verdict.verdict, "deny")
'''


@dataclass(frozen=True)
class Starter:
    """What `init` writes for one application.

    Attributes:
        test: text of the test file.
        where: where in its file the lines of `govern` belong, as the start of a sentence.
        govern: the lines that govern the application.
        run: the command that runs the test.
        serve: the command that starts the application.
    """

    test: str
    where: str
    govern: tuple[str, ...]
    run: str
    serve: str


def starter(framework: str, place: str, root: str = ".") -> Starter:
    """Return what is written for an application.

    Args:
        framework: "fastapi", "asgi", "flask" or "django".
        place: `MODULE:APP` or `MODULE:FACTORY()`; in Django the settings module.
        root: the folder from which its modules are imported.
    """
    if framework == "django":
        return Starter(
            _DJANGO,
            "At the end of",
            ('INSTALLED_APPS += ["chio_django"]', 'MIDDLEWARE.insert(0, "chio_django.ChioDjangoMiddleware")'),
            "python manage.py test",
            "python manage.py runserver",
        )
    module, _, made = place.partition(":")
    factory = made.removesuffix("()") if made.endswith("()") else None
    name, variable = factory or made, "app" if factory else made
    where = f"In {made}, after the application is made, in" if factory else "After the application in"
    is_here = root == "."
    run = f"python -m pytest {'' if is_here else f'-o pythonpath={root} '}{TEST_FILE}"
    if framework == "flask":
        test = _PYTEST.format(imports=f"\nfrom {module} import {name}", client=f"chio.connect({made}).test_client()")
        govern = ("from chio_flask import Chio", f"Chio({variable})")
        return Starter(test, where, govern, run, f"{'' if is_here else f'PYTHONPATH={root} '}flask --app '{place}' run")
    library = "fastapi" if framework == "fastapi" else "starlette"
    imports = f"from {library}.testclient import TestClient\n\nfrom {module} import {name}"
    test = _PYTEST.format(imports=imports, client=f"TestClient(chio.connect({made}))")
    if framework == "fastapi":
        govern = ("from chio_fastapi import add_chio", f"add_chio({variable})")
    else:
        where = f"In {made}, before it returns, in" if factory else "At the end of"
        govern = ("from chio_asgi import ChioASGIMiddleware", f"{variable} = ChioASGIMiddleware({variable})")
    uvicorn = "uvicorn" if is_here else f"uvicorn --app-dir {root}"
    serve = f"{uvicorn} --factory {module}:{factory}" if factory else f"{uvicorn} {place}"
    return Starter(test, where, govern, run, serve)
