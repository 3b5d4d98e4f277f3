"""Versions of Python and of the libraries, against the least ones that work."""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, PackageNotFoundError, distributions, requires, version
from importlib.util import find_spec
from pathlib import Path

from chio_sidecar.doctor.result import Check
from chio_sidecar.store.schema import FIRST_SAFE_WAL

DISTRIBUTION = "chio-frameworks"

OLDEST_PYTHON = (3, 11)

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*(?:>=\s*(?P<least>[0-9][0-9.]*))?")
_EXTRA = re.compile(r"""extra\s*==\s*["'](?P<extra>[^"']+)["']""")


def check_versions(
    needed: Iterable[str] | None = None,
    *,
    installed: Callable[[str], str] = version,
    python: tuple[int, ...] = sys.version_info[:3],
    sqlite: tuple[int, ...] = sqlite3.sqlite_version_info,
) -> Iterator[Check]:
    """Yield one check for Python, SQLite and each library.

    Args:
        needed: requirements as package metadata states them; None: those of this distribution.
        installed: returns the version of a distribution, or raises `PackageNotFoundError`.
        python, sqlite: versions that run.
    """
    least = ".".join(map(str, OLDEST_PYTHON))
    good = python >= OLDEST_PYTHON
    yield Check("version.python", "ok" if good else "fail", _dotted(python), None if good else f"use {least} or newer")
    yield _sqlite(sqlite)
    known = list(needed if needed is not None else _own_requirements())
    if not known:
        yield Check(
            f"version.{DISTRIBUTION}", "warn", "it runs without being installed, so the least versions are not known",
            f"pip install {DISTRIBUTION}, or pip install -e . in a checkout",
        )  # fmt: skip
    # Several extras may ask for the same library; what is said of it is said once.
    told = {(check.name, check.text): check for requirement in known for check in _library(requirement, installed)}
    yield from told.values()


def _own_requirements() -> list[str]:
    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []


def _library(requirement: str, installed: Callable[[str], str]) -> Iterator[Check]:
    specifier, _, marker = requirement.partition(";")
    match, extra = _REQUIREMENT.match(specifier.strip()), _EXTRA.search(marker)
    if match is None:
        return
    name, least = match["name"], match["least"]
    try:
        found = installed(name)
    except PackageNotFoundError:
        if extra is None and not marker.strip():
            yield Check(f"version.{name}", "fail", "not installed", f"pip install '{name}>={least or 0}'")
        return
    if least is not None and _numbers(found) < _numbers(least):
        what = f"{found} is older than {least}, the least that works"
        yield Check(f"version.{name}", "fail", what, f"pip install '{name}>={least}'")
    else:
        yield Check(f"version.{name}", "ok", f"{found} (least: {least or 'any'})")


def _sqlite(found: tuple[int, ...]) -> Check:
    if found >= FIRST_SAFE_WAL:
        return Check("version.sqlite", "ok", f"{_dotted(found)}, with a safe write-ahead log")
    text = f"{_dotted(found)}, so the store uses a rollback journal (write-ahead logs are safe from "
    return Check("version.sqlite", "ok", f"{text}{_dotted(FIRST_SAFE_WAL)} on)")


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    """Return the release numbers of a version, without trailing zeros: `5.2.0rc1` is (5, 2)."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", text.rpartition("!")[2].lstrip("v"))
    numbers = [int(part) for part in match[0].split(".")] if match else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


OURS = "chio-frameworks"

PUBLISHED = {"chio-asgi": "chio_asgi", "chio-fastapi": "chio_fastapi", "chio-django": "chio_django"}
"""Published distributions whose import names this one also has."""

HARMLESS = {"chio-sdk-python": "chio_sdk", "chio-sdk": "chio"}
"""Published distributions of the same family with import names of their own."""


def check_distributions(path: Sequence[str] | None = None) -> Iterator[Check]:
    """Yield a check for each import name that two distributions claim, and for related ones.

    Args:
        path: folders to look into; None: those of this interpreter.
    """
    found = _installed(path)
    rivals = [name for name in PUBLISHED if name in found]
    for name in rivals:
        yield _conflict(PUBLISHED[name], [found[name], *_own(found)], path, rivals)
    for name in HARMLESS:
        if name in found:
            text = f"{name} {found[name].version} is installed; its import name {HARMLESS[name]} is its own"
            yield Check(f"package.{HARMLESS[name]}", "ok", text)
    if not rivals:
        names = ", ".join(PUBLISHED.values())
        yield Check("package", "ok", f"no other distribution claims {names}")


def _installed(path: Sequence[str] | None) -> dict[str, Distribution]:
    every = distributions() if path is None else distributions(path=list(path))
    found: dict[str, Distribution] = {}
    for one in every:
        found.setdefault(_name(one), one)  # the first on the path is the one that is imported
    return found


def _name(distribution: Distribution) -> str:
    return (distribution.metadata["Name"] or "").lower().replace("_", "-")


def _own(found: dict[str, Distribution]) -> list[Distribution]:
    return [found[OURS]] if OURS in found else []


def _conflict(
    module: str, claimants: Sequence[Distribution], path: Sequence[str] | None, rivals: Sequence[str]
) -> Check:
    origin = _origin(module, path)
    owner = _owner(module, origin, claimants)
    titles = " and ".join(f"{_name(one)} {one.version}" for one in claimants)
    verb = "both claim" if len(claimants) > 1 else "claims"
    text = f"{titles} {verb} {module}; imported is that of {owner}" + (f" ({origin})" if origin is not None else "")
    remedy = f"pip uninstall -y {' '.join(rivals)} && pip install --force-reinstall --no-deps {OURS}"
    return Check(f"package.{module}", "fail" if owner in rivals else "warn", text, remedy, {"owner": owner})


def _origin(module: str, path: Sequence[str] | None) -> Path | None:
    try:
        spec = find_spec(module) if path is None else PathFinder.find_spec(module, list(path))
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _owner(module: str, origin: Path | None, claimants: Iterable[Distribution]) -> str:
    """Return the distribution whose record fits the file that is imported: the one that was installed last."""
    if origin is None:
        return "nobody"
    try:
        content = origin.read_bytes()
    except OSError:
        return "an unreadable file"
    for one in claimants:
        for file in one.files or ():
            if str(file) != f"{module}/__init__.py" or file.hash is None or file.hash.mode != "sha256":
                continue
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            if file.hash.value == digest:
                return _name(one)
    return "a folder that no distribution has recorded"
