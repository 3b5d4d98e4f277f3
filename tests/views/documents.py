"""Reading the pages in docs/: their files, their commands, and what they show them to print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.examples.running import environment

ROOT = Path(__file__).resolve().parents[2]


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page shows, by their names."""
    return dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text_of(page), re.DOTALL))


def python_of(page: str) -> list[str]:
    """Return all Python that a page shows."""
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


def consoles_of(page: str) -> list[list[tuple[str, str]]]:
    """Return each console block: its commands with the output shown below them."""
    blocks = re.findall(r"```console\n(.*?)```", text_of(page), re.DOTALL)
    return [
        [(command, shown) for command, _, shown in (part.partition("\n") for part in re.split(r"(?m)^\$ ", block)[1:])]
        for block in blocks
    ]


def matches(shown: str, printed: str) -> bool:
    """Tell whether the output is as shown; an ellipsis stands for anything."""
    pattern = re.escape(shown.strip()).replace("…", ".*")
    return re.fullmatch(pattern, printed.replace("\r", "").strip(), re.DOTALL) is not None


def write_files(page: str, folder: Path) -> dict[str, str]:
    """Write the files of a page into a folder; return the environment in which its commands run there."""
    for name, content in files_of(page).items():
        (folder / name).write_text(content, encoding="utf-8")
    commands = folder / "bin"
    commands.mkdir()
    for name, arguments in (("chio-sidecar", "-m chio_sidecar"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (commands / name).chmod(0o755)
    return environment(
        PATH=f"{commands}:{os.environ['PATH']}", PYTHONPATH=f"{ROOT}:{ROOT / 'adapters'}", PYTHONUNBUFFERED="1"
    )


def transcript(commands: list[tuple[str, str]], folder: Path, env: dict[str, str]) -> list[tuple[str, str, str]]:
    """Run commands in one shell; return each with what is shown and what it printed."""
    script = "".join(f"{command}\necho '@@'\n" for command, _ in commands)
    done = subprocess.run(
        ["sh", "-e"],
        input=script,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    printed = done.stdout.split("@@\n")
    assert len(printed) == len(commands) + 1, done.stdout
    return [(command, shown, out) for (command, shown), out in zip(commands, printed, strict=False)]


@contextmanager
def serving(before: list[str], command: str, folder: Path, env: dict[str, str], ready: str) -> Iterator[None]:
    """Run a server for as long as the context lasts; it is ready when it prints `ready`."""
    process = subprocess.Popen(
        "\n".join([*before, f"exec {command}"]),
        shell=True,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert any(ready in line for line in process.stdout)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
