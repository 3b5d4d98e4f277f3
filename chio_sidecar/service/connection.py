"""EvaluateConnection: an HTTP connection on which an evaluation costs neither ASGI nor a second write.

Adapters keep a connection for evaluations alone, and send each of them in one piece. Such a request is parsed by
`httptools` (llhttp), as in uvicorn, goes straight to the evaluate endpoint, and its response is one write. Anything
else (another path, a query, a request in several pieces, a chunked body, `Expect`, bytes that are not HTTP) goes to
uvicorn byte for byte, and so does the rest of that connection: nothing of the request was acted on before.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from starlette.types import Message
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from chio_core.evaluation.exchange import EVALUATE_PATH
from chio_sidecar.http import http_date
from chio_sidecar.service.evaluate_endpoint import Answer, EvaluateEndpoint

_START = f"POST {EVALUATE_PATH} HTTP/1.1\r\n".encode()
_LEFT_TO_UVICORN = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


class EvaluateConnection(asyncio.Protocol):
    """One accepted connection. It answers one request at a time, in the order in which they arrive.

    Args:
        evaluate: answers the evaluations.
        config: of the server.
        server_state: the connections and tasks that the server waits for before it ends.
        app_state: what uvicorn hands to the application.
    """

    def __init__(
        self,
        evaluate: EvaluateEndpoint,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)  # calls the methods `on_…`
        self._task: asyncio.Task[None] | None = None
        self._early = b""  # what arrived while a request was answered
        self._reads = self._writes = True  # False while the transport is to hold back
        self._ends = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]
        self._server.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Answer a whole evaluate request, or leave the connection to uvicorn."""
        if self._task is not None:
            self._early += data
            self._pause_reading()
        elif self._is_whole_request(data):
            self._task = self._loop.create_task(self._respond(self._headers, self._body))
            self._server.tasks.add(self._task)
        else:
            self._leave_to_uvicorn(data)

    def pause_writing(self) -> None:
        """Read no further request of a client that does not read its responses."""
        self._writes = False
        self._pause_reading()

    def resume_writing(self) -> None:
        """Go on with the next request."""
        self._writes = True
        if self._task is None:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection. A decision that was begun is stored all the same; none is begun for it any more."""
        self._forget()

    def shutdown(self) -> None:
        """Close after the request that is being answered; the server calls it when it ends."""
        self._ends = True
        if self._task is None:
            self._transport.close()

    # The request

    def _is_whole_request(self, data: bytes) -> bool:
        """Return True if the bytes are one evaluate request, from its first byte to its last, and nothing else."""
        if not data.startswith(_START):
            return False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""
        self._begun = self._complete = 0
        self._usual = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        return self._usual and self._begun == self._complete == 1

    def on_message_begin(self) -> None:
        """Count a request; behind the first one there must be none."""
        self._begun += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header as ASGI has it."""
        name = name.lower()
        if name in _LEFT_TO_UVICORN:
            self._usual = False
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        """Keep the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Count a complete request; uvicorn says with its response that a connection ends."""
        self._complete += 1
        if not self._parser.should_keep_alive():
            self._usual = False

    def _leave_to_uvicorn(self, data: bytes) -> None:
        self._forget()
        protocol = AutoHTTPProtocol(  # type: ignore[call-arg]
            config=self._config, server_state=self._server, app_state=self._app_state
        )
        protocol.connection_made(self._transport)
        self._transport.set_protocol(protocol)
        protocol.data_received(data)

    # The response

    async def _respond(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        try:
            answer = await self._evaluate.answer(headers, b"", receive, self._transport.is_closing)
            if not self._transport.is_closing():
                self._transport.write(_response(answer, last=self._ends))
        except BaseException:
            self._ends = True  # without a response nothing else may follow on this connection
            raise
        finally:
            self._server.tasks.discard(self._task)
            self._task = None
            self._next()

    def _next(self) -> None:
        """Go on after a response, once the client has read enough of it."""
        if self._ends:
            self._transport.close()
        if not self._writes or self._transport.is_closing():
            return
        # One timer lasts for many requests: setting it each time costs more than to look at the time.
        self._idle_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._config.timeout_keep_alive, self._close_if_idle)
        if not self._reads:
            self._reads = True
            self._transport.resume_reading()
        if self._early:
            data, self._early = self._early, b""
            self.data_received(data)

    def _pause_reading(self) -> None:
        self._reads = False
        self._transport.pause_reading()

    def _close_if_idle(self) -> None:
        idle = 0.0 if self._task is not None else self._loop.time() - self._idle_since
        if idle >= self._config.timeout_keep_alive:
            self._transport.close()
        else:
            self._timer = self._loop.call_later(self._config.timeout_keep_alive - idle, self._close_if_idle)

    def _forget(self) -> None:
        self._server.connections.discard(self)
        self._parser = None  # type: ignore[assignment]  # it refers to this object
        if self._timer is not None:
            self._timer.cancel()


def _response(answer: Answer, *, last: bool) -> bytes:
    """Return a whole response; the last one of a connection says so."""
    body = answer.body()
    lines = [
        _STATUS_LINES[answer.status],
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"date: " + http_date(int(time.time())),
        *(b"%b: %b" % header for header in answer.headers),
    ]
    if last:
        lines.append(b"connection: close")
    return b"\r\n".join((*lines, b"", body))
