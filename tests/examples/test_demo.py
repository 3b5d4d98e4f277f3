"""`make demo`: one framework, or all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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


PIP = """\
for number in $(seq 1 40); do
    echo "Collecting package-$number>=1 (from chio)"
    echo "  Downloading package-$number.whl"
done
echo "Installing collected packages: package-1, package-2"
"""
FAILS = 'echo "Collecting package-1"; echo "ERROR: no matching distribution"; echo "hint: see above"; exit 1\n'


@pytest.fixture
def computer(repository: Path, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Return the environment of a computer without uv, in whose environments of Python this text is pip."""
    (repository / "pyproject.toml").touch()
    (repository / "uv.lock").touch()

    def build(pip: str) -> dict[str, str]:
        inner = f'#!/bin/sh\n[ "$2" = pip ] && [ "$3" = install ] || exit 0\n{pip}'
        outer = '#!/bin/sh\n[ "$2" = venv ] || exit 0\nmkdir -p .venv/bin\ncp inner .venv/bin/python\n'
        programs = tmp_path / "programs"
        programs.mkdir()
        for file, text in ((repository / "inner", inner), (programs / "python3.11", outer)):
            file.write_text(text)
            file.chmod(0o755)
        for name in (
            "sh",
            "env",
            "make",
            "cat",
            "cksum",
            "cp",
            "dirname",
            "mkdir",
            "rm",
            "seq",
            "tail",
            "tee",
            "touch",
        ):
            found = shutil.which(name)
            assert found is not None
            (programs / name).symlink_to(found)
        return {"PATH": str(programs), "VENV": ""}

    return build


def test_the_first_demo_says_what_it_prepares(repository: Path, computer: Callable[[str], dict[str, str]]) -> None:
    done = run("make", "demo", cwd=repository, **computer(PIP))
    assert done.returncode == 0, done.stderr
    steps = [line.strip() for line in done.stderr.splitlines()]
    assert [step[:30] for step in steps if step.startswith("preparing")] == [
        f"preparing .venv with pip, {step} of" for step in (1, 2, 3)
    ]
    assert steps[3:] == [
        "20 packages, now package-20>=1",
        "40 packages, now package-40>=1",
        "40 packages, unpacking them …",
    ]
    again = run("make", "demo", cwd=repository, PATH=str(repository / "programs"), VENV="")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_failed_installation_shows_what_pip_said(repository: Path, computer: Callable[[str], dict[str, str]]) -> None:
    done = run("make", "demo", cwd=repository, **computer(FAILS))
    assert done.returncode != 0
    assert "ERROR: no matching distribution\nhint: see above\n" in done.stderr
    assert "smoke of" not in done.stdout


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
