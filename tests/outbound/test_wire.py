"""What is written to the wire is what was evaluated: method, URL, target, TLS name, Host, framing and body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest

from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.outbound import Cache, ChioTransport, MiddlewareChain, OutboundDenied
from chio_core.testing import ScriptedSidecar
from tests.outbound.test_sync import governed as governed_sync
from tests.outbound.tools import A, Next, Upstream, governed, redirect_to

Change = Callable[[Any], None]


class Wire:
    """A TCP server that keeps what each connection writes, and responds 200 to all of it."""

    port = 0

    def __init__(self) -> None:
        self.written: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        self.written.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Wire]:
    wire = Wire()
    server = await asyncio.start_server(wire.take, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    async with server:
        yield wire


def extension(name: str, value: Any) -> Change:
    return lambda request: request.extensions.update({name: value})


def header(name: str, value: str) -> Change:
    return lambda request: request.headers.update({name: value})


def attribute(name: str, value: Any) -> Change:
    return lambda request: setattr(request, name, value)


def second_host(request: Any) -> None:
    request.headers = type(request.headers)([*request.headers.multi_items(), ("Host", "b.example.org")])


CHANGES: dict[str, Change] = {
    "target": extension("target", b"/admin/delete"),
    "sni_hostname": extension("sni_hostname", "b.example.org"),
    "method": attribute("method", "DELETE"),
    "URL": lambda request: setattr(request, "url", request.url.copy_with(path="/admin")),
    "body": attribute("stream", httpx.ByteStream(b"2")),
    "Host": second_host,
    "Content-Type": header("Content-Type", "text/plain"),
    "Content-Length": header("Content-Length", "0"),
    "Transfer-Encoding": header("Transfer-Encoding", "chunked"),
    "Content-Encoding": header("Content-Encoding", "gzip"),
    "Connection": header("Connection", "close"),
    "Upgrade": header("Upgrade", "h2c"),
    "TE": header("TE", "trailers"),
    "Trailer": header("Trailer", "X-Late"),
    "Expect": header("Expect", "100-continue"),
    "X-HTTP-Method-Override": header("X-HTTP-Method-Override", "DELETE"),
    "X-Original-URL": header("X-Original-URL", "/admin"),
}
"""What a member can change, under the name that the error gives it."""


@pytest.mark.parametrize("name", CHANGES)
async def test_nothing_that_decides_what_is_written_changes_after_the_decision(name: str) -> None:
    async def late(request: Any, following: Next) -> Any:
        CHANGES[name](request)
        return await following(request)

    async with listening() as wire:
        transport = ChioTransport(httpx.AsyncHTTPTransport(), governed(ScriptedSidecar()), late)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(ConfigurationError, match=rf"changed {name} after the decision.*priority below 0"):
                await client.post(f"{wire.url}/items", content=b"1")
        assert wire.written == []


@pytest.mark.parametrize("name", CHANGES)
def test_the_synchronous_transport_compares_the_same(name: str) -> None:
    def late(request: Any, following: Callable[[Any], Any]) -> Any:
        CHANGES[name](request)
        return following(request)

    upstream = Upstream()
    with (
        upstream.sync_client(governed_sync(ScriptedSidecar()), late) as client,
        pytest.raises(ConfigurationError, match=f"changed {name} after the decision"),
    ):
        client.post(f"{A}/items", content=b"1")
    assert upstream.hits == 0


EARLY: dict[str, dict[str, Any]] = {
    "extension target": {"extensions": {"target": b"/admin/delete"}},
    "extension sni_hostname": {"extensions": {"sni_hostname": "b.example.org"}},
    "Host header": {"headers": [("Host", "a.example.com"), ("Host", "b.example.org")]},
    "framing: Content-Length": {"headers": {"Content-Length": "0"}},
    "framing: two Content-Length": {"headers": [("Content-Length", "1"), ("Content-Length", "1")]},
    "framing: Transfer-Encoding": {"headers": {"Transfer-Encoding": "chunked, gzip"}},
    "framing: Content-Length and": {"headers": {"Transfer-Encoding": "chunked"}},
    "X-HTTP-Method-Override": {"headers": {"X-HTTP-Method-Override": "DELETE"}},
}
"""Requests of the caller that would be written otherwise than they are evaluated, under a word of the refusal."""


@pytest.mark.parametrize("words", EARLY)
async def test_a_request_that_would_be_written_otherwise_is_refused_without_the_sidecar(words: str) -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    with pytest.raises(OutboundDenied, match=words.partition(":")[0]) as refused:
        await upstream.fetch(governed(sidecar), method="POST", content=b"1", **EARLY[words])
    assert refused.value.denial.status == 400
    assert (len(sidecar.asked), upstream.hits) == (0, 0)


async def test_extensions_that_repeat_the_url_are_accepted_until_a_redirect() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream(redirect_to("/end"))
    same = {"target": b"/x?q=1", "sni_hostname": "A.example.com"}
    await upstream.fetch(governed(sidecar), url=f"{A}/x?q=1", extensions=same)
    with pytest.raises(OutboundDenied, match="extension target"):  # the client repeats it for the next hop
        await upstream.fetch(governed(sidecar), url=f"{A}/start", extensions={"target": b"/start"})
    assert [request.url.path for request in upstream.seen] == ["/x", "/start"]


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_bytes_on_the_wire_are_those_that_were_evaluated(library: Any, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    sidecar = ScriptedSidecar()
    async with listening() as wire:
        transport = ChioTransport(library.AsyncHTTPTransport(), governed(sidecar))
        async with library.AsyncClient(transport=transport) as client:
            headers = {} if chunked else {"Content-Length": "6"}
            await client.put(f"{wire.url}/a%2Fb?q=1", content=pieces(), headers=headers)
    (asked,) = sidecar.asked
    head, _, body = wire.written[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /a%2Fb?q=1 HTTP/1.1\r\n")
    assert (asked.method, asked.path) == ("PUT", f"/http/{wire.url[7:]}/a%2Fb")
    assert asked.document["body_hash"] == sha256_hex(b"onetwo")
    assert (b"chunked" in head.lower(), body) == (chunked, b"" if chunked else b"onetwo")


async def test_the_stream_is_evaluated_not_the_content_that_was_read_before() -> None:
    async def swapping(request: Any, following: Next) -> Any:
        assert request.content == b"1"
        request.stream = httpx.ByteStream(b"2")
        return await following(request)

    sidecar, upstream = ScriptedSidecar(), Upstream()
    chain = MiddlewareChain(governed(sidecar)).add(swapping, priority=-1)
    await upstream.fetch(chain, method="POST", content=b"1")
    assert sidecar.asked[0].document["body_hash"] == sha256_hex(b"2")
    assert b"".join(upstream.last.stream) == b"2"


async def test_a_change_while_the_send_waits_does_not_reach_the_network() -> None:
    started, changed = asyncio.Event(), asyncio.Event()

    class Waiting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            started.set()
            await changed.wait()
            seen.update(request.extensions, path=request.url.path, host=request.headers["host"])
            return httpx.Response(200)

    async def racing(request: Any, following: Next) -> Any:
        send = asyncio.ensure_future(following(request))
        await started.wait()
        for name in ("sni_hostname", "URL", "Host"):
            CHANGES[name](request)
        changed.set()
        return await send

    seen: dict[str, Any] = {}
    async with httpx.AsyncClient(transport=ChioTransport(Waiting(), governed(ScriptedSidecar()), racing)) as client:
        await client.get(f"{A}/items")
    assert (seen["path"], seen["host"]) == ("/items", "a.example.com")
    assert "sni_hostname" not in seen


async def test_a_cache_serves_nothing_but_the_evaluated_request() -> None:
    async def elsewhere(request: Any, following: Next) -> Any:
        request.url = request.url.copy_with(path="/secret")
        return await following(request)

    upstream, cache = Upstream(), Cache(ttl=60)
    await upstream.fetch(governed(ScriptedSidecar()), cache, url=f"{A}/secret")
    with pytest.raises(ConfigurationError, match="changed URL after the decision"):
        await upstream.fetch(governed(ScriptedSidecar()), elsewhere, cache, url=f"{A}/open")
    assert upstream.hits == 1
