"""Spans of others around and inside of governance: who is whose parent, and that governance stays in force."""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan

from chio_asgi import ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_core.guards.chain import Chain
from chio_core.refusals.response import Denial
from chio_core.telemetry import Telemetry
from chio_core.testing import Behaviour, EvaluateRequest, ScriptedSidecar, behaviours
from chio_fastapi import add_chio
from tests.core.spans import Recorder, facts, traceparent
from tests.support import Reply, call, connect, run

REMOTE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = [("traceparent", REMOTE), ("host", "good.test")]


def script(asked: EvaluateRequest) -> Behaviour:
    return behaviours.DENY if asked.path == "/denied" else behaviours.ALLOW


class World:
    """One FastAPI application, instrumented in one way."""

    def __init__(self, build: Callable[[World, FastAPI], Any], **options: Any) -> None:
        self.recorder = Recorder()
        self.sidecar = ScriptedSidecar(script)
        settings = self.sidecar.settings(exclude_paths=["/healthz"], **options)
        telemetry = Telemetry(settings, self.recorder.provider)
        self.client = ChioClient(settings, transport=self.sidecar.transport(), telemetry=telemetry)
        self.ran = 0
        own: Any = {"tracing": build is native or build is native_outside, "metrics": False, "logs": False}
        app = FastAPI(telemetry={**own, "tracer_provider": self.recorder.provider})

        @app.get("/pets/{pet_id}")
        @app.get("/denied")
        @app.get("/healthz")
        async def handler(request: Request) -> dict[str, bool]:
            self.ran += 1
            return {"ok": True}

        @app.websocket("/talk")
        async def talk(socket: WebSocket) -> None:
            self.ran += 1
            await socket.accept()
            await socket.close()

        self.app = build(self, app)

    def span(self, kind: str) -> ReadableSpan:
        """The one span of the server, or the one of the evaluation."""
        wanted = [span for span in self.recorder.spans if (span.name == "chio.evaluate") == (kind == "evaluate")]
        return next(span for span in wanted if kind == "evaluate" or span.kind.name == "SERVER")

    def get(self, path: str) -> Reply:
        async def main() -> Reply:
            async with self.client:
                return await call(self.app, "GET", path, headers=HEADERS)

        return run(main())


def native(world: World, app: FastAPI) -> Any:
    """FastAPI's own telemetry, outside of all middleware."""
    add_chio(app, client=world.client)
    return app


def native_outside(world: World, app: FastAPI) -> Any:
    """The same with governance around the whole application."""
    return ChioASGIMiddleware(app, client=world.client)


def instrumented_outside(world: World, app: FastAPI) -> Any:
    """OpenTelemetry's middleware around everything."""
    add_chio(app, client=world.client)
    return OpenTelemetryMiddleware(app, tracer_provider=world.recorder.provider)


def instrumented_inside(world: World, app: FastAPI) -> Any:
    """OpenTelemetry's middleware inside of governance."""
    return ChioASGIMiddleware(
        OpenTelemetryMiddleware(app, tracer_provider=world.recorder.provider), client=world.client
    )


AROUND = (native, instrumented_outside)

of_fastapi = pytest.mark.skipif(
    "telemetry" not in signature(FastAPI.__init__).parameters, reason="this release of FastAPI has no telemetry"
)
all_ways = pytest.mark.parametrize(
    "way",
    [
        pytest.param(native, marks=of_fastapi),
        pytest.param(native_outside, marks=of_fastapi),
        instrumented_outside,
        instrumented_inside,
    ],
    ids=lambda way: way.__name__,
)


@all_ways
def test_all_spans_of_a_request_are_in_the_trace_of_its_caller(way: Any) -> None:
    world = World(way)
    assert world.get("/pets/7").status == 200
    evaluate, server = world.span("evaluate"), world.span("server")
    assert {span.context.trace_id for span in world.recorder.spans if span.context} == {int(REMOTE.split("-")[1], 16)}
    assert world.sidecar.asked[0].headers["traceparent"] == traceparent(evaluate)
    assert server.parent is not None
    assert evaluate.parent is not None
    assert f"{server.parent.span_id:016x}" == REMOTE.split("-")[2]
    above = server.get_span_context() if way in AROUND else server.parent
    assert above is not None
    assert evaluate.parent.span_id == above.span_id
    assert facts(evaluate)["http.route"] == "/pets/{pet_id}"


@all_ways
def test_governance_stays_in_force_and_the_refusal_is_in_the_trace(way: Any) -> None:
    world = World(way)
    reply = world.get("/denied")
    assert (reply.status, world.ran) == (403, 0)
    assert reply.receipt == facts(world.span("evaluate"))["chio.receipt.id"]
    if way in AROUND:
        found = facts(world.span("server"))
        assert 403 in (found.get("http.response.status_code"), found.get("http.status_code"))


@all_ways
def test_the_handlers_own_spans_do_not_hang_below_the_evaluation(way: Any) -> None:
    world = World(way)
    world.get("/pets/7")
    own = world.span("evaluate").get_span_context()
    assert own is not None
    assert all(span.parent is None or span.parent.span_id != own.span_id for span in world.recorder.spans)


@all_ways
def test_excluded_paths_have_no_evaluation(way: Any) -> None:
    world = World(way)
    assert world.get("/healthz").status == 200
    assert world.recorder.evaluations == []


@all_ways
async def test_a_websocket_handshake_has_its_evaluation_too(way: Any) -> None:
    world = World(way)
    async with world.client:
        await connect(world.app, "/talk", {"type": "websocket.disconnect", "code": 1000}, headers=HEADERS)
    assert world.ran == 1
    assert facts(world.recorder.only)["http.route"] == "/talk"


async def test_a_guards_refusal_is_counted_and_logged_before_and_after_the_decision(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def early(request: Any) -> Denial | None:
        return Denial(status=429, code="chio_rate_limited", message="too many") if "early" in request.url_path else None

    async def late(request: Any) -> Denial | None:
        return Denial(status=451, code="chio_late", message="no") if "late" in request.url_path else None

    caplog.set_level(logging.INFO, logger="chio.decision")
    sidecar = ScriptedSidecar()
    chain = Chain()
    chain.add(early, priority=-10)
    chain.add(late, priority=10)
    async with sidecar.client() as client:
        app = ChioASGIMiddleware(FastAPI(), client=client, guards=chain)
        assert (await call(app, "GET", "/early")).status == 429
        assert (await call(app, "GET", "/late")).status == 451
        assert client.metrics.decisions.value("refused", "chio_rate_limited") == 1
        assert client.metrics.decisions.value("refused", "chio_late") == 1
        assert client.metrics.decisions.value("allow", "none") == client.metrics.seconds.count == 1
    assert [vars(record)["chio_verdict"] for record in caplog.records if record.name == "chio.decision"] == [
        "refused", "allow", "refused",
    ]  # fmt: skip
