"""The module of the FastAPI example: the published import lines, the middleware, three endpoints (S1 to S8)."""

from __future__ import annotations

import inspect
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request

from chio_core.models import HttpReceipt
from chio_fastapi import get_caller_identity, get_chio_client, get_chio_decision, get_chio_passthrough, get_chio_receipt
from tests.fastapi.apps import with_token
from tests.support import Judge, StubServer, allow_with_capability, call, raw_http, serve

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hello-fastapi" / "app.py"


def create_app() -> FastAPI:
    """Make the application of the example's own file."""
    spec = spec_from_file_location("hello_fastapi", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    app = module.create_app()
    assert isinstance(app, FastAPI)
    return app


ECHO = json.dumps({"message": "hello", "count": 2}).encode()


def head(answer: bytes) -> tuple[int, dict[str, str], Any]:
    top, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(body)


def request(method: str, path: str, body: bytes = b"", *extra: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "connection: close", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "content-type: application/json", *extra, "", ""]).encode() + body


async def test_the_three_calls_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StubServer(Judge(allow_with_capability)) as sidecar:
        monkeypatch.setenv("CHIO_SIDECAR_URL", sidecar.url)
        async with serve(create_app(), lifespan="on") as port:
            status, headers, body = head(await raw_http(port, request("GET", "/hello")))
            assert (status, body) == (200, {"message": "hello from fastapi"})
            assert headers["x-chio-receipt"] in sidecar.judge.receipts

            status, headers, body = head(await raw_http(port, request("POST", "/echo", ECHO)))
            assert (status, body["status"]) == (403, 403)
            assert body["message"]
            assert headers["x-chio-receipt"] in sidecar.judge.receipts

            name, value = with_token()[0]
            answer = await raw_http(port, request("POST", "/echo", ECHO, f"{name}: {value}"))
            status, headers, body = head(answer)
            assert (status, body) == (200, {"message": "hello", "count": 2})
            assert headers["x-chio-receipt"] in sidecar.judge.receipts

            status, headers, body = head(await raw_http(port, request("GET", "/healthz")))
            assert (status, body, "x-chio-receipt" in headers) == (200, {"status": "ok"}, False)
        assert [question["path"] for question in sidecar.judge.questions] == ["/hello", "/echo", "/echo"]


async def test_without_a_sidecar_only_the_excluded_path_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", "http://127.0.0.1:1")
    app = create_app()
    assert (await call(app, "GET", "/healthz")).status == 200
    reply = await call(app, "GET", "/hello")
    assert (reply.status, reply.json()["error"], reply.receipt) == (503, "chio_sidecar_unreachable", None)


async def test_the_receipt_is_where_the_published_packages_put_it() -> None:
    connection = HTTPConnection({"type": "http", "state": {"chio_receipt": SimpleNamespace(id="r")}})
    found: HttpReceipt | None = await get_chio_receipt(connection)
    assert found is not None
    assert found.id == connection.state.chio_receipt.id == "r"


@pytest.mark.parametrize(
    "function", [get_chio_receipt, get_chio_decision, get_chio_passthrough, get_caller_identity, get_chio_client]
)
def test_the_parameter_has_the_name_of_the_published_packages(function: Any) -> None:
    assert list(inspect.signature(function).parameters) == ["request"]


async def test_a_receipt_is_found_by_keyword_as_with_the_published_packages() -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    request = Request({**scope, "state": {"chio_receipt": SimpleNamespace(id="r")}})
    found = await get_chio_receipt(request=request)
    assert found is not None
    assert found.id == "r"
    assert await get_chio_passthrough(request=request) is None
