"""docs/architecture.md names what exists: a module that is not on the map fails here, and so does one that is gone."""

from __future__ import annotations

import re

import pytest

from tests.project.tree import ROOT

TREE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]


@pytest.mark.parametrize("package", ["chio_core", "chio_asgi", "chio_fastapi", "chio_sidecar"])
def test_every_module_of_a_package_stands_on_the_map(package: str) -> None:
    start = TREE.index(f"\n{package}/")
    part = re.split(r"\n(?! )", TREE[start + 1 :])[0]
    names = set(re.findall(r"(\w+)(?:\.py|/)", part))
    found = {
        path.stem
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and not path.name.startswith("__")
    }
    assert found - names == set(), "put it into the tree of docs/architecture.md"


def test_every_module_on_the_map_exists() -> None:
    known = {path.name for folder in ("adapters", "chio_*") for path in ROOT.glob(f"{folder}/**/*.py")}
    assert set(re.findall(r"\w+\.py", TREE)) <= known
