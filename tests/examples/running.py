"""Running the examples as a person would, with the interpreter of these tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

RECEIPT_ID = re.compile(r"01[0-9A-HJKMNP-TV-Z]{24}")
"""A ULID of this century."""


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without anything that would lead an example elsewhere."""
    names = ("HELLO_", "CHIO_", "MAKE", "MFLAGS", "ARGS")  # the last ones: of a `make` that runs these tests
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


def status_of(url: str) -> tuple[int, str | None]:
    """Return status and error code of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, _error(json.load(answer))
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, _error(json.load(refused))


def _error(document: Any) -> str | None:
    error = document.get("error")
    return error.get("code") if isinstance(error, dict) else error
