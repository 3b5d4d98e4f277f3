"""Calling an ASGI application as a server does: the client stays until the answer is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.support import App, Headers, Reply, http_scope


async def call(
    app: App,
    method: str = "GET",
    path: str = "/",
    *,
    body: bytes | Sequence[bytes] = b"",
    headers: Headers = ((b"host", b"testserver"),),
    leaves: asyncio.Event | None = None,
    **more: Any,
) -> Reply:
    """Send one request.

    Args:
        body: a list comes in as many messages.
        leaves: when it is set, the client goes away.
    """
    pieces = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]
    reply, gone = Reply(), leaves or asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        reply.messages.append(dict(message))

    async with asyncio.timeout(20):
        await app(http_scope(method, path, headers=headers, **more), receive, send)
    return reply
