"""What is done to outgoing messages: the receipt header, and answers of our own."""

from __future__ import annotations

from chio_asgi.types import Message, Scope, Send
from chio_core.names import STATE_DECISION
from chio_core.problems import render
from chio_core.response import AnyResponse, Denial, Response

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

Pairs = list[tuple[bytes, bytes]]


class HeaderSend:
    """A `send` that puts the receipt id on the response head and lets everything else through untouched.

    Headers stay a list of pairs. Lines of that name that the application wrote itself are removed, so that it
    cannot claim a receipt that it does not have.

    Args:
        name: header name in lower case.
        scope: its state holds the decision by the time that the head is sent.
    """

    __slots__ = ("_name", "_scope", "_send", "started")

    def __init__(self, send: Send, name: bytes, scope: Scope) -> None:
        self._send = send
        self._name = name
        self._scope = scope
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Send one message on."""
        if message["type"] in _HEADS:
            self.started = True
            name = self._name
            headers = [pair for pair in message.get("headers") or () if pair[0].lower() != name]
            value = _receipt_id(self._scope)
            if value is not None:
                headers.append((name, value))
            message = {**message, "headers": headers}
        await self._send(message)


def _receipt_id(scope: Scope) -> bytes | None:
    decision = scope.get("state", {}).get(STATE_DECISION)
    receipt = decision.receipt if decision is not None else None
    if receipt is None or not receipt.id.isascii() or not receipt.id.isprintable():
        return None  # no header can carry such an id
    return receipt.id.encode("ascii")  # type: ignore[no-any-return]


async def send_answer(answer: AnyResponse, send: Send, *, prefix: str = "http.response") -> None:
    """Answer a request with a refusal, in the flat envelope, or with a guard's response."""
    body, pairs = _document(answer)
    await send({"type": f"{prefix}.start", "status": answer.status, "headers": pairs})
    await send({"type": f"{prefix}.body", "body": body})


async def refuse_websocket(answer: AnyResponse, scope: Scope, send: Send) -> None:
    """Refuse a handshake: with a readable answer where the server can send one, else by closing (HTTP 403).

    Close code 1008 is a policy violation (RFC 6455, section 7.4.1); its reason has at most 123 bytes.
    """
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send_answer(answer, send, prefix="websocket.http.response")
    else:
        reason = answer.message if isinstance(answer, Denial) else "refused"
        await send({"type": "websocket.close", "code": 1008, "reason": reason.encode()[:120].decode("utf-8", "ignore")})


async def send_plain_error(send: Send) -> None:
    """Answer 500 as Starlette does when nobody handles an exception."""
    text = Response("Internal Server Error", 500, [("content-type", "text/plain; charset=utf-8")])
    await send_answer(text, send)


def _document(answer: AnyResponse) -> tuple[bytes, Pairs]:
    if isinstance(answer, Denial):
        body, headers = render(answer)
    else:
        body = answer.body if isinstance(answer, Response) else b""
        headers = (*answer.headers, ("content-length", str(len(body))))
    return body, [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
