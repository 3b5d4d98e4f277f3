"""The sidecar's ASGI application: evaluate, verify, health, and the control plane."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chio_core.concurrency.processes import require_asyncio
from chio_core.errors import ChioError
from chio_core.evaluation.exchange import EVALUATE_PATH
from chio_sidecar import control
from chio_sidecar.config import SidecarConfig
from chio_sidecar.http import http_date
from chio_sidecar.service.evaluate_endpoint import EvaluateEndpoint
from chio_sidecar.service.state import SidecarState
from chio_sidecar.service.verify_health import HealthEndpoint, VerifyEndpoint, live
from chio_sidecar.viewer import viewer_routes

NOT_FOUND = "this is a path of the sidecar, and it has nothing there"
"""The message for an unknown path below `/chio/`, or for any unknown path of a sidecar without an upstream."""

OWN_PREFIX = "/chio/"
"""Paths below are never forwarded, known or not."""


class SidecarApp(Starlette):
    """The application. `state.sidecar` is its `SidecarState`; `await state.close()` releases it.

    Without a lifespan it opens on the first request.

    Attributes:
        evaluate: the endpoint of evaluations.
        proxy: gets all requests and websockets whose path is not the sidecar's own, see `chio_sidecar.proxy`.
    """

    proxy: ASGIApp | None = None

    def __init__(self, config: SidecarConfig) -> None:
        sidecar = SidecarState(config)
        evaluate = EvaluateEndpoint(sidecar)
        super().__init__(
            routes=[
                Route(EVALUATE_PATH, evaluate, methods=["POST"]),
                Route("/chio/verify", VerifyEndpoint(sidecar).handle, methods=["POST"]),
                Route("/chio/health", HealthEndpoint(sidecar).handle, methods=["GET"]),
                Route("/chio/live", live, methods=["GET"]),
                *control.routes(sidecar),
                *viewer_routes(sidecar),
            ],
            exception_handlers={
                404: _not_found,
                405: _wrong_method,
                ChioError: _unavailable,
                Exception: _unavailable,  # Starlette raises it again after the response, so that the server logs it
            },
            lifespan=_lifespan,
        )
        self.router.redirect_slashes = False
        self.state.sidecar = sidecar
        self.state.close = sidecar.close
        self.evaluate = evaluate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Evaluations bypass routing, which costs as much as a decision."""
        if self.proxy is not None and scope["type"] in ("http", "websocket"):
            if not self.owns(scope["path"]):
                await self.proxy(scope, receive, send)
                return
            send = _dated(send)  # the server adds no date, because forwarded responses have that of their origin
        if scope["type"] == "http" and scope["path"] == EVALUATE_PATH and scope["method"] == "POST":
            await self.evaluate(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def owns(self, path: str) -> bool:
        """Return True if requests for a decoded path are for the sidecar itself, whatever their method."""
        if path.startswith(OWN_PREFIX):
            return True
        return any(isinstance(route, Route) and route.path_regex.match(path) for route in self.routes)


def _dated(send: Send) -> Send:
    async def send_dated(message: Message) -> None:
        if message["type"] == "http.response.start":
            date = http_date(int(time.time()))
            message = {**message, "headers": [*message.get("headers", ()), (b"date", date)]}
        await send(message)

    return send_dated


def create_app(config: SidecarConfig) -> SidecarApp:
    """Return the sidecar's application; nothing is opened before the lifespan or the first request.

    To report bad configuration at once, call `app.state.sidecar.open()`.
    """
    return SidecarApp(config)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    require_asyncio("the sidecar")
    app.state.sidecar.open()
    try:
        yield
    finally:
        await app.state.sidecar.close()


async def _not_found(request: Request, exc: Exception) -> Response:
    return JSONResponse({"error": "chio_not_found", "message": NOT_FOUND}, status_code=404)


async def _unavailable(request: Request, exc: Exception) -> Response:
    # For example a store that cannot be opened, without a lifespan that opened it before.
    message = exc.message if isinstance(exc, ChioError) else type(exc).__name__
    return JSONResponse({"error": "chio_sidecar_unavailable", "message": message}, status_code=500)


async def _wrong_method(request: Request, exc: Exception) -> Response:
    return Response(status_code=405, headers=getattr(exc, "headers", None))
