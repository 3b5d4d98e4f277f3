"""What cannot work is said where it is given or when the server starts, on every face, and not at the first request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware

from chio_asgi import ChioASGIMiddleware
from chio_core import Chain, ConfigurationError, GuardRequest
from chio_fastapi import add_chio
from chio_flask import Chio
from tests.django.project import CHIO
from tests.support import call, connect


def plain(request: GuardRequest) -> None: ...


async def cache(request: GuardRequest) -> None: ...


MISTAKES: dict[str, tuple[Any, str]] = {
    "def": ([plain], "guard plain must be `async def`"),
    "order": ([Chain().add(cache, requires=["decision"], priority=-1)], r"cache \(priority -1\) requires 'decision'"),
    "list": (cache, r"write (guards|CHIO_GUARDS)=\[cache\]"),
}


def django(handler: Callable[[], Any]) -> Callable[[Any], None]:
    def start(guards: Any) -> None:
        with override_settings(MIDDLEWARE=[CHIO], CHIO_GUARDS=guards):
            handler()

    return start


PLACES: dict[str, Callable[[Any], Any]] = {
    "fastapi": lambda guards: add_chio(FastAPI(), guards=guards),
    "asgi": lambda guards: ChioASGIMiddleware(Starlette(), guards=guards),
    "flask": lambda guards: Chio(Flask("x"), guards=guards),
    "django": django(WSGIHandler),
    "django-async": django(ASGIHandler),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_guards_that_cannot_work_are_refused_where_they_are_given(place: str, mistake: str) -> None:
    guards, text = MISTAKES[mistake]
    with pytest.raises(ConfigurationError, match=text):
        PLACES[place](guards)


@pytest.mark.parametrize("place", ["fastapi", "asgi", "flask"])
def test_a_guard_that_is_added_too_late_is_refused(place: str) -> None:
    chain = Chain(cache)
    PLACES[place](chain)
    with pytest.raises(ConfigurationError, match="frozen"):
        chain.add(cache)


def added(**options: Any) -> Starlette:
    app = Starlette()
    app.add_middleware(ChioASGIMiddleware, **options)
    return app


# Starlette makes its middleware when the server starts it, and uvicorn takes an exception at that moment for an
# application without a lifespan.
LATE: dict[str, Callable[[], Starlette]] = {
    "def": lambda: added(guards=[plain]),
    "order": lambda: Starlette(middleware=[Middleware(ChioASGIMiddleware, guards=MISTAKES["order"][0])]),
    "environment": added,
}


@pytest.fixture(params=LATE)
def unusable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Starlette:
    if request.param == "environment":
        monkeypatch.setenv("CHIO_SIDECAR_URL", "htp://sidecar")
    return LATE[request.param]()


async def test_a_middleware_that_cannot_work_stops_uvicorn(
    unusable: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    config = uvicorn.Config(unusable, lifespan="auto", log_config=None)
    config.load()
    lifespan = config.lifespan_class(config)
    await lifespan.startup()
    assert lifespan.should_exit
    assert any(record.getMessage().startswith("chio: ") for record in caplog.records if record.name == "uvicorn.error")


async def test_without_a_lifespan_it_refuses_and_the_log_has_the_reason_once(
    unusable: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await call(unusable), await call(unusable)
    assert {(one.status, one.json()["error"]) for one in (first, second)} == {(500, "chio_configuration")}
    assert (await connect(unusable)).status == 500
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.getMessage().startswith("chio: this application cannot start: ")
    assert not [record for record in caplog.records if record.exc_info]
