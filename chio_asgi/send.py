"""Sending: the receipt header on responses, the responses of guards and refusals, and the end of a connection.

A server that closes while a body still arrives resets the connection, and the answer may be lost (RFC 9112, section
9.6). A server that keeps the connection open instead reads a body for nothing, for as long as its sender likes. So the
answer to a request whose body was not read says that the connection will close, and is sent at once; what still arrives
is discarded, in memory, until the body ends or `LINGER_SECONDS` have passed. gunicorn 27 does the same for WSGI
applications.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from chio_asgi.decide import ASGIRequest
from chio_asgi.types import Message, Receive, Scope, Send
from chio_asgi.view import ASGIGuardRequest
from chio_core.evaluation.governed import GovernedRequest
from chio_core.names import EXPOSE_HEADERS, SCOPE_REQUEST, STATE_RESPONSE_HOOKS
from chio_core.refusals.problems import render
from chio_core.refusals.response import AnyResponse, Denial, HeaderPairs, Response
from chio_core.refusals.streams import BODILESS, Body, Stream, StreamReader, discard

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_BODIES = frozenset({"http.response.body", "websocket.http.response.body"})
_ENDS = frozenset({"http.response.pathsend", "websocket.close"})
_EXPOSE = EXPOSE_HEADERS.lower().encode("ascii")

Pairs = list[tuple[bytes, bytes]]


class HeaderSend:
    """A `send` that puts the receipt id on the response head and lets everything else through untouched.

    Headers stay a list of pairs. Lines of that name that the application wrote itself are removed, so that it
    cannot claim a receipt that it does not have. A request that names its `Origin` comes from a script: there the
    header is exposed too. That alone opens nothing, and CORS middleware outside keeps the line.

    Args:
        name: header name in lower case.
        scope: its state holds what guards have queued by the time that the head is sent. The application may give
            the scope another state; what counts is the one that was there first.
        governed: holds the decision by then.
    """

    __slots__ = ("_asked", "_ends", "_governed", "_name", "_send", "_state", "started", "status")

    def __init__(self, send: Send, name: bytes, scope: Scope, governed: GovernedRequest) -> None:
        self._send = send
        self._name = name
        self._governed = governed
        self._asked: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
        self._state: dict[str, Any] = scope.setdefault("state", {})
        self._ends: End | None = None
        self.started = False
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        """Send one message on."""
        kind = message["type"]
        if kind in _HEADS:
            self.started = True
            self.status = message.get("status")
            await self._send(self._head(message))
            return
        if kind == "http.response.trailers":
            message = {**message, "headers": self._without_own(message.get("headers") or ())}
        await self._send(message)
        if self._ends is not None and self._ends(message):
            self.finish()

    def finish(self) -> None:
        """Tell the guards that wanted to know that the request is over."""
        wishes = self._state.get(STATE_RESPONSE_HOOKS)
        if wishes is not None:
            wishes.finish(self.status)

    def _head(self, head: Message) -> Message:
        sent = head.get("headers") or ()
        wishes = self._state.get(STATE_RESPONSE_HOOKS)
        if wishes is not None:
            self._ends = End(head)
            if wishes.headers:
                texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent]
                sent = _encoded(wishes.apply(texts))
        headers = self._without_own(sent)
        decision = self._governed.shown
        if decision is not None and (value := decision.receipt_header) is not None:
            headers.append((self._name, value.encode("ascii")))
            for name, _ in self._asked:
                if name == b"origin":
                    headers.append((_EXPOSE, self._name))
                    break
        elif headers == head.get("headers"):
            return head  # nothing to add, and nothing to remove
        return {**head, "headers": headers}

    def _without_own(self, sent: Iterable[tuple[bytes, bytes]]) -> Pairs:
        own = self._name
        return [pair for pair in sent if pair[0].lower() != own]


class End:
    """Recognises the message with which an answer is complete.

    Args:
        head: the message that started the answer; it says whether trailers will follow.
    """

    __slots__ = ("_trailers",)

    def __init__(self, head: Message) -> None:
        self._trailers = bool(head.get("trailers", False))

    def __call__(self, message: Message) -> bool:
        """Return True if nothing comes after this message."""
        kind = message["type"]
        if kind in _BODIES:
            return not self._trailers and not message.get("more_body", False)
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind in _ENDS


async def send_answer(
    answer: AnyResponse, scope: Scope, receive: Receive, send: Send, linger: float | None = None
) -> None:
    """Answer a request or a websocket handshake with a refusal, in the flat envelope, or with a guard's response.

    A handshake gets a readable response where the server can send one, else it is closed (HTTP 403). Close code 1008 is
    a policy violation (RFC 6455, section 7.4.1); its reason has at most 123 bytes.

    Args:
        receive: the server's; a stream ends when it reports that the client is gone.
        linger: seconds to discard the rest of an unread body, after which the connection closes.
    """
    prefix = "http.response"
    if scope["type"] == "websocket":
        prefix = "websocket.http.response"
        if prefix not in (scope.get("extensions") or {}):
            reason = answer.message if isinstance(answer, Denial) else "refused"
            reason = reason.encode()[:120].decode("utf-8", "ignore")
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
            if isinstance(answer, Response):
                await discard(answer.stream)
            return

    body: Body = b""
    headers: HeaderPairs = (*answer.headers, ("content-length", "0"))
    if isinstance(answer, Denial):
        body, headers = document(answer, scope)
    elif isinstance(answer, Response):
        body, headers = answer.body, answer.head()
    if linger is not None:
        headers = (*headers, ("connection", "close"))
    await send({"type": f"{prefix}.start", "status": answer.status, "headers": _encoded(headers)})
    if isinstance(body, bytes) and linger is not None:
        await send({"type": f"{prefix}.body", "body": body, "more_body": True})
        await discard_rest(scope, receive, linger)
        await send({"type": f"{prefix}.body", "body": b""})
    elif isinstance(body, bytes):
        await send({"type": f"{prefix}.body", "body": body})
    elif scope.get("method") == "HEAD" or answer.status in BODILESS:
        await discard(body)
        await send({"type": f"{prefix}.body", "body": b""})
    else:
        await _send_stream(body, receive, send, f"{prefix}.body")


async def _send_stream(stream: Stream, receive: Receive, send: Send, kind: str) -> None:
    """Send a stream until its end, or until the client is gone, and close it."""
    reader = StreamReader(stream)

    async def send_all() -> None:
        async for piece in reader:
            if piece:
                await send({"type": kind, "body": piece, "more_body": True})
        await send({"type": kind, "body": b"", "more_body": False})

    async def until_the_client_is_gone() -> None:
        while not (await receive())["type"].endswith(".disconnect"):
            pass  # what is left of the request body

    sending = asyncio.ensure_future(send_all())
    tasks = (sending, asyncio.ensure_future(until_the_client_is_gone()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await reader.aclose()


async def send_plain_error(send: Send) -> None:
    """Send a 500 as Starlette does for an unhandled exception."""
    body = b"Internal Server Error"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def document(denial: Denial, scope: Scope) -> tuple[bytes, HeaderPairs]:
    """Return body and headers of a refusal, in the form that its request wants (`Accept`)."""
    lines = (value.decode("latin-1") for name, value in scope.get("headers", ()) if name.lower() == b"accept")
    known = scope.get(SCOPE_REQUEST)
    page = known.pipeline.page_for(ASGIGuardRequest(scope)) if isinstance(known, ASGIRequest) else None
    return render(denial, accept=",".join(lines), page=page)


def _encoded(pairs: Iterable[tuple[str, str]]) -> Pairs:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs]


def has_own_500(app: Any) -> bool:
    """Return True if failures of an application are answered by itself, outside of all middleware."""
    handlers = getattr(app, "exception_handlers", None) or {}
    return bool(getattr(app, "debug", False)) or 500 in handlers or Exception in handlers


LINGER_SECONDS: Final = 2.0

_SMALL: Final = 64 * 1024  # servers have read as much before they ask for it


def leaves_body(view: ASGIGuardRequest) -> bool:
    """Return True if a body of more than 64 KiB, or of unknown length, was not read to its end.

    Only HTTP/1 has to close a connection for that.
    """
    if view.body_was_read or not str(view.scope.get("http_version", "")).startswith("1"):
        return False
    announced = "".join(view.header_values("content-length"))
    return bool(view.header_values("transfer-encoding")) or (announced.isdecimal() and int(announced[:20]) > _SMALL)


async def discard_rest(scope: Scope, receive: Receive, seconds: float) -> None:
    """Discard what still arrives of a body, until it ends or the client is gone, but no longer than `seconds`.

    A client that waits for "100 Continue" has sent nothing, and must not get one after the answer.
    """
    if any(name == b"expect" for name, _ in scope["headers"]):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
