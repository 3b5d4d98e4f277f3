"""Two sidecars and four workers on one database: every limit is exact, also when a sidecar is killed.

Ten capabilities are used more often than they may be, by a budget of the route and by a limit of the grant.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

pytest.importorskip("psycopg")

from chio_core.receipts import verify_receipt
from chio_core.signing import SigningKey
from tests.chaos.processes import LIMIT, Application
from tests.chaos.shared_application import application as shared_application
from tests.chaos.world import RECEIPT, Sidecar
from tests.sidecar.control_tools import key_file
from tests.support import raw_http, run
from tests.tokens import ISSUER, token

if TYPE_CHECKING:
    from tests.sidecar.postgres_tools import Server

KEY = SigningKey(bytes([0x51]) * 32)
CAPABILITIES, CLIENTS, WORKERS = 10, 16, 4


class Told(NamedTuple):
    """What a client was told of one request."""

    holder: int
    path: str
    status: int
    receipt: str


async def send(port: int, number: int, tokens: list[str]) -> Told:
    holder, path = number % CAPABILITIES, ("/pay", "/use")[number // CAPABILITIES % 2]
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n"
    # The socket accepts before the workers have started, which may take long on a machine that has much to do.
    response = await raw_http(port, f"{head}x-chio-capability: {tokens[holder]}\r\n\r\n".encode(), seconds=LIMIT)
    receipt = RECEIPT.search(response)
    assert receipt is not None, response
    return Told(holder, path, int(response[9:12]), receipt[1].decode())


async def spend(folder: Path, database: str, count: int, limit: int, *, killed: bool) -> tuple[list[Told], list[str]]:
    """Send all requests; return what clients were told, and the ids of the receipts that handlers saw."""
    key = key_file(folder / "own.key", KEY)
    tokens = [
        token(("shop", "pay"), {"server_id": "shop", "tool_name": "use", "max_invocations": limit})
        for _ in range(CAPABILITIES)
    ]
    document, sidecars = shared_application(limit).openapi(), []
    for name in ("a", "b"):
        (folder / name).mkdir()
        environ = {"CHIO_TRUSTED_ISSUER_KEY": ISSUER.public_hex}
        store = f"{database}&key={key}"
        sidecars.append(Sidecar(folder / name, store=store, document=document, **environ))
    told: list[Told] = []
    numbers = iter(range(count))

    async def client(port: int) -> None:
        for number in numbers:
            told.append(await send(port, number, tokens))
            if killed and len(told) == count // 2:
                await sidecars[0].end()

    await asyncio.gather(*(one.start() for one in sidecars))
    try:
        application = Application(
            folder, ",".join(one.address for one in sidecars), "--factory", f"--workers={WORKERS}",
            program="tests.chaos.shared_application:create", LIMIT=str(limit),
            CHIO_SIDECARS_SHARE_STORE="true", CHIO_TRUSTED_KERNEL_KEYS=KEY.public_hex,
        )  # fmt: skip
        await application.start()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(client(application.port))
        finally:
            await application.end()
            application.close()
    finally:
        await asyncio.gather(*(one.end() for one in sidecars[killed:]))
    return told, [receipt for (receipt,) in application.handled()]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["both live", "one is killed"])
def test_limits_are_exact_over_two_sidecars_and_four_workers_on_one_database(
    killed: bool, server: Server, tmp_path: Path, full_size: bool
) -> None:
    from tests.sidecar.postgres_tools import PostgresqlKit

    kit = PostgresqlKit(server)
    count, limit = (10_000, 300) if full_size else (400, 12)
    told, handled = run(spend(tmp_path, kit.url, count, limit, killed=killed), seconds=600)

    # Each client has its response: no error, also of the requests that the killed sidecar had begun.
    assert len(told) == count
    assert {one.status for one in told} == {200, 403}
    allowed = Counter((one.holder, one.path) for one in told if one.status == 200)
    assert allowed == {(holder, path): limit for holder in range(CAPABILITIES) for path in ("/pay", "/use")}
    # What handlers saw, what clients were told and what the database holds are the same.
    assert Counter(handled) == Counter(one.receipt for one in told if one.status == 200)
    rows = [json.loads(text) for (text,) in kit.fetch("SELECT receipt_json FROM chio.http_receipts")]
    assert Counter(one.receipt for one in told) == Counter(row["id"] for row in rows)
    assert len({row["request_id"] for row in rows}) == count
    for row in rows:
        verify_receipt(row, trusted_keys={KEY.public_hex})
