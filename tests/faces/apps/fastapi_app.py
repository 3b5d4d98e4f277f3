"""The contract in FastAPI."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from chio_core.models.receipt import HttpReceipt
from chio_fastapi import RequireCapability, add_chio
from tests.faces import contract
from tests.faces.apps.starlette_app import SPECIAL, seen, telling, ws


def requiring(handler: str, endpoint: contract.Endpoint) -> tuple[Any, list[Any]]:
    needs = [Depends(RequireCapability(**need)) for need in endpoint.needs]

    async def guarded(request: Request, receipt: HttpReceipt = needs[0]) -> JSONResponse:
        return JSONResponse(seen(handler, request, await request.body(), receipt))

    return guarded, needs


def make() -> FastAPI:
    """Return the application, ungoverned."""
    app = FastAPI(openapi_url=None)
    for name, one in contract.ENDPOINTS.items():
        handler, needs = requiring(name, one) if one.needs else (telling(name), [])
        app.add_api_route(one.path, handler, methods=list(one.methods), dependencies=needs)
    for name, one in contract.SPECIAL.items():
        app.add_api_route(one.path, SPECIAL[name], methods=list(one.methods))
    app.add_api_websocket_route("/ws", ws)
    return app


@cache
def _first() -> FastAPI:
    return make()


def make_again() -> FastAPI:
    """Return the same application, with routes that are made once: FastAPI takes long to analyse a function."""
    app = FastAPI(openapi_url=None)
    app.router.routes.extend(_first().router.routes)
    return app


def governed() -> FastAPI:
    """Return the application, governed as the environment says."""
    app = make()
    add_chio(app)
    return app
