"""The end of a connection whose request body was not read: the client gets its answer, and a moment to stop sending.

A server that closes while a body still arrives resets the connection, and the answer may be lost (RFC 9112, section
9.6). A server that keeps the connection open instead reads a body for nothing, for as long as its sender likes. So the
answer says that the connection will close, and is sent at once; what still arrives is discarded, in memory, until the
body ends or `SECONDS` have passed. gunicorn 27 does the same for WSGI applications.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from chio_asgi.types import Receive, Scope
from chio_asgi.view import ASGIGuardRequest

SECONDS: Final = 2.0

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
