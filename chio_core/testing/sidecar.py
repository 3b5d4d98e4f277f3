"""ScriptedSidecar: a sidecar that does what a test says, and otherwise works like a real one.

It reads real requests, signs real receipts with a real key, and speaks real HTTP when it serves. It has no policy and
no store. One object can be used in four ways:

* `client()` and `transport()`: no sockets, for asynchronous applications;
* the object itself is an ASGI application, to be mounted or served;
* `serving()`: a TCP server on 127.0.0.1 in the running event loop;
* `serving_in_thread()`: the same in a thread, for Django, Flask and other synchronous code.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from chio_core.canonical import parse_json
from chio_core.client.carrier import Pairs
from chio_core.client.client import ChioClient
from chio_core.client.connection import ResponseReader
from chio_core.client.via_httpx import TIMEOUT
from chio_core.concurrency.loop_thread import LoopThread
from chio_core.errors import (
    ConfigurationError,
    EvaluationFailed,
    InvalidDocument,
    ReceiptRejected,
    SidecarTimeout,
    SidecarUnreachable,
)
from chio_core.evaluation.exchange import EVALUATE_PATH, RawResponse
from chio_core.receipts import verify_receipt
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from chio_core.testing.behaviours import ALLOW, Behaviour, Ending, Pause, Reply
from chio_core.testing.exchange import EvaluateRequest, compact

Script = Behaviour | Callable[[EvaluateRequest], Behaviour]
"""A behaviour, or a function that chooses one for each request."""

KEY = SigningKey(bytes([0x5C]) * 32)
"""The default key of a scripted sidecar: 32 bytes of 0x5c. It is public, so no receipt under it proves anything."""

MAX_HEAD = 1024 * 1024
"""Longest head of a request, in bytes."""

_TICKS = 3
"""Turns of the event loop after which the task of the last accepted connection has started."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to the sidecar.

    Attributes:
        headers: names in lower case; the first of repeated names.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Behave = Callable[[Call], tuple[Behaviour, Reply]]
"""Takes a call; returns how the sidecar behaves and its response."""


class ScriptedSidecar:
    """A sidecar for tests.

    Args:
        script: what it does with a request; allows by default.
        key: what it signs with.
        clock: returns seconds since 1970, the time that receipts state.

    Attributes:
        script: may be changed at any time.
        key: what it signs with.
        asked: every evaluate request so far, in order.
    """

    def __init__(
        self, script: Script = ALLOW, *, key: SigningKey = KEY, clock: Callable[[], float] = time.time
    ) -> None:
        self.script = script
        self.key = key
        self.asked: list[EvaluateRequest] = []
        self._clock = clock
        self._url: str | None = None

    @property
    def public_key(self) -> str:
        """The key to pin, in hex."""
        return self.key.public_hex

    @property
    def url(self) -> str:
        """The address on which it listens.

        Raises:
            ConfigurationError: it does not listen; see `serving` and `serving_in_thread`.
        """
        if self._url is None:
            raise ConfigurationError("this sidecar has no address; use `with sidecar.serving_in_thread():`")
        return self._url

    def settings(self, **options: Any) -> ChioSettings:
        """Return settings that point to this sidecar and pin its key.

        Args:
            options: further options of `ChioSettings`, or other values for these two.
        """
        where = {"sidecar_url": self._url or "http://localhost", "trusted_kernel_keys": [self.public_key]}
        return ChioSettings(**{**where, **options})

    def client(self, **options: Any) -> ChioClient:
        """Return a client of this sidecar that needs no socket and never waits.

        Args:
            options: options of `ChioSettings`.
        """
        return ChioClient(self.settings(**options), transport=self.transport())

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a transport for `ChioClient` that needs no socket and never waits."""
        return ScriptedTransport(self.behave)

    def behave(self, call: Call) -> tuple[Behaviour, Reply]:
        """Return how this sidecar behaves in a call, and its response."""
        route = (call.method, call.path.partition("?")[0])
        try:
            if route == ("POST", EVALUATE_PATH):
                request = EvaluateRequest(parse_json(call.body), call.headers, call.body, self.key, self._clock())
                self.asked.append(request)
                chosen = self.script if isinstance(self.script, Behaviour) else self.script(request)
                return chosen, chosen.reply(request)
            if route == ("POST", "/chio/verify"):
                document = parse_json(call.body)
                try:
                    verify_receipt(document)
                except ReceiptRejected:
                    return ALLOW, Reply(compact({"valid": False}))
                return ALLOW, Reply(compact({"valid": True}))
        except InvalidDocument as exc:
            return ALLOW, Reply(compact({"error": "chio_bad_request", "message": exc.message}), 400)
        if route == ("GET", "/chio/health"):
            return ALLOW, Reply(compact({"status": "healthy", "version": "0.1.0"}))
        missing = {"error": "chio_not_found", "message": "the scripted sidecar has no such path"}
        return ALLOW, Reply(compact(missing), 404)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI connection.

        ASGI cannot break a connection: the application raises a `ConnectionError` instead.
        """
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        headers: dict[str, str] = {}
        for name, value in scope.get("headers", ()):
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        behaviour, reply = self.behave(Call(scope["method"], scope["path"], headers, body))
        if behaviour.refuses:
            raise ConnectionRefusedError("the scripted sidecar accepts no connections")
        sent = 0
        for step in behaviour.delivery(head_of(reply), reply.body):
            if isinstance(step, bytes):
                sent += len(step)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif step is Ending.HANG:
                await asyncio.Event().wait()
            elif sent < len(reply.body):
                raise ConnectionResetError("the scripted sidecar broke the connection")
        lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        lines.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": lines})
        await send({"type": "http.response.body", "body": reply.body})

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[ScriptedSidecar]:
        """Listen on a port of 127.0.0.1 inside the context; `url` is its address.

        If the script refuses connections, the port is taken but does not listen.

        Args:
            port: 0 for any free port; another one for a sidecar that returns at the same address.
        """
        refuses = isinstance(self.script, Behaviour) and self.script.refuses
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            self._url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            connections: set[asyncio.Task[Any]] = set()

            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if (task := asyncio.current_task()) is not None:
                    connections.add(task)
                    task.add_done_callback(connections.discard)
                try:
                    await self._converse(reader, writer)
                except (ConnectionError, asyncio.CancelledError):
                    pass  # the client went away first, or the server ends; no code awaits this task
                finally:
                    writer.close()

            try:
                if refuses:
                    yield self
                    return
                server = await asyncio.start_server(connected, sock=listener, limit=MAX_HEAD)
                async with server:
                    try:
                        yield self
                    finally:
                        # Accept no more, and let the last accepted connections start: asyncio leaves a socket open
                        # whose server is closed in between. Since Python 3.12 leaving the server waits for its
                        # connections, so they end first.
                        asyncio.get_running_loop().remove_reader(listener)
                        for _ in range(_TICKS):
                            await asyncio.sleep(0)
                        server.close()
                        for task in list(connections):
                            task.cancel()
                        await asyncio.gather(*connections, return_exceptions=True)
            finally:
                self._url = None

    @contextmanager
    def serving_in_thread(self, port: int = 0) -> Iterator[ScriptedSidecar]:
        """Do the same as `serving` in another thread, for synchronous code."""
        server, thread = self.serving(port), LoopThread("scripted-sidecar", partial(asyncio.sleep, 0))
        try:
            thread.run(server.__aenter__())
            try:
                yield self
            finally:
                thread.run(server.__aexit__(None, None, None))
        finally:
            thread.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
                method, target, _ = first.split(" ")
                headers: dict[str, str] = {}
                for line in lines:
                    name, _, value = line.partition(":")
                    headers.setdefault(name.strip().lower(), value.strip())
                body = await reader.readexactly(int(headers.get("content-length", "0")))
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                return  # the connection ended, or this is no HTTP
            behaviour, reply = self.behave(Call(method, target, headers, body))
            if behaviour.refuses:
                return  # the server listens already, so closing the connection comes nearest
            for step in behaviour.delivery(head_of(reply), reply.body):
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif step is Ending.HANG:
                    await asyncio.Event().wait()
                else:
                    if step is Ending.RESET:
                        # With a linger time of zero, closing sends RST instead of FIN.
                        sock = writer.get_extra_info("socket")
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        writer.transport.abort()
                    return


def head_of(reply: Reply) -> bytes:
    """Return the head of an HTTP/1.1 response, its length announced."""
    reason = http.client.responses.get(reply.status, "Scripted")
    lines = [f"HTTP/1.1 {reply.status} {reason}", *(f"{name}: {value}" for name, value in reply.headers)]
    lines.append(f"content-length: {len(reply.body)}\r\n\r\n")
    return "\r\n".join(lines).encode("latin-1")


def received(behaviour: Behaviour, reply: Reply, timeout: float | None) -> RawResponse:
    """Return what a client of our own would receive over a socket.

    Pauses are added up instead of waited for: a response that would come too late is a timeout at once.

    Args:
        timeout: seconds for the whole response; None for no limit.

    Raises:
        SidecarError: what the client would raise.
    """
    if behaviour.refuses:
        raise SidecarUnreachable("cannot connect to the Chio sidecar: connection refused")
    reader, waited = ResponseReader(), 0.0
    for step in behaviour.delivery(head_of(reply), reply.body):
        if isinstance(step, Pause):
            waited += step.seconds
        if step is Ending.HANG or (timeout is not None and waited >= timeout):
            raise SidecarTimeout("Chio sidecar did not answer in time")
        if isinstance(step, Ending):
            break
        if isinstance(step, bytes) and (response := reader.feed(step)) is not None:
            return response
    raise EvaluationFailed("Chio sidecar closed the connection before it answered")


class ScriptedTransport(httpx.AsyncBaseTransport):
    """An httpx transport for `ChioClient`.

    The extension `chio_timeout` of a request is the limit for its whole response.
    """

    def __init__(self, behave: Behave) -> None:
        self._behave = behave

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response; raises `SidecarError` instead of the errors of httpx."""
        headers = {name.lower(): value for name, value in reversed(request.headers.multi_items())}
        path = request.url.raw_path.decode("ascii")
        behaviour, reply = self._behave(Call(request.method, path, headers, await request.aread()))
        response = received(behaviour, reply, request.extensions.get(TIMEOUT))
        return httpx.Response(
            response.status, headers={"content-type": response.content_type}, stream=httpx.ByteStream(response.body)
        )


class ScriptedCarrier:
    """A `BlockingCarrier` for `SyncChioClient`."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `chio_core.client.carrier.AsyncCarrier.post`."""
        sent = {name.lower(): value for name, value in reversed(headers)}
        behaviour, reply = self._behave(Call("POST", path, {"content-type": "application/json", **sent}, body))
        return received(behaviour, reply, timeout)

    def close(self) -> None:
        """Do nothing: no connection is open."""
