"""A strict type checker agrees with `public_names.py`, and would not agree with a wrong type in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.examples.running import run
from tests.project.tree import ROOT

PUBLIC_NAMES = Path(__file__).with_name("public_names.py")


@pytest.mark.slow
def test_the_public_names_have_the_types_that_are_written_down_and_no_others(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(PUBLIC_NAMES.read_text().replace("assert_type(receipt.id, str)", "assert_type(receipt.id, int)"))
    files = (str(PUBLIC_NAMES), str(wrong))
    done = run(sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *files, cwd=ROOT, seconds=300)
    (error,) = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert "/wrong.py:" in error, "a cache of mypy's may name an earlier folder"
    assert "assert-type" in error
