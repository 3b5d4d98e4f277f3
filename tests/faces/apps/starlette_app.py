"""The contract in plain Starlette: no FastAPI anywhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from chio_asgi import ChioASGIMiddleware
from tests.faces import contract

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def seen(handler: str, connection: Any, body: bytes = b"", receipt: Any = None) -> dict[str, Any]:
    state = connection.state
    return contract.said(
        handler,
        connection.path_params,
        body,
        method=connection.scope.get("method", "GET"),
        query=connection.query_params.multi_items(),
        key=connection.headers.get("x-api-key"),
        receipt=receipt or getattr(state, "chio_receipt", None),
        passthrough=getattr(state, "chio_passthrough", None),
        decision=getattr(state, "chio_decision", None),
        state=state,
    )


def telling(handler: str) -> Handler:
    endpoint = contract.ENDPOINTS[handler]

    async def tell(request: Request) -> Response:
        response = JSONResponse(seen(handler, request, await request.body()), headers=endpoint.headers)
        for name in endpoint.cookies:
            response.set_cookie(name, "1", httponly=True)
        return response

    return tell


async def piecewise(request: Request) -> Response:
    return JSONResponse(seen("piecewise", request, b"".join([piece async for piece in request.stream()])))


async def form(request: Request) -> Response:
    async with request.form() as found:
        fields = [(name, value) for name, value in found.items() if isinstance(value, str)]
        files = [(name, await value.read()) for name, value in found.items() if not isinstance(value, str)]
    return JSONResponse(contract.form(fields, files))


async def stream(request: Request) -> Response:
    def pieces() -> Iterator[str]:
        yield from contract.STREAM

    return StreamingResponse(pieces())


async def fails(request: Request) -> Response:
    raise contract.TheHandlerFailed


async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(seen("ws", websocket))
    await websocket.close()


SPECIAL: dict[str, Handler] = {"piecewise": piecewise, "form": form, "stream": stream, "fails": fails}


def make() -> Starlette:
    """Return the application, ungoverned; what endpoints need is not required of anybody."""
    plain = {name: (one, telling(name)) for name, one in contract.ENDPOINTS.items()}
    special = {name: (one, SPECIAL[name]) for name, one in contract.SPECIAL.items()}
    routes = [
        Route(one.path, handler, methods=list(one.methods), name=name)
        for name, (one, handler) in {**plain, **special}.items()
    ]
    return Starlette(routes=[*routes, WebSocketRoute("/ws", ws)])


def governed() -> Starlette:
    """Return the application, governed as the environment says."""
    app = make()
    app.add_middleware(ChioASGIMiddleware)
    return app
