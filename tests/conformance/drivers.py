"""Drivers: the faces of `tests/faces`, each asked about a route that requires a capability and about one that does not.

To put another framework to the table in `outcomes.csv`, write one more face and add its drivers here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from chio_asgi import ASGIGuardRequest
from chio_core.canonical import sha256_hex
from chio_core.client.client import SyncChioClient
from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.governed import GovernedRequest, KnownBody, RouteMatch, run
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline
from chio_core.refusals.problems import render
from chio_core.settings import ChioSettings
from tests.faces.contract import ENDPOINTS, Seen
from tests.faces.faces import (
    DjangoAlone,
    DjangoASGIFace,
    DjangoFace,
    Face,
    FastAPIAlone,
    FastAPIFace,
    FlaskFace,
    Observation,
    Send,
    StarletteFace,
)
from tests.faces.wire import Lines, Wire, request, scope_of

HANDLERS = {"middleware": "anything", "capability": "transfer"}
"""The endpoint that is asked about, by what it asks for."""


class CoreAdapter:
    """The steps of a request, as a face without a framework does them."""

    def __init__(self, view: ASGIGuardRequest, body: bytes, client: SyncChioClient) -> None:
        self.view = view
        self.governed = GovernedRequest()
        self._body = body
        self._client = client

    def now(self) -> ASGIGuardRequest:
        return self.view

    def read_body(self) -> KnownBody:
        return KnownBody(len(self._body), sha256_hex(self._body) if self._body else None)

    def raw_body(self) -> bytes:
        return self._body

    def body_hash(self) -> str | None:
        return self.read_body().hash

    def locate(self) -> RouteMatch:
        return RouteMatch(ENDPOINTS["anything"].template)

    def compute(self, function: Callable[[], Any], facts: Facts) -> Any:
        return function()

    def send(self, call: EvaluateCall) -> Decision:
        return self._client.evaluate(call)

    def publish(self, decision: Decision) -> None: ...

    def call_hook(self, hook: Callable[[Any], Any], value: Any) -> None: ...


class SynchronousCore(Face):
    """No framework: the core with the synchronous client, as a WSGI adapter uses it."""

    name = "synchronous"

    @contextmanager
    def opened(self, **options: Any) -> Iterator[Send]:
        settings = ChioSettings(**options)
        with SyncChioClient(settings) as client:
            yield lambda wire: self._send(client, settings, wire)

    def _send(self, client: SyncChioClient, settings: ChioSettings, wire: Wire) -> Observation:
        adapter = CoreAdapter(ASGIGuardRequest(scope_of(wire)), wire.body, client)
        return self._observe(wire, run(Pipeline(settings).evaluate(adapter)))

    def _observe(self, wire: Wire, decision: Decision) -> Observation:
        receipt = [("x-chio-receipt", decision.receipt.id)] if decision.receipt else []
        if decision.denial is None:
            seen = Seen("anything", {}, wire.body, None, decision.handler_receipt, decision.passthrough, decision)
            return Observation(200, receipt, b'{"ok": true}', [seen])
        body, headers = render(decision.denial)
        return Observation(decision.denial.status, [*headers, *receipt], body)


@dataclass(frozen=True)
class Driver:
    """One framework, set up in one way, and one of its routes.

    Attributes:
        name: how tests call it.
        asks: `middleware`, or `capability` where the route requires one.
        tags_success: the receipt header is on successful answers too.
    """

    name: str
    face: Face
    asks: str = "middleware"
    tags_success: bool = True

    @property
    def template(self) -> str:
        """The template of the route."""
        return ENDPOINTS[HANDLERS[self.asks]].template

    def request(
        self,
        headers: Lines = (),
        body: bytes | Sequence[bytes] = b'{"amount":5}',
        *,
        method: str = "POST",
        target: str | None = None,
        query: str = "",
    ) -> Wire:
        """Return a request to the route, or to another target."""
        return request(method, (target or self.template.replace("{account}", "7")) + query, headers, body)

    def opened(self, options: Mapping[str, Any]) -> AbstractContextManager[Send]:
        """Open the application with these settings."""
        return self.face.opened(**options)

    def run(self, options: Mapping[str, Any], wire: Wire) -> Observation:
        """Open the application with these settings, send one request, close everything."""
        with self.opened(options) as send:
            return send(wire)

    def code(self, wire_code: str) -> str:
        """Return how this framework's envelope spells a wire code."""
        return self.face.code(wire_code)


DRIVERS: Mapping[str, Driver] = {
    driver.name: driver
    for driver in (
        Driver("fastapi", FastAPIFace()),
        Driver("starlette", StarletteFace()),
        Driver("capability", FastAPIFace(), "capability"),
        Driver("capability-alone", FastAPIAlone(), "capability", tags_success=False),
        Driver("synchronous", SynchronousCore()),
        Driver("django", DjangoFace()),
        Driver("django-async", DjangoASGIFace()),
        Driver("django-capability", DjangoFace(), "capability"),
        Driver("django-capability-async", DjangoASGIFace(), "capability"),
        Driver("django-capability-alone", DjangoAlone(), "capability", tags_success=False),
        Driver("flask", FlaskFace()),
        Driver("flask-capability", FlaskFace(), "capability"),
    )
}
