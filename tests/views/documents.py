"""Reading the pages in docs/: their files, their commands, and what they show them to print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.examples.running import environment
from tests.pages.page import commands_folder, commands_of

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
    return [commands_of(block) for block in re.findall(r"```console\n(.*?)```", text_of(page), re.DOTALL)]


def write_files(page: str, folder: Path) -> dict[str, str]:
    """Write the files of a page into a folder; return the environment in which its commands run there."""
    for name, content in files_of(page).items():
        (folder / name).write_text(content, encoding="utf-8")
    return environment(
        PATH=f"{commands_folder(folder)}:{os.environ['PATH']}",
        PYTHONPATH=f"{ROOT}:{ROOT / 'adapters'}",
        PYTHONUNBUFFERED="1",
    )


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
