"""Drivers for Django: under WSGI and ASGI, with the middleware, with the decorator, with the decorator alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings as django_settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, JsonResponse
from django.test import override_settings
from django.urls import path

from chio_core.client.client import ChioClient
from chio_core.refusals.problems import nested
from chio_core.refusals.response import Denial
from chio_core.settings import ChioSettings
from chio_django import get_chio_receipt, require_capability
from tests.conformance import wsgi
from tests.conformance.window import SERVER, TEMPLATE, TOOL, Driver, Observation, Seen, Send, Sent, loop, taken
from tests.django.project import CHIO, SHARING
from tests.support import DEADLINE, Reply, http_scope


def _seen(request: HttpRequest) -> JsonResponse:
    decision, passthrough = (getattr(request, f"chio_{name}", None) for name in ("decision", "passthrough"))
    django_settings.TEST_SEEN.append(Seen(get_chio_receipt(request), passthrough, decision))
    return JsonResponse({"ok": True})


def transfer(request: HttpRequest, transfer_id: int) -> JsonResponse:
    return _seen(request)


async def atransfer(request: HttpRequest, transfer_id: int) -> JsonResponse:
    return _seen(request)


ROUTE = TEMPLATE.replace("{", "<int:").replace("}", ">").removeprefix("/")


class Plain:
    """URLs of a view that asks for nothing."""

    urlpatterns = (path(ROUTE, transfer),)


class PlainAsync:
    """The same for an `async def` view."""

    urlpatterns = (path(ROUTE, atransfer),)


class Guarded:
    """URLs of a view that requires a capability."""

    urlpatterns = (path(ROUTE, require_capability(SERVER, TOOL)(transfer)),)


class GuardedAsync:
    """The same for an `async def` view."""

    urlpatterns = (path(ROUTE, require_capability(SERVER, TOOL)(atransfer)),)


class DjangoSync(Driver):
    """The middleware under WSGI."""

    name = "django"
    urls: type = Plain
    middleware: tuple[str, ...] = (CHIO,)

    def code(self, wire_code: str) -> str:
        return str(nested(Denial(code=wire_code, message=""))["error"]["code"])

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[Send]:
        seen: list[Seen] = []
        options = {f"CHIO_{name.upper()}": value for name, value in settings.items()}
        with override_settings(ROOT_URLCONF=self.urls, MIDDLEWARE=self.middleware, TEST_SEEN=seen, **options):
            app = WSGIHandler()
            yield lambda sent: Observation(*wsgi.call(app, sent), taken(seen))


class DjangoCapability(DjangoSync):
    """`require_capability` behind the middleware."""

    name = "django-capability"
    asks = "capability"
    urls = Guarded


class DjangoCapabilityAlone(DjangoCapability):
    """`require_capability` without the middleware: the decorator asks by itself."""

    name = "django-capability-alone"
    tags_success = False
    middleware = ()


class DjangoAsync(DjangoSync):
    """The middleware under ASGI."""

    name = "django-async"
    urls = PlainAsync

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[Send]:
        seen: list[Seen] = []
        urls = {"ROOT_URLCONF": self.urls, "TEST_SEEN": seen}
        client = ChioClient(ChioSettings(**settings))
        with loop() as until_done, override_settings(MIDDLEWARE=(SHARING,), TEST_CLIENT=client, **urls):
            app = ASGIHandler()

            def send(sent: Sent) -> Observation:
                reply = until_done(_exchange(app, sent))
                return Observation(reply.status, dict(reply.headers), reply.body, taken(seen))

            try:
                yield send
            finally:
                until_done(client.aclose())


async def _exchange(app: Any, sent: Sent) -> Reply:
    # Django stops as soon as it hears of a disconnect, so unlike in `tests.support.call` none may come.
    reply, body = Reply(), [{"type": "http.request", "body": sent.body}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: dict[str, Any]) -> None:
        reply.messages.append(message)

    headers = [("content-length", str(len(sent.body))), *sent.headers]
    async with asyncio.timeout(DEADLINE):
        await app(http_scope(sent.method, sent.path, query=sent.query, headers=headers), receive, send)
    return reply


class DjangoCapabilityAsync(DjangoAsync):
    """`require_capability` on an `async def` view behind the middleware."""

    name = "django-capability-async"
    asks = "capability"
    urls = GuardedAsync
