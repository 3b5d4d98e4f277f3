"""Nothing of a request stays behind (C2): no object, no file, no task, whatever its end was."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket

from chio_asgi import ChioASGIMiddleware
from chio_asgi.decide import ASGIRequest
from chio_core.client.client import ChioClient
from chio_fastapi import ChioReceipt, add_chio
from tests.support import ALLOW, Judge, StubClient, StubServer, call, connect, deny, exchange, http_scope, run, settings

KEPT = 200
"""Objects that may come and go with caches and logs, however many requests there were."""

OPTIONS = {"spool_bytes": 10, "max_connections": 4}


def application(client: ChioClient) -> Any:
    app = FastAPI()

    @app.get("/pets/{number}")
    async def pet(number: int, receipt: ChioReceipt) -> str:
        return receipt.id

    @app.post("/upload")
    async def upload() -> None: ...

    @app.websocket("/talk/{number}")
    async def talk(socket: WebSocket, number: int) -> None:
        await socket.accept()
        await socket.close()

    add_chio(app, client=client)
    return app


async def allowed(app: ChioASGIMiddleware, number: int) -> None:
    reply = await call(app, "GET", f"/pets/{number}", headers=[("authorization", f"Bearer {number}")])
    assert reply.status == 200


async def denied(app: ChioASGIMiddleware, number: int) -> None:
    assert (await call(app, "POST", "/upload", body=b"x" * 100, query=b"n=%d" % number)).status == 403


async def talked(app: ChioASGIMiddleware, number: int) -> None:
    assert (await connect(app, f"/talk/{number}")).messages[0]["type"] == "websocket.accept"


async def left(app: ChioASGIMiddleware, number: int) -> None:
    """A client that goes away in the middle of a body that waits on disk."""
    began = {"type": "http.request", "body": b"x" * 100, "more_body": True}
    await exchange(app, http_scope("POST", f"/upload/{number}"), [began, {"type": "http.disconnect"}])


async def abandoned(app: ChioASGIMiddleware, number: int) -> None:
    """A request that is cancelled while the sidecar is asked."""
    asking = asyncio.ensure_future(call(app, "GET", f"/pets/{number}"))
    for _ in range(number % 7):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


def what_there_is() -> tuple[int, int, int]:
    """Return how many objects, open files and tasks there are."""
    gc.collect()
    return len(gc.get_objects()), len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())


async def test_a_request_and_its_body_are_freed_without_the_cycle_collector() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    governed = ChioASGIMiddleware(app, client=StubClient(Judge()))
    gc.collect()
    # Other tests of this process may have left requests behind, for example in a traceback that pytest keeps.
    # By type: `isinstance` asks lazy objects of other libraries for their class, which makes them.
    before = [one for one in gc.get_objects() if type(one) is ASGIRequest]
    gc.disable()
    try:
        for _ in range(3):
            assert (await call(governed, "POST", "/", body=b"x" * 1000)).status == 200
        left = [one for one in gc.get_objects() if type(one) is ASGIRequest and one not in before]
        assert left == []
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("end", [allowed, denied, talked, left, abandoned])
def test_nothing_of_a_request_stays_behind(end: Callable[..., Awaitable[None]], full_size: bool) -> None:
    warm, count = (10_000, 100_000) if full_size else (200, 500)
    judge = Judge(lambda question, token: deny() if question["method"] == "POST" else ALLOW)

    async def many(app: Any, first: int, number: int) -> None:
        for turn in range(first, first + number):
            await end(app, turn)
            for kept in (judge.questions, judge.receipts, judge.tokens):
                kept.clear()

    async def main() -> None:
        async with StubServer(judge) as server, ChioClient(settings(sidecar_url=server.url, **OPTIONS)) as client:
            app = application(client)
            await many(app, 0, warm)
            objects, files, tasks = what_there_is()
            await many(app, warm, count)
            after = what_there_is()
            assert after[0] <= objects + KEPT
            assert after[1] <= files + 2 * OPTIONS["max_connections"]
            assert after[2] <= tasks + OPTIONS["max_connections"]

    run(main(), seconds=60 + count / 50)
