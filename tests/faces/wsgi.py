"""Calling a WSGI application as a server does."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Answered:
    """What a WSGI application answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    iterable: Any

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, f"{name} stands {len(found)} times"
        return found[0] if found else None


class OneWay(io.RawIOBase):
    """A request body as a socket gives it: no seeking, and never more than there is.

    Args:
        pieces: what the client sends; each read gives bytes of one piece only.
        breaks: the client goes away after the last piece.
    """

    def __init__(self, *pieces: bytes, breaks: bool = False) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._breaks = breaks
        self.largest = 0
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        self.largest = max(self.largest, size)
        if not self._pieces:
            if self._breaks:
                raise OSError("the client went away")
            return b""
        piece = self._pieces.pop(0)
        if 0 <= size < len(piece):
            self._pieces.insert(0, piece[size:])
            piece = piece[:size]
        self.given += len(piece)
        return piece


def environ(
    method: str = "GET", path: str = "/", body: Any = None, headers: Mapping[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return an environment; header names in its form (`HTTP_X_A`)."""
    path, _, query = path.partition("?")
    found = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "10.0.0.9",
        "HTTP_HOST": "testserver",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body or io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if isinstance(body, bytes) and body:
        found["CONTENT_LENGTH"] = str(len(body))
    return found | dict(headers or {}) | more


def call(app: Callable[..., Any], environment: dict[str, Any]) -> Answered:
    """Call an application and read its answer to the end."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        heads.append((status, headers))
        return lambda data: None

    iterable = app(environment, start_response)
    try:
        body = b"".join(iterable)
    finally:
        if hasattr(iterable, "close"):
            iterable.close()
    status, headers = heads[-1]
    return Answered(int(status.split()[0]), headers, body, iterable)
