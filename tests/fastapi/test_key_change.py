"""The sidecar's key is changed and the old one retired while requests flow (B4).

None is lost or refused that should not be, and none runs on a receipt of a key that is retired, though a sidecar that
was not restarted still signs with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from chio_core.client.client import ChioClient
from chio_core.signing import SigningKey
from chio_fastapi import RequireCapability, add_chio
from chio_sidecar.app import SidecarApp, create_app
from chio_sidecar.cli import main
from chio_sidecar.config import SidecarConfig
from chio_sidecar.store.driver import sqlite3
from tests.support import Reply, call, run, settings
from tests.tokens import token

OLD, NEW, STRANGER = (SigningKey(bytes([number]) * 32) for number in (0x21, 0x22, 0x23))
BOTH = (OLD.public_hex, NEW.public_hex)

# Issued by the sidecar itself before the change, and good for longer than that takes.
TOKEN = token(("payments", "transfer"), key=OLD)

AT_ONCE = 12
STILL_OLD = 5
"""After the old key is retired one in so many requests reaches a sidecar that was not restarted."""


class Switch(httpx.AsyncBaseTransport):
    """Leads to the sidecar that is the present one when a question is asked.

    Args:
        behind: the sidecar that keeps the old key.
        retired: number of the first request for which the old key is retired; None: it stays.
    """

    def __init__(self, present: SidecarApp, behind: SidecarApp | None = None, retired: int | None = None) -> None:
        self.present = present
        self._behind = behind
        self._retired = retired

    def is_behind(self, number: int) -> bool:
        """Return True if a request reaches the sidecar with the retired key."""
        return self._retired is not None and number >= self._retired and number % STILL_OLD == 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = int(json.loads(request.content)["path"].rpartition("/")[2])
        app = self._behind if self._behind is not None and self.is_behind(number) else self.present
        return await httpx.ASGITransport(app).handle_async_request(request)


class Service:
    """An application with some pins. Changed pins are a new one: settings are read at the start."""

    def __init__(self, switch: Switch, *pins: str) -> None:
        self.ran = 0
        self._app = FastAPI()
        self._app.add_api_route("/transfers/{number}", self._transfer, methods=["POST"],
                                dependencies=[Depends(RequireCapability("payments", "transfer"))])  # fmt: skip
        add_chio(self._app, client=ChioClient(settings(trusted_kernel_keys=pins), transport=switch))

    async def ask(self, number: int = 0) -> Reply:
        return await call(self._app, "POST", f"/transfers/{number}", headers=[("x-chio-capability", TOKEN)])

    async def _transfer(self, number: int) -> None:
        self.ran += 1


@asynccontextmanager
async def sidecars(store: Path) -> AsyncIterator[dict[SigningKey, SidecarApp]]:
    """Three on one store, each with its own key; all accept capabilities that the old key has issued."""
    issuers = {OLD.public_hex}
    apps = {
        key: create_app(SidecarConfig(store_path=store, signing_key=key, trusted_issuers=issuers))
        for key in (OLD, NEW, STRANGER)
    }
    try:
        yield apps
    finally:
        for app in apps.values():
            await app.state.close()


@dataclass
class Change:
    """What happened while the key was changed.

    Attributes:
        replies: by number of the request. The first third is sent before the key is changed, the last one after the old
            key is retired: its pin is removed, and one sidecar goes on to sign with it.
        refused: numbers of requests that reached that sidecar.
        ran: how often a handler ran.
    """

    store: Path
    replies: list[Reply]
    refused: set[int]
    ran: int


async def flow(store: Path, requests: int) -> Change:
    """Send requests without a pause, change the key after a third and the pins after two."""
    async with sidecars(store) as apps:
        retired = 2 * requests // 3
        switch = Switch(apps[OLD], apps[OLD], retired)
        services = [Service(switch, *BOTH)]
        numbers, replies = count(), [Reply()] * requests

        async def client() -> None:
            while (number := next(numbers)) < requests:
                if number == requests // 3:
                    switch.present = apps[NEW]
                if number == retired:
                    services.append(Service(switch, NEW.public_hex))
                replies[number] = await services[-1].ask(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(client())
        refused = set(filter(switch.is_behind, range(requests)))
        return Change(store, replies, refused, sum(service.ran for service in services))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, full_size: bool) -> Change:
    """A change under 600 requests, and 6,000 at full size."""
    store = tmp_path_factory.mktemp("change") / "receipts.sqlite3"
    return run(flow(store, 6000 if full_size else 600), seconds=600)


def stored(store: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(store)) as connection:
        return {one[0]: json.loads(one[1]) for one in connection.execute("SELECT id, receipt_json FROM http_receipts")}


@pytest.mark.slow
def test_no_request_is_lost_and_only_those_on_the_retired_key_are_refused(changed: Change) -> None:
    total = len(changed.replies)
    wanted = [502 if number in changed.refused else 200 for number in range(total)]
    assert [reply.status for reply in changed.replies] == wanted
    assert len(changed.refused) >= total // 3 // STILL_OLD
    assert changed.ran == wanted.count(200)
    receipts = stored(changed.store)
    assert len(receipts) == total
    signers = [receipts[reply.receipt]["kernel_key"] for reply in changed.replies if reply.receipt is not None]
    assert len(signers) == wanted.count(200)
    assert set(signers[: total // 3]) >= {OLD.public_hex}  # those under way at the change may have either
    assert set(signers[total // 3 :]) == {NEW.public_hex}
    for reply in changed.replies:
        if reply.status == 502:
            assert (reply.json()["error"], reply.receipt) == ("chio_invalid_receipt", None)


@pytest.mark.slow
def test_receipts_of_both_keys_verify_under_both_and_under_one_only_its_own(
    changed: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    total = len(changed.replies)
    verify = ["receipt", "verify", "--receipt-db", str(changed.store)]
    assert main([*verify, "--trusted-key", OLD.public_hex, "--trusted-key", NEW.public_hex]) == 0
    assert f"{total} receipts: {total} valid, 0 invalid" in capsys.readouterr().err
    assert main([*verify, "--trusted-key", NEW.public_hex]) == 1
    said = capsys.readouterr()
    own = sum(one["kernel_key"] == NEW.public_hex for one in stored(changed.store).values())
    assert f"{own} valid, {total - own} invalid" in said.err
    assert said.out.count("INVALID kernel_key") == total - own


@pytest.mark.parametrize(
    ("signer", "pins", "status"),
    [
        (OLD, (NEW.public_hex,), 502),
        (STRANGER, BOTH, 502),
        (STRANGER, (NEW.public_hex,), 502),
        (NEW, (OLD.public_hex,), 502),
        (OLD, BOTH, 200),
        (NEW, BOTH, 200),
    ],
)
async def test_what_another_key_signs_after_the_change_does_not_count(
    signer: SigningKey, pins: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    async with sidecars(tmp_path / "receipts.sqlite3") as apps:
        service = Service(Switch(apps[signer]), *pins)
        reply, ran = await service.ask(), service.ran
    assert (reply.status, ran) == (status, 1 if status == 200 else 0)
    if status == 502:
        assert reply.json()["error"] == "chio_invalid_receipt"
        assert reply.receipt is None
