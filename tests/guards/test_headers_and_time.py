"""Rows B8 and B9, and the request id: headers and callbacks that guards queue, on every response."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import secure
from fastapi import FastAPI
from fastapi import Response as FastAPIResponse
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse

from chio_asgi import ChioASGIMiddleware
from chio_core import Chain, ConfigurationError, GuardRequest, Response
from chio_core.guards import IpBlock, RateLimit, RequestId, SecurityHeaders, Stopwatch
from chio_core.guards.response_hooks import ResponseHooks, response_hooks
from chio_core.names import STATE_REQUEST_ID
from chio_fastapi import add_chio
from tests.support import Judge, StubClient, call, deny, exchange, http_scope, run


def application(*guards: Any, judge: Judge | None = None) -> FastAPI:
    app = FastAPI()
    add_chio(app, client=StubClient(judge), guards=guards)

    @app.get("/items/{number}")
    async def item(number: int) -> dict[str, int]:
        return {"number": number}

    @app.get("/raises")
    async def raises() -> None:
        raise ZeroDivisionError

    @app.get("/redirect")
    async def redirect() -> RedirectResponse:
        return RedirectResponse("/items/1")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    @app.get("/sse")
    async def sse() -> StreamingResponse:
        return StreamingResponse(chunks(), media_type="text/event-stream")

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(Path(__file__))

    return app


EVERY = [
    ("/items/1", 200),
    ("/nowhere", 404),
    ("/items/x", 422),
    ("/redirect", 307),
    ("/stream", 200),
    ("/sse", 200),
    ("/file", 200),
]


def test_security_headers_are_on_every_refusal() -> None:
    """B9: by a guard, by the sidecar, and of a malformed request."""
    app = application(SecurityHeaders(), IpBlock(["192.168.1.50"]), judge=Judge(lambda q, token: deny("no")))
    for more, status in (({"client": ("192.168.1.50", 1)}, 403), ({}, 403), ({"query": b"a=1&" * 2000}, 400)):
        reply = run(call(app, path="/items/1", **more))  # type: ignore[arg-type]
        assert (reply.status, reply.header("x-frame-options")) == (status, "DENY")


async def test_security_headers_are_on_a_failure() -> None:
    """B9: 500"""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ZeroDivisionError):
        await application(SecurityHeaders())(http_scope(path="/raises"), receive, send)
    assert sent[0]["status"] == 500
    assert (b"x-frame-options", b"DENY") in sent[0]["headers"]


def test_the_values_may_come_from_the_library_secure() -> None:
    """B9: its default for frames is SAMEORIGIN, so a preset is chosen knowingly."""
    policy = secure.Secure(xfo=secure.XFrameOptions().deny(), csp=secure.ContentSecurityPolicy().default_src("'none'"))
    reply = run(call(application(SecurityHeaders(policy)), path="/items/1"))
    assert reply.header("x-frame-options") == "DENY"
    assert reply.header("content-security-policy") == "default-src 'none'"
    assert reply.header("referrer-policy") is None
    presets = run(call(application(SecurityHeaders(secure.Secure.with_default_headers())), path="/items/1"))
    assert presets.header("strict-transport-security") is not None


def test_a_policy_is_a_mapping_or_a_secure() -> None:
    with pytest.raises(ConfigurationError, match=r"takes a secure\.Secure or a mapping"):
        SecurityHeaders("DENY")


@pytest.mark.parametrize(("replace", "expected"), [(True, "DENY"), (False, "SAMEORIGIN")])
def test_a_header_of_the_application_is_replaced_or_kept(replace: bool, expected: str) -> None:
    app = FastAPI()
    add_chio(app, client=StubClient(), guards=[SecurityHeaders(replace=replace)])

    @app.get("/")
    async def own(response: FastAPIResponse) -> None:
        response.headers["X-Frame-Options"] = "SAMEORIGIN"

    assert run(call(app)).header("x-frame-options") == expected


def test_a_queued_header_cannot_smuggle_another() -> None:
    for name, value in (("x-a", "1\r\nx-b: 2"), ("x\n", "1")):
        with pytest.raises(ConfigurationError, match="line break"):
            ResponseHooks().add_header(name, value)


def test_of_two_changes_of_a_header_the_inner_one_counts() -> None:
    hooks = ResponseHooks()
    hooks.add_header("X-A", "outer")
    hooks.add_header("x-a", "inner")
    hooks.add_header("X-B", "ours", replace=False)
    hooks.add_header("x-b", "never", replace=False)
    assert hooks.apply([("x-a", "application"), ("set-cookie", "1"), ("set-cookie", "2")]) == [
        ("set-cookie", "1"),
        ("set-cookie", "2"),
        ("x-a", "inner"),
        ("X-B", "ours"),
    ]
    assert hooks.apply([("X-b", "theirs")]) == [("X-b", "theirs"), ("x-a", "inner")]


Measured = tuple[str, str, int | None, float]


def stopwatch(*, server_timing: bool = False) -> tuple[list[Measured], Stopwatch]:
    measured: list[Measured] = []
    return measured, Stopwatch(server_timing=server_timing, on_time=lambda *what: measured.append(what))


@pytest.mark.parametrize(("path", "status"), EVERY)
def test_every_response_has_security_headers_and_is_measured_once(path: str, status: int) -> None:
    """B8, B9"""
    measured, guard = stopwatch()
    reply = run(call(application(guard, SecurityHeaders()), path=path))
    assert (reply.status, reply.header("x-frame-options")) == (status, "DENY")
    assert reply.header("x-content-type-options") == "nosniff"
    ((method, seen, answered, seconds),) = measured
    assert (method, seen, answered) == ("GET", path, status)
    assert seconds > 0


def test_refusals_are_measured() -> None:
    """B8: by a guard, by the sidecar."""
    measured, guard = stopwatch()
    app = application(guard, RateLimit("1/minute"), judge=Judge(lambda q, token: deny("no")))
    for _ in range(2):
        run(call(app, path="/items/1"))
    assert [status for _, _, status, _ in measured] == [403, 429]


def test_failures_are_measured() -> None:
    """B8: an exception, and an application that breaks off in the middle."""
    measured, guard = stopwatch()

    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError

    for app, path in (
        (application(guard), "/raises"),
        (ChioASGIMiddleware(breaks, guards=[guard], client=StubClient()), "/"),
    ):
        with pytest.raises((ZeroDivisionError, OSError)):
            run(call(app, path=path))
    assert [status for _, _, status, _ in measured] == [500, 200]


def test_a_stream_is_measured_to_its_last_chunk_and_not_to_its_background_tasks() -> None:
    """B8"""
    measured, guard = stopwatch()
    seen: list[int] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, True, False):
            seen.append(len(measured))
            await send({"type": "http.response.body", "body": b"x", "more_body": more})
        seen.append(len(measured))

    run(call(ChioASGIMiddleware(inner, guards=[guard], client=StubClient())))
    assert seen == [0, 0, 0, 1]
    assert len(measured) == 1


def test_overlapping_requests_do_not_mix() -> None:
    """B8: they are let go in the opposite order to the one they came in."""
    measured, guard = stopwatch()

    async def main() -> None:
        gates = {f"/{number}": asyncio.Event() for number in range(3)}

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            await gates[scope["path"]].wait()
            await send({"type": "http.response.start", "status": 200 + int(scope["path"][1:]), "headers": []})
            await send({"type": "http.response.body", "body": b""})

        app = ChioASGIMiddleware(inner, guards=[guard], client=StubClient())
        requests = [asyncio.ensure_future(call(app, path=path)) for path in gates]
        for path in reversed(gates):
            await asyncio.sleep(0.02)
            gates[path].set()
        await asyncio.gather(*requests)

    run(main())
    assert [(path, status) for _, path, status, _ in measured] == [("/2", 202), ("/1", 201), ("/0", 200)]
    times = [seconds for *_, seconds in measured]
    assert times == sorted(times)


def test_the_time_is_logged_and_on_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """B8"""
    with caplog.at_level(logging.INFO, "chio"):
        reply = run(call(application(Stopwatch(server_timing=True)), path="/items/1"))
    assert re.fullmatch(r"app;dur=\d+\.\d", reply.header("server-timing") or "")
    assert re.search(r"chio: GET '/items/1' answered 200 in \d+\.\d ms", caplog.text)


def test_a_line_break_in_a_path_does_not_break_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "chio"):
        run(call(application(Stopwatch()), path="/x\nchio: GET '/admin' answered 200"))
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_the_callback_of_a_stopwatch_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*what: Any) -> None:
        raise ZeroDivisionError

    assert run(call(application(Stopwatch(on_time=broken)), path="/items/1")).status == 200
    assert "ZeroDivisionError" in caplog.text


def test_a_websocket_is_measured_to_its_close() -> None:
    measured, guard = stopwatch()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    app = ChioASGIMiddleware(inner, guards=[guard], client=StubClient())
    run(exchange(app, {**http_scope(path="/ws"), "type": "websocket"}, [{"type": "websocket.connect"}]))
    assert [path for _, path, _, _ in measured] == ["/ws"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a\tb", '"><script>'])
def test_a_request_id_that_is_malformed_is_replaced(given: str) -> None:
    reply = run(call(application(RequestId()), path="/items/1", headers=[("x-request-id", given)]))
    assert re.fullmatch(r"[0-9a-f-]{36}", reply.header("x-request-id") or "")


def test_a_well_formed_request_id_is_kept_but_never_names_the_evaluation() -> None:
    judge, seen = Judge(), []

    async def look(request: GuardRequest) -> None:
        seen.append(getattr(request.state, STATE_REQUEST_ID))

    app = application(RequestId(), look, judge=judge)
    reply = run(call(app, path="/items/1", headers=[("x-request-id", "trace-1")]))
    assert reply.header("x-request-id") == "trace-1" == seen[0]
    assert judge.last["request_id"] != "trace-1"
    distrust = run(call(application(RequestId(trust_incoming=False)), headers=[("x-request-id", "trace-1")]))
    assert distrust.header("x-request-id") != "trace-1"


def test_an_own_guard_queues_headers_too() -> None:
    async def tag(request: GuardRequest) -> None:
        response_hooks(request).add_header("X-Served-By", "here")

    async def closed(request: GuardRequest) -> Response:
        return Response("closed", 503)

    assert run(call(application(tag), path="/items/1")).header("x-served-by") == "here"
    refused = application(Chain().add(tag, priority=-20), Chain().add(closed, priority=-10))
    assert run(call(refused)).header("x-served-by") == "here"
