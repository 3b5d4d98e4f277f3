"""The contract in Django: one project, an application for WSGI servers and one for ASGI servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from functools import reduce
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_http_methods

from tests.faces import contract

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

from chio_django import get_chio_receipt, require_capability  # Django needs its settings first


def seen(handler: str, request: HttpRequest, params: Any, body: bytes) -> dict[str, Any]:
    return contract.said(
        handler,
        params,
        body,
        method=str(request.method),
        query=[(name, str(value)) for name, values in request.GET.lists() for value in values],
        key=request.headers.get("X-Api-Key"),
        receipt=get_chio_receipt(request),
        passthrough=getattr(request, "chio_passthrough", None),
        decision=getattr(request, "chio_decision", None),
        state=getattr(request, "chio_state", None),
    )


def telling(handler: str, endpoint: contract.Endpoint, *, asynchronous: bool) -> Any:
    def view(request: HttpRequest, **params: Any) -> JsonResponse:
        response = JsonResponse(seen(handler, request, params, request.body), headers=endpoint.headers)
        for name in endpoint.cookies:
            response.set_cookie(name, "1", httponly=True)
        return response

    async def aview(request: HttpRequest, **params: Any) -> JsonResponse:
        return view(request, **params)

    needs = [require_capability(**need) if need else require_capability for need in endpoint.needs]
    innermost = require_http_methods(endpoint.methods)(aview if asynchronous else view)
    return reduce(lambda inner, need: need(inner), reversed(needs), innermost)


def piecewise(request: HttpRequest) -> JsonResponse:
    return JsonResponse(seen("piecewise", request, {}, b"".join(iter(lambda: request.read(1000), b""))))


def form(request: HttpRequest) -> JsonResponse:
    files = [(name, file.read()) for name, file in request.FILES.items()]
    return JsonResponse(contract.form(request.POST.items(), files))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[str]:
        yield from contract.STREAM

    async def apieces() -> AsyncIterator[str]:
        for piece in contract.STREAM:
            await asyncio.sleep(0)
            yield piece

    return StreamingHttpResponse(apieces() if hasattr(request, "scope") else pieces())


def fails(request: HttpRequest) -> JsonResponse:
    raise contract.TheHandlerFailed


SPECIAL = {"piecewise": piecewise, "form": form, "stream": stream, "fails": fails}


def pattern_of(endpoint: contract.Endpoint) -> str:
    pattern = re.sub(r"{(\w+)(?::(path))?}", lambda found: f"<{found[2] or 'str'}:{found[1]}>", endpoint.path)
    return pattern.removeprefix("/")


def patterns(*, asynchronous: bool = False) -> list[Any]:
    views = {
        **{one: telling(name, one, asynchronous=asynchronous) for name, one in contract.ENDPOINTS.items()},
        **{one: require_http_methods(one.methods)(SPECIAL[name]) for name, one in contract.SPECIAL.items()},
    }
    return [path(pattern_of(endpoint), view) for endpoint, view in views.items()]


urlpatterns = patterns()


class Async:
    """The same URLs; views that all do the same are `async def`."""

    urlpatterns = patterns(asynchronous=True)


wsgi = get_wsgi_application
asgi = get_asgi_application
