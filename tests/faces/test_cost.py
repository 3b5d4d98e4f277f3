"""Governance costs a small multiple of the framework's own work (C1), counted in calls of Python functions.

A count is the same on a slow machine. `python -m benchmarks` measures processor time.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from flask import Flask

from chio_asgi import ChioASGIConfig
from chio_core.testing import ScriptedSidecar
from chio_fastapi import add_chio
from chio_flask import Chio
from tests.faces.faces import pointing_at
from tests.support import call

WARM = 10
TIMES = 10


class Calls:
    """Number of Python functions that this thread entered, or went on with, inside of the block."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: object, event: str, argument: object) -> None:
        self.number += event == "call"


def fastapi(govern: Callable[[FastAPI], object]) -> int:
    """Return the calls of one request to a FastAPI application."""
    app = FastAPI()

    @app.get("/hello/{name}")
    async def hello(name: str) -> dict[str, str]:
        return {"hello": name}

    govern(app)

    async def main() -> int:
        async def served() -> None:
            assert (await call(app, "GET", "/hello/you")).status == 200

        found = await fewest(served)
        client = getattr(app.state, "chio_client", None)
        if client is not None:
            await client.aclose()
        return found

    return asyncio.run(main())


async def fewest(served: Callable[[], Awaitable[None]]) -> int:
    """Return the calls of a request when everything is open and cached."""
    for _ in range(WARM):
        await served()
    found = []
    for _ in range(TIMES):
        with Calls() as calls:
            await served()
        found.append(calls.number)
    return min(found)


def flask(govern: Callable[[Flask], object]) -> int:
    """Return the calls of one request to a Flask application."""
    app = Flask(__name__)
    app.get("/hello/<name>")(lambda name: {"hello": name})
    govern(app)

    async def served() -> None:
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": "/hello/you", "SCRIPT_NAME": "", "QUERY_STRING": "",
            "SERVER_NAME": "a", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
            "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        statuses: list[str] = []
        response: Any = app(environ, lambda status, headers, error=None: statuses.append(status))
        assert b"".join(response)
        response.close()
        assert statuses == ["200 OK"]

    return asyncio.run(fewest(served))


@contextmanager
def separate() -> Iterator[dict[str, Any]]:
    """Give the settings of a sidecar that is not in this thread."""
    with ScriptedSidecar().serving_in_thread() as sidecar:
        yield pointing_at(sidecar)


def ungoverned(app: object) -> None:
    pass


def added(governed: int, bare: int) -> float:
    """Return what governance adds, as a multiple of the bare request."""
    print(f"{bare} calls, governed {governed}: {governed / bare - 1:.2f} times as many are added")
    return governed / bare - 1


def test_a_sidecar_of_its_own_costs_fastapi_less_than_one_and_a_third_times_the_request() -> None:
    with separate() as options:
        governed = fastapi(lambda app: add_chio(app, ChioASGIConfig(**options)))
    assert added(governed, fastapi(ungoverned)) < 4 / 3


def test_an_embedded_sidecar_costs_fastapi_less_than_twice_the_request(tmp_path: Path) -> None:
    """It evaluates, signs and verifies in the same process."""
    url = f"embedded:{tmp_path / 'receipts.sqlite3'}"
    governed = fastapi(lambda app: add_chio(app, ChioASGIConfig(sidecar_url=url)))
    assert added(governed, fastapi(ungoverned)) < 2


def test_a_sidecar_of_its_own_costs_flask_less_than_twice_the_request() -> None:
    with separate() as options:
        governed = flask(lambda app: Chio(app, **options))
    assert added(governed, flask(ungoverned)) < 2
