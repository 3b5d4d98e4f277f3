"""Slowness of this process is never the sidecar's: it is refused with 503, and `fail_open` does not apply."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvloop
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_core.concurrency.loop_thread import SLOW_MS
from chio_core.guards import SecurityHeaders
from chio_core.identity import default_extractor
from chio_core.models.request import CallerIdentity
from chio_core.request import RequestView
from chio_core.testing import ScriptedSidecar
from chio_core.testing.behaviours import ALLOW, HANG, Behaviour
from chio_core.testing.exchange import EvaluateRequest
from chio_fastapi import RequireCapability, add_chio
from chio_sidecar.store.driver import sqlite3
from tests.carrier.stubs import until
from tests.faces.faces import FACES, ASGIFace, Face, Observation, pointing_at
from tests.faces.wire import asgi_call, messages_of, request, scope_of
from tests.support import call

FULL = {"fail_open": True, "max_connections": 1, "timeout": 1.0}
WIRE = request("DELETE", "/anything")


def two_at_once(face: Face, sidecar: ScriptedSidecar, first: threading.Event) -> list[Observation]:
    """Send two requests, the second when the sidecar has got the first."""
    options = {**pointing_at(sidecar), **FULL}
    if not isinstance(face, ASGIFace):
        with face.opened(**options) as send, ThreadPoolExecutor(2) as threads:
            one = threads.submit(send, WIRE)
            assert first.wait(20)
            return [threads.submit(send, WIRE).result(20), one.result(20)]

    async def in_a_loop() -> list[Any]:
        client = ChioClient(ChioASGIConfig(**options))
        with face.app(client, {}) as app:
            one = asyncio.ensure_future(asgi_call(app, scope_of(WIRE), messages_of(WIRE)))
            await until(first.is_set, 20)
            replies = [await asgi_call(app, scope_of(WIRE), messages_of(WIRE)), await one]
            await client.aclose()
            return replies

    return [Observation(reply.status, reply.headers, reply.body) for reply in asyncio.run(in_a_loop())]


@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_request_that_waits_for_a_connection_never_runs_undecided(face: Face) -> None:
    first = threading.Event()

    def script(asked: EvaluateRequest) -> Behaviour:
        first.set()
        return HANG

    with ScriptedSidecar(script).serving_in_thread() as sidecar:
        waited, hung = two_at_once(face, sidecar, first)
    assert (waited.status, waited.code) == (503, face.code("chio_overloaded"))
    assert waited.headers["retry-after"] == "1"
    assert (hung.status, hung.json["passthrough"]) == (200, "chio_timeout")


@contextmanager
def reading(store: Path) -> Iterator[Callable[[], int]]:
    """Give a function that counts the receipts of a store."""
    connection = sqlite3.connect(store, isolation_level=None)
    try:
        yield lambda: int(connection.execute("SELECT count(*) FROM http_receipts").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("turns", range(6))
def test_a_handler_that_holds_the_loop_lets_nothing_run_undecided(
    turns: int, new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """The deny is stored while the loop is held, and found although the time is over."""
    store, ran = tmp_path / "receipts.sqlite3", []
    timeout, others = 0.5, 5  # what begins after the loop was held is decided in this time, also beside other work

    async def main() -> list[Any]:
        loop, entered = asyncio.get_running_loop(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            ran.append(scope["method"])
            entered.set()
            for _ in range(turns):  # how far the others come before the loop is held
                await asyncio.sleep(0)
            end = loop.time() + 2 * timeout
            while loop.time() < end:
                receipts()
                threading.Event().wait(0.005)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

        async def later() -> Any:
            await entered.wait()
            return await call(governed, "DELETE", "/")

        async with ChioClient(
            ChioASGIConfig(sidecar_url=f"embedded:{store}", fail_open=True, timeout=timeout)
        ) as client:
            client.open()
            governed = ChioASGIMiddleware(app, client=client)
            with reading(store) as receipts:
                return await asyncio.gather(*(later() for _ in range(others)), call(governed, "GET", "/"))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        *denied, _ = runner.run(main())
    assert [(reply.status, reply.json()["error"]) for reply in denied] == [(403, "chio_access_denied")] * others
    assert ran == ["GET"]


# A function of the application that holds the event loop is named; the decision, which is none, never is


def hold() -> None:
    end = time.perf_counter() + 2 * SLOW_MS / 1000
    while time.perf_counter() < end:
        pass


def slow_hook(value: Any) -> None:
    hold()


async def slow_async_hook(value: Any) -> None:
    await asyncio.sleep(0)
    hold()


async def patient_hook(value: Any) -> None:
    await asyncio.sleep(2 * SLOW_MS / 1000)


def slow_extractor(view: RequestView) -> CallerIdentity:
    hold()
    return default_extractor()(view)


def late_allow(asked: EvaluateRequest) -> Behaviour:
    hold()  # the sidecar has a thread of its own
    return ALLOW


@contextmanager
def warnings_of(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, "chio"):
        yield lambda: [one.getMessage() for one in caplog.records if "blocked the event loop" in one.getMessage()]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"on_decision": slow_hook}, "hook slow_hook"),
        ({"on_receipt": slow_async_hook}, "hook slow_async_hook"),
        ({"extractor": slow_extractor}, "extractor slow_extractor"),
        ({"on_decision": patient_hook}, None),
        ({}, None),
    ],
    ids=["hook", "async hook", "extractor", "hook that waits", "sidecar that is slow"],
)
@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_function_that_holds_the_loop_is_named(
    face: Face, options: dict[str, Any], name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with face.governed(late_allow, guards=[SecurityHeaders()], **options) as governed, warnings_of(caplog) as warned:
        assert governed.get("/hello").status == 200
    if name is None or not isinstance(face, ASGIFace):
        assert warned() == []
    else:
        (warning,) = warned()
        assert warning.startswith(f"chio: {name} blocked the event loop for ")


def slow_arguments(params: Any) -> dict[str, str]:
    hold()
    return {}


def test_a_function_for_arguments_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.get("/")
    def view(receipt: Annotated[Any, Depends(RequireCapability("a", "b", arguments=slow_arguments))]) -> None: ...

    add_chio(app, client=ScriptedSidecar().client())
    with warnings_of(caplog) as warned:
        assert TestClient(app).get("/").status_code == 401
    assert warned()
    assert all(one.startswith("chio: function for arguments slow_arguments blocked") for one in warned())
