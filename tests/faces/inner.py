"""A layer inside Chio that changes each request, written for each framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

Change = Callable[[dict[str, Any]], None]
"""Changes a request as a WSGI environment."""


def around_wsgi(app: Any, change: Change) -> Any:
    """Change the environment."""

    def changing(environ: dict[str, Any], start_response: Any) -> Any:
        change(environ)
        return app(environ, start_response)

    return changing


@sync_and_async_middleware
def django_middleware(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Change Django's request with the setting TEST_CHANGE, as method-override middleware and its kind do."""

    def change(request: HttpRequest) -> None:
        settings.TEST_CHANGE(request.META)
        request.method = request.META["REQUEST_METHOD"]

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
