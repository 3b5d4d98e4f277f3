"""The wheel alone works: built from the source distribution alone, installed where this checkout cannot be seen."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.project.test_extras import HIDING, hidden
from tests.project.tree import ROOT, modules, packages

FOUND = packages()
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
SIDECAR_PAGE = (ROOT / "docs" / "sidecar.md").read_text(encoding="utf-8")
DECLARED = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

IMPORT_EVERYTHING = """
import importlib, importlib.util, pkgutil, sys
if "chio_django" in sys.argv:
    import django.conf
    django.conf.settings.configure()  # Django's own modules ask for settings when they are imported
    django.setup()
may_be_missing = [name[1:] for name in sys.argv[1:] if name[0] == "-"]
for name in [name for name in sys.argv[1:] if name[0] != "-"]:
    package = importlib.import_module(name)
    assert package.__file__.startswith(sys.prefix), package.__file__
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as exc:
                if exc.name not in may_be_missing:
                    raise
assert importlib.util.find_spec("adapters") is None
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from an unpacked source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder), cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(folder / "sources", filter="data")
    (unpacked,) = (folder / "sources").iterdir()
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=unpacked)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, over the libraries of the one that runs these tests.

    What is editable there stays unseen: a folder that a `.pth` file adds has its own `.pth` files left unread.
    """
    folder = tmp_path_factory.mktemp("venv")
    _run(sys.executable, "-m", "venv", str(folder), cwd=folder)  # with pip: what uv makes has none
    python = folder / "bin" / "python"
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _pip(python, "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    return python


def test_the_wheel_holds_every_module_and_nothing_else_importable(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {path.relative_to(folder.parent).as_posix() for folder in FOUND.values() for path in modules(folder)}
    assert expected <= names
    importable = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert set(FOUND) <= importable <= {Path(package).name for package in DECLARED}


def test_the_wheel_holds_the_files_of_the_viewers_page(wheel: Path) -> None:
    static = FOUND["chio_sidecar"] / "viewer" / "static"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    page = {f"chio_sidecar/viewer/static/{path.name}" for path in static.iterdir()}
    assert "chio_sidecar/viewer/static/index.html" in page
    assert page <= names


def test_every_package_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"{name}/py.typed" for name in FOUND} <= names


def test_without_extras_the_core_and_the_middleware_import(installed: Path) -> None:
    of_an_extra = ("-jwt", "-limits", "-opentelemetry", "-prometheus_client")
    _isolated(installed, HIDING, json.dumps(hidden(())), IMPORT_EVERYTHING, "chio_core", "chio_asgi", *of_an_extra)


def test_what_is_installed_fits_together(installed: Path) -> None:
    _pip(installed, "check")


def test_with_the_extras_every_module_imports(installed: Path) -> None:
    _isolated(installed, IMPORT_EVERYTHING, *FOUND)


def test_the_command_of_the_sidecar_is_installed(installed: Path) -> None:
    said = _run(str(installed.parent / "chio-sidecar"), "--version", cwd=installed.parent)
    assert said.split() == ["chio-sidecar", PROJECT["version"]]


@pytest.mark.skipif(shutil.which("uvx") is None, reason="uvx is not installed")
def test_uvx_runs_the_command_in_a_separate_environment(wheel: Path, tmp_path: Path) -> None:
    shown = re.search(r"^\$ uvx --from '\.\[sidecar\]' (chio-sidecar .*)$", SIDECAR_PAGE, re.MULTILINE)
    assert shown is not None
    asked = shlex.split(shown[1])
    assert _uvx(wheel, tmp_path, *asked).split() == ["chio-sidecar", PROJECT["version"]]
    told = _uvx(wheel, tmp_path, "chio-sidecar", "api", "protect", "--help")  # which needs what the extra brings
    assert "--receipt-store" in told


def test_pytest_finds_the_fixture_by_itself(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(chio):\n    assert chio.receipts == []\n")
    for named in ((), ("-p", "chio_pytest")):
        run = _run(str(installed), "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", *named, cwd=tmp_path)
        assert "1 passed" in run


def _pip(python: Path, *arguments: str) -> None:
    _run(str(python), "-m", "pip", "--disable-pip-version-check", *arguments, cwd=ROOT)


def _uvx(wheel: Path, folder: Path, *command: str) -> str:
    (folder / "locked.txt").write_text(_run(sys.executable, "scripts/requirements.py", "locked", cwd=ROOT))
    # Nothing of this machine's environments is used or left behind but uv's cache of downloads.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"UV_CONSTRAINT": str(folder / "locked.txt"), "UV_PYTHON": sys.executable, "UV_HTTP_RETRIES": "1"}
    run = ["uvx", "--from", f"chio-frameworks[sidecar] @ {wheel.as_uri()}", *command]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    if done.returncode and any(reason in done.stderr for reason in ("client error (Connect)", "network was disabled")):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return done.stdout


def _isolated(python: Path, code: str, *arguments: str) -> None:
    _run(str(python), "-W", "error", "-Ic", code, *arguments, cwd=python.parent)


def _run(*command: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{' '.join(command[:4])} …: {done.stderr or done.stdout}"
    return done.stdout
