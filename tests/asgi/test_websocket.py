"""Websocket handshakes are judged like requests (C6)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import websockets
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from websockets.exceptions import InvalidStatus

from chio_asgi import ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_core.errors import EvaluationFailed, SidecarUnreachable
from chio_fastapi import Policy, RequireCapability, add_chio
from tests.asgi.routes import govern
from tests.fastapi.apps import with_token
from tests.support import Judge, StubClient, call, connect, deny, exchange, run, serve, settings, websocket_scope


async def echo(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=None, headers=[(b"x-own", b"1"), (b"x-chio-receipt", b"forged")])
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def app(called: list[str] | None = None) -> Starlette:
    async def handler(websocket: WebSocket) -> None:
        if called is not None:
            called.append(websocket.scope["path"])
        await echo(websocket)

    return Starlette(
        routes=[WebSocketRoute("/ws/{room}", handler), Mount("/m", routes=[WebSocketRoute("/inner/{x}", handler)])]
    )


def test_an_accepted_handshake_names_its_receipt() -> None:
    governed, judge = govern(app())
    reply = run(connect(governed, "/ws/7", {"type": "websocket.receive", "text": "hello"}))
    accept, answer = reply.messages[0], reply.messages[1]
    assert (accept["type"], answer["text"]) == ("websocket.accept", "hello")
    receipt = [value.decode() for name, value in accept["headers"] if name == b"x-chio-receipt"]
    assert list(judge.receipts) == receipt
    assert (b"x-own", b"1") in accept["headers"]
    assert (judge.last["method"], judge.last["path"], judge.last["route_pattern"]) == ("GET", "/ws/7", "/ws/{room}")
    assert judge.last["body_length"] == 0
    assert judge.last.get("body_hash") is None


def test_templates_reach_through_mounts() -> None:
    governed, judge = govern(app())
    run(connect(governed, "/m/inner/1"))
    assert judge.last["route_pattern"] == "/m/inner/{x}"


def test_an_http_route_is_not_taken_for_a_websocket_route() -> None:
    governed, judge = govern(app())
    assert run(call(governed, "GET", "/ws/7")).status == 404
    assert judge.last["route_pattern"] == "/ws/7"


@pytest.mark.parametrize(
    ("verdict", "failure", "status"),
    [
        (deny("no entry", 403), None, 403),
        (deny("no entry", 451), None, 451),
        ({"verdict": "cancel", "reason": "x"}, None, 403),
        ({"verdict": "incomplete"}, None, 403),
        ({"verdict": "allow"}, SidecarUnreachable("x"), 503),
        ({"verdict": "allow"}, EvaluationFailed("x"), 502),
    ],
)
@pytest.mark.parametrize("extension", [True, False])
def test_a_refused_handshake_runs_no_handler_and_is_readable(
    verdict: Any, failure: Exception | None, status: int, extension: bool
) -> None:
    called: list[str] = []
    governed, _ = govern(app(called), Judge(lambda question, token: verdict))
    governed.client.failure = failure
    reply = run(connect(governed, "/ws/7", denial=extension))
    assert called == []
    if extension:
        assert [m["type"] for m in reply.messages] == ["websocket.http.response.start", "websocket.http.response.body"]
        assert reply.status == status
        assert reply.json()["status"] == status
        assert (reply.receipt is None) == (failure is not None)
    else:
        assert [(m["type"], m["code"]) for m in reply.messages] == [("websocket.close", 1008)]


def test_hooks_are_called_for_a_refused_handshake() -> None:
    heard: list[Any] = []
    client = StubClient(Judge(lambda question, token: deny()))
    governed = ChioASGIMiddleware(app(), client=client, on_decision=heard.append, on_receipt=heard.append)
    assert run(connect(governed, "/ws/7")).status == 403
    decision, receipt = heard
    assert (decision.verdict, decision.allowed) == ("deny", False)
    assert decision.receipt is receipt


def test_a_handshake_is_observed_like_a_request() -> None:
    async def mark(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.state.chio_passthrough.mode)

    routes = Starlette(routes=[WebSocketRoute("/chat", mark)])
    governed, _ = govern(routes, Judge(lambda question, token: deny()), observe=True)
    messages = run(connect(governed, "/chat")).messages
    assert (messages[0]["type"], messages[1]["text"]) == ("websocket.accept", "observe")


def test_the_reason_of_a_close_fits_into_its_frame() -> None:
    governed, _ = govern(app(), Judge(lambda question, token: deny("ü" * 200)))
    message = run(connect(governed, "/ws/7", denial=False)).messages[0]
    assert len(message["reason"].encode()) <= 123
    assert set(message["reason"]) == {"ü"}


def test_a_client_that_leaves_before_the_handshake_causes_no_evaluation() -> None:
    called: list[str] = []
    governed, judge = govern(app(called))
    reply = run(exchange(governed, websocket_scope("/ws/7"), [{"type": "websocket.disconnect", "code": 1006}]))
    assert (reply.messages, judge.questions, called) == ([], [], [])


def test_an_excluded_websocket_is_passed_on_without_a_receipt() -> None:
    governed, judge = govern(app(), exclude_paths=frozenset({"/ws/free"}))
    accept = run(connect(governed, "/ws/free")).messages[0]
    assert accept["type"] == "websocket.accept"
    assert not [value for name, value in accept["headers"] if name == b"x-chio-receipt"]
    assert judge.questions == []


def test_the_messages_of_an_open_websocket_are_not_touched() -> None:
    received: list[Any] = []

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            received.append(message)
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
        received.append(message)

    messages = [{"type": "websocket.receive", "bytes": b"1"}, {"type": "websocket.receive", "text": "2"}]
    governed, _ = govern(raw)
    reply = run(connect(governed, "/", *messages))
    assert [m["type"] for m in reply.messages] == ["websocket.accept"]
    assert [m["type"] for m in received] == [
        "websocket.connect", "websocket.receive", "websocket.receive", "websocket.disconnect",
    ]  # fmt: skip


# Requirements


def with_requirement(called: list[str], **options: Any) -> tuple[FastAPI, Judge]:
    fastapi, judge = FastAPI(), Judge()

    @fastapi.websocket("/pay/{account}")
    async def pay(
        websocket: WebSocket, account: str, receipt: Annotated[Any, Depends(RequireCapability("bank", "pay"))]
    ) -> None:
        called.append(receipt.id)
        await websocket.accept()

    add_chio(fastapi, client=StubClient(judge, **options))
    return fastapi, judge


def test_a_requirement_is_part_of_the_one_evaluation_of_a_handshake() -> None:
    called: list[str] = []
    fastapi, judge = with_requirement(called)
    reply = run(connect(fastapi, "/pay/7", headers=with_token(("bank", "pay"))))
    assert reply.messages[0]["type"] == "websocket.accept"
    assert len(judge.questions) == 1
    assert (judge.last["tool_server"], judge.last["tool_name"]) == ("bank", "pay")
    assert called == list(judge.receipts)


@pytest.mark.parametrize("extension", [True, False])
def test_a_handshake_without_the_capability_is_refused_before_the_handler(extension: bool) -> None:
    called: list[str] = []
    fastapi, _ = with_requirement(called)
    reply = run(connect(fastapi, "/pay/7", denial=extension))
    assert called == []
    if extension:
        assert (reply.status, reply.json()["error"]) == (401, "chio_capability_required")
        assert reply.header("www-authenticate") is not None
    else:
        assert reply.messages[0]["type"] == "websocket.close"


def test_a_requirement_is_not_met_by_failing_open() -> None:
    called: list[str] = []
    fastapi, _ = with_requirement(called, fail_open=True)
    fastapi.state.chio_client.failure = SidecarUnreachable("x")
    assert run(connect(fastapi, "/pay/7")).status == 503
    assert called == []


# A handshake is a safe method


@pytest.mark.parametrize("demand", [Policy(side_effects=True), RequireCapability("feed", "watch")], ids=repr)
async def test_a_handshake_needs_a_capability_only_where_its_route_states_one(demand: Any, tmp_path: Path) -> None:
    fastapi = FastAPI()
    fastapi.websocket("/safe")(echo)
    fastapi.websocket("/writes", dependencies=[Depends(demand)])(echo)
    async with add_chio(fastapi, sidecar_url=f"embedded:{tmp_path / 'receipts.sqlite3'}", _env_file=None) as client:
        assert (await connect(fastapi, "/safe")).messages[0]["type"] == "websocket.accept"
        refused = await connect(fastapi, "/writes")
        assert (refused.status, refused.json()["error"]) == (401, "chio_capability_required")
        token = await client.authority.aissue("feed/watch", holder=None)
        headers = [("X-Chio-Capability", json.dumps(token.to_wire()))]
        assert (await connect(fastapi, "/writes", headers=headers)).messages[0]["type"] == "websocket.accept"


async def test_the_document_of_a_sidecar_can_demand_a_capability_of_a_handshake(tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(
        json.dumps(
            {
                "openapi": "3.1.0",
                "info": {"title": "s", "version": "1"},
                "paths": {"/ws/{room}": {"get": {"x-chio-side-effects": True, "responses": {}}}},
            }
        )
    )
    url = f"embedded:{tmp_path / 'receipts.sqlite3'}?spec={tmp_path / 'openapi.json'}"
    async with ChioClient(settings(sidecar_url=url, trusted_kernel_keys=())) as client:
        governed = ChioASGIMiddleware(app(), client=client)
        assert (await connect(governed, "/m/inner/1")).messages[0]["type"] == "websocket.accept"
        assert (await connect(governed, "/ws/7")).status == 403


# Through a server


async def test_handshakes_through_a_server() -> None:
    called: list[str] = []
    governed, judge = govern(
        app(called), Judge(lambda q, t: deny("no entry") if q["path"] == "/ws/no" else {"verdict": "allow"})
    )
    async with serve(governed, ws="websockets-sansio") as port:
        async with websockets.connect(f"ws://127.0.0.1:{port}/ws/yes", proxy=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            assert socket.response is not None
            assert socket.response.headers.get_all("x-chio-receipt") == list(judge.receipts)
        with pytest.raises(InvalidStatus) as refused:
            await websockets.connect(f"ws://127.0.0.1:{port}/ws/no", proxy=None)
        assert refused.value.response.status_code == 403
        assert b"no entry" in refused.value.response.body
        assert refused.value.response.headers["x-chio-receipt"] in judge.receipts
    assert called == ["/ws/yes"]


async def test_a_thousand_handshakes_at_once() -> None:
    called: list[str] = []
    governed, judge = govern(
        app(called), Judge(lambda q, t: {"verdict": "allow"} if int(q["path"][4:]) % 2 else deny("odd only"))
    )
    replies = await asyncio.gather(*(connect(governed, f"/ws/{number}") for number in range(1000)))
    accepted = [reply for reply in replies if reply.messages[0]["type"] == "websocket.accept"]
    assert len(accepted) == len(called) == 500
    assert len(judge.receipts) == 1000
