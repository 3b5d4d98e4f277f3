"""What a carrier is, and where a sidecar URL points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from chio_core.endpoint import Endpoint
from chio_core.evaluation.exchange import RawResponse

MAX_ANSWER_BYTES = 1024 * 1024
"""A longer answer is no decision. A receipt has one to three kilobytes."""

_UNSAFE = re.compile(r"[^\x20-\x7e]")

Pairs = Sequence[tuple[str, str]]


class AsyncCarrier(Protocol):
    """Carries one POST at a time for one event loop."""

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """Send `body` as JSON to `path` and return the answer.

        Args:
            timeout: seconds for everything, waiting for a connection included.

        Raises:
            SidecarUnreachable: no connection could be opened.
            SidecarTimeout: the time is over.
            EvaluationFailed: the connection broke after the request was sent, or the answer is no HTTP.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class BlockingCarrier(Protocol):
    """The same for threads."""

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def request_head(endpoint: Endpoint, path: str, length: int, headers: Pairs) -> bytes:
    """Return the head of an HTTP/1.1 POST (RFC 9112, section 3).

    Raises:
        ValueError: a header value that could end the line; `chio_core.evaluation.conclude` never lets one through.
    """
    lines = [
        f"POST {endpoint.base}{path} HTTP/1.1",
        f"host: {endpoint.authority}",
        "content-type: application/json",
        "accept: application/json",
    ]
    for name, value in headers:
        if _UNSAFE.search(value):
            raise ValueError(f"header {name} is not printable ASCII")
        lines.append(f"{name.lower()}: {value}")
    lines.append(f"content-length: {length}\r\n\r\n")
    return "\r\n".join(lines).encode("ascii")
