"""`api protect --upstream` in front of an unmodified service: what is evaluated is what the service gets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from chio_core.capabilities import issue_capability
from chio_core.receipts import verify_receipt
from chio_sidecar.cli.application import govern_upstream
from chio_sidecar.proxy.messages import find_fault, without_token
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.sidecar_tools import KERNEL, grant, sidecar, token_text
from tests.support import DEADLINE, raw_http, serve

SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "s", "version": "1"},
    "paths": {
        "/open": {"post": {"x-chio-side-effects": False, "responses": {}}},
        "/secret/{name}": {"get": {"x-chio-side-effects": True, "responses": {}}},
    },
}


class Upstream:
    """A service without Chio that remembers what it got."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.went_on = asyncio.Event()
        self.was_left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append({**scope, "body": body})
        status, headers, path = 200, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], scope["path"]
        if path == "/redirect":
            status, headers = 302, [(b"location", b"https://elsewhere.test/x?y#z")]
        elif path == "/not-modified":
            status, headers = 304, [(b"etag", b'"1"'), (b"content-length", b"77")]
        elif path == "/head":
            headers = [(b"content-length", b"1234")]
        elif path == "/claims":
            headers = [(b"x-chio-receipt", b"mine"), (b"x-chio-receipt-id", b"mine"), (b"connection", b"x-hop")]
            headers.append((b"x-hop", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if path == "/stream":
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await self.went_on.wait()
        elif path == "/endless":
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await receive()
            self.was_left.set()
            return
        elif path == "/broken":
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            return
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" or status == 304 else b"end"}
        )

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(scope)
        await receive()
        if scope["path"] == "/refuse":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-own", b"1")]})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "bye":
                await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
                return
            kept = {name: message[name] for name in ("text", "bytes") if message.get(name) is not None}
            await send({"type": "websocket.send", **kept})
        self.was_left.set()

    @property
    def last(self) -> dict[str, Any]:
        return self.requests[-1]

    def header(self, name: str) -> list[bytes]:
        return [value for key, value in self.last["headers"] if key == name.encode()]


@asynccontextmanager
async def proxied(folder: Path, *, timeout: float = 5.0, url: str = "", **config: Any) -> AsyncIterator[Any]:
    """Give the upstream, the port of the proxy, and a client of it."""
    upstream = Upstream()
    async with serve(upstream) as behind, sidecar(folder, spec_text=json.dumps(SPEC), clock=time.time, **config) as app:
        close = govern_upstream(app, url or f"http://127.0.0.1:{behind}", timeout=timeout)
        async with (
            serve(app, ws="websockets-sansio", proxy_headers=False, date_header=False) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=DEADLINE) as client,
        ):
            yield upstream, port, client
        await close()


def receipts(folder: Path) -> list[Any]:
    with sqlite3.connect(f"file:{folder / 'receipts.sqlite3'}?mode=ro", uri=True) as database:
        return [json.loads(text) for (text,) in database.execute("SELECT receipt_json FROM http_receipts ORDER BY seq")]


async def test_an_allowed_request_reaches_the_service_and_leaves_a_decision_and_an_outcome(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, _, client):
        answer = await client.post("/open?a=1&a=%32", content=b"body" * 50_000)
        assert (answer.status_code, answer.text) == (200, "end")
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert len(answer.headers.get_list("date")) == 1
        assert upstream.last["body"] == b"body" * 50_000
        assert upstream.last["query_string"] == b"a=1&a=%32"
        decision, final = receipts(tmp_path)
        assert (answer.headers["x-chio-receipt"], answer.headers["x-chio-receipt-id"]) == (decision["id"], final["id"])
        assert verify_receipt(final, trusted_keys=[KERNEL.public_hex]).response_status == 200
        assert final["metadata"]["chio_http_status_scope"] == "final"
        assert final["metadata"]["chio_decision_receipt_id"] == decision["id"]
        same = ("route_pattern", "verdict", "content_hash", "policy_hash", "caller_identity_hash", "method")
        assert [final[name] for name in same] == [decision[name] for name in same]
    inspection = Inspection(tmp_path / "receipts.sqlite3")
    assert not list(inspection.findings())


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/x"), ("GET", "/secret/1"), ("GET", "/%73ecret/1")])
async def test_a_refused_request_never_reaches_the_service(method: str, path: str, tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, _, client):
        answer = await client.request(method, path)
        assert answer.status_code == 401 or answer.status_code == 403
        assert answer.headers["x-chio-receipt"] == receipts(tmp_path)[0]["id"]
        assert not upstream.requests
        token = issue_capability(KERNEL, subject=KERNEL.public_hex, scope={"grants": [grant()]}, ttl_seconds=60)
        answer = await client.request(method, path, headers={"X-Chio-Capability": token_text(token)})
        assert (answer.status_code, upstream.header("x-chio-capability")) == (200, [])


async def test_headers_of_one_hop_and_claims_about_earlier_hops_end_here(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, _, client):
        sent = {
            "Host": "shop.test",
            "Connection": "keep-alive, X-Private",
            "X-Private": "1",
            "TE": "trailers",
            "X-Forwarded-For": "6.6.6.6",
            "X_Forwarded_Proto": "https",
            "Forwarded": "for=6.6.6.6",
            "X-Real-IP": "6.6.6.6",
            "Authorization": "Bearer kept",
        }
        await client.get("/claims", headers=sent)
        names = {name for name, _ in upstream.last["headers"]}
        assert names.isdisjoint({b"x-private", b"te", b"forwarded", b"x-real-ip", b"x_forwarded_proto"})
        assert upstream.header("x-forwarded-for") == [b"127.0.0.1"]
        assert upstream.header("x-forwarded-host") == [b"shop.test"]
        assert upstream.header("x-forwarded-proto") == [b"http"]
        assert upstream.header("authorization") == [b"Bearer kept"]
        assert upstream.header("host") != [b"shop.test"]
        answer = await client.get("/claims")
        assert "x-hop" not in answer.headers
        assert "mine" not in answer.headers.get_list("x-chio-receipt") + answer.headers.get_list("x-chio-receipt-id")


async def test_a_response_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, _, client), client.stream("GET", "/stream") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"data: 1\n\n"
        upstream.went_on.set()
        assert [piece async for piece in pieces] == [b"end"]


@pytest.mark.parametrize(
    ("method", "path", "status", "name", "value"),
    [
        ("GET", "/redirect", 302, "location", "https://elsewhere.test/x?y#z"),
        ("GET", "/not-modified", 304, "etag", '"1"'),
        ("HEAD", "/head", 200, "content-length", "1234"),
    ],
)
async def test_heads_stay_as_the_service_sent_them(
    method: str, path: str, status: int, name: str, value: str, tmp_path: Path
) -> None:
    async with proxied(tmp_path) as (_, _, client):
        for _ in range(2):  # the connection is still usable
            answer = await client.request(method, path)
            assert (answer.status_code, answer.headers[name]) == (status, value)
        assert [one["response_status"] for one in receipts(tmp_path)][1::2] == [status, status]


async def test_a_client_that_leaves_ends_the_request_at_the_service(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, _, client), asyncio.timeout(DEADLINE):
        async with client.stream("GET", "/endless") as answer:
            await anext(answer.aiter_raw())
        await upstream.was_left.wait()


async def test_a_response_that_breaks_off_is_broken_for_the_client_too(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (_, _, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/broken")


async def test_a_service_that_cannot_be_reached_is_502_and_recorded(tmp_path: Path) -> None:
    async with proxied(tmp_path, url="http://127.0.0.1:1") as (_, _, client):
        answer = await client.get("/")
        assert (answer.status_code, answer.text) == (502, "upstream error: it cannot be reached")
        final = receipts(tmp_path)[1]
        assert (final["id"], final["response_status"]) == (answer.headers["x-chio-receipt-id"], 502)


async def test_a_service_that_is_late_is_504_and_recorded(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the proxy gives up
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, proxied(tmp_path, url=url, timeout=0.1) as (_, _, client):
        assert (await client.get("/")).status_code == 504
        assert receipts(tmp_path)[1]["response_status"] == 504


async def test_paths_of_the_sidecar_stay_the_sidecars(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, _, client):
        for path in ("/chio/health", "/chio/unknown", "/metrics", "/v1/receipts", "/%63hio/health"):
            await client.get(path)
        assert not upstream.requests
        assert (await client.get("/v1/other")).status_code == 200
        assert 'chio_sidecar_proxied_total{outcome="2xx"} 1' in (await client.get("/metrics")).text


HEAD = "Host: h\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "request_text",
    [
        f"POST /open HTTP/1.1\r\n{HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"POST /open HTTP/1.1\r\n{HEAD}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        f"POST /open HTTP/1.1\r\n{HEAD}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        f"POST /open HTTP/1.1\r\n{HEAD}Content-Length: +5\r\n\r\nhello",
        f"POST /open HTTP/1.1\r\n{HEAD}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        f"POST /open HTTP/1.1\r\n{HEAD}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        f"GET / HTTP/1.1\r\n{HEAD}Host: other\r\n\r\n",
        f"GET /a/../secret/1 HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /a/%2e%2E/secret/1 HTTP/1.1\r\n{HEAD}\r\n",
        f"GET //secret/1 HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /secret%2F1 HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /secret%5c1 HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /%2573ecret/1 HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /a%0d%0aX:1 HTTP/1.1\r\n{HEAD}\r\n",
        f"GET /%ff HTTP/1.1\r\n{HEAD}\r\n",
        f"GET / HTTP/1.1\r\n{HEAD}X-Big: {'x' * 66_000}\r\n\r\n",
        f"OPTIONS * HTTP/1.1\r\n{HEAD}\r\n",
        f"CONNECT h:80 HTTP/1.1\r\n{HEAD}\r\n",
    ],
)
async def test_a_request_with_two_readings_is_refused(request_text: str, tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, port, _):
        answer = await raw_http(port, request_text.encode())
        assert answer == b"" or answer.split(b" ", 2)[1] in (b"400", b"405", b"431"), answer[:80]
        assert not upstream.requests


async def test_a_request_behind_a_refused_one_is_not_read_from_its_body(tmp_path: Path) -> None:
    smuggled = b"POST /open HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with proxied(tmp_path) as (upstream, port, _):
        answer = await raw_http(port, smuggled + b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
        assert answer.count(b"HTTP/1.1") == 1
        assert not upstream.requests


async def test_the_path_is_forwarded_byte_for_byte(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, port, _):
        for target in (b"/caf%c3%A9/a%20b;v=1/~x'\"|{}?q=%zz&chio_capability=t&r=+", b"http://other.test/abs?x"):
            assert b" 200 " in await raw_http(port, b"GET " + target + b" HTTP/1.1\r\n" + HEAD.encode() + b"\r\n")
        first, second = upstream.requests
        assert first["raw_path"] == b"/caf%c3%A9/a%20b;v=1/~x'\"|{}"
        assert first["query_string"] == b"q=%zz&r=+"
        assert (second["raw_path"], second["query_string"]) == (b"/abs", b"x")


@pytest.mark.parametrize(
    ("query", "left"),
    [(b"", b""), (b"chio%5fcapability=x", b""), (b"a=1&chio_capability&b", b"a=1&b"), (b"xchio_capability=1",) * 2],
)
def test_the_token_in_the_query_is_all_that_is_taken_out(query: bytes, left: bytes) -> None:
    assert without_token(query) == left


def test_a_loop_ends() -> None:
    scope = {"raw_path": b"/", "headers": [(b"via", b"1.1 other, 1.1 own")]}
    assert (find_fault(scope, (), b"own") or (0,))[0] == 508


async def test_the_proxy_evaluates_with_the_sidecars_token_and_forwards_none_of_its_tokens(tmp_path: Path) -> None:
    tokens = {"control_token": SecretStr("canary-control"), "evaluate_token": SecretStr("canary-evaluate")}
    async with proxied(tmp_path, **tokens) as (upstream, _, client):
        assert (await client.post("/open", headers={"Authorization": "Bearer of-the-caller"})).status_code == 200
        assert upstream.header("authorization") == [b"Bearer of-the-caller"]
        for token in tokens.values():
            headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
            assert (await client.post("/open", headers=headers)).status_code == 403
        assert len(upstream.requests) == 1


async def test_a_chunked_body_arrives_whole_with_its_length(tmp_path: Path) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"a" * 70_000, b"b")) + b"0\r\n\r\n"
    async with proxied(tmp_path) as (upstream, port, _):
        head = f"POST /open HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n"
        assert b" 200 " in await raw_http(port, head.encode() + body)
        assert hashlib.sha256(upstream.last["body"]).digest() == hashlib.sha256(b"a" * 70_000 + b"b").digest()
        assert upstream.header("content-length") == [b"70001"]


async def test_a_websocket_passes_both_ways_after_its_handshake_was_evaluated(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (upstream, port, _), asyncio.timeout(DEADLINE):
        async with connect(f"ws://127.0.0.1:{port}/chat?x=1", subprotocols=["chat"], proxy=None) as socket:  # type: ignore[list-item]
            await socket.send("text")
            await socket.send(b"\x00bytes")
            assert [await socket.recv(), await socket.recv()] == ["text", b"\x00bytes"]
            assert socket.subprotocol == "chat"
            assert socket.response is not None
            head = socket.response.headers
            assert head["x-own"] == "1"
            decision, final = receipts(tmp_path)
            assert (head["x-chio-receipt"], head["x-chio-receipt-id"]) == (decision["id"], final["id"])
            assert final["response_status"] == 101
            await socket.send("bye")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
        assert upstream.last["query_string"] == b"x=1"
        async with connect(f"ws://127.0.0.1:{port}/chat", subprotocols=["chat"], proxy=None):  # type: ignore[list-item]
            pass
        await upstream.was_left.wait()


@pytest.mark.parametrize("path", ["/refuse", "/secret/1"])
async def test_a_websocket_that_is_refused_by_the_service_or_the_policy_does_not_open(
    path: str, tmp_path: Path
) -> None:
    async with proxied(tmp_path) as (upstream, port, _):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://127.0.0.1:{port}{path}", proxy=None):
                pass
        assert refused.value.response.status_code in (401, 403)
        assert bool(upstream.requests) is (path == "/refuse")
