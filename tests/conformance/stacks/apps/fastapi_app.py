"""The contract in FastAPI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse

from chio_core.models.receipt import HttpReceipt
from chio_fastapi import RequireCapability, add_chio
from tests.conformance.stacks.contract import METHODS, SERVER, STREAM, TOOL, TheHandlerFailed, said

app = FastAPI(openapi_url=None)
add_chio(app)


def seen(handler: str, connection: Any, params: Any = None, body: bytes = b"") -> dict[str, Any]:
    receipt = getattr(connection.state, "chio_receipt", None)
    passed = getattr(connection.state, "chio_passthrough", None)
    return said(
        handler,
        params,
        body,
        key=connection.headers.get("x-api-key"),
        receipt=receipt.id if receipt else None,
        passthrough=passed.error if passed else None,
    )


@app.api_route("/hello", methods=list(METHODS["hello"]))
async def hello(request: Request) -> dict[str, Any]:
    return seen("hello", request, None, await request.body())


@app.api_route("/anything", methods=list(METHODS["anything"]))
async def anything(request: Request) -> dict[str, Any]:
    return seen("anything", request, None, await request.body())


@app.api_route("/pets/{pet}", methods=list(METHODS["pet"]))
async def pet(request: Request, pet: str) -> dict[str, Any]:
    return seen("pet", request, {"pet": pet}, await request.body())


@app.api_route("/pets/{pet}/toys/{number}", methods=list(METHODS["toy"]))
async def toy(request: Request, pet: str, number: str) -> dict[str, Any]:
    return seen("toy", request, {"pet": pet, "number": number})


@app.api_route("/files/{rest:path}", methods=list(METHODS["file"]))
async def file(request: Request, rest: str) -> dict[str, Any]:
    return seen("file", request, {"rest": rest})


@app.post("/accounts/{account}/transfer")
async def transfer(
    request: Request, account: str, receipt: Annotated[HttpReceipt, Depends(RequireCapability(SERVER, TOOL))]
) -> dict[str, Any]:
    return seen("transfer", request, {"account": account}, await request.body())


@app.api_route("/healthz", methods=list(METHODS["health"]))
async def health(request: Request) -> dict[str, Any]:
    return seen("health", request, None, await request.body())


@app.api_route("/static/{rest:path}", methods=list(METHODS["static"]))
async def static(request: Request, rest: str) -> dict[str, Any]:
    return seen("static", request, {"rest": rest})


@app.api_route("/claims", methods=list(METHODS["claims"]))
async def claims(request: Request) -> Response:
    return JSONResponse(seen("claims", request), headers={"x-chio-receipt": "forged"})


@app.api_route("/stream", methods=list(METHODS["stream"]))
async def stream(request: Request) -> Response:
    def pieces() -> Iterator[str]:
        yield from STREAM

    return StreamingResponse(pieces())


@app.api_route("/fails", methods=list(METHODS["fails"]))
async def fails() -> None:
    raise TheHandlerFailed


@app.api_route("/slashed/", methods=list(METHODS["slashed"]))
async def slashed(request: Request) -> dict[str, Any]:
    return seen("slashed", request)


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(seen("ws", websocket))
    await websocket.close()
