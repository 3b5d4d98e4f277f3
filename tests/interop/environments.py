"""Virtual environments for packages that cannot share ours; each is made once and kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def environment_for(name: str, packages: Sequence[str]) -> Path:
    """Return the interpreter of an environment with these packages; skip if they cannot be installed here."""
    folder = ROOT / f".venv-{name}"
    python, stamp = folder / "bin" / "python", folder / "made-of.txt"
    if not stamp.exists() or stamp.read_text() != "\n".join(packages):
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        fill = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        for command in (make, fill):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{', '.join(packages)} cannot be installed here: {done.stderr.strip()[-200:]}")
        stamp.write_text("\n".join(packages))
    return python
