"""Settings of all tests: small or full sizes, and an event loop for each `async def test_…`."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import prefork
from tests.support import run

if TYPE_CHECKING:
    from tests.sidecar.postgres_tools import Server

pytest_plugins = ["pytester"]  # runs the tests of users, see tests/plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="tests marked `slow` run at their full size")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Iterator[object]:
    """Keep what is collected, some hundred thousand objects, out of every garbage collection, now and later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def full_size(request: pytest.FixtureRequest) -> bool:
    """True under `make chaos`: a test marked `slow` then takes minutes instead of seconds."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server, started for the first test that needs it."""
    from tests.sidecar.postgres_tools import Server

    server = Server()
    yield server
    server.close()


def pytest_sessionfinish() -> None:
    prefork.end()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test in its own event loop: it fails if it hangs or leaves a task behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = inspect.signature(pyfuncitem.obj).parameters
    run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments}))
    return True
