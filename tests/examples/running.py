"""Running the examples as a person would, with the interpreter of these tests."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

RECEIPT_ID = re.compile(r"01[0-9A-HJKMNP-TV-Z]{24}")
"""A ULID of this century."""


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without anything that would lead an example elsewhere."""
    names = ("HELLO_", "CHIO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return {**kept, "VENV": str(Path(sys.prefix)), **more}


def run(*command: str, cwd: Path, seconds: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=seconds, check=False
    )


def copy_of(example: str, folder: Path) -> Path:
    """Return a copy of an example that may leave its artifacts behind, in a tree that looks like the repository."""
    for part in (f"examples/{example}", "examples/lib", "scripts"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(".artifacts", "__pycache__"))
    return folder / "examples" / example


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
