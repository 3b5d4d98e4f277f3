"""An application behind guards, and a redis-server, for the tests of the guards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from chio_fastapi import add_chio
from tests.support import Judge, Reply, StubClient, call, run

REDIS = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed (Debian: redis-server)")


class Door:
    """A governed application with guards, and how often its handler and its sidecar were reached."""

    def __init__(self, *guards: Any, judge: Judge | None = None, **options: Any) -> None:
        self.judge = judge or Judge()
        self.app = FastAPI()
        self.client = StubClient(self.judge, **options)
        self.calls = 0
        add_chio(self.app, client=self.client, guards=guards)

        @self.app.get("/hello")
        async def hello() -> dict[str, str]:
            self.calls += 1
            return {"message": "hello"}

    def knock(self, peer: str | None = "127.0.0.1", path: str = "/hello", method: str = "GET", **headers: str) -> Reply:
        return run(self.call(peer, path, method, **headers))

    async def call(
        self, peer: str | None = "127.0.0.1", path: str = "/hello", method: str = "GET", **headers: str
    ) -> Reply:
        lines = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await call(self.app, method, path, headers=lines, client=(peer, 50000) if peer else None)


class Redis:
    """A redis-server on a free port of loopback, without persistence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert REDIS is not None
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self._process = subprocess.Popen([REDIS, "--port", str(self.port), *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self.go_on()
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def hang(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def redis_server(folder: Path) -> Iterator[Redis]:
    server = Redis(folder)
    try:
        yield server
    finally:
        server.stop()
