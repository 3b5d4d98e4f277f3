"""Programs whose event loop is Trio's: `trio_programs.py NAME` prints what ran, and the error to standard error."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import httpx
import trio
from fastapi import FastAPI
from hypercorn.config import Config
from hypercorn.trio import serve

from chio_asgi import ChioASGIConfig
from chio_core.client.client import ChioClient
from chio_core.outbound import ChioTransport, GovernOutbound
from chio_fastapi import add_chio

RAN: list[str] = []


def settings() -> ChioASGIConfig:
    return ChioASGIConfig(sidecar_url="http://127.0.0.1:1", fail_open=True, _env_file=None)


def application() -> FastAPI:
    app = FastAPI()
    add_chio(app, settings())
    app.add_api_route("/", lambda: RAN.append("handler"))
    return app


async def served() -> None:
    """A server with a lifespan."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    await serve(application(), config)  # type: ignore[arg-type]


async def called() -> None:
    """A server without one."""
    http: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"}
    line = {"method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "", "headers": []}
    scope = {**http, **line, "client": None, "server": None}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message.get("status") == 200:
            RAN.append("response")

    await application()(scope, receive, send)


async def outgoing() -> None:
    """An outgoing call."""
    inner = httpx.MockTransport(lambda request: httpx.Response(200, text=str(RAN.append("sent"))))
    async with httpx.AsyncClient(transport=ChioTransport(inner, GovernOutbound(ChioClient(settings())))) as client:
        await client.get("http://other.test/")


PROGRAMS = {program.__name__: program for program in (served, called, outgoing)}


async def main(name: str) -> None:
    with trio.fail_after(30):
        await PROGRAMS[name]()


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1])
    except BaseException:  # noqa: BLE001 - it is printed
        traceback.print_exc()
    print("ran:", *RAN)
