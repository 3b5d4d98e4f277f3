"""fastapi-guard around a bare ASGI application: an address list and a limit in memory, nothing else switched on.

Run by `benchmarks.guards` with the interpreter of a separate environment; prints microseconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

from guard import PureASGISecurityMiddleware, SecurityConfig, SecurityMiddleware

REPEAT, ROUNDS = 1500, 7


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "OPTIONS" if len(sys.argv) > 1 and sys.argv[1] == "options" else "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"wrk"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def measured(app: Any) -> float:
    statuses = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    best = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REPEAT):
            await app(scope(), receive, send)
        best.append((time.process_time() - started) / REPEAT * 1e6)
    assert set(statuses) == {200}, set(statuses)
    return sorted(best)[ROUNDS // 2]


async def main() -> None:
    logging.disable(logging.CRITICAL)
    config = SecurityConfig(
        blacklist=["192.168.1.50", "10.9.0.0/16"],
        rate_limit=10**9,
        rate_limit_window=60,
        enable_redis=False,
        enable_penetration_detection=False,
        enable_ip_banning=False,
        enable_rate_limit_auto_ban=False,
        auto_ban_threshold=10**9,
    )
    floor = await measured(bare)
    found = {
        "SecurityMiddleware": await measured(SecurityMiddleware(bare, config=config)) - floor,
        "PureASGISecurityMiddleware": await measured(PureASGISecurityMiddleware(bare, config=config)) - floor,
    }
    print(json.dumps(found))


asyncio.run(main())
