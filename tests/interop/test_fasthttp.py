"""Programs for fasthttp-client 1.3.21 do the same with our package, apart from the rows of docs/outbound.md.

The record beside the programs holds what both packages did. The original has our dependencies in other versions, so it
lives in a virtual environment of its own, made once and kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interop.environments import environment_for
from tests.interop.fasthttp_programs.record import OURS, RECORD, run

PROGRAMS: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))


def observations(python: Path | str, package: str) -> dict[str, Any]:
    return {name: observed for name, (_, observed) in run(str(python), package).items()}


def test_our_package_does_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    found = observations(sys.executable, OURS)
    assert found == {name: one.get("here", one["there"]) for name, one in PROGRAMS.items()}


def test_the_original_does_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    python = environment_for("fasthttp", ["fasthttp-client==1.3.21"])
    assert observations(python, "fasthttp") == {name: one["there"] for name, one in PROGRAMS.items()}


def test_each_difference_has_a_reason_and_most_programs_do_the_same() -> None:
    different = [one for one in PROGRAMS.values() if "here" in one]
    assert all(one["why"] and one["here"] != one["there"] for one in different)
    assert len(different) <= len(PROGRAMS) // 5
