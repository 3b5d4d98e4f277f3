"""README.md is executed: its commands, its ten lines, and the output that it shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.running import environment, free_port, run
from tests.pages.page import commands_folder, commands_of, matches, transcript
from tests.project.tree import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
(MAIN,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

SERVER, *FIRST_MINUTES = CONSOLE


def played(blocks: list[str], folder: Path, **more: str) -> list[tuple[str, str, str]]:
    """Run the commands of some blocks in one shell; return command, what is shown and what was printed."""
    wanted = [one for block in blocks for one in commands_of(block)]
    return transcript(wanted, folder, environment(PYTHONUNBUFFERED="1", **more))


@pytest.fixture
def path_with_commands(tmp_path: Path) -> str:
    """A PATH on which the commands of this project run the code of this checkout."""
    return f"{commands_folder(tmp_path)}:{os.environ['PATH']}"


@pytest.fixture
def ten_lines(tmp_path: Path, path_with_commands: str) -> Iterator[tuple[Path, int]]:
    """The ten lines in a new folder, started as the README says, but on a free port."""
    (tmp_path / "main.py").write_text(MAIN)
    port = free_port()
    ((command, _),) = commands_of(SERVER)
    process = subprocess.Popen(
        f"{command} --port {port}",
        shell=True,
        cwd=tmp_path,
        env=environment(PATH=path_with_commands, PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stderr is not None
            assert any("Uvicorn running on" in line for line in process.stderr)
            yield tmp_path, port
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_ten_lines_are_ten() -> None:
    assert len([line for line in MAIN.splitlines() if line.strip()]) == 10


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_minutes_go_as_shown(ten_lines: tuple[Path, int], path_with_commands: str) -> None:
    folder, port = ten_lines
    blocks = [block.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for block in FIRST_MINUTES]
    for command, shown, printed in played(blocks, folder, PATH=path_with_commands, PYTHONPATH=str(ROOT)):
        assert matches(shown, printed), f"{command}\n--- shown\n{shown}\n--- printed\n{printed}"


def test_it_is_no_manual() -> None:
    assert len(TEXT.splitlines()) <= 120


def test_make_test_runs_pytest_here_and_a_change_must_pass_all_tests() -> None:
    done = run("make", "test", "ARGS=-n 0 --collect-only -q tests/project/test_readme.py", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "test_make_test_runs_pytest_here_and" in done.stdout
    assert "\n    make test " in TEXT
    assert "\nrun make test\nrun make long\n" in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_make_is_a_script() -> None:
    targets = re.findall(r"^([a-z]+):.*\n\t@sh (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [name for name, _ in targets] == ["demo", "test", "long", "check", "docs", "bench", "chaos"]
    assert all((ROOT / script).is_file() for _, script in targets)


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(entry for entry in entries if entry != "Unreleased") == version
