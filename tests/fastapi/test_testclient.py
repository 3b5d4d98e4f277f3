"""Governed applications under Starlette's test client, which runs each request in a new loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from chio_core.testing import ScriptedSidecar, behaviours
from chio_fastapi import ChioReceipt, OptionalChioReceipt, add_chio
from tests.fastapi.apps import stub
from tests.support import Judge, deny, settings


def application(**options: object) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def handler(receipt: ChioReceipt) -> str:
        return receipt.id

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, receipt: OptionalChioReceipt) -> None:
        await websocket.accept()
        await websocket.send_text(receipt.id if receipt else "none")

    add_chio(app, **options)  # type: ignore[arg-type]
    return app


@pytest.mark.parametrize("entered", [True, False], ids=["with lifespan", "without"])
def test_requests_and_websockets(entered: bool) -> None:
    client = TestClient(application(client=stub()))
    if entered:
        client.__enter__()
    for _ in range(3):
        answer = client.get("/")
        assert (answer.status_code, answer.json()) == (200, answer.headers["x-chio-receipt"])
        with client.websocket_connect("/ws") as socket:
            assert socket.receive_text().startswith("stub-")
    if entered:
        client.__exit__(None, None, None)


def test_a_refused_websocket_is_readable() -> None:
    client = TestClient(application(client=stub(Judge(lambda question, token: deny("no entry")))))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
        pass


@pytest.mark.parametrize("entered", [True, False], ids=["with lifespan", "without"])
def test_the_sidecar_in_the_same_process(entered: bool, tmp_path: Path) -> None:
    options = settings(sidecar_url=f"embedded:{tmp_path}/receipts.sqlite3", trusted_kernel_keys=())
    app = application(config=options)
    client = TestClient(app)
    if entered:
        client.__enter__()
    receipts = {client.get("/").headers["x-chio-receipt"] for _ in range(5)}
    assert len(receipts) == 5
    if entered:
        client.__exit__(None, None, None)
    else:
        asyncio.run(app.state.chio_client.aclose())


def test_the_scripted_sidecar_needs_no_socket() -> None:
    sidecar = ScriptedSidecar()
    client = TestClient(application(client=sidecar.client()))
    assert client.get("/").status_code == 200
    sidecar.script = behaviours.DENY
    assert client.get("/").status_code == 403
    assert [asked.path for asked in sidecar.asked] == ["/", "/"]
