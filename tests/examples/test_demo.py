"""`make demo`: one framework, or all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.examples.running import ROOT, run


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A tree whose smoke tests only say that they were started."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("fastapi", "django", "flask"):
        smoke = tmp_path / "examples" / f"hello-{name}" / "smoke.sh"
        smoke.parent.mkdir(parents=True)
        smoke.write_text(f"#!/bin/sh\necho smoke of {name}\n")
        smoke.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("", ["fastapi"]),
        ("django", ["django"]),
        ("flask fastapi", ["flask", "fastapi"]),
        ("all", ["fastapi", "django", "flask"]),
    ],
)
def test_the_demo_shows_the_frameworks_that_were_asked_for(repository: Path, arguments: str, shown: list[str]) -> None:
    done = run("make", "demo", f"ARGS={arguments}", cwd=repository)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line] == [f"smoke of {name}" for name in shown]


def test_an_example_that_there_is_not_is_named_with_those_that_there_are(repository: Path) -> None:
    done = run("sh", "scripts/demo.sh", "rails", cwd=repository)
    assert done.returncode == 2
    assert done.stderr == "there is no example hello-rails; name fastapi, django, flask or all\n"


def test_a_demo_that_fails_fails(repository: Path) -> None:
    (repository / "examples" / "hello-fastapi" / "smoke.sh").write_text("#!/bin/sh\nexit 3\n")
    done = run("sh", "scripts/demo.sh", "all", cwd=repository)
    assert done.returncode == 3
    assert "smoke of django" not in done.stdout
