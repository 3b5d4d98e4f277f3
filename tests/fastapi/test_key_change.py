"""The sidecar's key is changed while requests flow: none is lost, none is refused that should not be (B4)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
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

REQUESTS, AT_ONCE = 900, 12


class Switch(httpx.AsyncBaseTransport):
    """Leads to the sidecar that is the present one when a question is asked."""

    def __init__(self, present: SidecarApp) -> None:
        self.present = present

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await httpx.ASGITransport(self.present).handle_async_request(request)


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


async def flow(store: Path) -> tuple[list[Reply], int]:
    """Send requests without a pause, change the key after a third and the pins after two; return the answers."""
    async with sidecars(store) as apps:
        switch = Switch(apps[OLD])
        services = [Service(switch, *BOTH)]
        numbers, replies = count(), [Reply()] * REQUESTS

        async def client() -> None:
            while (number := next(numbers)) < REQUESTS:
                if number == REQUESTS // 3:
                    switch.present = apps[NEW]
                if number == 2 * REQUESTS // 3:
                    services.append(Service(switch, NEW.public_hex))
                replies[number] = await services[-1].ask(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(client())
        return replies, sum(service.ran for service in services)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Reply], int]:
    """A store after the change, what was answered meanwhile, and how often a handler ran."""
    store = tmp_path_factory.mktemp("change") / "receipts.sqlite3"
    return (store, *run(flow(store)))


def stored(store: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(store)) as connection:
        return {one[0]: json.loads(one[1]) for one in connection.execute("SELECT id, receipt_json FROM http_receipts")}


def test_no_request_is_lost_or_refused_while_the_key_and_then_the_pins_are_changed(
    changed: tuple[Path, list[Reply], int],
) -> None:
    store, replies, ran = changed
    assert Counter(reply.status for reply in replies) == {200: REQUESTS}
    assert ran == REQUESTS
    receipts = stored(store)
    assert set(receipts) == {reply.receipt for reply in replies}
    assert len(receipts) == REQUESTS
    signers = [receipts[str(reply.receipt)]["kernel_key"] for reply in replies]
    assert set(signers[: REQUESTS // 3]) >= {OLD.public_hex}  # those under way at the change may have either
    assert signers[REQUESTS // 3 :] == [NEW.public_hex] * (REQUESTS - REQUESTS // 3)


def test_receipts_of_both_keys_verify_under_both_and_under_one_only_its_own(
    changed: tuple[Path, list[Reply], int], capsys: pytest.CaptureFixture[str]
) -> None:
    verify = ["receipt", "verify", "--receipt-db", str(changed[0])]
    assert main([*verify, "--trusted-key", OLD.public_hex, "--trusted-key", NEW.public_hex]) == 0
    assert f"{REQUESTS} receipts: {REQUESTS} valid, 0 invalid" in capsys.readouterr().err
    assert main([*verify, "--trusted-key", NEW.public_hex]) == 1
    said = capsys.readouterr()
    own = sum(one["kernel_key"] == NEW.public_hex for one in stored(changed[0]).values())
    assert f"{own} valid, {REQUESTS - own} invalid" in said.err
    assert said.out.count("INVALID kernel_key") == REQUESTS - own


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
