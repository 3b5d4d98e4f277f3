"""Asking an application without a network, and running commands as processes."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from chio_sidecar.app import SidecarApp, create_app
from chio_sidecar.config import SidecarConfig

ROOT = Path(__file__).parents[2]
LOOPBACK = ("127.0.0.1", 50000)
REMOTE = ("203.0.113.7", 50000)
NOBODY = "0" * 64
DEADLINE = 30.0
"""Seconds after which a process that says nothing has failed its test."""


def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    client: tuple[str, int] | None = LOOPBACK,
    **arguments: Any,
) -> httpx.Response:
    """Send one request to the application from the given peer."""

    async def send() -> httpx.Response:
        async def from_peer(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "client": client}, receive, send)

        transport = httpx.ASGITransport(from_peer, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as http:
            return await http.request(method, path, **arguments)

    return asyncio.run(send())


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
    """Return the body of an evaluate call by an anonymous caller."""
    return {
        "request_id": request_id,
        "method": method,
        "route_pattern": path,
        "path": path,
        "caller": {"subject": "anonymous", "auth_method": {"method": "anonymous"}},
        "timestamp": 1_700_000_000,
    }


def evaluate(app: ASGIApp, token: dict[str, Any] | None = None, **details: str) -> dict[str, Any]:
    """Ask for one decision and return the answer."""
    headers = {} if token is None else {"X-Chio-Capability": json.dumps(token)}
    answer = ask(app, "POST", "/chio/evaluate", json=evaluation(**details), headers=headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def environment(**variables: str) -> dict[str, str]:
    """Return this environment without Chio's names, and with the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHIO_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | variables


def run_command(*arguments: object, stdin: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `chio-sidecar` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "chio_sidecar", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(**variables),
        check=False,
    )


@dataclass
class Server:
    """A running command that serves.

    Attributes:
        ready: the line that said so.
        lines: what it wrote to standard error until then.
    """

    process: subprocess.Popen[str]
    ready: str
    lines: list[str]

    @property
    def url(self) -> str:
        """Where it listens."""
        return "http://" + self.ready.rsplit(" ", 1)[1].removeprefix("http://")


@contextmanager
def serving(*arguments: object, ready: str = " on ", **variables: str) -> Iterator[Server]:
    """Run a serving command until the block ends; fail when it is not ready in time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "chio_sidecar", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_forward, args=(process, lines), daemon=True)
    reader.start()
    try:
        seen = [lines.get(timeout=DEADLINE)]
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
            process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


def _forward(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.put(line.rstrip("\n"))
