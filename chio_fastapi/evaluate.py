"""Asking the sidecar from inside a dependency, where no middleware has asked for it."""

from __future__ import annotations

import time
import uuid
from typing import Any

from starlette.requests import HTTPConnection, Request

from chio_asgi.body import Body
from chio_asgi.view import ASGIGuardRequest, route_path
from chio_core.canonical import sha256_hex
from chio_core.client import ChioClient
from chio_core.decide import inspect, prepare, singleton_headers
from chio_core.decision import Decision, body_too_large
from chio_core.errors import ConfigurationError
from chio_core.identity import default_extractor, identify
from chio_core.models.caller import CallerIdentity
from chio_core.names import STATE_BODY, STATE_CLIENT, STATE_DECISION, STATE_EXTRACTOR
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


async def evaluate(connection: HTTPConnection, requirement: Requirement) -> Decision:
    """Ask for one decision about this connection and a requirement."""
    client = client_of(connection)
    settings = client.settings
    view = ASGIGuardRequest(connection.scope)
    denial = inspect(view, settings, singleton_headers(settings))
    if denial is not None:
        return Decision(verdict="refused", denial=denial, requirement=requirement)
    body_hash, length = await _body(connection)
    if length > settings.max_body_bytes:
        return Decision(verdict="refused", denial=body_too_large(settings.max_body_bytes), requirement=requirement)
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
    )
    return await client.decide(question)


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
    route = scope.get("route")
    # A router that FastAPI includes leaves the route's place in the tree here. It stays in the scope of whatever
    # that router mounts, where it speaks of the mount and not of the route.
    context = scope.get("fastapi", {}).get("effective_route_context")
    place = context if getattr(context, "original_route", None) is route else route
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


async def _body(connection: HTTPConnection) -> tuple[str | None, int]:
    """Return hash and length of the body: those that the middleware has found, else those of what is read."""
    known = connection.scope.get("state", {}).get(STATE_BODY)
    if isinstance(known, Body):
        return known.hash, known.length
    if not isinstance(connection, Request):
        return None, 0
    try:
        body = await connection.body()
    except RuntimeError:
        raise ConfigurationError(
            "the request body was read as a stream before the capability was checked (a form or file route); "
            "add the middleware with chio_fastapi.add_chio(app), which sees the body first"
        ) from None
    return (sha256_hex(body), len(body)) if body else (None, 0)
