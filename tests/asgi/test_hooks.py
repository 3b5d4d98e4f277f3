"""Hooks in an event loop, and of `add_middleware`; what holds on every face is in tests/faces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

from chio_asgi.middleware import ChioASGIMiddleware
from tests.support import Judge, StubClient, call, deny, run

Hook = Callable[[Any], Any]


def governed(judge: Judge | None = None, *, hooks: dict[str, Hook], **options: Any) -> ChioASGIMiddleware:
    return ChioASGIMiddleware(PlainTextResponse("ok"), client=StubClient(judge, **options), **hooks)


async def fails_later(value: Any) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("the hook fails later")


@pytest.mark.parametrize("verdict", [{"verdict": "allow"}, deny()])
def test_an_asynchronous_hook_that_fails_is_logged_and_changes_nothing(
    verdict: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = governed(Judge(lambda q, t: verdict), hooks={"on_decision": fails_later, "on_receipt": fails_later})
    with caplog.at_level(logging.ERROR, "chio"):
        reply = run(call(app, "GET", "/"))
    assert reply.status == (200 if verdict["verdict"] == "allow" else 403)
    assert reply.receipt is not None
    assert sum("the request goes on" in record.getMessage() for record in caplog.records) == 2


async def test_a_hook_that_is_cancelled_takes_the_request_with_it() -> None:
    """A cancellation is the server's or the caller's will, and no failure of the hook."""

    async def waits(value: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(call(governed(hooks={"on_decision": waits}), "GET", "/"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_hooks_of_add_middleware() -> None:
    seen: list[Any] = []
    app = Starlette()
    app.add_middleware(ChioASGIMiddleware, client=StubClient(), on_receipt=seen.append)
    reply = run(call(app, "GET", "/none"))
    assert [receipt.id for receipt in seen] == [reply.receipt]
