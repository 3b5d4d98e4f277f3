"""One request on the wire, as each kind of server hands it to its framework, and the calls that do so.

The dictionaries are made as uvicorn and gunicorn make them: a path is decoded once, repeated header lines stay
apart in ASGI and are joined with a comma in WSGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from tests.faces.wsgi import OneWay, environ
from tests.support import DEADLINE, App, Reply

HOST = (b"host", b"testserver")
Lines = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]


@dataclass(frozen=True)
class Wire:
    """A request as a client writes it.

    Args:
        target: raw path, still encoded, and query.
        pieces: the body; more than one piece is sent chunked.
        peer: address of the client.
        breaks: it announces ten bytes more than it sends, and goes away.
    """

    method: str = "GET"
    target: bytes = b"/"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    pieces: tuple[bytes, ...] = ()
    peer: str | None = "10.0.0.9"
    breaks: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def chunked(self) -> bool:
        return len(self.pieces) > 1

    def lines(self) -> list[tuple[bytes, bytes]]:
        """All header lines, those of the framing included."""
        found = [*self.headers]
        if not any(name == b"host" for name, _ in found):
            found.insert(0, HOST)
        if self.chunked:
            found.append((b"transfer-encoding", b"chunked"))
        elif self.pieces:
            found.append((b"content-length", b"%d" % (len(self.body) + 10 * self.breaks)))
        return found


def request(method: str, target: str, headers: Lines = (), body: bytes | Sequence[bytes] = b"") -> Wire:
    """Return a request; a body in a list is sent chunked."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    pieces = ((body,) if body else ()) if isinstance(body, bytes) else tuple(body)
    return Wire(method, _bytes(target), tuple((_bytes(name).lower(), _bytes(value)) for name, value in pairs), pieces)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def scope_of(wire: Wire) -> dict[str, Any]:
    """The ASGI scope, as uvicorn makes it."""
    path, _, query = wire.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": wire.method,
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": wire.lines(),
        "client": (wire.peer, 50000) if wire.peer is not None else None,
        "server": ("testserver", 80),
        "state": {},
    }


def messages_of(wire: Wire) -> list[dict[str, Any]]:
    """The messages with the body, one a piece."""
    pieces = wire.pieces or (b"",)
    return [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) or wire.breaks}
        for number, piece in enumerate(pieces, 1)
    ]


def environ_of(wire: Wire) -> dict[str, Any]:
    """The WSGI environment, as gunicorn makes it."""
    path, _, query = wire.target.partition(b"?")
    found = environ(wire.method, "/", OneWay(*wire.pieces))
    del found["HTTP_HOST"]
    joined: dict[str, str] = {}
    for name, value in wire.lines():
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        joined[key] = f"{joined[key]},{text}" if key in joined and key != "CONTENT_TYPE" else text
    return found | joined | {
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "REMOTE_ADDR": wire.peer or "",
        "wsgi.input_terminated": True,
    }  # fmt: skip


async def asgi_call(
    app: App, scope: dict[str, Any], messages: Sequence[dict[str, Any]], leaves: asyncio.Event | None = None
) -> Reply:
    """Call an application as a server does: the client stays until the answer is complete, or until it leaves.

    An exception after the whole answer, which a server would log, is dropped.
    """
    reply, gone, waiting = Reply(), leaves or asyncio.Event(), list(messages)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        reply.messages.append(dict(message))

    async with asyncio.timeout(DEADLINE):
        try:
            await app(scope, receive, send)
        except Exception:
            if not reply.complete:
                raise
    return reply
