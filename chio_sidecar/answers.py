"""Answers of the endpoints under `/chio/`, written without a framework's help: they are on the hot path."""

from __future__ import annotations

from starlette.types import Send

from chio_sidecar.service.receipts import compact_json


async def send_json(send: Send, status: int, body: bytes, *extra: tuple[bytes, bytes]) -> None:
    """Answer with a JSON document."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, status: int, code: str, message: str, *extra: tuple[bytes, bytes]) -> None:
    """Answer with the protocol's error document (wire protocol, section 1.8)."""
    await send_json(send, status, compact_json({"error": code, "message": message}).encode(), *extra)
