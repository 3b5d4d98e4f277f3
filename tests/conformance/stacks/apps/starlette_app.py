"""The contract in plain Starlette: the middleware around the application, no FastAPI anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from chio_asgi import ChioASGIMiddleware
from tests.conformance.stacks.contract import METHODS, STREAM, TheHandlerFailed, said


def seen(handler: str, connection: Any, body: bytes = b"") -> dict[str, Any]:
    receipt = getattr(connection.state, "chio_receipt", None)
    passed = getattr(connection.state, "chio_passthrough", None)
    return said(
        handler,
        connection.path_params,
        body,
        key=connection.headers.get("x-api-key"),
        receipt=receipt.id if receipt else None,
        passthrough=passed.error if passed else None,
    )


def telling(handler: str, headers: dict[str, str] | None = None) -> Any:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(seen(handler, request, await request.body()), headers=headers)

    return endpoint


async def stream(request: Request) -> Response:
    def pieces() -> Iterator[str]:
        yield from STREAM

    return StreamingResponse(pieces())


async def fails(request: Request) -> Response:
    raise TheHandlerFailed


async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(seen("ws", websocket))
    await websocket.close()


PATHS = {
    "hello": "/hello",
    "anything": "/anything",
    "pet": "/pets/{pet}",
    "toy": "/pets/{pet}/toys/{number}",
    "file": "/files/{rest:path}",
    "transfer": "/accounts/{account}/transfer",
    "health": "/healthz",
    "static": "/static/{rest:path}",
    "slashed": "/slashed/",
}

app = Starlette(
    routes=[
        *(Route(path, telling(name), methods=list(METHODS[name])) for name, path in PATHS.items()),
        Route("/claims", telling("claims", {"x-chio-receipt": "forged"}), methods=list(METHODS["claims"])),
        Route("/stream", stream, methods=list(METHODS["stream"])),
        Route("/fails", fails, methods=list(METHODS["fails"])),
        WebSocketRoute("/ws", ws),
    ]
)
app.add_middleware(ChioASGIMiddleware)
