"""Drivers: one framework each, seen through the same small window.

A driver starts an application with settings, sends it one request, and says what came out: status, headers, body,
and what the handler saw each time that it ran. To put another framework to the table in `outcomes.csv`, write one
more driver and add it to `FACTORIES`. (`stacks/` does the same with servers and sockets.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from chio_asgi import ASGIGuardRequest, ChioASGIConfig, ChioASGIMiddleware
from chio_core.canonical import sha256_hex
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.governed import GovernedRequest, KnownBody, RouteMatch
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline, run
from chio_core.refusals.problems import render
from chio_core.settings import ChioSettings
from chio_fastapi import RequireCapability, add_chio
from tests.conformance.django_driver import (
    DjangoAsync,
    DjangoCapability,
    DjangoCapabilityAlone,
    DjangoCapabilityAsync,
    DjangoSync,
)
from tests.conformance.flask_driver import FlaskCapability, FlaskExtension
from tests.conformance.window import PATH, SERVER, TEMPLATE, TOOL, Driver, Observation, Seen, Send, Sent, loop, taken
from tests.support import Reply, call, http_scope

__all__ = ["DRIVERS", "PATH", "SERVER", "TEMPLATE", "TOOL", "Driver", "Observation", "Seen", "Sent"]


class _ASGIDriver(Driver):
    """What the ASGI drivers share."""

    @abstractmethod
    def build(self, client: ChioClient, seen: list[Seen]) -> Any:
        """Build the application."""

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[Send]:
        seen: list[Seen] = []
        with loop() as until_done:
            client = ChioClient(ChioASGIConfig(**settings))
            app = self.build(client, seen)

            def send(sent: Sent) -> Observation:
                reply: Reply = until_done(
                    call(app, sent.method, sent.path, query=sent.query, headers=sent.headers, body=sent.body)
                )
                return Observation(reply.status, dict(reply.headers), reply.body, taken(seen))

            try:
                yield send
            finally:
                until_done(client.aclose())


def _look(state: Any) -> Seen:
    return Seen(
        getattr(state, "chio_receipt", None),
        getattr(state, "chio_passthrough", None),
        getattr(state, "chio_decision", None),
    )


class FastAPIMiddleware(_ASGIDriver):
    """`add_chio`, and a route that asks for nothing."""

    name = "fastapi"

    def build(self, client: ChioClient, seen: list[Seen]) -> Any:
        app = FastAPI()

        @app.post(TEMPLATE)
        async def transfer(transfer_id: int, request: Request) -> dict[str, bool]:
            seen.append(_look(request.state))
            return {"ok": True}

        add_chio(app, client=client)
        return app


class StarletteMiddleware(_ASGIDriver):
    """The middleware around a plain Starlette application."""

    name = "starlette"

    def build(self, client: ChioClient, seen: list[Seen]) -> Any:
        async def transfer(request: StarletteRequest) -> JSONResponse:
            seen.append(_look(request.state))
            return JSONResponse({"ok": True})

        app = Starlette(routes=[Route(TEMPLATE, transfer, methods=["POST"])])
        return ChioASGIMiddleware(app, client=client)


class CapabilityBehindMiddleware(_ASGIDriver):
    """`RequireCapability` on a route of an application with the middleware."""

    name = "capability"
    asks = "capability"

    def build(self, client: ChioClient, seen: list[Seen]) -> Any:
        app = FastAPI()
        _capability_route(app, seen)
        add_chio(app, client=client)
        return app


class CapabilityAlone(_ASGIDriver):
    """`RequireCapability` without any middleware: the dependency asks by itself."""

    name = "capability-alone"
    asks = "capability"
    tags_success = False

    def build(self, client: ChioClient, seen: list[Seen]) -> Any:
        app = FastAPI()
        app.state.chio_client = client
        _capability_route(app, seen)
        return app


def _capability_route(app: FastAPI, seen: list[Seen]) -> None:
    @app.post(TEMPLATE)
    async def transfer(
        transfer_id: int, receipt: Annotated[Any, Depends(RequireCapability(SERVER, TOOL))], request: Request
    ) -> dict[str, bool]:
        seen.append(Seen(receipt, getattr(request.state, "chio_passthrough", None)))
        return {"ok": True}


class CoreAdapter:
    """The steps of a request, as a face without a framework does them."""

    def __init__(self, view: ASGIGuardRequest, body: bytes, client: SyncChioClient) -> None:
        self.view = view
        self.governed = GovernedRequest()
        self._body = body
        self._client = client

    def now(self) -> ASGIGuardRequest:
        return self.view

    def read_body(self, limit: int, spool_bytes: int) -> KnownBody:
        return KnownBody(len(self._body), sha256_hex(self._body) if self._body else None)

    def raw_body(self) -> bytes:
        return self._body

    def body_hash(self) -> str | None:
        return self.read_body(0, 0).hash

    def locate(self) -> RouteMatch:
        return RouteMatch(TEMPLATE)

    def compute(self, function: Callable[[], Any], facts: Facts) -> Any:
        return function()

    def send(self, call: EvaluateCall) -> Decision:
        return self._client.evaluate(call)

    def publish(self, decision: Decision) -> None: ...

    def call_hook(self, hook: Callable[[Any], Any], value: Any) -> None: ...


class SynchronousCore(Driver):
    """No framework: the core with the synchronous client, as a WSGI adapter uses it."""

    name = "synchronous"

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[Send]:
        options = ChioSettings(**settings)
        with SyncChioClient(options) as client:
            yield lambda sent: self._send(client, options, sent)

    def _send(self, client: SyncChioClient, options: ChioSettings, request: Sent) -> Observation:
        view = ASGIGuardRequest(http_scope(request.method, request.path, query=request.query, headers=request.headers))
        decision = run(Pipeline(options).evaluate(CoreAdapter(view, request.body, client)))
        seen = [Seen(decision.handler_receipt, decision.passthrough, decision)] if decision.allowed else []
        return self._observe(decision, seen)

    def _observe(self, decision: Decision, seen: list[Seen]) -> Observation:
        receipt = {"x-chio-receipt": decision.receipt.id} if decision.receipt else {}
        if decision.denial is None:
            return Observation(200, receipt, b'{"ok": true}', seen)
        body, headers = render(decision.denial)
        return Observation(decision.denial.status, {**dict(headers), **receipt}, body, seen)


FACTORIES: tuple[Callable[[], Driver], ...] = (
    FastAPIMiddleware,
    StarletteMiddleware,
    CapabilityBehindMiddleware,
    CapabilityAlone,
    SynchronousCore,
    DjangoSync,
    DjangoAsync,
    DjangoCapability,
    DjangoCapabilityAsync,
    DjangoCapabilityAlone,
    FlaskExtension,
    FlaskCapability,
)
DRIVERS: Mapping[str, Driver] = {driver.name: driver for driver in (make() for make in FACTORIES)}
