"""What all endpoints use: bearer tokens (RFC 6750, section 2.1), request bodies up to a limit, and JSON."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import Receive, Send

from chio_core.canonical import compact_bytes, parse_json
from chio_core.errors import InvalidDocument

NO_BEARER: Final = (
    401,
    "chio_evaluate_unauthorized",
    "this sidecar evaluates for bearers of its token only: set CHIO_EVALUATE_TOKEN in the application to the value of"
    " CHIO_SIDECAR_EVALUATE_TOKEN",
)
"""Status, code and message for a caller of `/chio/evaluate` or `/chio/verify` without the token."""


def presents_bearer(headers: Iterable[tuple[bytes, bytes]], token: SecretStr) -> bool:
    """Return True if the only `Authorization` header is this bearer token.

    Args:
        headers: of an ASGI scope, names in lower case.
        token: the expected token.
    """
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, presented = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    matches = hmac.compare_digest(presented.strip(), token.get_secret_value().encode())
    return matches and scheme.lower() == b"bearer"


class BodyError(Exception):
    """The body is larger than the limit, or the client disconnected before its end.

    Attributes:
        too_large: True for the former.
    """

    def __init__(self, *, too_large: bool) -> None:
        super().__init__("body too large" if too_large else "body not complete")
        self.too_large = too_large


async def receive_body(receive: Receive, limit: int) -> bytes:
    """Return the body of an ASGI request; at most `limit` bytes and one message are in memory.

    Raises:
        BodyError: the body is larger, or did not arrive completely.
    """
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise BodyError(too_large=False)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyError(too_large=True)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request; a `Content-Length` above the limit is refused without reading.

    Raises:
        BodyError: the body is larger than `limit` bytes, or did not arrive completely.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise BodyError(too_large=True)
    return await receive_body(request.receive, limit)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly.

    Raises:
        InvalidDocument: not a JSON object, or a text in it cannot be written as UTF-8.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise InvalidDocument("a JSON object is expected")
    if b"\\u" in body:
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InvalidDocument("a text holds half of a surrogate pair") from None
    return document


async def send_json(send: Send, status: int, body: bytes, *extra: tuple[bytes, bytes]) -> None:
    """Send a JSON document."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, status: int, code: str, message: str, *extra: tuple[bytes, bytes]) -> None:
    """Send the protocol's error document (wire protocol, section 1.8)."""
    await send_json(send, status, compact_bytes({"error": code, "message": message}), *extra)


@lru_cache(maxsize=1)
def http_date(second: int) -> bytes:
    """Return the value of a `Date` header (RFC 9110, section 6.6.1).

    Args:
        second: whole seconds since 1970.
    """
    return formatdate(second, usegmt=True).encode("ascii")
