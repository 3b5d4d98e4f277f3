"""Layers inside Chio that change each request, written for each framework.

An inner change is made before the framework chooses the route, a late change after that: in Django by `process_view` of
another middleware, in Flask by a `before_request` function. Under ASGI no layer is between the router and the route.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from chio_asgi.body import once

Change = Callable[[dict[str, Any]], None]
"""Changes a request as a WSGI environment."""

BODY = "test.body"
"""Key in the environment for the bytes of another body."""


def change_environ(environ: dict[str, Any], change: Change) -> None:
    """Change a WSGI environment."""
    change(environ)
    body = environ.pop(BODY, None)
    if body is not None:
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))


def around_wsgi(app: Any, change: Change) -> Any:
    """Change the environment."""

    def changing(environ: dict[str, Any], start_response: Any) -> Any:
        change_environ(environ, change)
        return app(environ, start_response)

    return changing


def change_django(request: HttpRequest, change: Change) -> None:
    """Change Django's request, as method-override middleware and its kind do."""
    change(request.META)
    request.method = request.META["REQUEST_METHOD"]
    body = request.META.pop(BODY, None)
    if body is not None:
        request._body = body


class LateDjangoMiddleware:
    """Changes a request with the setting TEST_CHANGE when Django has resolved its URL."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        return self._get_response(request)

    def process_view(self, request: HttpRequest, *_: Any) -> None:
        change_django(request, settings.TEST_CHANGE)


@sync_and_async_middleware
def django_middleware(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Change Django's request with the setting TEST_CHANGE."""

    def change(request: HttpRequest) -> None:
        change_django(request, settings.TEST_CHANGE)

    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            change(request)
            return await get_response(request)

        return middleware

    def sync_middleware(request: HttpRequest) -> Any:
        change(request)
        return get_response(request)

    return sync_middleware


class ASGILayer:
    """Gives the application a changed copy of the scope."""

    def __init__(self, app: Any, change: Change) -> None:
        self._app = app
        self._change = change

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            environ = {
                f"HTTP_{name.decode().upper().replace('-', '_')}": value.decode() for name, value in scope["headers"]
            }
            environ |= {"REQUEST_METHOD": scope["method"], "QUERY_STRING": scope["query_string"].decode()}
            self._change(environ)
            body = environ.pop(BODY, None)
            if body is not None:
                receive = once({"type": "http.request", "body": body, "more_body": False}, receive)
                environ["HTTP_CONTENT_LENGTH"] = str(len(body))
            scope = {
                **scope,
                "method": environ.pop("REQUEST_METHOD"),
                "query_string": environ.pop("QUERY_STRING").encode(),
                "headers": [
                    (key.removeprefix("HTTP_").replace("_", "-").lower().encode(), value.encode())
                    for key, value in environ.items()
                ],
            }
        await self._app(scope, receive, send)
