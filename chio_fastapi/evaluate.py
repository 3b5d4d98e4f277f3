"""Asking the sidecar from inside a dependency, where no middleware has asked for it."""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import Any

from starlette.requests import HTTPConnection, Request

from chio_asgi.view import ASGIGuardRequest
from chio_core.client import ChioClient
from chio_core.decide import inspect, prepare, singleton_headers
from chio_core.decision import Decision, body_too_large
from chio_core.errors import ConfigurationError
from chio_core.identity import default_extractor
from chio_core.names import STATE_CLIENT
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
    body = await _body(connection)
    if len(body) > settings.max_body_bytes:
        return Decision(verdict="refused", denial=body_too_large(settings.max_body_bytes), requirement=requirement)
    question = prepare(
        view,
        settings,
        request_id=str(uuid.uuid4()),
        now=time.time(),
        caller=default_extractor(settings.api_key_header, settings.session_cookie)(view),
        template=template_of(connection.scope),
        body_hash=hashlib.sha256(body).hexdigest() if body else None,
        body_length=len(body),
        requirement=requirement,
    )
    return await client.decide(question)


def template_of(scope: Any) -> str | None:
    """Return the template of the route that is running, mounts and included routers applied; None if unknown."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    route = getattr(context, "starlette_route", None) or context or scope.get("route")
    template = getattr(route, "path_format", None)
    if not isinstance(template, str):
        return None
    root, outer = scope.get("root_path", "") or "", scope.get("app_root_path")
    # A mount has put its prefix, as it was spelled, into `root_path`; the server's own part is not the router's.
    return root[len(outer) :] + template if isinstance(outer, str) and root.startswith(outer) else template


async def _body(connection: HTTPConnection) -> bytes:
    if not isinstance(connection, Request):
        return b""
    try:
        return await connection.body()
    except RuntimeError:
        raise ConfigurationError(
            "the request body was read as a stream before the capability was checked (a form or file route); "
            "add the middleware with chio_fastapi.add_chio(app), which sees the body first"
        ) from None
