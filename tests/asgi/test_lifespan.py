"""`lifespan` is passed on untouched, the client is closed at its end, and it is optional (B14, C7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from chio_asgi.middleware import ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_fastapi import add_chio
from chio_sidecar.app import create_app
from chio_sidecar.config import SidecarConfig
from tests.asgi.routes import govern
from tests.carrier.stubs import until
from tests.support import StubClient, StubServer, call, exchange, run, serve, settings

LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


def lifespan(app: Any) -> list[dict[str, Any]]:
    return run(exchange(app, dict(LIFESPAN, state={}), [STARTUP, SHUTDOWN])).messages


async def test_startup_and_shutdown_reach_the_application_and_its_replies_the_server() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[dict[str, str]]:
        steps.append("up")
        yield {"database": "open"}
        steps.append("down")

    async def handler(request: Request) -> JSONResponse:
        return JSONResponse({"database": request.state.database, "receipt": request.state.chio_receipt.id})

    app = Starlette(routes=[Route("/", handler)], lifespan=life)
    app.add_middleware(ChioASGIMiddleware, client=StubClient())
    scope = dict(LIFESPAN, state={})
    reply = await exchange(app, scope, [STARTUP, SHUTDOWN])
    assert [m["type"] for m in reply.messages] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert scope["state"] == {"database": "open"}
    assert (await call(app, "GET", "/", state=dict(scope["state"]))).json()["database"] == "open"
    assert scope["state"] == {"database": "open"}
    assert steps == ["up", "down"]


def test_messages_are_the_very_ones() -> None:
    answered = {"type": "lifespan.startup.failed", "message": "no database"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == STARTUP
        await send(answered)

    governed, _ = govern(app)
    assert lifespan(governed) == [answered]


def test_an_application_that_knows_no_lifespan_says_so_itself() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "no lifespan here"

    governed, _ = govern(app)
    with pytest.raises(AssertionError, match="no lifespan here"):
        lifespan(governed)


async def test_the_client_is_closed_at_shutdown_before_the_server_hears_of_it() -> None:
    client = StubClient()
    app = ChioASGIMiddleware(Starlette(), client=client)
    closed_when_told: list[int] = []
    messages = [STARTUP, SHUTDOWN]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        closed_when_told.append(client.closed)

    await app(dict(LIFESPAN), receive, send)
    assert closed_when_told == [0, 1]


async def test_connections_to_the_sidecar_are_closed_with_the_application() -> None:
    client = ChioClient(settings())
    governed = FastAPI()
    add_chio(governed, client=client)
    async with StubServer() as server:
        for _ in range(3):  # and the same application can be started again
            async with serve(governed, lifespan="on") as port:
                client.settings = settings(sidecar_url=server.url)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                assert b"x-chio-receipt" in await reader.read()
                writer.close()
                assert len(server.open) == 1
            await until(lambda: not server.open)


def test_it_works_without_any_lifespan() -> None:
    governed, judge = govern(Starlette(routes=[Route("/", PlainTextResponse("ok"))]))
    assert run(call(governed, "GET", "/")).receipt in judge.receipts


def test_a_mounted_application_works_without_a_lifespan() -> None:
    sub = FastAPI()
    client = StubClient()
    add_chio(sub, client=client)
    outer = Starlette(routes=[Mount("/sub", app=sub)])
    assert [m["type"] for m in lifespan(outer)] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert client.closed == 0
    assert run(call(outer, "GET", "/sub/none")).receipt is not None


async def test_two_applications_in_one_loop_have_a_sidecar_each_and_end_for_themselves() -> None:
    async with StubServer() as first, StubServer() as second:
        apps = [FastAPI(), FastAPI()]
        for app, server in zip(apps, (first, second), strict=True):
            add_chio(app, settings(sidecar_url=server.url))
        for _ in range(3):
            assert (await call(apps[0], "GET", "/one")).receipt in first.judge.receipts
            assert (await call(apps[1], "GET", "/two")).receipt in second.judge.receipts
        assert {asked["path"] for asked in first.judge.questions} == {"/one"}
        assert {asked["path"] for asked in second.judge.questions} == {"/two"}
        await apps[0].state.chio_client.aclose()
        await until(lambda: not first.open)
        assert (await call(apps[1], "GET", "/two")).receipt in second.judge.receipts
        assert second.accepted == 1
        await apps[1].state.chio_client.aclose()


def unopenable(tmp_path: Path) -> ChioASGIMiddleware:
    """Return a middleware whose store cannot be used any more when the server starts."""
    config = settings(sidecar_url=f"embedded:{tmp_path}/dir", trusted_kernel_keys=())
    governed = ChioASGIMiddleware(Starlette(), config=config)
    (tmp_path / "dir").mkdir()
    return governed


def test_an_embedded_sidecar_that_cannot_open_stops_the_start(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return STARTUP

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError):
        run(unopenable(tmp_path)(dict(LIFESPAN), receive, send))
    assert [m["type"] for m in sent] == ["lifespan.startup.failed"]
    assert sent[0]["message"].startswith("chio: ")


class AnotherLoop:
    """An event loop that is not asyncio's, as Trio's: it steps a coroutine that waits for nothing."""

    def run(self, main: Any) -> None:
        with pytest.raises(StopIteration):
            main.send(None)


@pytest.mark.parametrize("app", ["middleware", "sidecar"])
def test_another_event_loop_than_asyncio_s_stops_the_start_and_is_named(app: str, tmp_path: Path) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return STARTUP

    async def send(message: Any) -> None:
        sent.append(message)

    config = SidecarConfig(store_path=tmp_path / "r")
    started: Any = create_app(config) if app == "sidecar" else ChioASGIMiddleware(Starlette(), config=settings())
    with pytest.raises(ConfigurationError, match="needs asyncio, and this program runs another event loop"):
        AnotherLoop().run(started(dict(LIFESPAN), receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "start it with asyncio" in sent[0]["message"]
    assert not sent[0]["message"].startswith("chio: chio ")
    assert list(tmp_path.iterdir()) == []


def test_a_test_client_learns_that_the_start_failed(tmp_path: Path) -> None:
    """It waits for ever for the end of an application that only says so and returns."""
    with pytest.raises(ConfigurationError, match="dir"), TestClient(unopenable(tmp_path)):
        raise AssertionError("it must not start")


@pytest.mark.parametrize("kind", ["pubsub", "", "HTTP", "http2"])
def test_an_unknown_kind_of_connection_is_not_passed_on(kind: str) -> None:
    called: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope)

    governed, _ = govern(app)
    with pytest.raises(ConfigurationError, match="cannot be governed"):
        run(exchange(governed, {"type": kind}, []))
    assert called == []


def test_two_hundred_starts_and_stops() -> None:
    app, _ = govern(Starlette())
    for _ in range(200):
        assert [m["type"] for m in lifespan(app)] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_one_line_at_the_start_names_the_sidecar_and_the_number_of_routes(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> PlainTextResponse:
        return PlainTextResponse("x")

    inner = Starlette(routes=[Route("/a", handler), Route("/static/b", handler)])
    app = Starlette(routes=[Route("/", handler, methods=["OPTIONS"]), Route("/up", handler), Mount("/in", inner)])
    config = settings(exclude_paths="/up", exclude_prefixes="/in/static", fail_open=True)
    with caplog.at_level(logging.INFO, logger="chio"):
        ChioASGIMiddleware(app, config)
        ChioASGIMiddleware(handler, config)  # no routes to look at
    told, plain = (one.getMessage() for one in caplog.records if one.levelno == logging.INFO)
    line = f"chio: requests are evaluated by the sidecar {config.sidecar_url}; key: "
    assert told.startswith(line)
    assert "; governed routes: 1; not governed: /in/static/…, /up, OPTIONS; fail_open is on" in told
    assert plain == told.replace("; governed routes: 1", "")
