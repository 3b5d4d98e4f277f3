"""A Django project for tests: its settings, and how a test talks to it.

Django has one configuration a process. It is made here, when this module is imported; tests change it with
`override_settings` only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.test import AsyncClient, Client, override_settings

from chio_core.testing import ScriptedSidecar

CHIO = "chio_django.ChioDjangoMiddleware"
SHARING = "tests.django.middleware.sharing"

if not settings.configured:
    settings.configure(
        SECRET_KEY="for tests only",
        ALLOWED_HOSTS=["testserver", "localhost", "127.0.0.1"],
        DEBUG=False,
        INSTALLED_APPS=["chio_django", "rest_framework", "drf_spectacular"],
        MIDDLEWARE=[CHIO],
        ROOT_URLCONF="tests.django.urls",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        LANGUAGES=[("en", "English"), ("de", "Deutsch")],
        USE_I18N=True,
        USE_TZ=True,
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": [],
            "UNAUTHENTICATED_USER": None,
            "DEFAULT_SCHEMA_CLASS": "chio_django.drf.schema.ChioAutoSchema",
        },
        LOGGING_CONFIG=None,
    )
    django.setup()


@contextmanager
def governed(script: Any = None, **overrides: Any) -> Iterator[ScriptedSidecar]:
    """Let a sidecar listen, and point the project at it."""
    with (ScriptedSidecar(script) if script is not None else ScriptedSidecar()).serving_in_thread() as sidecar:
        options = {"CHIO_SIDECAR_URL": sidecar.url, "CHIO_TRUSTED_KERNEL_KEYS": [sidecar.public_key]}
        with override_settings(**(options | overrides)):
            yield sidecar


@contextmanager
def governed_async(script: Any = None, **overrides: Any) -> Iterator[ScriptedSidecar]:
    """Give the project's middleware a client that asks a sidecar without sockets."""
    sidecar = ScriptedSidecar(script) if script is not None else ScriptedSidecar()
    chio = sidecar.client(**{name: overrides.pop(name) for name in list(overrides) if name.islower()})
    with override_settings(**({"MIDDLEWARE": [SHARING], "TEST_CLIENT": chio} | overrides)):
        yield sidecar


def client(**defaults: Any) -> Client:
    """Return a client of the project under WSGI, whose middleware is made again."""
    return Client(raise_request_exception=False, **defaults)


def aget(path: str, **more: Any) -> Any:
    """Send one GET to the project under ASGI and return the response."""
    return arequest("get", path, **more)


def arequest(method: str, path: str, *args: Any, **more: Any) -> Any:
    """Send one request to the project under ASGI, in a new event loop."""

    async def send() -> Any:
        response = await getattr(AsyncClient(raise_request_exception=False), method)(path, *args, **more)
        if response.streaming:
            response.read = [piece async for piece in response]
        return response

    return asyncio.run(send())
