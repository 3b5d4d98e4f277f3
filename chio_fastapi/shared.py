"""How dependencies evaluate a request, and how a refusal is raised and sent.

With the middleware a dependency finds the decision that was made; without it, or for a further requirement, it
runs the same steps (`chio_core.evaluation.pipeline`) from the place where FastAPI calls it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from fastapi import HTTPException
from fastapi.security import APIKeyHeader
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response as StarletteResponse
from starlette.websockets import WebSocket

from chio_asgi.decide import ASGIAdapter, ASGIRequest
from chio_asgi.routing import sources_in
from chio_asgi.send import document
from chio_asgi.view import ASGIGuardRequest, route_path, session_of
from chio_core.canonical import sha256_hex
from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.governed import NO_BODY, NO_MATCH, Body, KnownBody, RouteMatch, run_async
from chio_core.evaluation.hooks import header_value
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline
from chio_core.evaluation.requirements import RequirementSource
from chio_core.identity import identify
from chio_core.models import openapi as extensions
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import CallerIdentity
from chio_core.names import (
    CAPABILITY_HEADER,
    RECEIPT_HEADER,
    RECEIVE_BODY,
    SCOPE_REQUEST,
    STATE_CLIENT,
    STATE_PIPELINE,
)
from chio_core.refusals.problems import flat, refusal_headers
from chio_core.refusals.response import Denial, RequestRefused, body_too_large

P = ParamSpec("P")
T = TypeVar("T")


class ConnectionAdapter(ASGIAdapter):
    """A `chio_core.evaluation.governed.RequestAdapter` for a request whose route is running.

    Args:
        connection: the request or websocket that FastAPI gives to dependencies.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: HTTPConnection) -> None:
        super().__init__(ASGIGuardRequest(connection.scope), request_of(connection), lambda scope: NO_MATCH)
        self._connection = connection

    async def read_body(self) -> Body:
        """Return length and hash of the body; without the middleware FastAPI has read it into memory."""
        raw = await self.raw_body()
        limit = self.request.client.settings.max_body_bytes
        refusal = body_too_large(limit) if raw and len(raw) > limit else None
        return KnownBody(len(raw), sha256_hex(raw), refusal=refusal) if raw else NO_BODY

    async def raw_body(self) -> bytes | None:
        """Return the bytes of the body; None for a websocket handshake.

        Raises:
            RequestRefused: 413, the body is larger than the settings allow.
            ConfigurationError: a form or file route has consumed the stream, so that nothing can be compared.
        """
        if self.request.body is not None:
            return await super().raw_body()
        if not isinstance(self._connection, Request):
            return None
        try:
            raw = await self._connection.body()
        except RuntimeError:
            remedy = "add the middleware with chio_fastapi.add_chio(app), which sees the body first"
            if self.governed.evaluated is not None:
                remedy = "a copied scope needs the `receive` of the request, or an application with its own middleware"
            raise ConfigurationError(
                "the request body was read as a stream before the capability was checked (a form or file route); "
                + remedy
            ) from None
        limit = self.request.client.settings.max_body_bytes
        if len(raw) > limit and not self.governed.observed:
            raise RequestRefused(body_too_large(limit))
        return raw

    def locate(self) -> RouteMatch:
        """Return the route that is running, with its dependencies as they are overridden."""
        scope = self._connection.scope
        overrides: Mapping[Any, Any] | None = getattr(scope.get("app"), "dependency_overrides", None)
        sources = tuple(sources_in(getattr(_place(scope), "dependant", None), overrides))
        return RouteMatch(template_of(scope), self._connection.path_params, sources, scope.get("route"))


def request_of(connection: HTTPConnection) -> ASGIRequest:
    """Return a request with its facts: from the middleware, or made here."""
    scope = connection.scope
    known = scope.get(SCOPE_REQUEST)
    if isinstance(known, ASGIRequest) and known.scope_id == id(scope):
        return known
    if isinstance(known, ASGIRequest):
        # Inner code has copied the scope. The middleware's decision counts as long as the request is the same; what
        # other dependencies needed belongs to the other scope. With the `receive` that gives the evaluated body, inner
        # middleware has copied the scope of the same request; with another one, the body is read and compared.
        request = ASGIRequest(scope, known.pipeline, known.client)
        request.governed.decision = known.governed.decision
        request.governed.evaluated = known.governed.evaluated
        if known.body is not None and getattr(getattr(connection, "receive", None), RECEIVE_BODY, None) is known.body:
            request.outer = known.outer or known
            request.body = known.body
            request.governed.body = known.governed.body
    else:
        client = _application_client(connection)
        state = connection.app.state
        pipeline = getattr(state, STATE_PIPELINE, None)
        if not isinstance(pipeline, Pipeline) or pipeline.settings is not client.settings:
            telemetry = client.telemetry
            pipeline = Pipeline(client.settings, report=telemetry.refused, warn=telemetry.warn, session=session_of)
            setattr(state, STATE_PIPELINE, pipeline)
        request = ASGIRequest(scope, pipeline, client)
    scope[SCOPE_REQUEST] = request
    return request


def client_of(connection: HTTPConnection) -> ChioClient:
    """Return the client that serves this request.

    It is the middleware's, or the one that `add_chio` keeps on `app.state`. An application with neither gets one from
    the environment, at the first request that needs it.
    """
    known = connection.scope.get(SCOPE_REQUEST)
    return known.client if isinstance(known, ASGIRequest) else _application_client(connection)


def _application_client(connection: HTTPConnection) -> ChioClient:
    state = connection.app.state
    client = getattr(state, STATE_CLIENT, None)
    if client is None:
        client = ChioClient()
        setattr(state, STATE_CLIENT, client)
    if not isinstance(client, ChioClient):
        raise ConfigurationError(f"the state's {STATE_CLIENT} must be a ChioClient")
    return client


def caller_of(connection: HTTPConnection) -> CallerIdentity:
    """Return who is calling: the caller of the middleware's decision, else what its extractor finds."""
    request = request_of(connection)
    decision = request.governed.decision
    if decision is not None and decision.caller is not None:
        return decision.caller
    return identify(ASGIGuardRequest(connection.scope), request.pipeline.extractor)


def caller_now(connection: HTTPConnection) -> CallerIdentity:
    """Return who is calling by what the request and its session state now: a login may have changed it."""
    return identify(ASGIGuardRequest(connection.scope), request_of(connection).pipeline.extractor)


async def decision_for(connection: HTTPConnection, source: RequirementSource) -> Decision:
    """Return a decision that covers what a dependency declares; see `Pipeline.require`."""
    adapter = ConnectionAdapter(connection)
    return await run_async(adapter.request.pipeline.require(adapter, source))


async def receipt_for(connection: HTTPConnection, source: RequirementSource) -> HttpReceipt | None:
    """Return the verified receipt of a decision that covers what a dependency declares.

    Returns:
        None in observe mode, if the request would have been refused; never None otherwise.

    Raises:
        ChioDenied: the request is refused, or the evaluation failed.
    """
    decision = await decision_for(connection, source)
    if not decision.meets_requirement() and decision.denial is not None:
        name = client_of(connection).settings.receipt_header
        raise ChioDenied(decision.denial, name if decision.receipt is not None else None)
    return decision.handler_receipt


def template_of(scope: Any) -> str | None:
    """Return the template of the route that is running, mounts and included routers applied; None if unknown."""
    place = _place(scope)
    template = getattr(place, "path_format", None)
    if not isinstance(template, str):
        return None
    root, outer = scope.get("root_path") or "", scope.get("app_root_path")
    if outer is None or root == outer:
        return template
    # A mount adds its prefix, as the request spells it, to `root_path`. With parameters in the prefix, the template
    # is unknown here.
    if set(scope.get("path_params", ())) - set(getattr(place, "param_convertors", ())):
        return None
    prefix = root.removeprefix(outer)
    return prefix + template if route_path(scope).startswith(prefix) else None


def _place(scope: Any) -> Any:
    route = scope.get("route")
    # A router that FastAPI includes leaves the route's place in the tree here. It stays in the scope of whatever
    # that router mounts, where it speaks of the mount and not of the route.
    context = scope.get("fastapi", {}).get("effective_route_context")
    return context if getattr(context, "original_route", None) is route else route


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
    body, headers = document(exc.denial, connection.scope)
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


def dependency(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Make `__call__` of a dependency refuse everything but a request, when it is called and not when it is awaited.

    FastAPI takes the wrapped function for an `async def` and gives it its arguments by name.

    Raises:
        TypeError: another argument was given, as to a decorator.
    """

    @wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        given = args[1:]
        if (given or not kwargs) and not (given and isinstance(given[0], HTTPConnection)):
            usage = getattr(type(args[0]), "usage", "Depends(…)")
            raise TypeError(
                f"{args[0]!r} is a dependency of FastAPI, which takes no arguments and decorates nothing: write "
                f"{usage}, as a parameter's default or in dependencies=[…] of the route"
            )
        return call(*args, **kwargs)

    return checked


class CalledFirst(type):
    """Makes a dependency without its parentheses, `Depends(Budget)`, a mistake that shows when the route is defined.

    A class of this kind says in `usage` how it is written.
    """

    usage: str

    @property
    def __signature__(cls) -> None:
        # FastAPI asks for the signature of what it is to call; without this it would make an instance for each
        # request out of query parameters, and that instance would require nothing.
        raise ConfigurationError(f"Depends({cls.__name__}) lacks its parentheses: write {cls.usage}")
