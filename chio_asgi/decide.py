"""Decide: the member of the chain that asks the sidecar, for ASGI.

The order of its steps is the policy:

1. exclusions; 2. what could mean two things is refused (400, 405); 3. the body, counted and hashed (413);
4. the route that will run, and what it asks for; 5. who is calling; 6. the sidecar's decision, verified; 7. the
outcome on the request's state.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from chio_asgi.body import Body, BodyTooLarge, ClientDisconnected
from chio_asgi.routing import RouteMatch, RouteResolver
from chio_asgi.types import Scope
from chio_asgi.view import ASGIGuardRequest
from chio_core.client.client import ChioClient
from chio_core.evaluation.amounts import Facts, InputRefused
from chio_core.evaluation.conclude import precheck, prepare, singleton_headers
from chio_core.evaluation.hooks import aannounce, with_evidence
from chio_core.evaluation.outcomes import Decision, bad_request, body_incomplete, body_too_large
from chio_core.evaluation.precheck import Exclusions
from chio_core.guards.chain import DecisionMember
from chio_core.identity import default_extractor, identify
from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import HttpReceipt
from chio_core.names import (
    LOGGER,
    SCOPE_EVALUATED,
    STATE_BODY,
    STATE_CLIENT,
    STATE_DECISION,
    STATE_EXTRACTOR,
    STATE_PASSTHROUGH,
    STATE_RECEIPT,
)
from chio_core.refusals.response import Denial
from chio_core.request import RequestView, Requirement
from chio_core.settings import ChioSettings

EFFECT: Final = "each request is judged twice, spends each budget twice and cannot use an approval"
"""What it comes to where two of them ask about one request."""

REMEDY: Final = "leave the inner one out, or exclude its paths from the outer one (exclude_prefixes)"
"""What to do about it."""


def mark_judged(scope: Scope, by: object) -> None:
    """Note that the sidecar was asked about the request of this very scope.

    Args:
        by: who has asked.
    """
    # The id, because a handler may copy the scope and hand another request to the application.
    scope[SCOPE_EVALUATED] = (id(scope), by, scope.get("app"))


def nested_in(scope: Scope, by: object) -> str | None:
    """Return one sentence when somebody else further out has asked about this very request.

    Args:
        by: who is about to ask.
    """
    known = scope.get(SCOPE_EVALUATED)
    if known is None or known[0] != id(scope) or known[1] is by:
        return None
    inner, outer = scope.get("app"), known[2]
    if inner is outer:
        return f"{named(inner)} has Chio twice: {EFFECT}; leave one out"
    # Inside of a mount with parameters this is what a client has written.
    root = scope.get("root_path") if not scope.get("path_params") else None
    place = f" at {root!r}" if root else ""
    return f"{named(inner)}{place} stands inside of {named(outer)}, and both have Chio: {EFFECT}; {REMEDY}"


def named(app: Any) -> str:
    """Return how to name an application to a person."""
    title = getattr(app, "title", None)
    if isinstance(title, str) and title:
        return f"application {title!r}"
    return "the application" if app is None else f"the {type(app).__name__} application"


log = logging.getLogger(LOGGER)

LARGE_BODY = 64 * 1024
"""Bytes of a body from which on it is parsed in a thread, because nobody knows the caller yet."""

T = TypeVar("T")
DecisionHook = Callable[[Decision], Awaitable[None] | None]
ReceiptHook = Callable[[HttpReceipt], Awaitable[None] | None]


class Decide(DecisionMember):
    """Asks the sidecar about a request and leaves the decision on its state.

    Args:
        settings, client: what to ask and how.
        resolve: finds the route that will run.
        extractor: finds out who is calling.
        on_decision, on_receipt: see `chio_asgi.ChioASGIMiddleware`.
    """

    def __init__(
        self,
        settings: ChioSettings,
        client: ChioClient,
        resolve: RouteResolver,
        extractor: Callable[[RequestView], CallerIdentity] | None = None,
        on_decision: DecisionHook | None = None,
        on_receipt: ReceiptHook | None = None,
    ) -> None:
        self._settings = settings
        self._excluded = Exclusions(settings)
        self._client = client
        self._resolve = resolve
        self._extract = extractor or default_extractor(settings.api_key_header, settings.session_cookie)
        self._on_decision = on_decision
        self._on_receipt = on_receipt
        self._singletons = singleton_headers(settings)
        self._told_nested = False

    async def __call__(self, view: ASGIGuardRequest) -> Denial | None:
        """Return the refusal, or None when the request may go on."""
        if self._excluded.cover(view.method, view.route_path):
            self._introduce(view)
            return None
        self._tell_nested(view)
        decision = await self._judge(view)
        if decision.request_id is None:  # what the sidecar is asked, the client tells by itself
            self._client.telemetry.refused(decision, view.method, view.route_path)
        else:
            mark_judged(view.scope, self)
        decision = with_evidence(decision, view.evidence)
        await self.publish(view, decision)
        return decision.denial

    async def publish(self, view: ASGIGuardRequest, decision: Decision) -> None:
        """Put a decision on the request's state and tell the hooks."""
        state = self._introduce(view)
        known = state.get(STATE_DECISION)
        told = known.receipt if isinstance(known, Decision) else None
        state[STATE_DECISION] = decision
        state[STATE_RECEIPT] = decision.handler_receipt
        state[STATE_PASSTHROUGH] = decision.passthrough
        await aannounce(decision, self._on_decision, self._on_receipt if decision.receipt is not told else None)

    def _tell_nested(self, view: ASGIGuardRequest) -> None:
        if not self._told_nested and (text := nested_in(view.scope, self)) is not None:
            self._told_nested = True
            log.warning("chio: %s", text)

    def _introduce(self, view: ASGIGuardRequest) -> dict[str, Any]:
        """Leave on the state what dependencies need to ask by themselves, in the same way; return the state."""
        state: dict[str, Any] = view.scope.setdefault("state", {})
        state[STATE_CLIENT] = self._client
        state[STATE_EXTRACTOR] = self._extract
        return state

    async def _judge(self, view: ASGIGuardRequest) -> Decision:
        settings = self._settings
        if (denial := precheck(view, settings, self._singletons)) is not None:
            return Decision(verdict="refused", denial=denial)
        try:
            body = await view.read_body(settings.max_body_bytes, settings.spool_bytes) if view.has_body else None
        except BodyTooLarge:
            return Decision(verdict="refused", denial=body_too_large(settings.max_body_bytes))
        except ClientDisconnected:
            return Decision(verdict="refused", denial=body_incomplete())
        view.seal()
        view.scope.setdefault("state", {})[STATE_BODY] = body
        route = self._resolve(view.scope)
        try:
            requirement = await _requirement(route, view, body)
        except InputRefused as exc:
            return Decision(verdict="refused", denial=bad_request(exc.message, exc.status))
        question = prepare(
            view,
            settings,
            request_id=str(uuid.uuid4()),
            now=time.time(),
            caller=identify(view, self._extract),
            template=route.template,
            body_hash=body.hash if body else None,
            body_length=body.length if body else 0,
            requirement=requirement,
        )
        return await self._client.decide(question)


async def _requirement(route: RouteMatch, view: ASGIGuardRequest, body: Body | None) -> Requirement | None:
    if not route.sources:
        return None
    raw = await body.read() if body is not None and route.reads_body else None
    facts = Facts(route.path_params, view, raw)
    return await worked_out(partial(route.requirement, facts), facts)


async def worked_out(function: Callable[[], T], facts: Facts) -> T:
    """Return what a function says about a request; in a thread where it parses more than `LARGE_BODY` bytes."""
    if facts.body is not None and len(facts.body) > LARGE_BODY:
        return await asyncio.to_thread(function)
    return function()
