"""One application in each of several frameworks, governed by the middleware and served by a real server.

Runs in an environment of its own: `python framework_programs.py SIDECAR_URL CAPABILITY` prints one JSON object,
framework by framework what each request was answered with.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import uvicorn

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_wsgi import ChioWSGIMiddleware, get_chio_receipt

PET, PETS = "/pets/{number}", "/pets"


def litestar() -> Any:
    from litestar import Litestar, Request, get, post

    @get("/pets/{number:int}")
    async def pet(number: int, request: Request[Any, Any, Any]) -> dict[str, Any]:
        return {"pet": number, "receipt": request.scope["state"]["chio_receipt"].id}

    @post("/pets")
    async def add(data: dict[str, str]) -> dict[str, str]:
        return data

    return Litestar([pet, add])


def litestar_routed_later() -> Any:
    from litestar import Litestar

    app = Litestar(openapi_config=None)
    full = litestar()
    for route in full.routes:
        for handler in getattr(route, "route_handlers", ()):
            if handler.fn.__name__ in ("pet", "add"):
                app.register(handler)
    return app


def quart() -> Any:
    from quart import Quart, request

    app = Quart("pets")

    @app.get("/pets/<int:number>")
    async def pet(number: int) -> dict[str, Any]:
        return {"pet": number, "receipt": request.scope["state"]["chio_receipt"].id}

    @app.post("/pets")
    async def add() -> Any:
        return await request.get_json()

    return app


def blacksheep() -> Any:
    from blacksheep import Application, Request, json

    app = Application()

    async def pet(request: Any, number: int) -> Any:
        return json({"pet": number, "receipt": request.scope["state"]["chio_receipt"].id})

    async def add(request: Any) -> Any:
        return json(await request.json())

    pet.__annotations__["request"] = add.__annotations__["request"] = Request  # it finds no name of this function
    app.router.add_get("/pets/{int:number}", pet)
    app.router.add_post("/pets", add)
    return app


def falcon() -> Any:
    from falcon.asgi import App

    class Pet:
        async def on_get(self, request: Any, response: Any, number: int) -> None:
            response.media = {"pet": number, "receipt": request.scope["state"]["chio_receipt"].id}

    class Pets:
        async def on_post(self, request: Any, response: Any) -> None:
            response.media = await request.get_media()

    app = App()
    app.add_route("/pets/{number:int}", Pet())
    app.add_route("/pets", Pets())
    return app


def sanic() -> Any:
    from sanic import Sanic
    from sanic import json as as_json

    app = Sanic("pets")

    @app.get("/pets/<number:int>")
    async def pet(request: Any, number: int) -> Any:
        return as_json({"pet": number, "receipt": request.transport.scope["state"]["chio_receipt"].id})

    @app.post("/pets")
    async def add(request: Any) -> Any:
        return as_json(request.json)

    return app


def fastmcp() -> Any:
    from fastmcp import FastMCP

    tools = FastMCP("pets")

    @tools.tool
    def add(name: str) -> str:
        return name

    return tools.http_app(path="/pets", stateless_http=True, json_response=True)


def bottle() -> Any:
    from bottle import Bottle, request

    app = Bottle()
    app.get("/pets/<number:int>")(
        lambda number: {"pet": number, "receipt": getattr(get_chio_receipt(request.environ), "id", None)}
    )
    app.post("/pets")(lambda: request.json)
    return app


def pyramid() -> Any:
    from pyramid.config import Configurator

    with Configurator() as made:
        made.add_route("pet", "/pets/{number}")
        made.add_route("pets", "/pets", request_method="POST")
        made.add_view(
            lambda request: {
                "pet": int(request.matchdict["number"]),
                "receipt": getattr(get_chio_receipt(request.environ), "id", None),
            },
            route_name="pet",
            renderer="json",
        )
        made.add_view(lambda request: request.json_body, route_name="pets", renderer="json")
    return made.make_wsgi_app()


def falcon_wsgi() -> Any:
    from falcon import App

    class Pet:
        def on_get(self, request: Any, response: Any, number: int) -> None:
            response.media = {"pet": number, "receipt": getattr(get_chio_receipt(request.env), "id", None)}

    class Pets:
        def on_post(self, request: Any, response: Any) -> None:
            response.media = request.get_media()

    app = App()
    app.add_route("/pets/{number:int}", Pet())
    app.add_route("/pets", Pets())
    return app


@contextmanager
def served_asgi(app: Any, sidecar: str) -> Iterator[str]:
    governed = ChioASGIMiddleware(app, ChioASGIConfig(sidecar_url=sidecar))
    server = uvicorn.Server(uvicorn.Config(governed, log_config=None, lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # requests wait here until the server has started
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class Silent(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def served_wsgi(app: Any, sidecar: str) -> Iterator[str]:
    governed = ChioWSGIMiddleware(app, ChioASGIConfig(sidecar_url=sidecar))
    with make_server("127.0.0.1", 0, governed, handler_class=Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            governed.close()


ASGI: tuple[Callable[[], Any], ...] = (
    litestar, litestar_routed_later, quart, blacksheep, falcon, sanic, fastmcp,
)  # fmt: skip
WSGI: tuple[Callable[[], Any], ...] = (bottle, pyramid, falcon_wsgi)
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {"name": "Rex"}}}


def observed(url: str, capability: str, body: Any) -> dict[str, Any]:
    """Return what four requests are answered with: status, receipt of the response, body."""
    permitted = {"X-Chio-Capability": capability}
    accepts = {"Accept": "application/json, text/event-stream"}
    with httpx.Client(base_url=url, timeout=30, headers=accepts) as client:
        responses = {
            "read": client.get("/pets/3"),
            "unknown": client.get("/nowhere"),
            "refused": client.post("/pets", json=body),
            "permitted": client.post("/pets", json=body, headers=permitted),
        }
    return {
        name: {"status": one.status_code, "receipt": one.headers.get("X-Chio-Receipt"), "text": one.text}
        for name, one in responses.items()
    }


if __name__ == "__main__":
    found = {}
    for makers, served in ((ASGI, served_asgi), (WSGI, served_wsgi)):
        for make in makers:
            with served(make(), sys.argv[1]) as url:
                found[make.__name__] = observed(url, sys.argv[2], CALL if make is fastmcp else {"name": "Rex"})
    print(json.dumps(found))
