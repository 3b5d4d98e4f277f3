"""The virtual environment of the published package: made once, made anew when its contents should change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import UnsuitableError, version_of

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".venv-peer"

_SHARED = ("fastapi", "starlette", "pydantic", "anyio", "uvicorn", "uvloop", "httptools")
_TOLD = ("chio-asgi", "chio-sdk-python", "httpx", "httpcore", "fastapi", "starlette", "uvicorn")


def interpreter(folder: Path = FOLDER) -> Path:
    """Return the interpreter that has chio-asgi 0.1.0, after making its environment where that is needed.

    Raises:
        UnsuitableError: the environment cannot be made, for want of a network or of Python's venv.
    """
    python, stamp = folder / "bin" / "python", folder / "made-of.txt"
    wanted = (HERE / "peers.txt").read_text() + "\n# constraints\n" + _constraints()
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        print(f"making {folder} for the published package …", file=sys.stderr)
        _make(folder, python)
        stamp.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the packages that decide what the published package costs."""
    code = f"from importlib.metadata import version as v\nfor name in {_TOLD}: print(name, v(name))"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in told.splitlines())


def _constraints() -> str:
    # The same framework under every variant: otherwise the bare application is no floor for the peer.
    return "".join(f"{name}=={version_of(name)}\n" for name in _SHARED)


def _make(folder: Path, python: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    constraints = folder / "constraints.txt"
    constraints.write_text(_constraints())
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, "-r", str(HERE / "peers.txt"), "-c", str(constraints)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise UnsuitableError(f"`{' '.join(command)}` failed ({lines[-1]}); --variants bare,ours needs no peer.")
