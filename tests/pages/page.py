"""Running a page of docs/: every code block is a file, a server, commands of one shell, or Python.

The grammar, in Markdown that reads well anywhere:

* `<!-- file: NAME -->` above a block: the block is written to NAME;
* `<!-- server: TEXT -->` above a console block of one command: it runs until the page ends, and is ready when it
  prints TEXT;
* `console`: commands (`$ …`) of one shell, each followed by what it prints; an ellipsis matches anything;
* `python`: executed, in one namespace for the whole page;
* `text`: shown, not run.

The ports 8000, 8001 and 9090 are replaced by free ones.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.examples.running import environment, free_port

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?:<!-- (file|server): (.+?) -->\n+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "@@ done @@"


@dataclass(frozen=True)
class Step:
    """One block: what it is (`file`, `server`, or its language), the name or text above it, and its content."""

    kind: str
    name: str
    text: str
    line: int


def steps_of(text: str) -> list[Step]:
    """Return the blocks of a page, in order."""
    return [
        Step(found[1] or found[3], found[2] or "", found[4], text.count("\n", 0, found.start(4)) + 1)
        for found in BLOCK.finditer(text)
    ]


def commands_of(block: str) -> list[tuple[str, str]]:
    """Return each command of a console block with the output that is shown below it."""
    parts = re.split(r"(?m)^\$ ", block)[1:]
    return [(command, shown) for command, shown in (split(part) for part in parts)]


def split(part: str) -> tuple[str, str]:
    """Split a command, which a backslash continues on the next line, from what it prints."""
    lines = part.split("\n")
    end = next(at for at, line in enumerate(lines) if not line.endswith("\\"))
    return "\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :])


def matches(shown: str, printed: str) -> bool:
    """Return True if the output is as shown; an ellipsis matches anything."""
    pattern = re.escape(shown.strip()).replace("…", ".*")
    return re.fullmatch(pattern, printed.replace("\r", "").strip(), re.DOTALL) is not None


def transcript(commands: list[tuple[str, str]], folder: Path, env: dict[str, str]) -> list[tuple[str, str, str]]:
    """Run commands in one shell, which ends with the first that fails.

    Returns:
        Each command with what is shown and what it printed.
    """
    script = "".join(f"{command}\necho '{MARK}'\n" for command, _ in commands)
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
    printed = done.stdout.split(f"{MARK}\n")
    assert len(printed) == len(commands) + 1, done.stdout
    return [(command, shown, out) for (command, shown), out in zip(commands, printed, strict=False)]


class Shell:
    """One shell, kept for all commands of a page."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["sh"],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """Run a command and return what it printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{{ {command}\n}} </dev/null\necho; echo '{MARK}'\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line.strip() == MARK:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell ended: {''.join(lines)}")

    def close(self) -> None:
        """End the shell."""
        self.process.communicate()


class Page:
    """A page while it runs.

    Args:
        text: its Markdown.
        folder: where its files are written and its commands run.
        installed: the folder of the commands of an environment that has a wheel; without it they run this checkout.
    """

    def __init__(self, text: str, folder: Path, installed: Path | None = None) -> None:
        for port in ("8000", "8001", "9090"):
            text = text.replace(port, str(free_port()))
        self.steps = steps_of(text)
        self.folder = folder
        self.namespace: dict[str, object] = {"__name__": "page"}
        self.servers: list[subprocess.Popen[str]] = []
        self.env = environment(
            PATH=f"{installed or commands_folder(folder)}:{os.environ['PATH']}",
            PYTHONUNBUFFERED="1",
            PYTEST_ADDOPTS="-p chio_pytest -p no:cacheprovider",  # as if it were installed, and it may be
        )
        self.env.pop("PYTHONPATH", None)
        if installed is None:
            self.env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'adapters'}"
        self.shell = Shell(folder, self.env)

    def run(self, step: Step) -> None:
        """Do what one block says.

        Raises:
            AssertionError: it prints something else than it shows; the text has both.
        """
        if step.kind == "file":
            path = self.folder / step.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
        elif step.kind == "server":
            ((command, _),) = commands_of(step.text)
            self._serve(command, step.name)
        elif step.kind == "python":
            exec(compile(step.text, f"line {step.line} of the page", "exec", dont_inherit=True), self.namespace)
        elif step.kind == "console":
            for command, shown in commands_of(step.text):
                printed = self.shell.run(command)
                assert matches(shown, printed), f"$ {command}\n--- shown\n{shown}\n--- printed\n{printed}"
        else:
            assert step.kind == "text", f"line {step.line}: a block of {step.kind or 'no language'} is not run"

    def _serve(self, command: str, ready: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}" if "=" not in command.split()[0] else f"exec env {command}"],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.servers.append(process)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                return
        raise AssertionError(f"$ {command}\n{''.join(said)}")

    def close(self) -> None:
        """End the shell and the servers."""
        self.shell.close()
        for process in self.servers:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@contextmanager
def opened(text: str, folder: Path, installed: Path | None = None) -> Iterator[Page]:
    """Give a page, and end what it started."""
    page = Page(text, folder, installed)
    try:
        yield page
    finally:
        page.close()


def commands_folder(folder: Path) -> Path:
    """Return a folder with the commands that pages use; they run the code of this checkout."""
    commands = folder / ".commands"
    commands.mkdir()
    modules = {"chio-sidecar": "chio_sidecar", "uvicorn": "uvicorn", "pytest": "pytest"}
    lines = {name: f"-m {module}" for name, module in modules.items()} | {"python": ""}
    for name, arguments in lines.items():
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (commands / name).chmod(0o755)
    return commands
