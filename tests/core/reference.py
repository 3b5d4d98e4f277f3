"""The vectors in `tests/vectors` and the protocol's schemas in `tests/schemas`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

_TESTS = Path(__file__).resolve().parents[1]


def vectors(topic: str) -> dict[str, Any]:
    """Return the reference vectors of a topic (`april/canonical`), or the project's own (`core/signing`)."""
    folder = _TESTS / "vectors" / topic
    file = folder / "v1.json" if folder.is_dir() else folder.with_suffix(".json")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def cases(*topics: str, members: Sequence[str] = ("cases",)) -> pytest.MarkDecorator:
    """Return a `parametrize` decorator over the cases of some topics."""
    found = [case for topic in topics for member in members for case in vectors(topic)[member]]
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


def schemas(profile: str) -> dict[str, Any]:
    """Return the schemas of a profile by file name; the older profile's if it has no other."""
    files = [file for name in ("april", profile) for file in sorted((_TESTS / "schemas" / name).glob("*.json"))]
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
