"""The same small application in every framework, governed, and called with a request as its server hands it over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from fastapi import FastAPI, Request
from fastapi.responses import Response as FastAPIResponse
from flask import Flask
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route

from chio_asgi import ChioASGIMiddleware
from chio_core.testing import KEY, ScriptedSidecar
from chio_fastapi import add_chio
from chio_flask import Chio
from tests.faces.wsgi import call as wsgi_call
from tests.views.stacks import Wire, environ_of, scope_of

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
TEMPLATES = ("/hello", "/pets/{pet}", "/pets/{pet}/tags/{tag}", "/files/{rest}", "/%C3%A4", "/")

Exchange = tuple[int, bytes]
"""Status and body of an answer."""


@contextmanager
def fastapi(sidecar: ScriptedSidecar, **options: Any) -> Iterator[Callable[[Wire], Exchange]]:
    app = FastAPI(openapi_url=None)

    async def echo(request: Request) -> FastAPIResponse:
        return FastAPIResponse(await request.body())

    for template in ("/hello", "/pets/{pet}", "/pets/{pet}/tags/{tag}", "/files/{rest:path}", "/ä", "/"):
        app.add_api_route(template, echo, methods=METHODS)
    add_chio(app, client=sidecar.client(**options))
    yield lambda wire: asyncio.run(_asgi_call(app, wire))


@contextmanager
def starlette(sidecar: ScriptedSidecar, **options: Any) -> Iterator[Callable[[Wire], Exchange]]:
    async def echo(request: StarletteRequest) -> StarletteResponse:
        return StarletteResponse(await request.body())

    templates = ("/hello", "/pets/{pet}", "/pets/{pet}/tags/{tag}", "/files/{rest:path}", "/ä", "/")
    app = Starlette(routes=[Route(template, echo, methods=METHODS) for template in templates])
    governed = ChioASGIMiddleware(app, client=sidecar.client(**options))
    yield lambda wire: asyncio.run(_asgi_call(governed, wire))


@contextmanager
def django_wsgi(sidecar: ScriptedSidecar, **options: Any) -> Iterator[Callable[[Wire], Exchange]]:
    settings = {f"CHIO_{name.upper()}": value for name, value in options.items()}
    where = {"CHIO_SIDECAR_URL": sidecar.url, "CHIO_TRUSTED_KERNEL_KEYS": [sidecar.public_key]}
    with override_settings(ROOT_URLCONF=_urls(), **where, **settings):
        handler = WSGIHandler()

        def call(wire: Wire) -> Exchange:
            answered = wsgi_call(handler, environ_of(wire))
            return answered.status, answered.body

        yield call


@contextmanager
def django_asgi(sidecar: ScriptedSidecar, **options: Any) -> Iterator[Callable[[Wire], Exchange]]:
    middleware = ["tests.django.middleware.sharing"]
    client = sidecar.client(**options)
    with override_settings(ROOT_URLCONF=_urls(), MIDDLEWARE=middleware, TEST_CLIENT=client):
        handler = ASGIHandler()
        yield lambda wire: asyncio.run(_asgi_call(handler, wire))


@contextmanager
def flask(sidecar: ScriptedSidecar, **options: Any) -> Iterator[Callable[[Wire], Exchange]]:
    app = Flask("tests.views.governed", static_folder=None)
    for number, template in enumerate(
        ("/hello", "/pets/<pet>", "/pets/<pet>/tags/<tag>", "/files/<path:rest>", "/ä", "/")
    ):
        app.add_url_rule(template, str(number), lambda **_: flask_request.get_data(), methods=METHODS)
    chio = Chio(app, sidecar_url=sidecar.url, trusted_kernel_keys=[KEY.public_hex], **options)

    def call(wire: Wire) -> Exchange:
        answered = wsgi_call(app, environ_of(wire))
        return answered.status, answered.body

    yield call
    chio.close(app)


FRAMEWORKS = (fastapi, starlette, django_wsgi, django_asgi, flask)


def _urls() -> ModuleType:
    def echo(request: HttpRequest, **params: Any) -> HttpResponse:
        return HttpResponse(request.body)

    urls = ModuleType("urls")
    patterns = ("hello", "pets/<pet>", "pets/<pet>/tags/<tag>", "files/<path:rest>", "ä", "")
    urls.urlpatterns = [path(pattern, echo) for pattern in patterns]  # type: ignore[attr-defined]
    return urls


async def _asgi_call(app: Any, wire: Wire) -> Exchange:
    pieces = wire.pieces or (b"",)
    waiting = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]
    messages: list[dict[str, Any]] = []
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        messages.append(dict(message))

    async with asyncio.timeout(20):
        await app(scope_of(wire), receive, send)
    body = b"".join(message.get("body", b"") for message in messages if message["type"] == "http.response.body")
    return int(messages[0]["status"]), body
