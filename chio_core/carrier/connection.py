"""One keep-alive connection to the sidecar, and the states that it goes through.

    opening ──▶ idle ◀──▶ asked ──▶ closed
                  ▲          │
                  └─ orphaned ┘──▶ closed

`asked` has an owner who waits for the answer. When the owner goes away (its task was cancelled) the connection
is `orphaned`: the exchange goes on, nobody reads the answer, and then the connection is idle again. If the
answer does not come before the owner's deadline, the connection is closed. So every way out of every state
ends in `idle` or `closed`, and no slot of the pool is ever held by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httptools

from chio_core.carrier.base import MAX_ANSWER_BYTES
from chio_core.decide import Answer
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time; `httptools` (llhttp) reads the answers.

    Args:
        on_idle: called when the connection can take the next exchange.
        on_closed: called once when it is gone.
    """

    def __init__(self, on_idle: Callable[[Connection], None], on_closed: Callable[[Connection], None]) -> None:
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._owner: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._parts: list[bytes] = []
        self._size = 0
        self._content_type = ""
        self.closed = False
        self.idle_since = 0.0

    def exchange(self, data: bytes, deadline: float, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Answer]:
        """Send a whole request; the future gets the answer, or the reason why there is none.

        Args:
            deadline: time of `loop.time()` at which waiting ends and the connection is given up.

        Raises:
            SidecarUnreachable: the connection is gone already; nothing was sent.
        """
        if self._transport is None or not self.usable:
            raise SidecarUnreachable("Chio sidecar closed the connection before it was used")
        owner: asyncio.Future[Answer] = loop.create_future()
        self._owner = owner
        self._busy = True
        self._parser = httptools.HttpResponseParser(self)
        self._parts, self._size, self._content_type = [], 0, ""
        self._timer = loop.call_at(deadline, self._too_late)
        self._transport.write(data)
        return owner

    @property
    def usable(self) -> bool:
        """False once either side has begun to close."""
        return not self.closed and self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Close at once; an owner who still waits is told that the connection broke."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Feed the parser; anything that is no answer to our question ends the connection."""
        if not self._busy or self._parser is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("Chio sidecar's answer is not HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, if there is one, and the pool."""
        self.closed = True
        self._settle(EvaluationFailed("Chio sidecar closed the connection before it answered"))
        self._on_closed(self)

    # httptools callbacks

    def on_message_begin(self) -> None:
        """Refuse bytes that follow a finished answer."""
        if not self._busy:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Remember what the answer says that it is."""
        if name.lower() == b"content-type":
            self._content_type = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Collect the body up to the limit."""
        self._size += len(body)
        if self._size > MAX_ANSWER_BYTES:
            self._fail("Chio sidecar's answer is too long")
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer over and become idle; interim answers (1xx) are passed over."""
        parser = self._parser
        if parser is None or not self._busy:
            return
        status = parser.get_status_code()
        if 100 <= status < 200:
            self._parts, self._size, self._content_type = [], 0, ""
            return
        keep = parser.should_keep_alive()
        self._settle(Answer(status, self._content_type, b"".join(self._parts)))
        if keep and self.usable:
            self._on_idle(self)
        else:
            self.abort()

    def _fail(self, message: str) -> None:
        self._settle(EvaluationFailed(message))
        self.abort()

    def _too_late(self) -> None:
        self._settle(SidecarTimeout("Chio sidecar did not answer in time"))
        self.abort()

    def _settle(self, result: Answer | EvaluationFailed | SidecarTimeout) -> None:
        owner, self._owner, self._busy, self._parser = self._owner, None, False, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if owner is None or owner.done():
            return
        if isinstance(result, Answer):
            owner.set_result(result)
        else:
            owner.set_exception(result)
