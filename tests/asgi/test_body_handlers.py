"""What handlers read, in each of Starlette's ways, is what was hashed."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.asgi.routes import govern
from tests.support import call, run

MiB = 1024 * 1024


def digest(data: bytes) -> str | None:
    return hashlib.sha256(data).hexdigest() if data else None


async def by_body(request: Request) -> JSONResponse:
    return JSONResponse({"hash": digest(await request.body()), "again": digest(await request.body())})


async def by_stream(request: Request) -> JSONResponse:
    found = b"".join([piece async for piece in request.stream()])
    return JSONResponse({"hash": digest(found)})


async def by_json(request: Request) -> JSONResponse:
    return JSONResponse(await request.json())


async def by_form(request: Request) -> JSONResponse:
    async with request.form() as form:
        fields = {name: value if isinstance(value, str) else digest(await value.read()) for name, value in form.items()}
    return JSONResponse(fields)


HANDLERS = Starlette(
    routes=[
        Route(f"/{handler.__name__}", handler, methods=["POST"]) for handler in (by_body, by_stream, by_json, by_form)
    ]
)


@pytest.mark.parametrize("spool", [0, 10, 10 * MiB])
@pytest.mark.parametrize("size", [0, 1, 1000, 3 * MiB])
@pytest.mark.parametrize("path", ["/by_body", "/by_stream"])
def test_body_and_stream_read_what_was_hashed(path: str, size: int, spool: int) -> None:
    app, judge = govern(HANDLERS, spool_bytes=spool)
    body = random.Random(1).randbytes(size)
    reply = run(call(app, "POST", path, body=[body[: size // 3], body[size // 3 :], b""]))
    assert reply.json()["hash"] == judge.last.get("body_hash") == digest(body)


@pytest.mark.parametrize("spool", [0, 10 * MiB])
def test_json_is_read_as_it_was_hashed(spool: int) -> None:
    app, judge = govern(HANDLERS, spool_bytes=spool)
    document = {"message": "hello", "list": list(range(1000))}
    body = json.dumps(document).encode()
    reply = run(
        call(app, "POST", "/by_json", body=[body[:7], body[7:]], headers=[("content-type", "application/json")])
    )
    assert reply.json() == document
    assert judge.last["body_hash"] == digest(body)
    assert judge.last["headers"] == {"content-type": "application/json", "content-length": str(len(body))}


@pytest.mark.parametrize("spool", [0, 10 * MiB])
def test_forms_and_uploads_are_read_as_they_were_hashed(spool: int) -> None:
    app, judge = govern(HANDLERS, spool_bytes=spool)
    upload = random.Random(2).randbytes(2 * MiB)
    multipart = (
        b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\nvalue\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + upload + b"\r\n--b--\r\n"
    )
    headers = [("content-type", "multipart/form-data; boundary=b")]
    pieces = [multipart[at : at + 70_000] for at in range(0, len(multipart), 70_000)]
    reply = run(call(app, "POST", "/by_form", body=pieces, headers=headers))
    assert reply.json() == {"name": "value", "file": digest(upload)}
    assert judge.last["body_hash"] == digest(multipart)

    headers = [("content-type", "application/x-www-form-urlencoded")]
    assert run(call(app, "POST", "/by_form", body=[b"a=1&b", b"=%32"], headers=headers)).json() == {"a": "1", "b": "2"}
    assert judge.last["body_hash"] == digest(b"a=1&b=%32")


def test_a_handler_that_reads_nothing_is_answered() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    assert run(call(govern(app)[0], "POST", "/", body=[b"unread"] * 5)).status == 204


def test_a_disconnect_in_the_handler_is_starlettes_own_exception() -> None:
    async def waits(request: Request) -> JSONResponse:
        await request.body()
        assert await request.is_disconnected()
        with pytest.raises(ClientDisconnect):
            async for _ in Request(request.scope, request.receive).stream():
                pass
        return JSONResponse({})

    app, _ = govern(Starlette(routes=[Route("/", waits, methods=["POST"])]))
    assert run(call(app, "POST", "/", body=b"x")).status == 200
