"""What is done to outgoing messages: the receipt header, and refusals."""

from __future__ import annotations

from chio_asgi.types import Message, Scope, Send
from chio_core.problems import render
from chio_core.response import Denial

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class HeaderSend:
    """A `send` that puts the receipt id on the response head and lets everything else through untouched.

    Headers stay a list of pairs. Lines of that name that the application wrote itself are removed, so that it
    cannot claim a receipt that it does not have.

    Args:
        name: header name in lower case.
        value: the receipt id; None only removes.
    """

    __slots__ = ("_name", "_send", "_value", "started")

    def __init__(self, send: Send, name: bytes, value: bytes | None) -> None:
        self._send = send
        self._name = name
        self._value = value
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Send one message on."""
        if message["type"] in _HEADS:
            self.started = True
            name = self._name
            headers = [pair for pair in message.get("headers") or () if pair[0].lower() != name]
            if self._value is not None:
                headers.append((name, self._value))
            message = {**message, "headers": headers}
        await self._send(message)


def header_value(receipt_id: str | None) -> bytes | None:
    """Return a receipt id as a header value; None for an id that no header can carry."""
    if receipt_id is None or not receipt_id.isascii() or not receipt_id.isprintable():
        return None
    return receipt_id.encode("ascii")


async def refuse_http(denial: Denial, send: Send, *, prefix: str = "http.response") -> None:
    """Answer a request with a refusal in the flat envelope."""
    body, headers = render(denial)
    pairs = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    await send({"type": f"{prefix}.start", "status": denial.status, "headers": pairs})
    await send({"type": f"{prefix}.body", "body": body})


async def refuse_websocket(denial: Denial, scope: Scope, send: Send) -> None:
    """Refuse a handshake: with a readable answer where the server can send one, else by closing (HTTP 403).

    Close code 1008 is a policy violation (RFC 6455, section 7.4.1).
    """
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await refuse_http(denial, send, prefix="websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": denial.message[:120]})


async def send_plain_error(send: Send) -> None:
    """Answer 500 as Starlette does when nobody handles an exception."""
    body = b"Internal Server Error"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
