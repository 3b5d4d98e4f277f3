"""Chio needs asyncio: under Trio's event loop each program fails, and says so, and nothing runs (C11).

Trio and a server with it live in a virtual environment of their own, made once and kept.
"""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.interop.environments import ROOT, environment_for
from tests.sidecar.control_tools import environment

PROGRAMS = Path(__file__).with_name("trio_programs.py")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def python() -> Path:
    extras = PROJECT["optional-dependencies"]
    packages = [*PROJECT["dependencies"], *extras["fastapi"], *extras["outbound"]]
    return environment_for("trio", [*packages, "trio==0.35.0", "hypercorn==0.18.0"])


@pytest.mark.parametrize("program", ["served", "called", "outgoing"])
def test_under_trio_nothing_runs_and_the_error_names_the_remedy(python: Path, program: str) -> None:
    done = subprocess.run(
        [python, PROGRAMS, program],
        capture_output=True, text=True, timeout=60, check=False,
        env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"},
    )  # fmt: skip
    assert done.stdout == "ran:\n", done.stdout + done.stderr
    assert "needs asyncio, and this program runs another event loop (Trio?)" in done.stderr
    assert "chio: chio " not in done.stderr
