"""Processes that the harness starts, freezes, thaws and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import usage
from benchmarks.machine import ROOT, UnsuitableError

_START_LIMIT = 40.0  # seconds until a server must listen
_STOP_LIMIT = 8.0  # seconds until a server that does not stop is killed


@dataclass(frozen=True)
class Server:
    """One started process group that listens on a port of 127.0.0.1."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Processor seconds of the whole process tree so far."""
        return usage.cpu_seconds(self.process.pid)

    def resident_mib(self) -> float:
        """Resident memory of the whole process tree in MiB."""
        return usage.resident_mib(self.process.pid)

    def freeze(self) -> None:
        """Take the server off the processor, so that it cannot disturb the others."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the server run again."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group, if it still lives."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def wait_until_it_listens(self) -> None:
        """Return as soon as the port accepts.

        Raises:
            UnsuitableError: the process ended, or took too long.
        """
        end = time.monotonic() + _START_LIMIT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise UnsuitableError(f"{self.name} ended before it listened: {self._last_words()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.3).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise UnsuitableError(f"{self.name} does not listen on port {self.port} after {_START_LIMIT:.0f} s.")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"no output, exit status {self.process.returncode}."


class Servers:
    """The started servers; leaving the `with` block ends them all, the last one first."""

    def __init__(self, workdir: Path) -> None:
        """Keep the servers' output in files under `workdir`."""
        self.workdir = workdir
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def start(
        self, name: str, command: Sequence[str], *, port: int, core: int, env: Mapping[str, str] | None = None
    ) -> Server:
        """Start `command` on one core, in a separate session, and wait until it listens on `port`."""
        log = self.workdir / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                cwd=ROOT,
                env={**neutral_environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        server = Server(name, port, process, log)
        self._ends.callback(_end, server)
        server.wait_until_it_listens()
        return server


def neutral_environment() -> dict[str, str]:
    """Return this process's environment without what bends a measurement: settings, paths, proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CHIO_", "PYTHON")) and not name.lower().endswith("_proxy")
    }


def _end(server: Server) -> None:
    server.thaw()
    server.signal(signal.SIGTERM)
    try:
        server.process.wait(_STOP_LIMIT)
    except subprocess.TimeoutExpired:
        server.signal(signal.SIGKILL)
        server.process.wait()
