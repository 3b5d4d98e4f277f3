"""Middleware of the project for tests: Chio with a client of the test's own, and others around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from chio_core.evaluation.outcomes import Decision
from chio_django import ChioDjangoMiddleware

GetResponse = Callable[[HttpRequest], Any]


@sync_and_async_middleware
def sharing(get_response: GetResponse) -> ChioDjangoMiddleware:
    """Chio with the client that the setting TEST_CLIENT holds."""
    return ChioDjangoMiddleware(get_response, client=settings.TEST_CLIENT)


@sync_and_async_middleware
def urlconf_by_host(get_response: GetResponse) -> Any:
    """Chooses a URL conf, as virtual hosts do."""
    return _before(get_response, _choose)


@sync_and_async_middleware
def rewriting(get_response: GetResponse) -> Any:
    """Takes a prefix off the path."""
    return _before(get_response, _rewrite)


@sync_and_async_middleware
def reads_body(get_response: GetResponse) -> Any:
    """Looks at the body, as middleware for signatures does."""
    return _before(get_response, lambda request: request.body)


@sync_and_async_middleware
def consumes_body(get_response: GetResponse) -> Any:
    """Reads the body as a stream and leaves nothing of it."""
    return _before(get_response, lambda request: request.read())


@sync_and_async_middleware
def refuses(get_response: GetResponse) -> Any:
    """Raises, before the view is looked for."""

    def refuse(request: HttpRequest) -> None:
        raise PermissionDenied

    return _before(get_response, refuse)


@sync_and_async_middleware
def no_chio(get_response: GetResponse) -> Any:
    """Stands where Chio stands, publishes what the views read, and judges nothing."""

    def publish(request: HttpRequest) -> None:
        passed = Decision(verdict="none")
        vars(request).update(chio_receipt=None, chio_evaluation=None, chio_decision=passed, chio_passthrough=None)

    return _before(get_response, publish)


@sync_and_async_middleware
def denies(get_response: GetResponse) -> Any:
    """Answers 403 by itself."""
    if iscoroutinefunction(get_response):

        async def amiddleware(request: HttpRequest) -> HttpResponse:
            return HttpResponse(status=403)

        return amiddleware
    return lambda request: HttpResponse(status=403)


def sync_only(get_response: GetResponse) -> Any:
    """An old middleware that only knows threads."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response: HttpResponse = get_response(request)
        response.headers["X-Sync-Only"] = "1"
        return response

    return middleware


def _choose(request: HttpRequest) -> None:
    if request.META.get("HTTP_HOST") == "localhost":
        request.urlconf = "tests.django.other_urls"  # type: ignore[attr-defined]


def _rewrite(request: HttpRequest) -> None:
    request.path_info = request.path_info.removeprefix("/v1")


def _before(get_response: GetResponse, do: Callable[[HttpRequest], Any]) -> Any:
    if iscoroutinefunction(get_response):

        async def amiddleware(request: HttpRequest) -> Any:
            do(request)
            return await get_response(request)

        return amiddleware

    def middleware(request: HttpRequest) -> Any:
        do(request)
        return get_response(request)

    return middleware


def exposing(get_response: GetResponse) -> Any:
    """Exposes a header of the project's own, as django-cors-headers does."""

    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        response["Access-Control-Expose-Headers"] = "X-Total"
        return response

    return middleware
