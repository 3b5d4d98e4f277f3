"""Asking the sidecar from inside a dependency, where no middleware has asked for it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from fastapi import HTTPException
from fastapi.security import APIKeyHeader
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response as StarletteResponse
from starlette.websockets import WebSocket

from chio_asgi.body import Body
from chio_asgi.decide import worked_out
from chio_asgi.routing import RequirementSource, need_body, requirement_from, sources_in
from chio_asgi.send import accept_of
from chio_asgi.view import ASGIGuardRequest, route_path
from chio_core.canonical import sha256_hex
from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.amounts import Facts, InputRefused
from chio_core.evaluation.conclude import precheck, prepare, singleton_headers
from chio_core.evaluation.hooks import header_value, is_met
from chio_core.evaluation.outcomes import Decision, bad_request, body_too_large
from chio_core.evaluation.requirements import includes, merged
from chio_core.identity import default_extractor, identify
from chio_core.models import openapi as extensions
from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import HttpReceipt
from chio_core.names import (
    CAPABILITY_HEADER,
    RECEIPT_HEADER,
    SCOPE_DECISIONS,
    STATE_BODY,
    STATE_CLIENT,
    STATE_DECISION,
    STATE_EXTRACTOR,
)
from chio_core.refusals.problems import flat, refusal_headers, render
from chio_core.refusals.response import Denial
from chio_core.request import Requirement


def client_of(connection: HTTPConnection) -> ChioClient:
    """Return the client that serves this application.

    It is the middleware's, or the one that `add_chio` keeps on `app.state`; an application with neither gets
    one of its own from the environment, at the first request that needs it.
    """
    client = connection.scope.get("state", {}).get(STATE_CLIENT)
    if client is None:
        state = connection.app.state
        client = getattr(state, STATE_CLIENT, None)
        if client is None:
            client = ChioClient()
            setattr(state, STATE_CLIENT, client)
    if not isinstance(client, ChioClient):
        raise ConfigurationError(f"the state's {STATE_CLIENT} must be a ChioClient")
    return client


async def decision_for(connection: HTTPConnection, source: RequirementSource) -> Decision:
    """Return a decision that was made for what a dependency asks for.

    It is the middleware's, or one that another dependency of this request has asked for. Where there is none, it is
    asked for here: for all that the route asks for if this is the first time, else for this dependency alone.

    Raises:
        InputRefused: the request does not clearly say what has to be judged.
    """
    asked = _asked(connection)
    facts = await _facts(connection, need_body([source]))
    wanted = await worked_out(partial(requirement_from, source, facts), facts)
    made = connection.scope.get("state", {}).get(STATE_DECISION)
    known = [made, *asked] if isinstance(made, Decision) else asked
    found = next((one for one in known if includes(one.requirement, wanted)), None)
    if found is None:
        first = all(one.requirement is None for one in known)
        found = await evaluate(connection, await _whole(connection, wanted) if first else wanted, known)
        asked.append(found)
    return found


def _asked(connection: HTTPConnection) -> list[Decision]:
    """Return the decisions that dependencies of this very request have asked for."""
    # Not on the state: that a server makes a new one for each request is the server's promise only. And not those of
    # the request whose scope a handler has copied, to hand another one to the application.
    scope = connection.scope
    known = scope.get(SCOPE_DECISIONS)
    if known is None or known[0] is not scope:
        known = scope[SCOPE_DECISIONS] = (scope, [])
    found: list[Decision] = known[1]
    return found


async def _whole(connection: HTTPConnection, wanted: Requirement) -> Requirement:
    sources = sources_of(connection)
    facts = await _facts(connection, need_body(sources))
    whole = await worked_out(lambda: merged(requirement_from(one, facts) for one in sources), facts)
    return whole if whole is not None and includes(whole, wanted) else wanted


async def _facts(connection: HTTPConnection, reads_body: bool) -> Facts:
    raw = await _raw_body(connection) if reads_body else None
    limit = client_of(connection).settings.max_body_bytes
    if raw is not None and len(raw) > limit:
        denial = body_too_large(limit)
        raise InputRefused(denial.message, denial.status)
    return Facts(connection.path_params, ASGIGuardRequest(connection.scope), raw)


async def evaluate(connection: HTTPConnection, requirement: Requirement, earlier: Iterable[Decision] = ()) -> Decision:
    """Ask for one decision about this connection and a requirement.

    Args:
        earlier: decisions that were made for this request, oldest first.
    """
    if any(getattr(source, "chio_observes", False) for source in sources_of(connection)):
        requirement = replace(requirement, observe=True)
    client = client_of(connection)
    settings = client.settings
    view = ASGIGuardRequest(connection.scope)
    denial = precheck(view, settings, singleton_headers(settings))
    if denial is not None:
        return tell_refused(connection, Decision(verdict="refused", denial=denial, requirement=requirement))
    body_hash, length = await _body(connection)
    if length > settings.max_body_bytes:
        large = body_too_large(settings.max_body_bytes)
        return tell_refused(connection, Decision(verdict="refused", denial=large, requirement=requirement))
    question = prepare(
        view,
        settings,
        request_id=str(uuid.uuid4()),
        now=time.time(),
        caller=caller_of(connection, view),
        template=template_of(connection.scope),
        body_hash=body_hash,
        body_length=length,
        requirement=requirement,
        earlier=earlier,
    )
    return await client.decide(question)


def tell_refused(connection: HTTPConnection, decision: Decision) -> Decision:
    """Tell about a refusal that the sidecar was not asked about, and return it."""
    view = ASGIGuardRequest(connection.scope)
    client_of(connection).telemetry.refused(decision, view.method, view.route_path)
    return decision


def caller_of(connection: HTTPConnection, view: ASGIGuardRequest) -> CallerIdentity:
    """Return who is calling: the caller of the middleware's decision, else what its extractor finds."""
    state = connection.scope.get("state", {})
    decision = state.get(STATE_DECISION)
    if isinstance(decision, Decision) and decision.caller is not None:
        return decision.caller
    settings = client_of(connection).settings
    usual = default_extractor(settings.api_key_header, settings.session_cookie)
    return identify(view, state.get(STATE_EXTRACTOR) or usual)


def template_of(scope: Any) -> str | None:
    """Return the template of the route that is running, mounts and included routers applied; None if unknown."""
    place = _place(scope)
    template = getattr(place, "path_format", None)
    if not isinstance(template, str):
        return None
    root, outer = scope.get("root_path") or "", scope.get("app_root_path")
    if outer is None or root == outer:
        return template
    # A mount has put its prefix, as it was spelled, into `root_path`. If that had parameters, nobody can tell
    # from here what the template was.
    if set(scope.get("path_params", ())) - set(getattr(place, "param_convertors", ())):
        return None
    prefix = root.removeprefix(outer)
    return prefix + template if route_path(scope).startswith(prefix) else None


def sources_of(connection: HTTPConnection) -> list[RequirementSource]:
    """Return the dependencies of the route that is running which ask for something; those overridden left out."""
    overridden: Mapping[Any, Any] = getattr(connection.scope.get("app"), "dependency_overrides", None) or {}
    found = sources_in(getattr(_place(connection.scope), "dependant", None))
    return [source for source in found if source not in overridden]


def _place(scope: Any) -> Any:
    route = scope.get("route")
    # A router that FastAPI includes leaves the route's place in the tree here. It stays in the scope of whatever
    # that router mounts, where it speaks of the mount and not of the route.
    context = scope.get("fastapi", {}).get("effective_route_context")
    return context if getattr(context, "original_route", None) is route else route


async def _body(connection: HTTPConnection) -> tuple[str | None, int]:
    """Return hash and length of the body: those that the middleware has found, else those of what is read."""
    known = connection.scope.get("state", {}).get(STATE_BODY)
    if isinstance(known, Body):
        return known.hash, known.length
    body = await _raw_body(connection)
    return (sha256_hex(body), len(body)) if body else (None, 0)


async def _raw_body(connection: HTTPConnection) -> bytes | None:
    """Return the body that is judged; None for a websocket handshake, which has none."""
    known = connection.scope.get("state", {}).get(STATE_BODY)
    if isinstance(known, Body):
        return await known.read()
    if not isinstance(connection, Request):
        return None
    try:
        return await connection.body()
    except RuntimeError:
        raise ConfigurationError(
            "the request body was read as a stream before the capability was checked (a form or file route); "
            "add the middleware with chio_fastapi.add_chio(app), which sees the body first"
        ) from None


class ChioDenied(HTTPException):
    """A refusal. `add_chio` answers it with the flat envelope; without it FastAPI puts that under `detail`.

    Args:
        denial: the refusal itself.
        receipt_header: response header for the receipt id (setting `receipt_header`); None where that receipt was
            not verified, so that only the document names it.
    """

    def __init__(self, denial: Denial, receipt_header: str | None = RECEIPT_HEADER) -> None:
        headers = dict(refusal_headers(denial))
        value = header_value(denial.receipt_id) if denial.receipt_id else None
        if receipt_header is not None and value is not None:
            headers[receipt_header.lower()] = value
        super().__init__(denial.status, detail=flat(denial), headers=headers)
        self.denial = denial


async def answer_denied(connection: HTTPConnection, exc: Exception) -> StarletteResponse | None:
    """Exception handler for `ChioDenied` on HTTP and websocket routes."""
    if not isinstance(exc, ChioDenied):
        raise exc
    body, headers = render(exc.denial, accept=accept_of(connection.scope))
    # `exc.headers` has the receipt's, and what the application may have added, but not what the form depends on.
    lines = {**dict(headers), **(exc.headers or {}), "vary": dict(headers)["vary"]}
    answer = StarletteResponse(body, status_code=exc.denial.status, headers=lines)
    if isinstance(connection, Request):
        return answer
    if isinstance(connection, WebSocket):
        if "websocket.http.response" in (connection.scope.get("extensions") or {}):
            await connection.send_denial_response(answer)
        else:
            await connection.close(code=1008, reason=exc.denial.message[:120])
    return None


class CapabilityHeader(APIKeyHeader):
    """The security scheme in the OpenAPI document; works on HTTP and websocket routes."""

    async def __call__(self, connection: HTTPConnection) -> str | None:
        """Return the token's text, if there is one; it is not checked here."""
        return connection.headers.get(self.model.name)


CAPABILITY_SCHEME: Final = CapabilityHeader(
    name=CAPABILITY_HEADER,
    scheme_name=extensions.CAPABILITY_SCHEME,
    description=extensions.CAPABILITY_SCHEME_TEXT,
    auto_error=False,
)


class CalledFirst(type):
    """Makes a dependency without its parentheses, `Depends(Budget)`, a mistake that shows when the route is defined.

    A class of this kind says in `usage` how it is written.
    """

    usage: str

    @property
    def __signature__(cls) -> None:
        # FastAPI asks for the signature of what it is to call; without this it would make an instance for each
        # request out of query parameters, and that instance would ask nobody.
        raise ConfigurationError(f"Depends({cls.__name__}) lacks its parentheses: write {cls.usage}")


async def receipt_for(connection: HTTPConnection, source: RequirementSource) -> HttpReceipt | None:
    """Return the verified receipt of a decision that was made for what a dependency asks for.

    Returns:
        None in observe mode, where that would have been refused; never None otherwise.

    Raises:
        ChioDenied: it is refused, or no decision was to be had.
    """
    return checked(connection, await asked(connection, source))


async def asked(connection: HTTPConnection, source: RequirementSource) -> Decision:
    """Return a decision that was made for what a dependency asks for; see `chio_fastapi.shared.decision_for`.

    Raises:
        ChioDenied: the request does not clearly say what has to be judged.
    """
    try:
        return await decision_for(connection, source)
    except InputRefused as exc:
        settings = client_of(connection).settings
        too_large = exc.status == 413
        denial = body_too_large(settings.max_body_bytes) if too_large else bad_request(exc.message, exc.status)
        tell_refused(connection, Decision(verdict="refused", denial=denial))
        raise ChioDenied(denial, settings.receipt_header) from None


def checked(connection: HTTPConnection, decision: Decision) -> HttpReceipt | None:
    """Return the receipt of a decision as a handler sees it.

    Raises:
        ChioDenied: the decision refuses.
        ConfigurationError: it neither refuses nor has a receipt; nothing may pass on that.
    """
    if not is_met(decision) and decision.denial is not None:
        name = client_of(connection).settings.receipt_header
        raise ChioDenied(decision.denial, name if decision.receipt is not None else None)
    return decision.handler_receipt
