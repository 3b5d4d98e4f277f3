"""The decision belongs to its own request: contextvars, threads, background tasks, exceptions (C10)."""

from __future__ import annotations

import asyncio
import contextvars
import random
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from chio_asgi import ChioASGIMiddleware
from chio_fastapi import add_chio, get_chio_receipt
from tests.asgi.routes import both_ways, govern
from tests.support import Judge, StubClient, call, call_that_raises, http_scope, run

CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("current")


async def dependency(request: Request, receipt: Annotated[Any, Depends(get_chio_receipt)]) -> str:
    await asyncio.sleep(0)
    assert request.state.chio_receipt is receipt
    return str(receipt.id)


async def test_a_thousand_interleaved_requests_each_see_their_own_receipt() -> None:
    chance = random.Random(5)
    background: dict[str, str] = {}

    class Slow(StubClient):
        async def post(self, *args: Any, **more: Any) -> Any:
            answer = await super().post(*args, **more)
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            return answer

    app, judge = FastAPI(), Judge()
    add_chio(app, client=Slow(judge))

    async def later(number: str, request: Request) -> None:
        await asyncio.sleep(0)
        background[number] = request.state.chio_receipt.id

    @app.get("/async/{number}")
    async def handler(
        number: str, request: Request, tasks: BackgroundTasks, receipt: Annotated[str, Depends(dependency)]
    ) -> dict[str, str]:
        tasks.add_task(later, number, request)
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        return {"receipt": receipt, "state": request.state.chio_receipt.id}

    @app.get("/thread/{number}")
    def threaded(number: str, request: Request, receipt: Annotated[str, Depends(dependency)]) -> dict[str, str]:
        background[number] = receipt
        return {"receipt": receipt, "state": request.state.chio_receipt.id}

    async def one(number: int) -> None:
        path = f"/{'thread' if number % 10 == 0 else 'async'}/{number}"
        reply = await call(app, "GET", path)
        assert reply.json() == {"receipt": reply.receipt, "state": reply.receipt}
        assert reply.receipt is not None
        assert judge.receipts[reply.receipt]["path"] == path
        assert background[str(number)] == reply.receipt

    await asyncio.gather(*(one(number) for number in range(1000)))


async def test_contextvars_pass_both_ways_through_the_middleware() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(CURRENT.get())
        CURRENT.set("inside")
        await PlainTextResponse("ok")(scope, receive, send)

    seen: list[str] = []
    governed, _ = govern(app)
    CURRENT.set("outside")
    await call(governed, "GET", "/")
    seen.append(CURRENT.get())
    assert seen == ["outside", "inside"]


async def test_background_tasks_run_after_the_response_and_may_read_the_body_again() -> None:
    steps: list[str] = []

    async def after(request: Request) -> None:
        steps.append((await request.body()).decode())

    async def handler(request: Request) -> Response:
        await request.body()
        return PlainTextResponse("ok", background=BackgroundTask(after, request))

    app, _ = govern(Starlette(routes=[Route("/", handler, methods=["POST"])]), spool_bytes=0)
    messages = [{"type": "http.request", "body": b"hello", "more_body": False}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            steps.append("answered")

    await app(http_scope("POST", "/"), receive, send)
    assert steps == ["answered", "hello"]


def test_a_background_task_that_fails_does_not_change_the_response() -> None:
    async def fails() -> None:
        raise RuntimeError("the background task fails")

    async def handler(request: Request) -> Response:
        return PlainTextResponse("ok", background=BackgroundTask(fails))

    app, judge = govern(Starlette(routes=[Route("/", handler)]))
    reply = run(call_that_raises(app, RuntimeError))
    assert (reply.status, reply.body) == (200, b"ok")
    assert [m["type"] for m in reply.messages].count("http.response.start") == 1
    assert reply.receipt in judge.receipts


class Failing:
    """An endpoint that raises, before or after its head."""

    after_head = False

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self._send = send

    def __await__(self) -> Any:
        return self._run().__await__()

    async def _run(self) -> None:
        if self.after_head:
            await self._send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("the handler fails")


class FailingLate(Failing):
    after_head = True


async def says_sorry(request: Request, exc: Exception) -> Response:
    return PlainTextResponse("sorry", status_code=500)


@both_ways
@pytest.mark.parametrize("own", [None, 500, Exception])
def test_an_exception_of_the_handler_reaches_the_server(governed: Any, own: Any) -> None:
    handlers: Any = {own: says_sorry} if own is not None else {}
    app, judge = governed(Starlette(routes=[Route("/", Failing)], exception_handlers=handlers))
    reply = run(call_that_raises(app, LookupError))
    assert [m["status"] for m in reply.messages if m["type"] == "http.response.start"] == [500]
    assert reply.body == (b"Internal Server Error" if own is None else b"sorry")
    if governed is govern or own is None:
        # An application's own handler for 500 is outside of its middleware: Chio never sees that response.
        assert reply.receipt in judge.receipts


@both_ways
def test_an_exception_after_the_head_changes_nothing_that_was_sent(governed: Any) -> None:
    app, judge = governed(Starlette(routes=[Route("/", FailingLate)], exception_handlers={500: says_sorry}))
    reply = run(call_that_raises(app, LookupError))
    assert [m["type"] for m in reply.messages] == ["http.response.start"]
    assert reply.receipt in judge.receipts


async def test_a_cancelled_request_leaves_no_task_and_its_handler_does_not_run() -> None:
    asked, called = asyncio.Event(), []

    class Hanging(StubClient):
        async def post(self, *args: Any, **more: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope)

    task = asyncio.ensure_future(call(ChioASGIMiddleware(app, client=Hanging()), "POST", "/", body=b"x"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert called == []


async def test_a_handler_that_is_cancelled_is_cancelled() -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    governed, _ = govern(app)
    task = asyncio.ensure_future(call(governed, "GET", "/"))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_threads_of_the_handler_see_the_request() -> None:
    async def handler(request: Request) -> Response:
        found = await run_in_threadpool(lambda: request.state.chio_receipt.id)
        return PlainTextResponse(found)

    app, _ = govern(Starlette(routes=[Route("/", handler)]))
    reply = run(call(app, "GET", "/"))
    assert reply.body.decode() == reply.receipt
