"""The decision of a chain, for ASGI: how a request's steps (`chio_core.evaluation.pipeline`) are done here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from chio_asgi.routing import RouteResolver
from chio_asgi.types import Scope
from chio_asgi.view import ASGIGuardRequest
from chio_core.client.client import ChioClient
from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.governed import NO_BODY, Body, GovernedRequest, RouteMatch, run_async
from chio_core.evaluation.hooks import Hook, call_hook_async
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline
from chio_core.guards.chain import DecisionMember
from chio_core.names import LOGGER, SCOPE_REQUEST, STATE_DECISION, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.refusals.response import AnyResponse, Denial, RequestRefused

log = logging.getLogger(LOGGER)

EFFECT: Final = "each request is evaluated twice, spends each budget twice and cannot use an approval"
"""The effect of two middlewares around one request."""

REMEDY: Final = "leave the inner one out, or exclude its paths from the outer one (exclude_prefixes)"
"""What to do about it."""

LARGE_BODY = 64 * 1024
"""Bytes from which on a body is parsed in a thread: the caller is not known yet and must not block the loop."""

T = TypeVar("T")


class ASGIRequest:
    """What Chio keeps on the scope of one request, so that dependencies find it.

    Attributes:
        scope_id: the `id` of the scope that it was made for, until the middleware is done with it. A handler may copy a
            scope and hand another request to the application. The scope itself would refer back to this object.
        governed: its facts, requirement and decision so far.
        pipeline: the steps; None without the middleware.
        client: the middleware's client.
        body: the body as it was read.
        app: the application as the outer server names it, for messages.
        outer: what is kept on the scope that inner code has copied for this request, if the request is the same.
    """

    __slots__ = ("app", "body", "client", "governed", "outer", "pipeline", "scope_id")

    def __init__(self, scope: Scope, pipeline: Pipeline, client: ChioClient) -> None:
        self.scope_id: int | None = id(scope)
        self.governed = GovernedRequest()
        self.pipeline = pipeline
        self.client = client
        self.body: Any = None
        self.app = scope.get("app")
        self.outer: ASGIRequest | None = None


class ASGIAdapter:
    """A `chio_core.evaluation.governed.RequestAdapter` for one ASGI request or websocket handshake.

    Args:
        view: the request.
        request: what is kept on its scope.
        resolve: finds the route that will run.
    """

    __slots__ = ("_resolve", "governed", "request", "view")

    def __init__(self, view: ASGIGuardRequest, request: ASGIRequest, resolve: Callable[[Scope], RouteMatch]) -> None:
        self.view = view
        self.request = request
        self.governed = request.governed
        self._resolve = resolve

    def now(self) -> ASGIGuardRequest:
        """Return the request as the scope has it now."""
        return ASGIGuardRequest(self.view.scope)

    def keep_body(self) -> None:
        """The view keeps what it reads."""

    async def read_body(self) -> Body:
        """Read the body to its end; from then on a guard cannot replace it."""
        if not self.view.has_body:
            return NO_BODY
        if self.governed.observed:
            self.view.lift_limits()
        body = self.request.body = await self.view.read_body()
        self.view.seal()
        return body

    async def raw_body(self) -> bytes | None:
        """Return the bytes of the body; None for a websocket handshake."""
        return await self.request.body.read() if self.request.body is not None else None

    def body_hash(self) -> str | None:
        """Return the hash of the body; the application is given the bytes that were hashed."""
        return self.governed.body.hash if self.governed.body is not None else None

    def locate(self) -> RouteMatch:
        """Return the route that the application's router will choose."""
        return self._resolve(self.view.scope)

    async def compute(self, function: Callable[[], T], facts: Facts) -> T:
        """Return what a function makes of a request; in a thread if it parses more than `LARGE_BODY` bytes."""
        if facts.body is not None and len(facts.body) > LARGE_BODY:
            return await asyncio.to_thread(function)
        return function()

    def send(self, call: EvaluateCall) -> Awaitable[Decision]:
        """Send a call through the middleware's client."""
        return self.request.client.evaluate(call)

    def publish(self, decision: Decision) -> None:
        """Put a decision on the request's state; the response is that of the outer request."""
        if self.request.outer is not None:
            self.request.outer.governed.shown = decision
        state: dict[str, Any] = self.view.scope.setdefault("state", {})
        state[STATE_DECISION] = decision
        state[STATE_RECEIPT] = decision.handler_receipt
        state[STATE_PASSTHROUGH] = decision.passthrough

    async def call_hook(self, hook: Hook, value: Any) -> None:
        """Call a hook, which may be `async def`."""
        await call_hook_async(hook, value)


class Decide(DecisionMember):
    """The member of the chain that has a request evaluated.

    Args:
        pipeline: the steps.
        client: the client that sends calls.
        resolve: finds the route that will run.
    """

    def __init__(self, pipeline: Pipeline, client: ChioClient, resolve: RouteResolver) -> None:
        self._pipeline = pipeline
        self._client = client
        self._resolve = resolve
        self._warned_nested = False

    def begin(self, scope: Scope) -> ASGIRequest:
        """Put the request's record on its scope; warn once if an outer middleware governs it already."""
        outer = scope.get(SCOPE_REQUEST)
        if outer is not None and not self._warned_nested and (text := self._nested_in(scope, outer)) is not None:
            self._warned_nested = True
            log.warning("chio: %s", text)
        request = scope[SCOPE_REQUEST] = ASGIRequest(scope, self._pipeline, self._client)
        return request

    def show_route(self, scope: Scope) -> None:
        """Put the route that will run on the scope, as its router will do, so that guards can read it before."""
        try:
            route = self._resolve(scope).route
        except RequestRefused:
            return  # the decision refuses it
        if route is not None:
            scope["route"] = route

    async def __call__(self, view: ASGIGuardRequest) -> Denial | None:
        """Return the refusal, or None if the request may continue."""
        return await self.govern(view)

    def govern(self, view: ASGIGuardRequest) -> Coroutine[Any, Any, Denial | None]:
        """Return the same, to be awaited."""
        request: ASGIRequest = view.scope[SCOPE_REQUEST]
        return run_async(self._pipeline.govern(ASGIAdapter(view, request, self._resolve)))

    async def refuse(self, view: ASGIGuardRequest, response: AnyResponse) -> None:
        """Record that a guard has refused."""
        request: ASGIRequest = view.scope[SCOPE_REQUEST]
        await run_async(self._pipeline.refuse(ASGIAdapter(view, request, self._resolve), response))

    def check_unchanged(self, view: ASGIGuardRequest) -> Denial | None:
        """Return the refusal if a guard has changed the request since it was evaluated."""
        return self._pipeline.check_unchanged(ASGIAdapter(view, view.scope[SCOPE_REQUEST], self._resolve))

    def _nested_in(self, scope: Scope, outer: Any) -> str | None:
        """Return one sentence if an outer middleware has evaluated this very request."""
        if not isinstance(outer, ASGIRequest) or outer.scope_id != id(scope) or outer.pipeline is self._pipeline:
            return None
        decision = outer.governed.decision
        if decision is None or decision.request_id is None:
            return None
        app = scope.get("app")
        if app is outer.app:
            return f"{named(app)} has Chio twice: {EFFECT}; leave one out"
        # Inside a mount with parameters the prefix is text from the client.
        root = scope.get("root_path") if not scope.get("path_params") else None
        place = f" at {root!r}" if root else ""
        return f"{named(app)}{place} is inside {named(outer.app)}, and both have Chio: {EFFECT}; {REMEDY}"


def named(app: Any) -> str:
    """Return a description of an application for messages."""
    title = getattr(app, "title", None)
    if isinstance(title, str) and title:
        return f"application {title!r}"
    return "the application" if app is None else f"the {type(app).__name__} application"
