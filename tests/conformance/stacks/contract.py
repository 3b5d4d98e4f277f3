"""The application that every framework gives in its own words: the same endpoints, the same account of what came."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

SERVER, TOOL = "payments", "transfer"

TEMPLATES: Mapping[str, str] = {
    "hello": "/hello",
    "anything": "/anything",
    "pet": "/pets/{pet}",
    "toy": "/pets/{pet}/toys/{number}",
    "file": "/files/{rest}",
    "transfer": "/accounts/{account}/transfer",
    "health": "/healthz",
    "static": "/static/{rest}",
    "claims": "/claims",
    "stream": "/stream",
    "slashed": "/slashed/",
    "ws": "/ws",
}
"""Handlers and their route templates; a parameter that takes slashes is written like any other."""

METHODS: Mapping[str, tuple[str, ...]] = {
    "hello": ("GET", "HEAD"),
    "anything": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
    "pet": ("GET", "HEAD", "POST"),
    "toy": ("GET", "HEAD"),
    "file": ("GET", "HEAD"),
    "transfer": ("POST",),
    "health": ("GET", "HEAD", "POST"),
    "static": ("GET", "HEAD"),
    "claims": ("GET", "HEAD"),
    "stream": ("GET", "HEAD"),
    "fails": ("GET", "HEAD"),
    "slashed": ("GET", "HEAD"),
}

EXCLUDED = frozenset({"health", "static"})
"""Handlers that are not governed: `CHIO_EXCLUDE_PATHS` and `CHIO_EXCLUDE_PREFIXES`."""

STREAM = tuple(f"{number};" for number in range(5))
"""Pieces of the answer of `stream`."""


class TheHandlerFailed(Exception):
    """What `fails` raises."""


def said(
    handler: str,
    params: Mapping[str, Any] | None = None,
    body: bytes = b"",
    *,
    key: str | None = None,
    receipt: str | None = None,
    passthrough: str | None = None,
) -> dict[str, Any]:
    """What a handler answers.

    Args:
        params: path parameters as the framework gave them.
        body: all that it read.
        key: the header X-Api-Key as it finds it after the body.
        receipt: id of the receipt that it found.
        passthrough: wire code of the mark that it found.
    """
    return {
        "handler": handler,
        "params": {name: str(value) for name, value in (params or {}).items()},
        "read": hashlib.sha256(body).hexdigest() if body else None,
        "key": key,
        "receipt": receipt,
        "passthrough": passthrough,
    }
