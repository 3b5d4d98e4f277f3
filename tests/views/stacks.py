"""One request on the wire, as each kind of server hands it to its framework, and the views over it.

The dictionaries are made as uvicorn and gunicorn make them: a path is decoded once, repeated header lines stay
apart in ASGI and are joined with a comma in WSGI.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from flask import Flask, Request
from starlette.requests import Request as StarletteRequest

from chio_asgi import ASGIGuardRequest
from chio_django import DjangoGuardRequest
from chio_flask import FlaskGuardRequest
from tests.django import project  # noqa: F401 - configures Django
from tests.faces.wsgi import OneWay, environ

Pairs = Iterable[tuple[bytes, bytes]]
HOST = (b"host", b"testserver")


@dataclass(frozen=True)
class Wire:
    """A request as a client writes it.

    Args:
        target: raw path, still encoded, and query.
        pieces: the body; more than one piece is sent chunked.
    """

    method: str = "GET"
    target: bytes = b"/"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    pieces: tuple[bytes, ...] = ()
    peer: str | None = "10.0.0.9"

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
            found.append((b"content-length", str(len(self.body)).encode()))
        return found


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


def receive_of(wire: Wire) -> Any:
    """An ASGI `receive` that gives the body, one message a piece."""
    pieces = wire.pieces or (b"",)
    waiting = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    return receive


@dataclass
class Stack:
    """A view, and the framework's own request that it is over."""

    name: str
    view: Any
    native: Any


def starlette(wire: Wire) -> Stack:
    scope, receive = scope_of(wire), receive_of(wire)
    return Stack("starlette", ASGIGuardRequest(scope, receive), StarletteRequest(scope, receive))


def django_wsgi(wire: Wire) -> Stack:
    request = WSGIRequest(environ_of(wire))
    return Stack("django-wsgi", DjangoGuardRequest(request), request)


def django_asgi(wire: Wire) -> Stack:
    request = ASGIRequest(scope_of(wire), io.BytesIO(wire.body))
    return Stack("django-asgi", DjangoGuardRequest(request), request)


def flask(wire: Wire) -> Stack:
    request = Request(environ_of(wire))
    return Stack("flask", FlaskGuardRequest(request, Flask("tests.views.stacks")), request)


MAKERS = (starlette, django_wsgi, django_asgi, flask)


def all_stacks(wire: Wire) -> list[Stack]:
    return [make(wire) for make in MAKERS]


def once(coroutine: Any) -> Any:
    """Run a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("the coroutine suspended")
