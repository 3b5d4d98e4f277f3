"""The governed application as one or several processes, beside its sidecar."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.world import Clients, Log, Sidecar
from tests.support import environment

LIMIT = 120
"""Seconds that a process may take to start or to end."""


class Application:
    """An application under uvicorn. The socket stays open between two starts, so clients wait meanwhile.

    Args:
        folder: for the file of what ran.
        sidecar_url: `CHIO_SIDECAR_URL`.
        arguments: further ones of uvicorn.
        program: the application, as uvicorn takes it.
        environ: variables beside this process's own.
    """

    def __init__(
        self,
        folder: Path,
        sidecar_url: str,
        *arguments: str,
        program: str = "tests.chaos.application:app",
        **environ: str,
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port: int = self._listener.getsockname()[1]
        self._handled = folder / "handled"
        self._handled.touch()
        self._arguments = (program, *arguments)
        own = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
        own |= {"CHIO_SIDECAR_URL": sidecar_url, "HANDLED": str(self._handled)}
        self._environ = environment(**own | environ)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.output: list[str] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it; the socket accepts already."""
        fd = self._listener.fileno()
        command = [sys.executable, "-m", "uvicorn", "--fd", str(fd)]
        command += ["--lifespan", "on", "--no-access-log"]  # so a failure at the end is an error
        self._process = await asyncio.create_subprocess_exec(
            *command,
            *self._arguments,
            env=self._environ,
            pass_fds=[fd],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.output.append(line.decode())

    async def end(self) -> int:
        """End it with SIGTERM; return its status."""
        assert self._process is not None
        assert self._reading is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            await self._reading
            return await self._process.wait()

    def close(self) -> None:
        """Close the socket."""
        self._listener.close()

    def handled(self) -> list[list[str]]:
        """Return the words of each line that a handler wrote, see `tests.chaos.application`."""
        return [line.split() for line in self._handled.read_text().splitlines()]

    def pids(self) -> set[str]:
        """Return the processes in which a handler ran."""
        return {pid for *_, pid in self.handled()}


@asynccontextmanager
async def running(sidecar: Sidecar) -> AsyncIterator[Sidecar]:
    """Start a sidecar, and kill it at the end."""
    await sidecar.start()
    try:
        yield sidecar
    finally:
        await sidecar.end()


@asynccontextmanager
async def served(application: Application) -> AsyncIterator[Clients]:
    """Start an application, and end it; what ran is in the log then."""
    await application.start()
    clients = Clients(application.port, Log(), patience=LIMIT)
    try:
        yield clients
    finally:
        await application.end()
        application.close()
    for number, request_id, receipt_id, _ in application.handled():
        assert int(number) not in clients.log.handled, "one request ran twice"
        clients.log.handled[int(number)] = (request_id, receipt_id)
