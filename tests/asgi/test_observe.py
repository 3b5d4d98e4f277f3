"""Observe mode around any ASGI application: all runs, what was withheld is marked, nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from chio_asgi import ChioASGIMiddleware
from chio_core.request import GuardRequest
from chio_core.testing import Behaviour, ScriptedSidecar
from tests.hostile import BEHAVIOURS
from tests.support import Judge, StubClient, call, connect, deny, run

DENYING = Judge(lambda question, token: deny("blocked by policy"))


async def look(request: Request) -> JSONResponse:
    return JSONResponse(None)


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(websocket.state.chio_passthrough.mode)
    await websocket.close()


ROUTES = [
    Route("/pets/{pet}", look),
    Route("/other", look),
    WebSocketRoute("/chat", chat),
]


def governed(hooks: Mapping[str, Any] | None = None, **options: Any) -> ChioASGIMiddleware:
    return ChioASGIMiddleware(Starlette(routes=ROUTES), client=StubClient(DENYING, **options), **(hooks or {}))


def test_a_path_below_an_outer_root_is_compared_as_the_router_sees_it() -> None:
    app = governed(observe_paths=["/other"])
    assert run(call(app, "GET", "/api/other", root_path="/api")).status == 200
    assert run(call(app, "GET", "/other/other", root_path="/other")).status == 200
    assert run(call(app, "GET", "/other/pets/7", root_path="/other")).status == 403


def test_a_websocket_handshake_is_observed_like_a_request() -> None:
    assert run(connect(governed(), "/chat")).status == 403
    messages = run(connect(governed(observe=True), "/chat")).messages
    assert messages[0]["type"] == "websocket.accept"
    assert messages[1]["text"] == '"observe"'


def test_hooks_are_called_once_with_the_decision_and_its_receipt() -> None:
    seen: list[Any] = []
    app = governed({"on_decision": seen.append, "on_receipt": seen.append}, observe=True)
    run(call(app, "GET", "/pets/7"))
    decision, receipt = seen
    assert decision.observed
    assert decision.receipt is receipt


def test_guards_behind_the_decision_see_that_nothing_was_allowed() -> None:
    receipts: list[Any] = []

    class Inner:
        """Looks at the state as an application's own guard does."""

        priority = 1

        async def __call__(self, request: GuardRequest) -> None:
            receipts.append(request.state.chio_receipt)

    assert run(call(governed({"guards": [Inner()]}, observe=True), "GET", "/pets/7")).status == 200
    assert receipts == [None]


def _run(behaviour: Behaviour, look_at: Callable[[Request], None], **options: Any) -> int:
    async def handler(request: Request) -> JSONResponse:
        look_at(request)
        return JSONResponse(None)

    async def main() -> int:
        async with ScriptedSidecar(behaviour).client(timeout=0.02 if behaviour.slow else 20.0, **options) as client:
            app = ChioASGIMiddleware(Starlette(routes=[Route("/pets/{pet}", handler)]), client=client)
            return (await call(app, "GET", "/pets/7")).status

    return run(main())


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=str)
def test_whatever_a_sidecar_does_the_handler_runs_and_has_a_receipt_only_for_a_verified_allow(
    behaviour: Behaviour,
) -> None:
    seen: list[Any] = []

    def look_at(request: Request) -> None:
        seen.append((request.state.chio_receipt, request.state.chio_passthrough, request.state.chio_decision))

    enforced = _run(behaviour, look_at)
    allowed = enforced == 200
    assert len(seen) == allowed
    assert _run(behaviour, look_at, observe=True) == 200
    receipt, mark, decision = seen[-1]
    assert len(seen) == allowed + 1
    assert decision.observed is not allowed
    if allowed:
        assert receipt.verdict.is_allow
        assert mark is None
    else:
        assert receipt is None
        assert mark.mode == "observe"
        assert decision.withheld.status == enforced
