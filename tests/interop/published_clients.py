"""Run by another interpreter, which has the published packages: ask our sidecar through each of them.

    python published_clients.py SIDECAR_URL TOKEN_JSON

Prints one JSON object: case -> [status, header X-Chio-Receipt or null, body].
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
from chio_sdk.client import ChioClient
from fastapi import FastAPI, Request

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_fastapi import chio_requires
from chio_fastapi.dependencies import set_chio_client

URL, TOKEN = sys.argv[1:3]
CASES = {
    "allow": ("GET", "/hello", {}),
    "deny": ("POST", "/echo", {}),
    "allow with capability": ("POST", "/echo", {"X-Chio-Capability": TOKEN}),
}


def with_middleware() -> FastAPI:
    app = FastAPI()
    app.add_middleware(ChioASGIMiddleware, config=ChioASGIConfig(sidecar_url=URL))

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"message": "hello"}

    @app.post("/echo")
    async def echo(payload: dict[str, object]) -> dict[str, object]:
        return payload

    return app


def with_decorator() -> FastAPI:
    app = FastAPI()
    set_chio_client(ChioClient(URL))

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"message": "hello"}

    @app.post("/echo")
    @chio_requires("http-sidecar-client", "hello_write")
    async def echo(request: Request, payload: dict[str, object]) -> dict[str, object]:
        return payload

    return app


async def ask(app: FastAPI) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        for name, (method, path, headers) in CASES.items():
            body = {"json": {"message": "hello", "count": 2}} if method == "POST" else {}
            answer = await client.request(method, path, headers=headers, **body)
            found[name] = [answer.status_code, answer.headers.get("x-chio-receipt"), answer.json()]
    return found


def ask_django() -> dict[str, list[object]]:
    import django
    from django.conf import settings
    from django.http import HttpRequest, JsonResponse
    from django.test import Client
    from django.urls import path

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="interop",
        MIDDLEWARE=["chio_django.ChioDjangoMiddleware"],
        CHIO_SIDECAR_URL=URL,
    )
    django.setup()

    def view(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"receipt_id": request.chio_receipt["id"]})

    globals()["urlpatterns"] = [path("hello", view), path("echo", view)]
    client, found = Client(), {}
    for name, (method, where, headers) in CASES.items():
        data = json.dumps({"message": "hello"}) if method == "POST" else ""
        answer = client.generic(method, where, data, "application/json", headers=headers)
        found[name] = [answer.status_code, answer.headers.get("X-Chio-Receipt"), json.loads(answer.content)]
    return found


result = {"chio-asgi": asyncio.run(ask(with_middleware())), "chio-fastapi": asyncio.run(ask(with_decorator()))}
result["chio-django"] = ask_django()
print(json.dumps(result))
