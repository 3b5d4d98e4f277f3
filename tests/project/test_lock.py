"""uv.lock belongs to pyproject.toml, names the public index only, and pip gets the same versions from it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.project.tree import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
(OURS,) = (package for package in LOCK["package"] if package["name"] == SETTINGS["project"]["name"])


def locked(requirements: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return name and bound of each requirement that the lock was made for."""
    return {(one["name"], one.get("specifier", "")) for one in requirements}


def wanted(requirements: list[str]) -> set[tuple[str, str]]:
    """Return name and bound of each requirement of pyproject.toml."""
    parts = [re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*?)\s*(?:;.*)?", one) for one in requirements]
    return {(re.sub(r"[-_.]+", "-", part[1]).lower(), part[2]) for part in parts if part}


def parts_of_pip(part: str) -> list[str]:
    """Return the lines that pip is given."""
    command = [sys.executable, "scripts/requirements.py", part]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_lock_was_made_for_these_requirements() -> None:
    project = SETTINGS["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    message = "run `uv lock`"
    assert locked(OURS["metadata"]["requires-dist"]) == wanted([*project["dependencies"], *extras]), message
    assert locked(OURS["metadata"]["requires-dev"]["dev"]) == wanted(SETTINGS["dependency-groups"]["dev"]), message


def test_the_lock_names_the_public_index_only() -> None:
    sources = {package["source"].get("registry") for package in LOCK["package"] if package is not OURS}
    assert sources == {"https://pypi.org/simple"}


def test_pip_gets_the_versions_of_the_lock() -> None:
    versions = {package["name"]: package["version"] for package in LOCK["package"] if package is not OURS}
    given = dict(line.split("==") for line in parts_of_pip("locked"))
    assert given.items() <= versions.items()
    assert {name for name, _ in wanted(SETTINGS["project"]["dependencies"])} <= set(given)


@pytest.mark.parametrize("part", ["lowest", "tools", "extras"])
def test_every_part_for_pip_has_something_in_it(part: str) -> None:
    assert parts_of_pip(part)
