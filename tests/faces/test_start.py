"""What cannot work is said where it is given or when the server starts, on every face, and not at the first request."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from django.core.checks import ERROR, run_checks
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
from chio_sidecar.store.driver import sqlite3
from tests.django.project import CHIO
from tests.faces.faces import FACES, Face, FlaskFace
from tests.faces.wire import request
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


def _no_store(folder: Path, name: str) -> str:
    path = folder / "store.sqlite3"
    match name:
        case "folder":
            return f"embedded:{folder}/missing/store.sqlite3"
        case "file":
            path.write_text("no database " * 100)
        case "short":
            path.write_text("short")
        case "directory":
            path.mkdir()
        case "foreign":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("CREATE TABLE other (a)")
        case "key":
            path.with_name("store.sqlite3.key").touch(mode=0o600)
        case "open key":
            path.with_name("store.sqlite3.key").touch(mode=0o644)
        case "document":
            return f"embedded:{path}?spec={folder}/missing.yaml"
        case "document content":
            (folder / "spec.yaml").write_text("no: document")
            return f"embedded:{path}?spec={folder}/spec.yaml"
    return f"embedded:{path}"


UNUSABLE = {
    "folder": "cannot open receipt store .*No such file",
    "file": "file is not a database",
    "short": "damaged or no receipt store",
    "directory": "no regular file",
    "foreign": "database of another program",
    "key": "holds no signing key",
    "open key": "mode 0644",
    "document": "cannot read the OpenAPI document",
    "document content": "OpenAPI",
}


def flask(url: str) -> None:
    Chio(Flask("x"), sidecar_url=url)


def django_with(handler: Callable[[], Any]) -> Callable[[str], None]:
    def start(url: str) -> None:
        with override_settings(MIDDLEWARE=[CHIO], CHIO_SIDECAR_URL=url):
            handler()

    return start


STARTS: dict[str, Callable[[str], Any]] = {
    "fastapi": lambda url: add_chio(FastAPI(), sidecar_url=url),
    "flask": flask,
    "django": django_with(WSGIHandler),
    "django-async": django_with(ASGIHandler),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_an_embedded_sidecar_that_cannot_open_stops_the_start(name: str, start: str, tmp_path: Path) -> None:
    """Other ASGI applications open it in their lifespan, see `tests/asgi/test_lifespan.py`."""
    url = _no_store(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match=UNUSABLE[name]):
        STARTS[start](url)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("start", STARTS)
def test_a_start_opens_and_creates_no_store(start: str, tmp_path: Path) -> None:
    """The server may fork after it, and commands import the application."""
    STARTS[start](f"embedded:{tmp_path}/store.sqlite3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("name", UNUSABLE)
def test_manage_py_check_names_an_embedded_sidecar_that_cannot_open(name: str, deploy: bool, tmp_path: Path) -> None:
    url = _no_store(tmp_path, name)
    with override_settings(MIDDLEWARE=[CHIO], CHIO_SIDECAR_URL=url):
        found = [one for one in run_checks(include_deployment_checks=deploy) if str(one.id).startswith("chio.")]
    (error,) = found
    assert (error.id, error.level) == ("chio.E006", ERROR)
    assert re.search(UNUSABLE[name], error.msg)
    assert error.hint


def test_a_store_in_use_stops_no_start(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/store.sqlite3"
    with FlaskFace().opened(sidecar_url=url) as send:
        assert send(request("GET", "/hello")).status == 200
        for start in STARTS.values():
            start(url)
    for start in STARTS.values():
        start(url)


@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_store_that_is_lost_later_refuses_and_the_log_has_the_reason_once(
    face: Face, fail_open: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A configuration that cannot work is no sidecar that is unreachable: `fail_open` opens nothing."""
    folder = tmp_path / "state"
    folder.mkdir()
    with face.opened(sidecar_url=f"embedded:{folder}/store.sqlite3", fail_open=fail_open) as send:
        folder.rmdir()
        first, second = send(request("GET", "/hello")), send(request("GET", "/hello"))
        assert (first.status, first.code, first.seen) == (500, face.code("chio_configuration"), [])
        assert (second.status, second.seen) == (500, [])
        (reason,) = [one for one in caplog.records if "cannot be evaluated, and get a 500" in one.getMessage()]
        assert "No such file" in reason.getMessage()
        assert not [one for one in caplog.records if one.exc_info and one.name.startswith("chio")]
        folder.mkdir()
        assert send(request("GET", "/hello")).status == 200


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
