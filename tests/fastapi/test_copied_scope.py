"""A handler or a layer inside Chio hands on a copied scope: its body is evaluated as the inner route reads it."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Form, Request
from fastapi.testclient import TestClient

from chio_asgi.body import once
from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.testing import ChioFixture
from chio_fastapi import Budget, from_body
from tests.fastapi.apps import TRANSFER, govern, with_and_without

SENT, OTHER = b'{"amount": 1}', b'{"amount": 1000000}'
FORM = {"content-type": "application/x-www-form-urlencoded"}


def governed(layer: Any = None, *, middleware: bool = True, **options: Any) -> tuple[FastAPI, ChioFixture, list[Any]]:
    """One application, with a layer around its routes; the list has what its handlers read."""
    app, chio, read = FastAPI(), ChioFixture(), list[Any]()

    @app.post("/pay", dependencies=[Depends(TRANSFER), Depends(Budget(cost=from_body("amount"), max_invocations=9))])
    async def pay(request: Request) -> None:
        read.append(await request.body())

    @app.post("/form", dependencies=[Depends(TRANSFER)])
    async def form(amount: Annotated[int, Form()]) -> None:
        read.append(amount)

    if layer is not None:
        app.add_middleware(layer)
    govern(app, chio.new_client(**options), middleware)
    return app, chio, read


class Copies:
    """Hands on a copy of the scope, and the same `receive`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)


class Replaces(Copies):
    """Hands on another body too."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), once({"type": "http.request", "body": OTHER}, receive), send)


def post(app: FastAPI, chio: ChioFixture, path: str, body: bytes, headers: Any = FORM) -> int:
    """Send one request and return its status."""
    return TestClient(app).post(path, content=body, headers={**chio.headers(), **headers}).status_code


@pytest.mark.parametrize("spool_bytes", [0, 1_000_000])
def test_the_evaluated_body_counts_for_a_copy_that_gets_it(spool_bytes: int) -> None:
    app, chio, read = governed(Copies, spool_bytes=spool_bytes)
    assert post(app, chio, "/pay", SENT, {"content-type": "application/json"}) == 200
    assert post(app, chio, "/form", b"amount=1") == 200
    assert (read, len(chio.asked)) == ([SENT, 1], 2)


def test_another_body_is_evaluated_with_its_own_amount() -> None:
    app, chio, read = governed(Replaces)
    assert post(app, chio, "/pay", SENT, {"content-type": "application/json"}) == 200
    assert read == [OTHER]
    assert [asked.document["budget"]["cost"] for asked in chio.asked] == [1, 1_000_000]
    assert [asked.document["body_hash"] for asked in chio.asked] == [sha256_hex(SENT), sha256_hex(OTHER)]


@with_and_without
def test_a_request_that_a_handler_makes_is_evaluated_with_its_own_body(middleware: bool) -> None:
    app, chio, read = governed(middleware=middleware)

    @app.post("/batch", dependencies=[Depends(TRANSFER)])
    async def batch(request: Request) -> None:
        async def send(message: Any) -> None: ...

        receive = once({"type": "http.request", "body": OTHER}, request.receive)
        await app.router({**request.scope, "path": "/pay"}, receive, send)

    assert post(app, chio, "/batch", SENT, {"content-type": "application/json"}) == 200
    assert read == [OTHER]
    found = [(asked.path, asked.document["body_hash"]) for asked in chio.asked]
    assert found == [("/batch", sha256_hex(SENT)), ("/pay", sha256_hex(OTHER))]


def test_another_body_that_was_read_already_is_refused() -> None:
    app, chio, read = governed(Replaces)
    with pytest.raises(ConfigurationError, match="a copied scope needs the `receive`"):
        post(app, chio, "/form", b"amount=1")
    assert (read, len(chio.asked)) == ([], 1)


def test_another_body_above_the_limit_is_refused() -> None:
    app, chio, read = governed(Replaces, max_body_bytes=len(SENT))
    assert post(app, chio, "/pay", SENT, {"content-type": "application/json"}) == 413
    assert (read, len(chio.asked)) == ([], 1)
