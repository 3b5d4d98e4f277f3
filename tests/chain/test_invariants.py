"""What no guard can undo around an ASGI application; what holds on every face is in tests/faces/test_guards.py."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router

from chio_asgi import ASGIGuardRequest, ChioASGIMiddleware
from chio_core import AnyResponse, Chain, Decision, Denial, GuardRequest, Next, Response
from chio_core.guards.chain import Guard
from chio_core.models.receipt import HttpReceipt
from tests.chain.tools import wrapper
from tests.support import Judge, Reply, StubClient, call, run


class Governed:
    """An application that counts, behind guards; the sidecar allows, or what the verdict says."""

    def __init__(self, *guards: Guard | Chain, judge: Judge | None = None, **options: Any) -> None:
        self.calls = 0
        self.bodies: list[bytes] = []
        self.decisions: list[Decision] = []
        self.receipts: list[HttpReceipt] = []
        self.judge = judge or Judge()
        inner = Router([Route("/{rest:path}", self.handler, methods=["GET", "POST", "OPTIONS"])])
        self.app = ChioASGIMiddleware(
            inner,
            guards=guards,
            client=StubClient(self.judge, **options),
            on_decision=self.decisions.append,
            on_receipt=self.receipts.append,
        )

    async def handler(self, request: StarletteRequest) -> PlainTextResponse:
        self.calls += 1
        self.bodies.append(await request.body())
        if request.url.path == "/raises":
            raise ValueError("the handler's own")
        return PlainTextResponse("hello", headers={"x-seen": request.headers.get("x-tenant", "-")})

    def ask(self, method: str = "GET", path: str = "/hello", **more: Any) -> Reply:
        return run(call(self.app, method, path, **more))


def before(guard: Any) -> Chain:
    return Chain().add(guard, priority=-10)


def after(guard: Any) -> Chain:
    return Chain().add(guard, priority=10)


async def succeed(request: GuardRequest) -> Response:
    return Response("free of charge")


async def succeed_around(request: GuardRequest, next: Next) -> AnyResponse:
    return Response("free of charge")


async def unauthorized(request: GuardRequest) -> Response:
    return Response("Unauthorized").with_status(401)


async def fail(request: GuardRequest) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("guard", [succeed, succeed_around])
def test_a_guard_after_the_decision_may_answer_with_success_and_the_receipt(guard: Any) -> None:
    """C11: short-circuit after the decision; a response cache is this."""
    app = Governed(after(guard))
    reply = app.ask()
    assert (reply.status, reply.body) == (200, b"free of charge")
    assert reply.receipt == "stub-000000"
    assert app.calls == 0


def test_local_evidence_is_on_the_decision_of_a_request_that_passes() -> None:
    app = Governed(before(Chain().add(wrapper("a"))), Chain().add(looked, priority=-20))
    app.ask()
    assert [e.guard_name for e in app.decisions[0].evidence] == ["local/looked", "StubGuard"]


async def looked(request: GuardRequest) -> None: ...


async def careless(request: GuardRequest, next: Next) -> AnyResponse:
    await next(request)
    raise ZeroDivisionError


@pytest.mark.parametrize(("guard", "calls"), [(fail, 0), (careless, 1)])
def test_the_failure_of_a_guard_after_the_decision_reaches_the_server(guard: Any, calls: int) -> None:
    """After `next`, the application waits for its head to be released; the failure ends it, and no task is left."""
    app = Governed(after(guard))
    with pytest.raises(ZeroDivisionError):
        app.ask()
    assert app.calls == calls


def test_an_outer_guard_cannot_swallow_an_outage() -> None:
    """Section 7, catch exceptions: the decision refuses by answering, it does not raise."""
    seen: list[AnyResponse] = []

    async def swallow(request: GuardRequest, next: Next) -> AnyResponse:
        try:
            answer = await next(request)
        except Exception:  # noqa: BLE001
            return Response("all is well")
        seen.append(answer)
        return answer

    app = Governed(before(swallow))
    from chio_core.errors import SidecarUnreachable

    app.app.client.failure = SidecarUnreachable("nobody there")  # type: ignore[attr-defined]
    assert app.ask().status == 503
    assert [type(answer) for answer in seen] == [Denial]
    assert app.calls == 0


def test_a_handlers_exception_can_be_caught() -> None:
    """C13"""

    async def teapot(request: GuardRequest, next: Next) -> AnyResponse:
        try:
            return await next(request)
        except ValueError as exc:
            return Response(str(exc)).with_status(418)

    app = Governed(after(teapot))
    reply = app.ask(path="/raises")
    assert (reply.status, reply.body, reply.receipt) == (418, b"the handler's own", "stub-000000")
    assert [decision.verdict for decision in app.decisions] == ["allow"]  # it ran: no member refused it


def test_a_request_runs_once() -> None:
    async def again(request: GuardRequest, next: Next) -> AnyResponse:
        await next(request)
        return await next(request)

    app = Governed(after(again))
    with pytest.raises(Exception, match=r"guard again called next\(\) twice"):
        app.ask()
    assert app.calls == 1


def test_each_request_is_evaluated_although_an_inner_guard_caches() -> None:
    """Section 7, caching: two governed GETs, two receipts, one upstream hit."""
    kept: dict[str, Response] = {}

    async def cache(request: GuardRequest, next: Next) -> AnyResponse:
        if request.url_path not in kept:
            await next(request)
            kept[request.url_path] = Response("kept")
        return kept[request.url_path]

    app = Governed(Chain().add(cache, requires=["decision"]))
    assert [app.ask().receipt for _ in range(2)] == ["stub-000000", "stub-000001"]
    assert (app.calls, len(app.judge.questions)) == (1, 2)


def test_options_is_the_only_method_that_is_excluded_and_guards_run_for_it() -> None:
    """Section 7, OPTIONS: the default is kept, and `exclude_methods=()` governs it."""
    looks = Governed(before(unauthorized))
    assert looks.ask("OPTIONS").status == 401
    assert Governed().ask("OPTIONS").receipt is None
    assert Governed(exclude_methods=()).ask("OPTIONS").receipt == "stub-000000"


def test_an_excluded_path_is_an_ungoverned_success_that_guards_may_wrap() -> None:
    app = Governed(before(wrapper("outer")), exclude_paths=frozenset({"/healthz"}))
    reply = app.ask(path="/healthz")
    assert (reply.status, reply.receipt, app.judge.questions) == (200, None, [])


def test_a_guard_may_replace_the_body_before_the_decision() -> None:
    """B16: the sidecar's hash and the handler see the new bytes, Content-Length is corrected."""
    from chio_core.canonical import sha256_hex

    async def rewrite(request: ASGIGuardRequest) -> None:
        request.replace_body((await request.body()).upper() + b"!")

    app = Governed(before(rewrite))
    lengths: list[str] = []

    async def note(request: GuardRequest) -> None:
        lengths.append(request.headers["content-length"])

    app = Governed(before(rewrite), after(note))
    chunked = [("transfer-encoding", "chunked"), ("content-length", "2")]
    app.ask("POST", body=[b"a", b"b"], headers=chunked)
    assert app.bodies == [b"AB!"]
    assert app.judge.last["body_hash"] == sha256_hex(b"AB!")
    assert app.judge.last["body_length"] == 3
    assert lengths == ["3"]


def test_a_guard_cannot_replace_the_body_after_the_decision() -> None:
    """B16 and section 7: the handler would see bytes that were not hashed."""

    async def rewrite(request: ASGIGuardRequest) -> None:
        request.replace_body(b"something else")

    app = Governed(after(rewrite))
    with pytest.raises(Exception, match="cannot be replaced after it"):
        app.ask("POST", body=b"ab")
    assert app.calls == 0


def test_a_guard_cannot_move_a_request_to_another_route(caplog: pytest.LogCaptureFixture) -> None:
    """What runs is what was judged, also when a guard means well."""

    async def rewrite(request: GuardRequest) -> None:
        request.scope["path"] = "/admin"

    for guards in ([before(rewrite)], [after(rewrite)], [after(rewrite), before(wrapper("outer"))]):
        app = Governed(*guards)
        caplog.clear()
        reply = app.ask()
        assert (reply.status, reply.json()["error"], app.calls) == (500, "chio_configuration", 0)
        assert reply.receipt == app.receipts[0].id
        assert any("a guard changed the request's path" in message for message in caplog.messages)


def test_a_header_and_state_set_by_a_guard_are_seen_by_the_handler_and_the_sidecar() -> None:
    """C10"""

    async def tenant(request: ASGIGuardRequest) -> None:
        request.set_header("x-tenant", "acme")
        request.set_header("content-type", "text/acme")

    app = Governed(before(tenant))
    assert app.ask().header("x-seen") == "acme"
    assert app.judge.last["headers"]["content-type"] == "text/acme"


def test_the_pinned_first_step_is_outside_of_every_guard() -> None:
    """C6: the view and its limits stand where they stand, whatever the priority is."""
    seen: list[Any] = []

    async def first(request: GuardRequest) -> None:
        seen.append(request)

    app = Governed(Chain().add(first, priority=-(10**9)), max_body_bytes=4)
    assert app.ask("POST", body=b"12345").status == 413
    assert isinstance(seen[0], ASGIGuardRequest)
    assert app.app.chain.order()[0].name == "first"


async def test_a_blocked_peer_costs_no_upload() -> None:
    """The body is read only when a member reads it."""
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Any) -> None: ...

    from tests.support import http_scope

    await Governed(before(unauthorized)).app(http_scope("POST", "/up"), receive, send)
    assert asked == 0


@pytest.mark.parametrize(
    "answer", [True, {"status": 403}, PlainTextResponse("no", 403)], ids=["bool", "dict", "foreign"]
)
def test_a_guard_that_returns_no_response_refuses_and_is_named(answer: Any) -> None:
    async def confused(request: GuardRequest) -> Any:
        return answer

    for place in (before, after):
        app = Governed(place(confused))
        with pytest.raises(Exception, match="guard confused returned"):
            app.ask()
        assert app.calls == 0


def test_a_guard_that_blocks_the_event_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """B18: in either shape, also after it has waited, and not the ones around it."""

    async def heavy(request: GuardRequest) -> None:
        await asyncio.sleep(0)
        _spin()

    async def heavy_around(request: GuardRequest, next: Next) -> AnyResponse:
        answer = await next(request)
        _spin()
        return answer

    for guard in (heavy, heavy_around):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "chio"):
            Governed(Chain(wrapper("outer"), guard, wrapper("inner"), slow_guard_ms=40)).ask()
        warned = [record.getMessage() for record in caplog.records if "blocked the event loop" in record.getMessage()]
        assert len(warned) == 1
        assert f"guard {guard.__name__} blocked the event loop for" in warned[0]


def test_a_guard_that_only_waits_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """B18: waiting lets others run."""

    async def patient(request: GuardRequest, next: Next) -> AnyResponse:
        await asyncio.sleep(0.1)
        answer = await asyncio.wait_for(next(request), 5)  # a separate task before Python 3.12
        await asyncio.sleep(0.1)
        return answer

    with caplog.at_level(logging.WARNING, "chio"):
        Governed(Chain(patient, wrapper("inner"), slow_guard_ms=90)).ask()
    assert "blocked" not in caplog.text


def _spin() -> None:
    until = time.perf_counter() + 0.06
    while time.perf_counter() < until:
        pass


def test_the_class_tree_has_no_base_http_middleware() -> None:
    """B14"""
    assert [cls.__name__ for cls in ChioASGIMiddleware.__mro__] == ["ChioASGIMiddleware", "object"]
