"""What the tests of outgoing calls share: an upstream that keeps what it was sent, and clients around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import httpx

from chio_core.outbound import ChioTransport, GovernOutbound, SyncChioTransport, no_cookies
from chio_core.testing import ScriptedSidecar

T = TypeVar("T")
Answer = Callable[[httpx.Request], httpx.Response]
A = "https://a.example.com"
B = "https://b.example.org"


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own; one that hangs has failed."""

    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await main

    return asyncio.run(bounded())


class Upstream:
    """Answers without a network, and keeps each request.

    Args:
        answer: gives the response; by default 200 with the path.
        library: httpx or httpx2.
    """

    def __init__(self, answer: Answer | None = None, library: Any = httpx) -> None:
        self.seen: list[Any] = []
        self._answer = answer or (lambda request: library.Response(200, json={"path": request.url.path}))
        self.transport = library.MockTransport(self._take)

    def _take(self, request: Any) -> Any:
        self.seen.append(request)
        return self._answer(request)

    @property
    def last(self) -> Any:
        return self.seen[-1]

    @property
    def hits(self) -> int:
        return len(self.seen)

    def client(self, *members: Any, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=ChioTransport(self.transport, *members), cookies=no_cookies(), **options)

    def sync_client(self, *members: Any, **options: Any) -> httpx.Client:
        return httpx.Client(transport=SyncChioTransport(self.transport, *members), cookies=no_cookies(), **options)

    async def fetch(self, *members: Any, method: str = "GET", url: str = f"{A}/x", **options: Any) -> httpx.Response:
        async with self.client(*members) as client:
            return await client.request(method, url, **options)


def governed(sidecar: ScriptedSidecar, **options: Any) -> GovernOutbound:
    return GovernOutbound(sidecar.client(), **options)


def redirect_to(where: str, status: int = 302) -> Answer:
    """Answer `/start` with a redirect, everything else with 200."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/start":
            return httpx.Response(status, headers={"location": where})
        return httpx.Response(200, text="arrived")

    return answer
