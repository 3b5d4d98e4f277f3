"""The contract in Django: one project, an application for WSGI servers and one for ASGI servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_http_methods

from tests.conformance.stacks.contract import METHODS, SERVER, STREAM, TOOL, TheHandlerFailed, said

if not settings.configured:
    settings.configure(
        SECRET_KEY="for tests only",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["chio_django.ChioDjangoMiddleware"],
        DATABASES={},
        USE_TZ=True,
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,  # the limit on bodies that is tested is Chio's
        LOGGING_CONFIG=None,
    )
    django.setup()

from chio_django import require_capability  # Django needs its settings first


def seen(handler: str, request: HttpRequest, params: Any) -> dict[str, Any]:
    receipt, passed = (getattr(request, f"chio_{name}", None) for name in ("receipt", "passthrough"))
    return said(
        handler,
        params,
        request.body,
        key=request.headers.get("X-Api-Key"),
        receipt=receipt["id"] if receipt else None,
        passthrough=passed.error if passed else None,
    )


def telling(handler: str, headers: dict[str, str] | None = None) -> Any:
    @require_http_methods(METHODS[handler])
    def view(request: HttpRequest, **params: Any) -> JsonResponse:
        return JsonResponse(seen(handler, request, params), headers=headers)

    return view


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[str]:
        yield from STREAM

    async def apieces() -> AsyncIterator[str]:
        for piece in STREAM:
            await asyncio.sleep(0)
            yield piece

    return StreamingHttpResponse(apieces() if hasattr(request, "scope") else pieces())


def fails(request: HttpRequest) -> JsonResponse:
    raise TheHandlerFailed


urlpatterns = [
    path("hello", telling("hello")),
    path("anything", telling("anything")),
    path("pets/<pet>", telling("pet")),
    path("pets/<pet>/toys/<number>", telling("toy")),
    path("files/<path:rest>", telling("file")),
    path("accounts/<account>/transfer", require_capability(SERVER, TOOL)(telling("transfer"))),
    path("healthz", telling("health")),
    path("static/<path:rest>", telling("static")),
    path("claims", telling("claims", {"X-Chio-Receipt": "forged"})),
    path("stream", require_http_methods(METHODS["stream"])(stream)),
    path("fails", require_http_methods(METHODS["fails"])(fails)),
    path("slashed/", telling("slashed")),
]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
