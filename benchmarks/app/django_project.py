"""The Django project under test, with or without a middleware, for gunicorn (`wsgi`) and for uvicorn (`asgi`).

Two interpreters import this file: the one of the checkout and the one of the published package. It therefore
imports nothing of the harness, and it refuses to be imported when `chio_django` is not the one that its variant
names. The environment says which: BENCH_VARIANT, BENCH_SIDECAR, BENCH_KERNEL_KEY.
"""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

CHECKOUT = Path(__file__).resolve().parents[2]
VARIANT = os.environ["BENCH_VARIANT"]


def governed() -> dict[str, Any]:
    """Return the settings of a governed variant."""
    import chio_django

    if VARIANT == "ours" and not Path(chio_django.__file__ or "").is_relative_to(CHECKOUT):
        raise SystemExit(f"chio_django comes from {chio_django.__file__}, not from {CHECKOUT}.")
    if VARIANT == "published" and metadata.version("chio-django") != "0.1.0":
        raise SystemExit(f"chio-django is {metadata.version('chio-django')} here, not 0.1.0.")
    chio: dict[str, Any] = {"CHIO_SIDECAR_URL": os.environ["BENCH_SIDECAR"]}
    if VARIANT == "ours":
        chio["CHIO_TRUSTED_KERNEL_KEYS"] = [os.environ["BENCH_KERNEL_KEY"]]
    return {"MIDDLEWARE": ["chio_django.ChioDjangoMiddleware"], **chio}


settings.configure(
    SECRET_KEY="for measuring only",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    DATABASES={},
    USE_TZ=True,
    LOGGING_CONFIG=None,
    **({"MIDDLEWARE": []} if VARIANT == "bare" else governed()),
)
django.setup()


def hello(request: HttpRequest) -> JsonResponse:
    """Answer GET /hello."""
    return JsonResponse({"message": "hello"})


def echo(request: HttpRequest) -> JsonResponse:
    """Answer POST /echo with the parsed body."""
    item = json.loads(request.body)
    return JsonResponse({"message": item["message"], "count": item["count"]})


async def ahello(request: HttpRequest) -> JsonResponse:
    """Answer GET /hello under ASGI, where Django would send `hello` to a thread."""
    return hello(request)


async def aecho(request: HttpRequest) -> JsonResponse:
    """Answer POST /echo under ASGI."""
    return echo(request)


ASYNC = os.environ.get("BENCH_SERVER") == "uvicorn"
urlpatterns = [path("hello", ahello if ASYNC else hello), path("echo", aecho if ASYNC else echo)]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
