"""Requests to an application without a network, stores, and commands as processes."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from chio_core.canonical import compact_json
from chio_core.signing import SigningKey
from chio_sidecar.app import SidecarApp, create_app
from chio_sidecar.cli import main
from chio_sidecar.config import SidecarConfig
from chio_sidecar.store import NewReceipt
from chio_sidecar.store.schema import connect, prepare
from chio_sidecar.store.sqlite import SqliteLog
from chio_sidecar.store.writes import Append, apply
from tests import prefork, support
from tests.sidecar.sidecar_tools import KERNEL, NOW, evaluate_body

ROOT = Path(__file__).parents[2]
LOOPBACK = ("127.0.0.1", 50000)
REMOTE = ("203.0.113.7", 50000)
ZEROS = "0" * 64
GRANT = {"server_id": "s", "tool_name": "t", "operations": ["invoke"]}
DEADLINE = 30.0
"""Seconds after which a process that prints nothing has failed its test."""


def fetch(
    app: ASGIApp, method: str, path: str, *, client: tuple[str, int] | None = LOOPBACK, **arguments: Any
) -> httpx.Response:
    """Send one request to the application from the given peer."""

    async def send() -> httpx.Response:
        async def from_peer(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "client": client}, receive, send)

        transport = httpx.ASGITransport(from_peer, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9090") as http:
            return await http.request(method, path, **arguments)

    return asyncio.run(send())


def key_file(path: Path, key: SigningKey = KERNEL) -> Path:
    """Write a key as a sidecar keeps it, for its owner alone; return the path."""
    path.write_text(key.seed_hex() + "\n")
    path.chmod(0o600)
    return path


@contextmanager
def sidecars() -> Iterator[Callable[..., SidecarApp]]:
    """Give a function that creates sidecars from options; they are closed when the block ends."""
    opened: list[SidecarApp] = []

    def create(**options: Any) -> SidecarApp:
        opened.append(create_app(SidecarConfig(**options)))
        return opened[-1]

    yield create
    for app in opened:
        asyncio.run(app.state.close())


def evaluation(request_id: str = "req-1", method: str = "POST", path: str = "/echo") -> dict[str, Any]:
    """Return the body of an evaluate call by an anonymous caller, long ago."""
    return evaluate_body(request_id=request_id, method=method, route_pattern=path, path=path, timestamp=1_700_000_000)


def evaluate(app: ASGIApp, token: dict[str, Any] | None = None, **details: str) -> dict[str, Any]:
    """Evaluate one request and return the response's document."""
    headers = {} if token is None else {"X-Chio-Capability": json.dumps(token)}
    response = fetch(app, "POST", "/chio/evaluate", json=evaluation(**details), headers=headers)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def write_store(path: Path, receipts: Iterable[Mapping[str, Any]]) -> Path:
    """Write a store as a sidecar does, fast: without its promise of durability."""
    prepare(path, journal="persist", busy_seconds=5.0)
    rows = (Append(NewReceipt(one["id"], one["request_id"], "f", compact_json(one)), NOW) for one in receipts)
    with closing(connect(path, journal="persist", busy_seconds=5.0)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN IMMEDIATE")
        while batch := list(islice(rows, 256)):
            apply(connection, SqliteLog(connection), batch)
        connection.execute("COMMIT")
    return path


class CommandLine:
    """Runs `chio-sidecar` and keeps what it printed.

    Attributes:
        out: standard output of the last command.
        err: standard error of the last command.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object, status: int | None = 0) -> str:
        """Run a command that ends with this status (None: with any), and return its output."""
        found = main([str(argument) for argument in arguments])
        self.out, self.err = self._capsys.readouterr()
        assert status in (found, None), self.err
        assert "Traceback" not in self.err
        return self.out

    def fails(self, *arguments: object) -> str:
        """Run a command that ends with status 1 and an error, and return its standard error."""
        self(*arguments, status=1)
        assert "error [" in self.err or '"code":' in self.err
        return self.err

    def printed(self) -> str:
        """Return what was printed to standard output since the last command that came to its end."""
        return self._capsys.readouterr().out

    def misused(self, *arguments: object) -> str:
        """Run a command that ends with the status of wrong usage, and return its standard error."""
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert caught.value.code == 2
        return self._capsys.readouterr().err


def environment(**variables: str) -> dict[str, str]:
    """Return this environment without Chio's names, and with the given ones."""
    return support.environment(**{"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | variables)


def run_command(
    *arguments: object, module: str = "chio_sidecar", stdin: Any = None, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `chio-sidecar` to its end; `stdin` is a text, a file or None for no input."""
    return prefork.run(module, arguments, stdin=stdin, env=environment(**variables), cwd=cwd, timeout=DEADLINE)


def on_terminal(*arguments: object, columns: int = 80, status: int = 0, **variables: str) -> str:
    """Run `chio-sidecar` on a terminal, and return what the terminal got; fail if it ends with another status."""
    import pty  # Windows has none

    ours, theirs = pty.openpty()
    chosen = {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": ""} | variables
    with prefork.Process("chio_sidecar", arguments, stdout=theirs, stderr=theirs, env=environment(**chosen)) as process:
        os.close(theirs)
        got = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal, suppress(OSError):  # EIO: all of its users have ended
            while part := terminal.read(65_536):
                got += part
        assert process.wait(DEADLINE) == status, got
    return got.decode().replace("\r\n", "\n")


@dataclass
class Server:
    """A running command that serves.

    Attributes:
        ready: the line that announces that.
        lines: its standard error up to that line; all of it after the end of the block.
    """

    process: prefork.Process
    ready: str
    lines: list[str]

    @property
    def url(self) -> str:
        """Its base URL."""
        return "http://" + self.ready.rsplit(" ", 1)[1].removeprefix("http://")


@contextmanager
def serving(*arguments: object, ready: str = " on ", **variables: str) -> Iterator[Server]:
    """Run a serving command until the block ends; fail if it is not ready in time."""
    process = prefork.Process("chio_sidecar", arguments, stderr=subprocess.PIPE, env=environment(**variables))
    stderr = process.stderr
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line.rstrip("\n")) for line in stderr], daemon=True)
    reader.start()
    seen: list[str] = []
    try:
        seen.append(lines.get(timeout=DEADLINE))
        while ready not in seen[-1]:
            assert process.poll() is None or not lines.empty(), seen
            seen.append(lines.get(timeout=DEADLINE))
        yield Server(process, seen[-1], seen)
    finally:
        process.terminate()
        try:
            process.wait(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(DEADLINE)
        reader.join()
        stderr.close()
        while not lines.empty():
            seen.append(lines.get())
