"""Where the middleware may stand: outside, inside, twice, beside others (B11, C8)."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Mount

from chio_asgi import ChioASGIMiddleware
from tests.support import Judge, StubClient, call, connect, deny, run

BLOCKED_IPS = ["192.168.1.50"]


class SecurityBouncer(BaseHTTPMiddleware):
    """Turns known addresses away, and sets one header on everything that goes out."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        if request.client is not None and request.client.host in BLOCKED_IPS:
            return Response(content="Banned", status_code=403)
        response: Response = await call_next(request)
        response.headers["X-Frame-Options"] = "DENY"
        return response


class ReadsTheBody(BaseHTTPMiddleware):
    """Reads the body before it goes on, as logging middleware does."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        await request.body()
        response: Response = await call_next(request)
        return response


def fastapi(called: list[str]) -> FastAPI:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, Any]:
        called.append(request.state.chio_receipt.id)
        return {"body": (await request.body()).decode(), "receipt": request.state.chio_receipt.id}

    @app.get("/stream")
    async def stream() -> Response:
        called.append("stream")
        return StreamingResponse(iter([b"a", b"b", b"c"]))

    return app


@pytest.mark.parametrize("bouncer_first", [True, False], ids=["bouncer inside", "bouncer outside"])
@pytest.mark.parametrize("extra", [[], [ReadsTheBody]])
def test_the_bouncer_works_beside_chio(bouncer_first: bool, extra: list[Any]) -> None:
    called: list[str] = []
    app, judge = fastapi(called), Judge()

    def add_chio_middleware() -> None:
        app.add_middleware(ChioASGIMiddleware, client=StubClient(judge, spool_bytes=20))

    if bouncer_first:
        app.add_middleware(SecurityBouncer)
        add_chio_middleware()
    else:
        add_chio_middleware()
        app.add_middleware(SecurityBouncer)
    for cls in extra:
        app.add_middleware(cls)

    for body in (b"", b"hello", b"x" * 100):
        reply = run(call(app, "POST", "/echo", body=[body[:3], body[3:], b""]))
        assert reply.json() == {"body": body.decode(), "receipt": reply.receipt}
        assert reply.header("x-frame-options") == "DENY"
    stream = run(call(app, "GET", "/stream"))
    assert (stream.body, stream.header("x-frame-options")) == (b"abc", "DENY")
    assert stream.receipt in judge.receipts
    assert run(call(app, "GET", "/none")).receipt in judge.receipts

    before, asked = len(called), len(judge.questions)
    banned = run(call(app, "POST", "/echo", client=("192.168.1.50", 1)))
    assert (banned.status, banned.body) == (403, b"Banned")
    assert len(called) == before
    # Outside, the bouncer spares the sidecar the question; inside, its refusal has a receipt.
    assert (len(judge.questions) - asked, banned.receipt is not None) == ((1, True) if bouncer_first else (0, False))


def test_a_denial_leaves_through_the_bouncer() -> None:
    called: list[str] = []
    app = fastapi(called)
    app.add_middleware(ChioASGIMiddleware, client=StubClient(Judge(lambda q, t: deny())))
    app.add_middleware(SecurityBouncer)
    reply = run(call(app, "POST", "/echo", body=b"x"))
    assert (reply.status, reply.header("x-frame-options"), called) == (403, "DENY", [])
    assert reply.receipt is not None


def test_two_of_them_evaluate_twice_and_agree_on_one_receipt() -> None:
    called: list[str] = []
    app, inner, outer = fastapi(called), Judge(), Judge()
    app.add_middleware(ChioASGIMiddleware, client=StubClient(inner))
    app.add_middleware(ChioASGIMiddleware, client=StubClient(outer))
    reply = run(call(app, "POST", "/echo", body=[b"he", b"llo"]))
    assert reply.json() == {"body": "hello", "receipt": reply.receipt}
    assert inner.last["body_hash"] == outer.last["body_hash"]
    assert inner.last["route_pattern"] == outer.last["route_pattern"] == "/echo"
    assert (len(inner.questions), len(outer.questions)) == (1, 1)


@pytest.mark.parametrize("denied", ["inner", "outer"])
def test_of_two_each_can_refuse(denied: str) -> None:
    called: list[str] = []
    app = fastapi(called)
    for name in ("inner", "outer"):
        judge = Judge(lambda q, t: deny()) if name == denied else Judge()
        app.add_middleware(ChioASGIMiddleware, client=StubClient(judge))
    reply = run(call(app, "POST", "/echo", body=b"x"))
    assert (reply.status, called) == (403, [])
    assert reply.receipt is not None


def test_around_the_whole_application_and_around_a_part() -> None:
    called: list[str] = []
    sub, part, whole = fastapi(called), Judge(), Judge()
    sub.add_middleware(ChioASGIMiddleware, client=StubClient(part))
    app = ChioASGIMiddleware(Starlette(routes=[Mount("/sub", app=sub)]), client=StubClient(whole))
    reply = run(call(app, "POST", "/sub/echo", body=b"hello"))
    assert reply.json()["body"] == "hello"
    assert part.last["route_pattern"] == whole.last["route_pattern"] == "/sub/echo"
    assert part.last["path"] == whole.last["path"] == "/sub/echo"


def test_a_preflight_is_answered_by_cors_outside_without_an_evaluation() -> None:
    called: list[str] = []
    app, judge = fastapi(called), Judge(lambda q, t: deny())
    app.add_middleware(ChioASGIMiddleware, client=StubClient(judge, exclude_methods=frozenset()))
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.test"])
    preflight = [("origin", "https://a.test"), ("access-control-request-method", "GET")]
    reply = run(call(app, "OPTIONS", "/stream", headers=preflight))
    assert (reply.status, judge.questions) == (200, [])
    denied = run(call(app, "GET", "/stream", headers=[("origin", "https://a.test")]))
    assert (denied.status, denied.header("access-control-allow-origin")) == (403, "https://a.test")


def test_websockets_pass_through_the_bouncer_and_chio() -> None:
    app = FastAPI()
    app.add_middleware(SecurityBouncer)
    app.add_middleware(ChioASGIMiddleware, client=StubClient())

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()

    accept = run(connect(app, "/ws")).messages[0]
    assert accept["type"] == "websocket.accept"
    assert [name for name, _ in accept["headers"]] == [b"x-chio-receipt"]


def test_the_response_of_an_inner_middleware_has_a_receipt() -> None:
    judge = Judge()
    app = Starlette(
        middleware=[
            Middleware(ChioASGIMiddleware, client=StubClient(judge)),
            Middleware(TrustedHostMiddleware, allowed_hosts=["good.test"]),
        ]
    )
    reply = run(call(app, "GET", "/", headers=[("host", "evil.test")]))
    assert reply.status == 400
    assert reply.receipt in judge.receipts


# Two of the middleware around one request: both ask, and one sentence says what that means


EFFECT = "each request is evaluated twice, spends each budget twice and cannot use an approval"


def governed(title: str, **options: Any) -> FastAPI:
    app = FastAPI(title=title)
    app.add_api_route("/pay/{account}", lambda account: account)
    app.add_middleware(ChioASGIMiddleware, client=StubClient(Judge(), **options))
    return app


def warned(caplog: pytest.LogCaptureFixture, app: Any, *paths: str) -> list[str]:
    """Send these requests and return what was said about two of them."""
    with caplog.at_level(logging.WARNING, "chio"):
        for path in paths:
            assert run(call(app, "GET", path)).status == 200
    return [message for message in caplog.messages if EFFECT in message]


def test_the_inner_one_names_both_and_the_remedy_once(caplog: pytest.LogCaptureFixture) -> None:
    outer = governed("Shop")
    outer.mount("/bank", governed("Bank"))
    assert warned(caplog, outer, "/bank/pay/1", "/bank/pay/2") == [
        f"chio: application 'Bank' at '/bank' is inside application 'Shop', and both have Chio: {EFFECT};"
        " leave the inner one out, or exclude its paths from the outer one (exclude_prefixes)"
    ]


def test_what_a_client_has_written_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    outer = governed("Shop")
    outer.mount("/banks/{bank}", governed("Bank"))
    (text,) = warned(caplog, outer, "/banks/odd-name/pay/1")
    assert "odd-name" not in text


def test_two_in_one_application_and_one_around_it_are_reported_too(caplog: pytest.LogCaptureFixture) -> None:
    twice = governed("Shop")
    twice.add_middleware(ChioASGIMiddleware, client=StubClient(Judge()))
    assert warned(caplog, twice, "/pay/1") == [f"chio: application 'Shop' has Chio twice: {EFFECT}; leave one out"]
    caplog.clear()
    around = ChioASGIMiddleware(Starlette(routes=[Mount("/bank", governed("Bank"))]), client=StubClient(Judge()))
    (text,) = warned(caplog, around, "/bank/pay/1")
    assert "application 'Bank' at '/bank' is inside the application" in text


def test_paths_that_the_outer_one_excludes_are_evaluated_once(caplog: pytest.LogCaptureFixture) -> None:
    outer = governed("Shop", exclude_prefixes=["/bank"])
    outer.mount("/bank", governed("Bank"))
    assert warned(caplog, outer, "/bank/pay/1", "/pay/1") == []


def test_requests_that_a_handler_makes_are_evaluated_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    outer, inner, sent = governed("Shop"), governed("Bank"), list[int]()

    async def batch(request: Request) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            sent.extend([message["status"]] if "status" in message else [])

        for app in (inner, outer):
            await app({**request.scope, "path": "/pay/1", "raw_path": b"/pay/1"}, receive, send)

    outer.add_api_route("/batch", batch)
    assert warned(caplog, outer, "/batch") == []
    assert sent == [200, 200]
