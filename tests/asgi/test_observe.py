"""Observe mode around any ASGI application: all runs, what was withheld is marked, nothing else changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from chio_asgi import ChioASGIMiddleware
from chio_core.errors import SidecarUnreachable
from chio_core.evaluation.outcomes import Decision
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest
from chio_core.testing import Behaviour, ScriptedSidecar
from tests.hostile import BEHAVIOURS
from tests.support import Judge, StubClient, call, connect, deny, run

DENYING = Judge(lambda question, token: deny("blocked by policy"))


async def look(request: Request) -> JSONResponse:
    state = request.state
    mark = state.chio_passthrough
    return JSONResponse({
        "receipt": state.chio_receipt.id if state.chio_receipt is not None else None,
        "mark": [mark.mode, mark.error, mark.message] if mark is not None else None,
        "observed": state.chio_decision.observed,
        "body": (await request.body()).decode(),
    })  # fmt: skip


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(websocket.state.chio_passthrough.mode)
    await websocket.close()


ROUTES = [
    Route("/pets/{pet}", look, methods=["GET", "POST"]),
    Route("/other", look),
    WebSocketRoute("/chat", chat),
    Mount("/v2", routes=[Route("/pets/{pet}", look)]),
]


def governed(client: Any = None, **options: Any) -> ChioASGIMiddleware:
    more = {name: options.pop(name) for name in ("guards", "on_decision", "on_receipt") if name in options}
    client = client if client is not None else StubClient(DENYING, **options)
    return ChioASGIMiddleware(Starlette(routes=ROUTES), client=client, **more)


def test_a_denied_request_runs_with_its_body_and_without_a_receipt() -> None:
    reply = run(call(governed(observe=True), "POST", "/pets/7", body=[b"a", b"b"]))
    assert reply.status == 200
    assert reply.json() == {
        "receipt": None,
        "mark": ["observe", "chio_access_denied", "blocked by policy"],
        "observed": True,
        "body": "ab",
    }


def test_the_header_names_the_receipt_of_the_refusal_because_it_was_recorded() -> None:
    reply = run(call(governed(observe=True), "GET", "/pets/7"))
    assert reply.receipt in DENYING.receipts


def test_an_allowed_request_is_as_ever() -> None:
    reply = run(call(governed(StubClient(observe=True)), "GET", "/pets/7"))
    assert reply.json()["receipt"] == reply.receipt is not None
    assert reply.json()["mark"] is None
    assert reply.json()["observed"] is False


def test_a_sidecar_that_is_down_lets_pass_and_the_mark_says_so() -> None:
    client = StubClient(observe=True, fail_open=False)
    client.failure = SidecarUnreachable("no connection")
    reply = run(call(governed(client), "GET", "/pets/7"))
    assert reply.status == 200
    assert reply.json()["mark"][:2] == ["observe", "chio_sidecar_unreachable"]
    assert reply.receipt is None


@pytest.mark.parametrize(
    ("path", "status"),
    [("/other", 200), ("/pets/7", 403), ("/v2/pets/7", 200), ("/v2x", 403), ("/other/", 403)],
)
def test_only_the_paths_that_were_named_are_observed(path: str, status: int) -> None:
    app = governed(observe_paths=["/other"], observe_prefixes=["/v2"])
    assert run(call(app, "GET", path)).status == status


def test_a_path_below_an_outer_root_is_compared_as_the_router_sees_it() -> None:
    app = governed(observe_paths=["/other"])
    assert run(call(app, "GET", "/api/other", root_path="/api")).status == 200
    assert run(call(app, "GET", "/other/other", root_path="/other")).status == 200
    assert run(call(app, "GET", "/other/pets/7", root_path="/other")).status == 403


def test_an_excluded_path_is_not_even_observed() -> None:
    judge = Judge(lambda question, token: deny())

    async def plain(request: Request) -> JSONResponse:
        return JSONResponse(hasattr(request.state, "chio_decision"))

    app = ChioASGIMiddleware(
        Starlette(routes=[Route("/x", plain)]), client=StubClient(judge, observe=True, exclude_paths=["/x"])
    )
    assert run(call(app, "GET", "/x")).json() is False
    assert judge.questions == []


def test_a_websocket_handshake_is_observed_like_a_request() -> None:
    assert run(connect(governed(), "/chat")).status == 403
    messages = run(connect(governed(observe=True), "/chat")).messages
    assert messages[0]["type"] == "websocket.accept"
    assert messages[1]["text"] == '"observe"'


@pytest.mark.parametrize(
    ("details", "status"),
    [
        ({"method": "BREW"}, 405),
        ({"headers": [("authorization", "a"), ("authorization", "b")]}, 400),
        ({"method": "POST", "body": b"x" * 11}, 413),
        ({"path": "/" + "a" * 9000}, 414),
    ],
)
def test_what_cannot_be_judged_is_refused_as_ever(details: dict[str, Any], status: int) -> None:
    seen: list[Decision] = []
    app = governed(observe=True, max_body_bytes=10, on_decision=seen.append)
    assert run(call(app, **{"path": "/pets/7", **details})).status == status
    assert [decision.observed for decision in seen] == [False]


@pytest.mark.parametrize("priority", [-1, 1], ids=["before the decision", "after it"])
def test_a_guard_of_the_application_refuses_as_ever(priority: int) -> None:
    class Closed:
        """Refuses everything."""

        def __init__(self) -> None:
            self.priority = priority

        async def __call__(self, request: GuardRequest) -> Denial:
            return Denial(status=429, message="closed")

    seen: list[Decision] = []
    told: list[Any] = []
    app = governed(observe=True, guards=[Closed()], on_decision=seen.append, on_receipt=told.append)
    assert run(call(app, "GET", "/pets/7")).status == 429
    assert seen[-1].allowed is False
    assert len(told) == (1 if priority > 0 else 0)


def test_hooks_are_told_once_about_the_decision_and_its_receipt() -> None:
    seen: list[Any] = []
    app = governed(observe=True, on_decision=seen.append, on_receipt=seen.append)
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

    assert run(call(governed(observe=True, guards=[Inner()]), "GET", "/pets/7")).status == 200
    assert receipts == [None]


def test_each_observed_refusal_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    app = governed(observe=True)
    with caplog.at_level(logging.WARNING, logger="chio"):
        caplog.clear()
        run(call(app, "GET", "/pets/7"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "/pets/{pet}" in record.getMessage()


def test_it_is_said_aloud_when_the_application_is_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="chio"):
        governed(observe=True)
    assert "observe mode" in caplog.text


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
