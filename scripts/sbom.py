"""Prints the dependencies of this distribution as a CycloneDX document, from the lock: same lock, same bytes.

python scripts/sbom.py > sbom.json
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

Package = dict[str, Any]


def document() -> dict[str, Any]:
    """Return the CycloneDX 1.6 document of this distribution, its dependencies and its extras, transitively."""
    packages: list[Package] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    (ours,) = [package for package in packages if "editable" in package["source"]]
    found, waiting = [ours], [ours]
    while waiting:
        for other in _needed(packages, waiting.pop()):
            if other not in found:
                found.append(other)
                waiting.append(other)
    found.sort(key=lambda package: (package["name"], package["version"]))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(ours) | {"licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": [_component(package) for package in found if package is not ours],
        "dependencies": [
            {"ref": _purl(package), "dependsOn": sorted({_purl(other) for other in _needed(packages, package)})}
            for package in found
        ],
    }


def _needed(packages: list[Package], package: Package) -> Iterator[Package]:
    # Extras of dependencies are included: the list has everything that may be installed.
    wanted = [*package.get("dependencies", ())]
    for extra in package.get("optional-dependencies", {}).values():
        wanted += extra
    for one in wanted:
        for other in packages:
            if other["name"] == one["name"] and one.get("version", other["version"]) == other["version"]:
                yield other


def _component(package: Package) -> dict[str, Any]:
    files = [*([package["sdist"]] if "sdist" in package else []), *package.get("wheels", ())]
    component = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": _purl(package),
    }
    if files:
        component["externalReferences"] = [
            {
                "type": "distribution",
                "url": file["url"],
                "hashes": [{"alg": "SHA-256", "content": file["hash"].removeprefix("sha256:")}],
            }
            for file in files
        ]
    return component


def _purl(package: Package) -> str:
    return f"pkg:pypi/{package['name']}@{package['version']}"


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2)
    print()
