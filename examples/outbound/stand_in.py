"""Replaces the upstreams of these examples, so that they run without a network.

`FastHTTP` is the real one with this transport; without the transport it makes real calls.
"""

from __future__ import annotations

from typing import Any

import httpx

from chio_core.outbound import FastHTTP as RealFastHTTP


def respond(request: httpx.Request) -> httpx.Response:
    """Respond as api.example.com, stock.example.com and pay.example.com."""
    place = f"{request.method} {request.url.host}{request.url.path}"
    if place == "POST api.example.com/login":
        return httpx.Response(200, headers={"set-cookie": "session_id=s-1; Path=/; HttpOnly"}, json={"login": "ok"})
    if place == "GET api.example.com/profile":
        return httpx.Response(200, json={"cookie": request.headers.get("cookie")})
    if place == "GET stock.example.com/items/7":
        return httpx.Response(200, json={"item": 7, "price": 5})
    if place == "POST pay.example.com/charges":
        return httpx.Response(200, json={"charged": 5})
    return httpx.Response(200, json={"sent": sorted(set(request.headers) - {"host", "user-agent"})})


def transport() -> httpx.AsyncBaseTransport:
    """Return a transport without a network."""
    return httpx.MockTransport(respond)


class FastHTTP(RealFastHTTP):
    def __init__(self, **options: Any) -> None:
        super().__init__(transport=transport(), **options)
