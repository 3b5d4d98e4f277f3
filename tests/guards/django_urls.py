"""Views of the Django project that the guards are tried on."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

VISITS: list[int] = []
"""The thread of each call of a view; cleared by the tests."""


def hello(request: HttpRequest) -> HttpResponse:
    VISITS.append(threading.get_ident())
    state = getattr(request, "chio_state", None)
    response = JsonResponse({"seen": getattr(state, "seen", None), "claims": getattr(state, "chio_claims", None)})
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "2")
    response["X-Own"] = "view"
    return response


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    async def apieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    source: Any = apieces() if hasattr(request, "scope") else pieces()
    return StreamingHttpResponse(source)


def echo(request: HttpRequest) -> HttpResponse:
    VISITS.append(threading.get_ident())
    return HttpResponse(request.body)


urlpatterns = [path("hello", hello), path("stream", stream), path("echo", echo)]
