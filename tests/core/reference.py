"""The reference vectors and schemas of the protocol.

Some stand in `tests/vectors`; the rest in a folder `reference` of a directory beside the checkout, where there is
one. A test whose file is in neither place is skipped, and says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).resolve().parents[1] / "vectors"
_CHECKOUT = Path(__file__).resolve().parents[2]


def _folders(kind: str) -> list[Path]:
    found = sorted(_CHECKOUT.parent.glob(f"*/reference/{kind}"))
    return [*found, _HERE] if kind == "vectors" else found


def vectors(topic: str) -> dict[str, Any]:
    """Return the vectors of a topic, for example `april/canonical`; empty when there are none here."""
    for folder in _folders("vectors"):
        if (file := folder / topic / "v1.json").is_file():
            return dict(json.loads(file.read_text()))
    return {}


def cases(topic: str, member: str = "cases") -> pytest.MarkDecorator:
    """Return a `parametrize` decorator over the cases of a topic."""
    found = vectors(topic).get(member)
    if not found:
        skipped = pytest.param({}, marks=pytest.mark.skip(reason=f"the reference vectors {topic} are not present"))
        return pytest.mark.parametrize("case", [skipped])
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


def schemas(profile: str) -> dict[str, Any]:
    """Return the schemas of a profile by file name, those of the older profile where it has none of its own.

    The test is skipped when there are none here.
    """
    found: dict[str, Any] = {}
    for name in ("april", profile):
        for folder in _folders("schemas"):
            found.update({file.name: json.loads(file.read_text()) for file in sorted((folder / name).glob("*.json"))})
    if not found:
        pytest.skip("the reference schemas are not present")
    return found
