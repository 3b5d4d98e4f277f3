"""The reference vectors and schemas of the protocol, which stand in `tests/vectors` and `tests/schemas`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_TESTS = Path(__file__).resolve().parents[1]


def vectors(topic: str) -> dict[str, Any]:
    """Return the vectors of a topic, for example `april/canonical`."""
    return dict(json.loads((_TESTS / "vectors" / topic / "v1.json").read_text(encoding="utf-8")))


def cases(topic: str, member: str = "cases") -> pytest.MarkDecorator:
    """Return a `parametrize` decorator over the cases of a topic."""
    found = vectors(topic)[member]
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


def schemas(profile: str) -> dict[str, Any]:
    """Return the schemas of a profile by file name, those of the older profile where it has none of its own."""
    files = [file for name in ("april", profile) for file in sorted((_TESTS / "schemas" / name).glob("*.json"))]
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
