"""One request on the wire as each framework's view and own request."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from flask import Flask, Request
from starlette.requests import Request as StarletteRequest

from chio_asgi import ASGIGuardRequest
from chio_django import DjangoGuardRequest
from chio_flask import FlaskGuardRequest
from tests.django import project  # noqa: F401 - configures Django
from tests.faces.wire import Wire, environ_of, messages_of, scope_of


def receive_of(wire: Wire) -> Any:
    """An ASGI `receive` that gives the body, one message a piece."""
    waiting = messages_of(wire)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    return receive


@dataclass
class Stack:
    """A view, and the framework's own request that it is over."""

    name: str
    view: Any
    native: Any


def starlette(wire: Wire) -> Stack:
    scope, receive = scope_of(wire), receive_of(wire)
    return Stack("starlette", ASGIGuardRequest(scope, receive), StarletteRequest(scope, receive))


def django_wsgi(wire: Wire) -> Stack:
    request = WSGIRequest(environ_of(wire))
    return Stack("django-wsgi", DjangoGuardRequest(request), request)


def django_asgi(wire: Wire) -> Stack:
    request = ASGIRequest(scope_of(wire), io.BytesIO(wire.body))
    return Stack("django-asgi", DjangoGuardRequest(request), request)


def flask(wire: Wire) -> Stack:
    request = Request(environ_of(wire))
    return Stack("flask", FlaskGuardRequest(request, Flask("tests.views.stacks")), request)


MAKERS = (starlette, django_wsgi, django_asgi, flask)


def all_stacks(wire: Wire) -> list[Stack]:
    return [make(wire) for make in MAKERS]


def once(coroutine: Any) -> Any:
    """Run a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("the coroutine suspended")
