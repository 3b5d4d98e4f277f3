"""Shared by the tests of outgoing calls: an upstream that keeps its requests, and clients around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from chio_core.outbound import BaseMiddleware, ChioTransport, GovernOutbound, SyncChioTransport, no_cookies
from chio_core.testing import ScriptedSidecar
from tests.tokens import ISSUER, token

Responder = Callable[[httpx.Request], httpx.Response]
Next = Callable[[Any], Awaitable[Any]]
A = "https://a.example.com"
B = "https://b.example.org"
KEY = ISSUER


class Upstream:
    """Responds without a network, and keeps each request.

    Args:
        respond: makes the response; by default 200 with the path.
        library: httpx or httpx2.
    """

    def __init__(self, respond: Responder | None = None, library: Any = httpx) -> None:
        self.seen: list[Any] = []
        self._respond = respond or (lambda request: library.Response(200, json={"path": request.url.path}))
        self.transport = library.MockTransport(self._take)

    def _take(self, request: Any) -> Any:
        self.seen.append(request)
        return self._respond(request)

    @property
    def last(self) -> Any:
        return self.seen[-1]

    @property
    def hits(self) -> int:
        return len(self.seen)

    def client(self, *members: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=ChioTransport(self.transport, *members), cookies=no_cookies(), follow_redirects=True
        )

    def sync_client(self, *members: Any) -> httpx.Client:
        return httpx.Client(
            transport=SyncChioTransport(self.transport, *members), cookies=no_cookies(), follow_redirects=True
        )

    async def fetch(self, *members: Any, method: str = "GET", url: str = f"{A}/x", **options: Any) -> httpx.Response:
        async with self.client(*members) as client:
            return await client.request(method, url, **options)


class Changing(BaseMiddleware):
    """Changes each request."""

    def __init__(self, priority: int, **changes: Any) -> None:
        self.__priority__ = priority
        self.changes = changes

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**kwargs, **self.changes, "headers": kwargs["headers"] | self.changes.get("headers", {})}


def governed(sidecar: ScriptedSidecar, **options: Any) -> GovernOutbound:
    return GovernOutbound(sidecar.client(), **options)


def redirect_to(where: str, status: int = 302, library: Any = httpx) -> Responder:
    """Redirect `/start`; respond to everything else with 200."""

    def respond(request: Any) -> Any:
        if request.url.path == "/start":
            return library.Response(status, headers={"location": where})
        return library.Response(200, text="arrived")

    return respond


def grant(server: str, tool: str, *domains: str) -> dict[str, Any]:
    constraints = [{"type": "domain_exact", "value": domain} for domain in domains]
    return {"server_id": server, "tool_name": tool, "constraints": constraints}


PAY = token(grant("payments", "charge"))
