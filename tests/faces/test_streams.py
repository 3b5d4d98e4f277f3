"""Responses of guards that are sent in pieces: streams, server-sent events and files, on every face (C16, D12)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from flask import Flask

from chio_core import AnyResponse, Chain, ConfigurationError, GuardRequest, Next, Response
from chio_core.guards.response_hooks import response_hooks
from chio_core.refusals.streams import event_text
from chio_core.testing import ScriptedSidecar
from chio_flask import Chio
from tests.faces.faces import FACES, ASGIFace, Face
from tests.faces.wire import environ_of, request, scope_of
from tests.support import DEADLINE, StubClient, serve, websocket_scope

each_face = pytest.mark.parametrize("face", FACES, ids=str)

TEXT = [("content-type", "text/plain")]


def answering(make: Callable[[], AnyResponse], priority: int = 5) -> Chain:
    """Return a guard that answers each request."""

    async def answers(request: GuardRequest) -> AnyResponse:
        return make()

    return Chain().add(answers, priority=priority)


class Numbers:
    """A stream of numbers that notes when each is made and when it is closed.

    Args:
        count: how many; None: it never ends. An asynchronous one then falls silent after the first.
    """

    def __init__(self, count: int | None = 3) -> None:
        self.count = count
        self.trace: list[str] = []
        self.closed = threading.Event()

    def sync(self) -> Iterator[bytes]:
        try:
            number = 0
            while self.count is None or number < self.count:
                self.trace.append(f"made {number}")
                yield b"%d" % number
                number += 1
        finally:
            self.closed.set()

    async def asynchronous(self) -> AsyncIterator[str]:
        try:
            for number in range(self.count or 1):
                await asyncio.sleep(0)
                self.trace.append(f"made {number}")
                yield str(number)
            if self.count is None:
                await asyncio.Event().wait()
        finally:
            self.closed.set()

    def sent(self, piece: bytes) -> None:
        """Note that a piece has reached the server."""
        if piece:
            self.trace.append(f"sent {piece.decode()}")


def make_stream(numbers: Numbers, kind: str) -> Any:
    return numbers.sync() if kind == "sync" else numbers.asynchronous()


kinds = pytest.mark.parametrize("kind", ["sync", "async"])


def events() -> Iterator[Any]:
    yield "one"
    yield {"event": "note", "id": 7, "data": {"a": [1]}}
    yield {"data": "two\nlines", "retry": 10}


async def aevents() -> AsyncIterator[Any]:
    for event in events():
        yield event


EVENTS = b'data: one\n\nevent: note\nid: 7\ndata: {"a":[1]}\n\ndata: two\ndata: lines\nretry: 10\n\n'


@each_face
@kinds
def test_a_stream_is_sent_without_a_length_and_with_the_receipt(face: Face, kind: str) -> None:
    with face.governed(guards=[answering(lambda: Response(make_stream(Numbers(), kind), 207, TEXT))]) as governed:
        found = governed.get("/hello")
    assert (found.status, found.body, found.seen) == (207, b"012", [])
    assert found.headers["content-type"] == "text/plain"
    assert "content-length" not in found.headers
    assert found.receipt


@each_face
@pytest.mark.parametrize("make", [events, aevents])
def test_server_sent_events_are_written_as_the_standard_has_them(face: Face, make: Any) -> None:
    """C16: a header that another guard adds really arrives on them."""

    async def version(request: GuardRequest) -> None:
        response_hooks(request).add_header("X-Version", "7")

    async def tags(request: GuardRequest, next: Next) -> AnyResponse:
        return (await next(request)).with_header("X-Tag", "1")

    guards = [
        Chain().add(version, priority=1),
        Chain().add(tags, priority=1),
        answering(lambda: Response.events(make())),
    ]
    with face.governed(guards=guards) as governed:
        found = governed.get("/hello")
    assert (found.status, found.body) == (200, EVENTS)
    assert (found.headers["content-type"], found.headers["cache-control"]) == ("text/event-stream", "no-cache")
    assert (found.headers["x-tag"], found.headers["x-version"]) == ("1", "7")
    assert found.receipt


@each_face
def test_a_file_is_sent_with_length_type_and_time(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"<p>" * 100_000)
    with face.governed(guards=[answering(lambda: Response.file(path, filename="Übersicht.html"))]) as governed:
        found = governed.get("/hello")
        head = governed.send("HEAD", "/hello")
    assert (found.status, found.body) == (200, path.read_bytes())
    assert found.headers["content-length"] == head.headers["content-length"] == "300000"
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    assert found.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%9Cbersicht.html"
    assert found.headers["last-modified"].endswith(" GMT")
    assert (head.status, head.body) == (200, b"")


def exchanged(face: Face, guards: list[Any], numbers: Numbers, *, leaves: bool = False) -> int:
    """Send one GET; note in `numbers` which piece reached the server when. Return the status.

    Args:
        leaves: the client goes away after the first piece.
    """
    sidecar, status = ScriptedSidecar(), 0
    if isinstance(face, ASGIFace):
        client = sidecar.client()

        async def drive() -> None:
            gone = asyncio.Event()
            waiting: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

            async def receive() -> Any:
                if waiting:
                    return waiting.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                nonlocal status
                status = message.get("status", status)
                numbers.sent(message.get("body", b""))
                if message.get("body") and leaves:
                    gone.set()

            with face.app(client, {"guards": guards}) as app:
                async with asyncio.timeout(DEADLINE):
                    await app(scope_of(request("GET", "/hello")), receive, send)
                    await asyncio.to_thread(numbers.closed.wait, DEADLINE)

        asyncio.run(drive())
        return status
    with face.governed(guards=guards) as governed:

        def start_response(line: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal status
            status = int(line.split()[0])

        pieces = governed.wire._app(environ_of(request("GET", "/hello")), start_response)
        try:
            for piece in pieces:
                numbers.sent(piece)
                if leaves:
                    break
        finally:
            pieces.close()
    return status


@each_face
@kinds
def test_each_piece_reaches_the_server_before_the_next_is_made(face: Face, kind: str) -> None:
    """C17: nothing is held back, so events arrive when they happen."""
    numbers = Numbers()
    exchanged(face, [answering(lambda: Response(make_stream(numbers, kind)))], numbers)
    assert numbers.trace == [f"{what} {number}" for number in range(3) for what in ("made", "sent")]
    assert numbers.closed.is_set()


@each_face
@kinds
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "next"])
def test_a_stream_is_closed_when_the_client_goes_away(face: Face, kind: str, wrapped: bool) -> None:
    """The asynchronous one waits for a piece that never comes."""
    numbers, finished = Numbers(None), threading.Event()

    async def outer(request: GuardRequest, next: Next) -> AnyResponse:
        return await next(request)

    async def told(request: GuardRequest) -> None:
        response_hooks(request).finished.append(lambda status: finished.set())

    guards = [Chain().add(told, priority=1), answering(lambda: Response(make_stream(numbers, kind)))]
    assert (
        exchanged(face, [Chain().add(outer, priority=1), *guards] if wrapped else guards, numbers, leaves=True) == 200
    )
    assert numbers.closed.wait(DEADLINE)
    assert finished.wait(DEADLINE)


class Closable:
    """A stream that must be closed although none of it was read."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield b"never"
        raise AssertionError("nothing of it is sent")

    def close(self) -> None:
        self.closed += 1


class AsyncClosable:
    def __init__(self) -> None:
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"never"
        raise AssertionError("nothing of it is sent")

    async def aclose(self) -> None:
        self.closed += 1


async def replaces(request: GuardRequest, next: Next) -> AnyResponse:
    await next(request)
    return Response("instead")


async def fails(request: GuardRequest, next: Next) -> AnyResponse:
    await next(request)
    raise ZeroDivisionError


async def keeps(request: GuardRequest, next: Next) -> AnyResponse:
    return (await next(request)).with_status(503)


@each_face
@pytest.mark.parametrize("make", [Closable, AsyncClosable])
@pytest.mark.parametrize(
    ("guards", "status"),
    [
        ((lambda body: [Chain().add(replaces, priority=1), answering(lambda: Response(body))]), 200),
        ((lambda body: [Chain().add(fails, priority=-9), answering(lambda: Response(body, 401), -5)]), 500),
        ((lambda body: [answering(lambda: Response(body), -5)]), 500),
    ],
    ids=["replaced", "failed", "before the decision"],
)
def test_a_stream_that_is_not_sent_is_closed(face: Face, make: Any, guards: Any, status: int) -> None:
    body = make()
    with face.governed(guards=guards(body)) as governed:
        assert governed.get("/hello").status == status
    assert body.closed == 1


@each_face
@pytest.mark.parametrize("make", [Closable, AsyncClosable])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_response_without_a_body_closes_its_stream_unread(face: Face, make: Any, method: str, status: int) -> None:
    body = make()
    with face.governed(guards=[answering(lambda: Response(body, status))]) as governed:
        found = governed.send(method, "/hello")
    assert (found.status, found.body) == (status, b"")
    assert body.closed >= 1


@each_face
def test_a_refusal_before_the_decision_may_be_a_stream(face: Face) -> None:
    guards = [Chain().add(keeps, priority=-9), answering(lambda: Response(Numbers().asynchronous(), 429, TEXT), -5)]
    with face.governed(guards=guards) as governed:
        found = governed.get("/hello")
        assert (found.status, found.body, governed.asked) == (503, b"012", [])


@each_face
@kinds
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Django does not close its copy of the request body then
def test_a_stream_that_fails_is_cut_off_and_closed(face: Face, kind: str) -> None:
    """The status is sent already: the server must not end the response as if it was complete."""
    numbers = Numbers()

    def failing() -> Iterator[bytes]:
        try:
            yield b"0"
            raise ZeroDivisionError
        finally:
            numbers.closed.set()

    async def afailing() -> AsyncIterator[bytes]:
        for piece in failing():
            yield piece

    with pytest.raises(ZeroDivisionError):
        exchanged(face, [answering(lambda: Response(failing() if kind == "sync" else afailing()))], numbers)
    gc.collect()
    assert numbers.trace == ["sent 0"]
    assert numbers.closed.is_set()


def test_a_refused_handshake_may_be_a_stream_and_is_closed_where_the_server_cannot_send_one() -> None:
    face = FACES[1]
    assert isinstance(face, ASGIFace)
    sent: list[Any] = []

    async def drive(denial: bool, body: Any) -> None:
        waiting = [{"type": "websocket.connect"}]

        async def receive() -> Any:
            if waiting:
                return waiting.pop()
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        with face.app(StubClient(), {"guards": [answering(lambda: Response(body, 403))]}) as app:
            await app(websocket_scope("/ws", denial=denial), receive, send)

    asyncio.run(drive(True, Numbers().asynchronous()))
    assert [one["type"] for one in sent[:2]] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert b"".join(one.get("body", b"") for one in sent) == b"012"
    body = Closable()
    sent.clear()
    asyncio.run(drive(False, body))
    assert ([one["type"] for one in sent], body.closed) == (["websocket.close"], 1)


@kinds
async def test_uvicorn_closes_a_stream_whose_client_is_gone(kind: str) -> None:
    numbers = Numbers(None)
    face = FACES[0]
    assert isinstance(face, ASGIFace)
    guards = [answering(lambda: Response(make_stream(numbers, kind), headers=TEXT))]
    with face.app(StubClient(), {"guards": guards}) as app:
        async with serve(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head.lower()
            assert await reader.readexactly(3) == b"1\r\n"  # the size of the first piece
            writer.close()
            assert await asyncio.to_thread(numbers.closed.wait, DEADLINE)


@kinds
def test_a_wsgi_server_closes_a_stream_whose_client_is_gone(kind: str) -> None:
    numbers = Numbers(None)

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"0" * 1000
        finally:
            numbers.closed.set()

    app = Flask("streams")
    body = numbers.sync if kind == "sync" else endless
    sidecar = ScriptedSidecar()

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with sidecar.serving_in_thread(), make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        chio = Chio(app, sidecar.settings(), guards=[answering(lambda: Response(body()))])
        serving = threading.Thread(target=server.handle_request)
        serving.start()

        async def leave() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.server_port)
            writer.write(b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == b"0"
            writer.transport.abort()

        asyncio.run(leave())
        assert numbers.closed.wait(DEADLINE)
        serving.join()
        chio.close(app)


@pytest.mark.parametrize("body", [{"a": 1}, 5, None, object()])
def test_what_is_no_body_is_refused_when_it_is_given(body: Any) -> None:
    with pytest.raises(ConfigurationError, match="a Response takes bytes, text or an iterable"):
        Response(body)


def test_a_file_that_is_none_is_refused_when_it_is_given(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=path.name):
            Response.file(path)


@pytest.mark.parametrize("event", [{"name": "x"}, {"id": "a\nb"}, {"event": "a\rb"}])
def test_an_event_that_cannot_be_written_is_an_error(event: Any) -> None:
    with pytest.raises(ConfigurationError, match="a server-sent event has no field"):
        event_text(event)
