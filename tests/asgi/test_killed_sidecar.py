"""The sidecar is killed under load, again and again (A1).

Whatever the kills hit, afterwards three sets are compared: what the handler was allowed to do and what the
clients were told is in the store, each receipt of it verifies, and no refused request reached the handler.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from chio_core.receipts import verify_receipt
from chio_fastapi import ChioReceipt, add_chio
from chio_sidecar.store.driver import sqlite3
from tests.support import raw_http, run, serve, settings

CLIENTS = 8
BETWEEN_KILLS = 100
"""Requests that succeed before the next kill."""


class Sidecar:
    """The embedded sidecar as a separate process."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "receipts.sqlite3"
        self.address = f"unix:{folder}/chio.sock"
        self._spec = folder / "openapi.json"
        self._spec.write_text(json.dumps({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it says that it listens."""
        command = [sys.executable, "-m", "chio_sidecar", "api", "protect", "--upstream", "http://127.0.0.1:9"]
        command += ["--spec", str(self._spec), "--listen", self.address, "--receipt-store", str(self.store)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CHIO_")}
        self._process = await asyncio.create_subprocess_exec(
            *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert self._process.stdout is not None
        lines = []
        async with asyncio.timeout(30):
            while line := await self._process.stdout.readline():
                lines.append(line)
                if b"proxying" in line:
                    return
        raise AssertionError(b"".join(lines).decode())

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        await self._process.communicate()


@dataclass
class Log:
    """What happened, by number of the request."""

    handled: dict[int, tuple[str, str]] = field(default_factory=dict)
    told: dict[int, tuple[int, str | None]] = field(default_factory=dict)
    succeeded: int = 0


def application(log: Log, sidecar: Sidecar) -> FastAPI:
    app = FastAPI()

    @app.get("/work/{number}")
    async def work(number: int, request: Request, receipt: ChioReceipt) -> int:
        assert number not in log.handled
        log.handled[number] = (receipt.request_id, receipt.id)
        return number

    add_chio(app, settings(sidecar_url=sidecar.address, timeout=5.0, trusted_kernel_keys=()))
    return app


async def client(port: int, numbers: Any, log: Log, up: asyncio.Event, done: asyncio.Event) -> None:
    while not done.is_set():
        await up.wait()
        number = next(numbers)
        answer = await raw_http(port, b"GET /work/%d HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % number)
        status = int(answer[9:12])
        receipt = re.search(rb"\r\nx-chio-receipt: ([^\r]+)\r\n", answer)
        log.told[number] = (status, receipt[1].decode() if receipt else None)
        log.succeeded += status == 200


async def load(folder: Path, kills: int) -> Log:
    log, sidecar, up, done = Log(), Sidecar(folder), asyncio.Event(), asyncio.Event()
    await sidecar.start()
    async with serve(application(log, sidecar), lifespan="on") as port:
        numbers = iter(range(10**9))
        clients = [asyncio.ensure_future(client(port, numbers, log, up, done)) for _ in range(CLIENTS)]
        for _ in range(kills):
            await _until(log, up)
            await sidecar.kill()  # while it answers: the clients do not know
            up.clear()
            await sidecar.start()
        await _until(log, up)
        done.set()
        await asyncio.gather(*clients)
    await sidecar.kill()
    return log


async def _until(log: Log, up: asyncio.Event) -> None:
    """Let the clients work until enough of their requests have succeeded."""
    enough = log.succeeded + BETWEEN_KILLS
    up.set()
    async with asyncio.timeout(60):
        while log.succeeded < enough:  # noqa: ASYNC110 - bounded; the clients tell nobody each time
            await asyncio.sleep(0.001)


@pytest.mark.slow
def test_nothing_that_was_allowed_is_missing_from_the_store(tmp_path: Path, full_size: bool) -> None:
    kills = 50 if full_size else 5
    log = run(load(tmp_path, kills), seconds=60 + 10 * kills)
    with sqlite3.connect(f"file:{tmp_path}/receipts.sqlite3?mode=ro", uri=True) as database:
        rows = database.execute("SELECT request_id, id, receipt_json FROM http_receipts").fetchall()
    database.close()
    stored = {(request_id, receipt_id) for request_id, receipt_id, _ in rows}
    ids = {receipt_id for _, receipt_id in stored}

    assert set(log.handled.values()) <= stored
    assert {receipt for _, receipt in log.told.values() if receipt is not None} <= ids
    for number, (status, receipt) in log.told.items():
        if status == 200:
            assert log.handled[number][1] == receipt
        else:
            assert (status, receipt) in {(503, None), (502, None)}
            assert number not in log.handled
    keys = {json.loads(text)["kernel_key"] for _, _, text in rows}
    assert len(keys) == 1
    for _, _, text in rows:
        verify_receipt(json.loads(text), trusted_keys=keys)
    assert log.succeeded >= BETWEEN_KILLS * (kills + 1)
