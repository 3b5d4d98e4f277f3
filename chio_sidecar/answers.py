"""Answers of the endpoints under `/chio/`, written without a framework's help: they are on the hot path."""

from __future__ import annotations

from starlette.types import Receive, Send

from chio_sidecar.receipts import compact_json

MAX_EVALUATION = 10 * 1024 * 1024
"""Largest body of an evaluate call, in bytes."""


class BodyUnreadable(Exception):
    """The body is over the limit, or did not arrive completely."""


async def receive_body(receive: Receive, limit: int) -> bytes:
    """Return the request's body; never more than `limit` bytes and one message are held.

    Raises:
        BodyUnreadable: it is larger, or the client went away.
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise BodyUnreadable
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyUnreadable
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def send_json(send: Send, status: int, body: bytes, *extra: tuple[bytes, bytes]) -> None:
    """Answer with a JSON document."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, status: int, code: str, message: str, *extra: tuple[bytes, bytes]) -> None:
    """Answer with the protocol's error document (wire protocol, section 1.8)."""
    await send_json(send, status, compact_json({"error": code, "message": message}).encode(), *extra)
