"""Requirements of a measurement on the machine, checked before anything starts."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout that is measured."""

RESULTS = ROOT / "benchmarks" / "results"
"""Where stores and figures may be left; git ignores it."""

_TOOLS = {
    "taskset": "it pins processes to cores; Debian has it in util-linux",
    "wrk": "it makes the load; Debian has it in the package wrk",
}


class UnsuitableError(Exception):
    """This machine, or what is installed on it, cannot give the figures; the message names what is missing."""


@dataclass(frozen=True)
class Cores:
    """Two processor numbers: one for what is measured, one for everything that serves the measurement."""

    app: int
    load: int


def two_cores() -> Cores:
    """Return the two cores to use; raise `UnsuitableError` if this process may run on one only."""
    if not Path("/proc/self/stat").exists() or not hasattr(os, "sched_getaffinity"):
        raise UnsuitableError("the figures are read from /proc: run the benchmarks on Linux.")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise UnsuitableError(
            "the benchmarks need two cores, one for the application and one for the load, and this process "
            f"may use {len(allowed)}: run them where `nproc` says 2 or more."
        )
    return Cores(allowed[0], allowed[1])


def results() -> Path:
    """Return the folder `RESULTS`, made if it is missing."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    return RESULTS


def require_tools(*names: str) -> None:
    """Raise `UnsuitableError` for the first command that is not on PATH."""
    for name in names:
        if shutil.which(name) is None:
            raise UnsuitableError(f"the command `{name}` is not on PATH: {_TOOLS[name]}.")


def require_modules(*names: str) -> None:
    """Raise `UnsuitableError` for the first module that this interpreter cannot import."""
    for name in names:
        if util.find_spec(name) is None:
            raise UnsuitableError(
                f"the module `{name}` is missing in {sys.executable}: install the development dependencies."
            )


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def version_of(distribution: str) -> str:
    """Return the installed version, or `-` if the distribution is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "-"


def describe() -> dict[str, str]:
    """Return the facts that the figures depend on: processor, cores, system, versions."""
    packages = ("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "pynacl")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version_of(name) for name in packages},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
