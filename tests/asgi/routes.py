"""Applications whose endpoints say which template they stand under."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from chio_asgi.middleware import ChioASGIMiddleware
from tests.support import Judge, StubClient

Endpoint = Callable[[Request], Awaitable[JSONResponse]]


def says(template: str) -> Endpoint:
    """Return an endpoint that answers with the template that it belongs to."""

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse({"template": template, "params": {k: str(v) for k, v in request.path_params.items()}})

    return endpoint


def route(path: str, template: str | None = None, *methods: str) -> Route:
    """Return a Starlette route; `template` is its full one, mounts included."""
    return Route(path, says(template or path), methods=list(methods or ["GET", "POST"]))


def add(router: FastAPI | APIRouter, path: str, template: str | None = None, *methods: str) -> None:
    """Add a FastAPI route."""
    router.add_api_route(path, says(template or path), methods=list(methods or ["GET", "POST"]))


def govern(app: Any, judge: Judge | None = None, **options: Any) -> tuple[Any, Judge]:
    """Wrap an application from outside."""
    judge = judge if judge is not None else Judge()
    return ChioASGIMiddleware(app, client=StubClient(judge, **options)), judge


def govern_inside(app: Any, judge: Judge | None = None, **options: Any) -> tuple[Any, Judge]:
    """Add the middleware to a Starlette or FastAPI application."""
    judge = judge if judge is not None else Judge()
    app.add_middleware(ChioASGIMiddleware, client=StubClient(judge, **options))
    return app, judge


Govern = Callable[..., tuple[Any, Judge]]

both_ways = pytest.mark.parametrize("governed", [govern, govern_inside], ids=["outside", "inside"])
"""What holds for the middleware around an application holds for it inside, too."""
