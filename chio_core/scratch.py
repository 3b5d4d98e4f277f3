"""Tests never write into the store that an application is configured with: it is append-only, so it cannot be cleaned.

In a process that runs tests, an embedded sidecar opens a new store in a temporary folder instead, with its own key. A
store in the folder for temporary files belongs to a test already, and `CHIO_TEST_STORE=configured` asks for the
configured one.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)

VARIABLE: Final = "CHIO_TEST_STORE"

EMBEDDED: Final = "embedded:"

_PROJECT: Final = Path.cwd()
"""Folder in which the process was started: a project may be below the folder for temporary files too."""

_made: dict[Path, str] = {}
_folder: str | None = None


def runs_tests() -> bool:
    """Return True in a process of pytest, of `python -m unittest`, or in Django's test environment."""
    # The modules are looked up, not imported: this package needs no test runner and no framework.
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    django = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    return (
        bool(getattr(sys.modules.get("chio_pytest"), "active", 0))
        or getattr(main, "name", None) == "unittest.__main__"
        or hasattr(django, "saved_data")  # between `setup_test_environment` and its end, for every test runner
    )


def replaces(url: str) -> bool:
    """Return True if this process opens another store instead of the one that an `embedded:` URL names."""
    # A database is named for each run by its own settings, as for every other use of it.
    return url.startswith(EMBEDDED) and "://" not in url and is_left_alone(_path_in(url))


def is_left_alone(path: Path) -> bool:
    """Return True if this process runs tests, and the file is a configured one, and belongs to no test."""
    if not runs_tests() or os.environ.get(VARIABLE) == "configured":
        return False
    path, basetemp = path.resolve(), getattr(sys.modules.get("chio_pytest"), "basetemp", None)
    if basetemp and path.is_relative_to(Path(basetemp).resolve()):
        return False
    return path.is_relative_to(_PROJECT.resolve()) or not path.is_relative_to(Path(tempfile.gettempdir()).resolve())


def replaced(url: str) -> str:
    """Return the URL of the store that this process opens: a new one for each configured store, else `url` itself."""
    global _folder
    if not replaces(url):
        return url
    path = _path_in(url)
    if path not in _made:
        if _folder is None:
            # A TemporaryDirectory that lives until the process ends warns of itself then.
            _folder = tempfile.mkdtemp(prefix="chio-tests-")
            atexit.register(_remove, _folder, os.getpid())
        _made[path] = str(Path(_folder) / f"{len(_made)}-{path.name}")
        log.info("chio: tests write to %s instead of %s; %s=configured changes that", _made[path], path, VARIABLE)
    query = url.partition("?")[2]
    return EMBEDDED + _made[path] + (f"?{query}" if query else "")


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process leaves it to its parent
        shutil.rmtree(folder, ignore_errors=True)


def _path_in(url: str) -> Path:
    return Path(url.removeprefix(EMBEDDED).partition("?")[0]).resolve()
