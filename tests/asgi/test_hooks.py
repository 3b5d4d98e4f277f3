"""`on_decision` and `on_receipt` are called with each decision, and cannot break a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

from chio_asgi.middleware import ChioASGIMiddleware
from chio_core.errors import SidecarUnreachable
from tests.support import Judge, StubClient, call, connect, deny, run

Hook = Callable[[Any], Any]


def governed(judge: Judge | None = None, *, hooks: dict[str, Hook], **options: Any) -> ChioASGIMiddleware:
    return ChioASGIMiddleware(PlainTextResponse("ok"), client=StubClient(judge, **options), **hooks)


def test_they_are_called_for_denials_too() -> None:
    seen: list[Any] = []
    app = governed(Judge(lambda q, t: deny()), hooks={"on_decision": seen.append, "on_receipt": seen.append})
    assert run(call(app, "GET", "/")).status == 403
    assert run(connect(app, "/")).status == 403
    decision, receipt, other, _ = seen
    assert (decision.verdict, decision.receipt, decision.allowed) == ("deny", receipt, False)
    assert other.receipt is not receipt


def test_without_a_receipt_only_the_hook_of_decisions_is_called() -> None:
    seen: list[Any] = []
    app = governed(hooks={"on_decision": seen.append, "on_receipt": seen.append}, max_body_bytes=1, fail_open=True)
    run(call(app, "POST", "/", body=b"too long"))
    run(call(app, "GET", "/", headers=[("authorization", "a"), ("authorization", "b")]))
    run(call(app, "BREW", "/"))
    app.client.failure = SidecarUnreachable("x")  # type: ignore[attr-defined]
    assert run(call(app, "GET", "/")).status == 200
    assert [decision.verdict for decision in seen] == ["refused", "refused", "refused", "passthrough"]
    assert [decision.denial.status if decision.denial else None for decision in seen] == [413, 400, 405, None]
    assert seen[-1].passthrough.error == "chio_sidecar_unreachable"


def test_an_excluded_request_is_no_decision() -> None:
    seen: list[Any] = []
    run(call(governed(hooks={"on_decision": seen.append}, exclude_paths=frozenset({"/"})), "GET", "/"))
    assert seen == []


def fails(value: Any) -> None:
    raise RuntimeError("the hook fails")


async def fails_later(value: Any) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("the hook fails later")


@pytest.mark.parametrize("hook", [fails, fails_later])
@pytest.mark.parametrize("verdict", [{"verdict": "allow"}, deny()])
def test_a_hook_that_fails_is_logged_and_changes_nothing(
    hook: Hook, verdict: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = governed(Judge(lambda q, t: verdict), hooks={"on_decision": hook, "on_receipt": hook})
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


def test_what_a_hook_returns_does_not_matter() -> None:
    app = governed(hooks={"on_decision": lambda decision: False, "on_receipt": lambda receipt: {"verdict": "deny"}})
    assert run(call(app, "GET", "/")).status == 200


def test_the_hooks_of_add_middleware() -> None:
    seen: list[Any] = []
    app = Starlette()
    app.add_middleware(ChioASGIMiddleware, client=StubClient(), on_receipt=seen.append)
    reply = run(call(app, "GET", "/none"))
    assert [receipt.id for receipt in seen] == [reply.receipt]
