"""One keep-alive connection to the sidecar, and its states.

    opening ──▶ idle ◀──▶ busy ──▶ closed
                  ▲          │
                  └─ orphaned ┘──▶ closed

A `busy` connection has an owner that waits for the response. When the owner goes away (its task was cancelled) the
connection is `orphaned`: the exchange continues, its response is dropped, and the connection is idle again. If the
response does not come before the owner's deadline, the connection is closed. So every way out of every state ends in
`idle` or `closed`, and no slot of the pool stays occupied.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial

import httptools

from chio_core.client.carrier import MAX_RESPONSE_BYTES, Deadline, Late, Pairs, no_response
from chio_core.endpoint import Endpoint
from chio_core.errors import EvaluationFailed, SidecarError, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse

_UNSAFE = re.compile(r"[^\x20-\x7e]")


class ResponseReader:
    """Reads the responses of one connection with `httptools` (llhttp), which calls the methods `on_…`.

    Interim responses (1xx) are skipped. A response without an announced length never ends: the end of the connection
    could as well have cut it off.
    """

    __slots__ = ("_content_type", "_finished", "_parser", "_parts", "_size", "keep_alive")

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Expect a response; the one before it was read to its end, and `keep_alive` is True."""
        self.keep_alive = False
        self._parts: list[bytes] = []
        self._size = 0
        self._content_type = ""
        self._finished: RawResponse | None = None

    def feed(self, data: bytes) -> RawResponse | None:
        """Take the next bytes; return the response once it is complete, None before.

        After that `keep_alive` is True if the connection can carry another exchange.

        Raises:
            EvaluationFailed: not HTTP, or too long. Heads and interim responses count too.
        """
        self._size += len(data)
        if self._size > MAX_RESPONSE_BYTES:
            raise EvaluationFailed("Chio sidecar's response is too long")
        finished = self._finished
        if finished is not None:
            raise EvaluationFailed("Chio sidecar's response was complete already")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._finished is None:
                raise EvaluationFailed("Chio sidecar's response is not HTTP") from None
            self.keep_alive = False  # the response is complete, but garbage follows it
        return self._finished

    def on_message_begin(self) -> None:
        """Refuse to reuse a connection on which more follows a complete response."""
        if self._finished is not None:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the content type."""
        if self._finished is None and name.lower() == b"content-type":
            self._content_type = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Finish, unless this was an interim response."""
        if self._finished is not None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._parts, self._content_type = [], ""
            return
        self.keep_alive = self._parser.should_keep_alive()
        self._finished = RawResponse(status, self._content_type, b"".join(self._parts))


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    Args:
        on_idle: called when the connection can take the next exchange.
        on_closed: called once when it is gone.
    """

    def __init__(self, on_idle: Callable[[Connection], None], on_closed: Callable[[Connection], None]) -> None:
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._responses = ResponseReader()
        self._reader: ResponseReader | None = None  # the same during an exchange
        self._owner: asyncio.Future[RawResponse] | None = None
        self._timer: Deadline | None = None
        self._deadline = 0.0
        self._late: Late = no_response
        self.closed = False
        self.idle_since = 0.0

    def exchange(
        self, data: bytes, deadline: float, loop: asyncio.AbstractEventLoop, late: Late
    ) -> asyncio.Future[RawResponse]:
        """Send a whole request; the future gets the response or a `SidecarError`.

        Args:
            deadline: time of `loop.time()` at which the wait ends and the connection is closed.
            late: returns the error for that.

        Raises:
            SidecarUnreachable: the connection is closed already; nothing was sent.
        """
        if self._transport is None or self.closed or self._transport.is_closing():
            raise SidecarUnreachable("Chio sidecar closed the connection before it was used")
        owner: asyncio.Future[RawResponse] = loop.create_future()
        self._owner = owner
        self._late = late
        self._reader = self._responses
        self._reader.begin()
        # The timer of an earlier exchange does until it is due: setting one each time costs more than all else here.
        self._deadline = deadline
        if self._timer is None or self._timer.at > deadline:
            self._set_timer(loop)
        self._transport.write(data)
        return owner

    @property
    def usable(self) -> bool:
        """False once either side closes."""
        return not self.closed and self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Close at once; a waiting owner gets an `EvaluationFailed`."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Feed the reader; bytes outside of an exchange close the connection."""
        reader = self._reader
        if reader is None:
            self.abort()
            return
        try:
            response = reader.feed(data)
        except EvaluationFailed as exc:
            self._finish(exc)
            self.abort()
            return
        if response is None:
            return
        self._finish(response)
        if reader.keep_alive:
            self._on_idle(self)
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Inform the owner, if there is one, and the pool."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._finish(EvaluationFailed("Chio sidecar closed the connection before it answered"))
        self._on_closed(self)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = Deadline(loop, self._deadline, partial(self._due, loop))

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        timer, self._timer = self._timer, None
        if self._reader is None:
            return  # idle
        if timer is not None and timer.at < self._deadline:
            self._set_timer(loop)  # it was for an earlier exchange
            return
        self._finish(self._late())
        self.abort()

    def _finish(self, result: RawResponse | SidecarError) -> None:
        owner, self._owner, self._reader = self._owner, None, None
        if owner is None or owner.done():
            return
        if isinstance(result, RawResponse):
            owner.set_result(result)
        else:
            owner.set_exception(result)


def request_head(endpoint: Endpoint, path: str, length: int | None, headers: Pairs) -> bytes:
    """Return the head of an HTTP/1.1 request (RFC 9112, section 3).

    Args:
        length: bytes of the JSON body of a POST; None: a GET, which has none.

    Raises:
        ValueError: a header value is not printable ASCII; `chio_core.evaluation.conclude` never sends one.
    """
    method, kind = ("GET", ()) if length is None else ("POST", ("content-type: application/json",))
    lines = [
        f"{method} {endpoint.base}{path} HTTP/1.1",
        f"host: {endpoint.authority}",
        *kind,
        "accept: application/json",
    ]
    for name, value in headers:
        if _UNSAFE.search(value):
            raise ValueError(f"header {name} is not printable ASCII")
        lines.append(f"{name.lower()}: {value}")
    lines.append("\r\n" if length is None else f"content-length: {length}\r\n\r\n")
    return "\r\n".join(lines).encode("ascii")
