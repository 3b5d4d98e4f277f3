"""FastHTTP: declared calls of a script, with the names and the behaviour of the package fasthttp-client.

    app = FastHTTP(middleware=[BearerAuthMiddleware("token")])

    @app.get(url="https://api.example.com/items", tags=["items"])
    async def items(resp: Response) -> list:
        return resp.json()

    app.run(tags=["items"])

Code for that package runs with this prefix in its imports, apart from the differences that docs/outbound.md lists.
"""

from http import HTTPStatus
from types import SimpleNamespace

from chio_core.outbound.fasthttp.app import FastHTTP
from chio_core.outbound.fasthttp.auth import BasicAuth, BearerAuth, DigestAuth
from chio_core.outbound.fasthttp.middleware import (
    BaseMiddleware,
    CacheMiddleware,
    CookieJar,
    DummyCookieJar,
    MiddlewareChain,
    MiddlewareManager,
    RetryMiddleware,
    SessionMiddleware,
)
from chio_core.outbound.fasthttp.routing import Depends, EventHooks, Router

status = SimpleNamespace(**{f"HTTP_{one.value}_{one.name}": one.value for one in HTTPStatus})
"""The status codes by name: `status.HTTP_404_NOT_FOUND`."""

__all__ = [
    "BaseMiddleware",
    "BasicAuth",
    "BearerAuth",
    "CacheMiddleware",
    "CookieJar",
    "Depends",
    "DigestAuth",
    "DummyCookieJar",
    "EventHooks",
    "FastHTTP",
    "MiddlewareChain",
    "MiddlewareManager",
    "RetryMiddleware",
    "Router",
    "SessionMiddleware",
    "status",
]
