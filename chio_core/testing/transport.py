"""The scripted sidecar without sockets: behind an httpx transport, and as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any

import httptools
import httpx

from chio_core.testing.behaviours import Behaviour, Ending, Pause, Reply, Step, whole
from chio_core.testing.wire import Call, head_of

Behave = Callable[[Call], tuple[Behaviour | None, Reply]]
"""Takes a call; returns the behaviour, None where there is none, and the answer."""


_LONGEST_HEAD = 100 * 1024
"""Bytes of a head that h11 still reads, the parser behind httpx's own transport."""


class ScriptedTransport(httpx.AsyncBaseTransport):
    """An httpx transport that raises what httpx raises when a socket does the same.

    The read timeout of a request counts for its whole answer here.

    Args:
        behave: says what to do with a call.
        instant: nobody waits: pauses are added up, and an answer that would come too late is a timeout at once.
    """

    def __init__(self, behave: Behave, *, instant: bool = False) -> None:
        self._behave = behave
        self._instant = instant

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        headers = {name.lower(): value for name, value in reversed(request.headers.multi_items())}
        call = Call(request.method, request.url.raw_path.decode("ascii"), headers, await request.aread())
        behaviour, reply = self._behave(call)
        if behaviour is not None and behaviour.refuses:
            raise httpx.ConnectError("connection refused", request=request)
        steps = (behaviour.delivery if behaviour else whole)(head_of(reply), reply.body)
        limit = request.extensions.get("timeout", {}).get("read")
        if self._instant:
            return await _receive(_without_waiting(steps, limit, request), request)
        try:
            async with asyncio.timeout(limit):
                return await _receive(steps, request)
        except TimeoutError:
            raise httpx.ReadTimeout("the scripted sidecar is slow", request=request) from None


async def _receive(steps: Iterable[Step], request: httpx.Request) -> httpx.Response:
    received = _Received()
    parser = httptools.HttpResponseParser(received)
    for step in steps:
        if isinstance(step, bytes):
            if step.find(b"\r\n\r\n") > _LONGEST_HEAD:
                raise httpx.RemoteProtocolError("the head of the answer is too long", request=request)
            try:
                parser.feed_data(step)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                raise httpx.RemoteProtocolError("not HTTP", request=request) from None
            if received.complete and parser.get_status_code() >= 200:
                content = b"".join(received.parts)
                stream = httpx.ByteStream(content)
                return httpx.Response(parser.get_status_code(), headers=received.headers, stream=stream)
        else:
            await _wait(step, request)
    raise httpx.RemoteProtocolError("the answer ended too early", request=request)


def _without_waiting(steps: Iterable[Step], limit: float | None, request: httpx.Request) -> Iterator[Step]:
    waited = 0.0
    for step in steps:
        waited += step.seconds if isinstance(step, Pause) else 0.0
        if step is Ending.HANG or (limit is not None and waited >= limit):
            raise httpx.ReadTimeout("the scripted sidecar is slow", request=request)
        if not isinstance(step, Pause):
            yield step


async def _wait(step: Pause | Ending, request: httpx.Request) -> None:
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
    elif step is Ending.HANG:
        await asyncio.Event().wait()
    elif step is Ending.RESET:
        raise httpx.ReadError("connection reset", request=request)


class _Received:
    """What the parser calls."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.complete = False

    def on_message_begin(self) -> None:
        self.headers, self.parts, self.complete = [], [], False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.complete = True


async def serve_asgi(
    behave: Behave,
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Serve one ASGI connection.

    ASGI has no words for a broken connection, so there the application fails with a `ConnectionError`.
    """
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    behaviour, reply = behave(await _call(scope, receive))
    if behaviour is not None:
        await _endure(behaviour, reply)
    lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
    lines.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": lines})
    await send({"type": "http.response.body", "body": reply.body})


async def _endure(behaviour: Behaviour, reply: Reply) -> None:
    if behaviour.refuses:
        raise ConnectionRefusedError("the scripted sidecar takes no connections")
    sent = 0
    for step in behaviour.delivery(head_of(reply), reply.body):
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif step is Ending.HANG:
            await asyncio.Event().wait()
        elif isinstance(step, bytes):
            sent += len(step)
        elif sent < len(reply.body):
            raise ConnectionResetError("the scripted sidecar broke the connection")


async def _call(scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Any]]) -> Call:
    headers: dict[str, str] = {}
    for name, value in scope.get("headers", ()):
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return Call(scope["method"], scope["path"], headers, b"".join(parts))


async def _lifespan(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
