"""Answers are not touched, not buffered and not delayed: only their head gets one header (C5)."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.asgi.routes import both_ways, govern
from tests.support import call, exchange, http_scope, run, serve

GET = {"type": "http.request", "body": b"", "more_body": False}


@both_ways
async def test_the_first_chunk_goes_out_before_the_second_is_made(governed: Any) -> None:
    steps: list[str] = []

    async def events() -> AsyncIterator[bytes]:
        for number in range(3):
            steps.append(f"made {number}")
            yield b"data: %d\n\n" % number

    async def sse(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    app, _ = governed(Starlette(routes=[Route("/", sse)]))
    messages = [GET]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            steps.append(f"sent {message['body'].decode().strip()[-1]}")
            assert message["more_body"] is True

    await app(http_scope("GET", "/"), receive, send)
    assert steps == ["made 0", "sent 0", "made 1", "sent 1", "made 2", "sent 2"]


def test_messages_are_passed_on_as_they_are_but_for_the_head() -> None:
    sent = [
        {"type": "http.response.debug", "info": {"template": "a"}},
        {"type": "http.response.early_hint", "links": [b"</a.css>"]},
        {"type": "http.response.start", "status": 299, "headers": [(b"a", b"1")], "trailers": True, "own": object()},
        {"type": "http.response.body", "body": memoryview(b"abc"), "more_body": True},
        {"type": "http.response.zerocopysend", "file": 7, "offset": 0, "count": 3, "more_body": True},
        {"type": "http.response.pathsend", "path": "/a/b"},
        {"type": "http.response.body"},
        {"type": "http.response.trailers", "headers": [(b"t", b"1")], "more_trailers": False},
        {"type": "http.response.push", "path": "/x", "headers": []},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)

    governed, judge = govern(app)
    got = run(exchange(governed, http_scope("GET", "/"), [GET])).messages
    receipt = next(iter(judge.receipts)).encode()
    head = {**sent[2], "headers": [(b"a", b"1"), (b"x-chio-receipt", receipt)]}
    assert got == [*sent[:2], head, *sent[3:]]
    assert got[3]["body"] is sent[3]["body"]
    assert sent[2]["headers"] == [(b"a", b"1")]  # the application's own message is not changed


def test_a_head_without_headers_gets_one() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    governed, judge = govern(app)
    assert run(call(governed, "GET", "/")).receipt in judge.receipts


@both_ways
def test_files_and_ranges(governed: Any, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "a.bin").write_bytes(content)

    async def download(request: Request) -> Response:
        return FileResponse(tmp_path / "a.bin")

    routes = [Route("/file", download), Mount("/static", app=StaticFiles(directory=tmp_path))]
    app, judge = governed(Starlette(routes=routes))
    for path in ("/file", "/static/a.bin"):
        reply = run(call(app, "GET", path))
        assert (reply.status, reply.body, reply.header("content-length")) == (200, content, str(len(content)))
        part = run(call(app, "GET", path, headers=[("range", "bytes=10-19")]))
        assert (part.status, part.body) == (206, content[10:20])
        assert part.receipt in judge.receipts
    assert judge.last["route_pattern"] == "/static/a.bin"


def test_a_file_that_the_server_sends_itself_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")

    async def download(request: Request) -> Response:
        return FileResponse(tmp_path / "a")

    app, _ = govern(Starlette(routes=[Route("/", download)]))
    reply = run(call(app, "GET", "/", extensions={"http.response.pathsend": {}}))
    assert [m["type"] for m in reply.messages] == ["http.response.start", "http.response.pathsend"]


async def test_a_hundred_megabytes_are_not_held_in_memory() -> None:
    piece = b"x" * 1_000_000
    found = hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield piece

    async def download(request: Request) -> Response:
        return StreamingResponse(pieces())

    app, _ = govern(Starlette(routes=[Route("/", download)]))

    async def receive() -> Any:
        return GET

    async def send(message: Any) -> None:
        found.update(message.get("body", b""))

    tracemalloc.start()
    await app(http_scope("GET", "/"), receive, send)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    assert found.hexdigest() == hashlib.sha256(piece * 100).hexdigest()


async def test_a_client_that_stops_reading_ends_the_stream() -> None:
    ended = asyncio.Event()

    async def forever() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            ended.set()

    async def stream(request: Request) -> Response:
        return StreamingResponse(forever())

    app, _ = govern(Starlette(routes=[Route("/", stream)]))
    async with serve(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"x-chio-receipt" in await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        async with asyncio.timeout(10):
            await ended.wait()


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_stream_through_a_server_is_byte_for_byte_the_same(http: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(500):
            yield b"%d," % number

    async def stream(request: Request) -> Response:
        return StreamingResponse(pieces(), headers={"content-length": str(len(whole))})

    whole = b"".join([piece async for piece in pieces()])
    app, _ = govern(Starlette(routes=[Route("/", stream)]))
    async with serve(app, http=http) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).partition(b"\r\n\r\n")[2] == whole
        writer.close()
