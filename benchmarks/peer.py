"""The virtual environments of the published packages: made once, and again if their contents should change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import UnsuitableError, version_of

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Peer:
    """One environment.

    Attributes:
        folder: where it is.
        requirements: the installed packages.
        shared: packages that it must have in the version of this checkout, so that both have the same bare
            application as floor.
        reported: packages whose versions decide what the published package costs.
    """

    folder: Path
    requirements: Path
    shared: tuple[str, ...]
    reported: tuple[str, ...]


ASGI = Peer(
    HERE / ".venv-peer",
    HERE / "peers.txt",
    ("fastapi", "starlette", "pydantic", "anyio", "uvicorn", "uvloop", "httptools"),
    ("chio-asgi", "chio-sdk-python", "httpx", "httpcore", "fastapi", "starlette", "uvicorn"),
)
DJANGO = Peer(
    HERE / ".venv-peer-django",
    HERE / "peers-django.txt",
    ("django", "asgiref", "gunicorn", "pydantic"),
    ("chio-django", "chio-sdk-python", "httpx", "httpcore", "django", "gunicorn"),
)


def interpreter(peer: Peer = ASGI) -> Path:
    """Return the interpreter that has a published package, after making its environment if needed.

    Raises:
        UnsuitableError: the environment cannot be made, without a network or Python's venv.
    """
    python, stamp = peer.folder / "bin" / "python", peer.folder / "made-of.txt"
    wanted = peer.requirements.read_text() + "\n# constraints\n" + _constraints(peer)
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        print(f"making {peer.folder} for the published package …", file=sys.stderr)
        _make(peer, python)
        stamp.write_text(wanted)
    return python


def versions(python: Path, peer: Peer = ASGI) -> dict[str, str]:
    """Return the versions of the packages that decide what the published package costs."""
    code = f"from importlib.metadata import version as v\nfor name in {peer.reported}: print(name, v(name))"
    output = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in output.splitlines())


def _constraints(peer: Peer) -> str:
    # The same framework under every variant: otherwise the bare application is no floor for the peer.
    return "".join(f"{name}=={version_of(name)}\n" for name in peer.shared)


def _make(peer: Peer, python: Path) -> None:
    shutil.rmtree(peer.folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(peer.folder)])
    constraints = peer.folder / "constraints.txt"
    constraints.write_text(_constraints(peer))
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, "-r", str(peer.requirements), "-c", str(constraints)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise UnsuitableError(f"`{' '.join(command)}` failed ({lines[-1]}); --variants bare,ours needs no peer.")
