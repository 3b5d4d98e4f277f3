"""The bill of materials lists what users get, each file with its digest, and nothing of the tools."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.project.tree import ROOT


@pytest.fixture(scope="module")
def bom() -> dict[str, Any]:
    command = [sys.executable, "scripts/sbom.py"]
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    found: dict[str, Any] = json.loads(first)
    return found


def test_it_is_about_this_version_and_lists_what_is_needed(bom: dict[str, Any]) -> None:
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    ours = bom["metadata"]["component"]
    assert re.fullmatch(r"pkg:pypi/chio-frameworks@\d+\.\d+\.\d+", ours["purl"])
    names = {component["name"] for component in bom["components"]}
    assert {"pynacl", "cffi", "rfc8785", "fastapi", "django", "flask", "starlette", "redis", "uvicorn"} <= names
    assert names.isdisjoint({"pytest", "ruff", "mypy", "hypothesis", "guard-core", "chio-frameworks"})


def test_each_component_has_files_with_digests(bom: dict[str, Any]) -> None:
    for component in bom["components"]:
        assert component["externalReferences"], component["name"]
        for file in component["externalReferences"]:
            assert file["url"].startswith("https://files.pythonhosted.org/")
            assert re.fullmatch("[0-9a-f]{64}", file["hashes"][0]["content"])


def test_every_dependency_is_a_component(bom: dict[str, Any]) -> None:
    known = {component["purl"] for component in bom["components"]} | {bom["metadata"]["component"]["purl"]}
    assert {entry["ref"] for entry in bom["dependencies"]} == known
    assert {needed for entry in bom["dependencies"] for needed in entry["dependsOn"]} <= known
