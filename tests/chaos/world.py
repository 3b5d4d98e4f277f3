"""A governed application on a socket, its sidecar as a process, and clients; afterwards three accounts must agree.

The accounts are those of the handler (what ran), of the clients (what came back) and of the store. They are compared
by the number of the request, never by time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from chio_core.receipts import verify_receipt
from chio_fastapi import ChioReceipt, add_chio
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.fsck_tools import inspect
from tests.support import DEADLINE, environment, raw_http, serve, settings

CLIENTS = 8
NO_ROUTES = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}
RECEIPT = re.compile(rb"\r\nx-chio-receipt: ([^\r]+)\r\n")


class Sidecar:
    """The sidecar as a process, on a Unix socket.

    Args:
        folder: for its socket and document.
        arguments: further ones of `api protect`.
        store: where its receipts are, a file or the URL of a database.
        document: describes the routes; by default it describes none.
        environ: variables beside this process's own.
    """

    def __init__(
        self, folder: Path, *arguments: str, store: Path | str | None = None, document: Any = NO_ROUTES, **environ: str
    ) -> None:
        self.store = store or folder / "receipts.sqlite3"
        self.address = f"unix:{folder}/chio.sock"
        self.lines: list[bytes] = []
        self._arguments = arguments
        self._environ = environ
        self._spec = folder / "openapi.json"
        self._spec.write_text(json.dumps(document))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and return when it says that it listens."""
        command = [sys.executable, "-m", "chio_sidecar", "api", "protect", "--upstream", "http://127.0.0.1:9"]
        command += ["--spec", str(self._spec), "--listen", self.address, "--receipt-store", str(self.store)]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            *self._arguments,
            env=environment(**self._environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            while line := await self._process.stdout.readline():
                self.lines.append(line)
                if b"proxying" in line:
                    return
        raise AssertionError(b"".join(self.lines).decode())

    async def end(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal."""
        assert self._process is not None
        self._process.send_signal(number)
        output, _ = await self._process.communicate()
        self.lines += output.splitlines()


@dataclass
class Told:
    """What a client saw of one request."""

    status: int
    receipt: str | None
    answer: bytes


@dataclass
class Log:
    """What happened, by number of the request."""

    handled: dict[int, tuple[str, str]] = field(default_factory=dict)
    told: dict[int, Told] = field(default_factory=dict)
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def succeeded(self) -> int:
        return self.statuses[200]

    @property
    def refused(self) -> int:
        return self.statuses.total() - self.statuses[200]

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Return when a condition holds; it is checked after each response."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.news.clear()
                await self.news.wait()


def application(log: Log, address: str, **options: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/work/{number}")
    async def work(number: int, request: Request, receipt: ChioReceipt) -> int:
        assert number not in log.handled
        log.handled[number] = (receipt.request_id, receipt.id)
        return number

    add_chio(app, settings(**{"sidecar_url": address, "timeout": 5.0, "trusted_kernel_keys": ()} | options))
    return app


@dataclass
class Clients:
    """Clients of an application, its port, and what happened.

    Attributes:
        patience: seconds that each waits for a response.
    """

    port: int
    log: Log
    patience: float = DEADLINE
    up: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def load(self, clients: int = CLIENTS) -> AsyncIterator[Log]:
        """Let clients send one request after the other, while `up` is set, until the block ends."""
        done, numbers = asyncio.Event(), itertools.count(self.log.sent)

        async def client() -> None:
            while not done.is_set():
                await self.up.wait()
                await self.send(next(numbers))

        self.up.set()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
            try:
                yield self.log
            finally:
                done.set()
                self.up.set()

    async def send(self, number: int) -> Told:
        """Send one request; without a whole head of a response the status is 0."""
        self.log.sent = max(self.log.sent, number + 1)
        request = b"GET /work/%d HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % number
        try:
            answer = await raw_http(self.port, request, seconds=self.patience)
        except ConnectionError:
            answer = b""
        receipt = RECEIPT.search(answer)
        status = int(answer[9:12]) if b"\r\n\r\n" in answer else 0
        self.log.told[number] = Told(status, receipt[1].decode() if receipt else None, answer)
        self.log.statuses[self.log.told[number].status] += 1
        self.log.news.set()
        return self.log.told[number]


@dataclass
class World(Clients):
    """One run: the application is served by this process."""

    sidecar: Sidecar = field(kw_only=True)


@asynccontextmanager
async def world(folder: Path, *, sidecar: Sidecar | None = None, **options: Any) -> AsyncIterator[World]:
    """Start a sidecar, and an application with these options; the sidecar is killed at the end."""
    log = Log()
    sidecar = sidecar or Sidecar(folder)
    await sidecar.start()
    try:
        async with serve(application(log, sidecar.address, **options), lifespan="on") as port:
            yield World(port, log, sidecar=sidecar)
    finally:
        await sidecar.end()


def check(log: Log, store: Path, *, refusals: set[int]) -> int:
    """Compare the three accounts, verify each receipt and let fsck read the store; return the number of rows.

    Args:
        refusals: statuses that the clients may have seen beside 200.
    """
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT request_id, id, receipt_json FROM http_receipts").fetchall()
    stored = {(request_id, receipt_id) for request_id, receipt_id, _ in rows}
    assert set(log.handled.values()) <= stored
    assert {told.receipt for told in log.told.values()} - {None} <= {receipt_id for _, receipt_id in stored}
    for number, told in log.told.items():
        if told.status == 200:
            assert log.handled[number][1] == told.receipt
        else:
            assert told.status in refusals, told.answer
            assert number not in log.handled
    keys = {json.loads(text)["kernel_key"] for _, _, text in rows}
    assert len(keys) == 1
    for _, _, text in rows:
        verify_receipt(json.loads(text), trusted_keys=keys)
    findings, summary = inspect(store, trusted=keys)
    assert (findings, summary.rows) == ([], len(rows))
    return len(rows)
