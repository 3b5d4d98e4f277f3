"""The package loads what is used of it, and no more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import chio_asgi
from tests.project.tree import ROOT
from tests.support import environment

HEAVY = ("pydantic", "chio_core", "starlette", "asyncio", "ssl")


def loaded(program: str) -> list[str]:
    """Return which of the heavy packages a program loads."""
    show = f"\nimport sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program + show],
        env=environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "adapters")])),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_an_import_of_the_package_loads_nothing_until_a_name_is_used() -> None:
    assert loaded("import chio_asgi; dir(chio_asgi)") == []
    assert "pydantic" in loaded("from chio_asgi import ChioASGIConfig")


def test_every_public_name_is_there() -> None:
    assert set(chio_asgi.__all__) <= set(dir(chio_asgi))
    for name in chio_asgi.__all__:
        assert getattr(chio_asgi, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'ChioASGIConfg'"):
        chio_asgi.ChioASGIConfg  # type: ignore[attr-defined]  # noqa: B018
