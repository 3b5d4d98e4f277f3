"""What cannot work is said where it is given or when the server starts, on every face, and not at the first request."""

from __future__ import annotations

import logging
import os
import re
import sys
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
from chio_core import Chain, ChioSettings, ConfigurationError, GuardRequest
from chio_fastapi import add_chio
from chio_flask import Chio
from chio_sidecar.store.driver import sqlite3
from chio_wsgi import ChioWSGIMiddleware
from tests.django.project import CHIO
from tests.examples.running import ROOT, run
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


def django_with(handler: Callable[[], Any]) -> Callable[..., None]:
    def start(**options: Any) -> None:
        with override_settings(MIDDLEWARE=[CHIO], **{f"CHIO_{name.upper()}": value for name, value in options.items()}):
            handler()

    return start


STARTS: dict[str, Callable[..., Any]] = {
    "fastapi": lambda **options: add_chio(FastAPI(), **options),
    "asgi": lambda **options: ChioASGIMiddleware(Starlette(), ChioSettings(**options)),
    "wsgi": lambda **options: ChioWSGIMiddleware(not_called, ChioSettings(**options)),
    "flask": lambda **options: Chio(Flask("x"), **options),
    "django": django_with(WSGIHandler),
    "django-async": django_with(ASGIHandler),
}


def not_called(environ: Any, start_response: Any) -> Any: ...


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_an_embedded_sidecar_that_cannot_open_stops_the_start(name: str, start: str, tmp_path: Path) -> None:
    url = _no_store(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match=UNUSABLE[name]) as caught:
        STARTS[start](sidecar_url=url)
    assert caught.value.message.startswith("sidecar_url (environment CHIO_SIDECAR_URL): ")
    assert sorted(tmp_path.iterdir()) == before


SEEDS: dict[str, tuple[str | None, int, str]] = {
    "missing": (None, 0, "cannot read .*: No such file"),
    "open": ("canary", 0o644, "must be a file that only its owner may read: chmod 600"),
    "no key": ("canary", 0o600, "holds no key: 64 hex digits and a newline"),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", SEEDS)
def test_an_authority_whose_key_cannot_be_used_stops_the_start(name: str, start: str, tmp_path: Path) -> None:
    """Not the first login."""
    content, mode, text = SEEDS[name]
    path = tmp_path / "authority.seed"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConfigurationError, match=text) as caught:
        STARTS[start](authority_seed_file=str(path))
    assert caught.value.message.startswith("authority_seed_file (environment CHIO_AUTHORITY_SEED_FILE): ")
    assert "canary" not in caught.value.message


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "sidecar_url": ({"sidecar_url": "htp://user:canary@host"}, "must start with http://, https://, unix: or embedded:"),
    "trusted_kernel_keys": ({"trusted_kernel_keys": "canary"}, "64 hex digits"),
    "trust_url": ({"trust_url": "embedded:canary"}, "must start with http://, https:// or unix:"),
    "capability_source": ({"capability_source": "canary"}, "must be header, cookie:NAME, session or session:KEY"),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_value_that_cannot_be_used_stops_the_start_and_is_not_repeated(name: str, start: str) -> None:
    options, text = SETTINGS[name]
    with pytest.raises(ConfigurationError, match=re.escape(text)) as caught:
        STARTS[start](**options)
    assert caught.value.message.startswith(f"{name} (environment CHIO_{name.upper()}): ")
    assert "canary" not in caught.value.message


WITHOUT_THE_EXTRA = """
import sys
from tests.faces.test_start import ConfigurationError, STARTS

def start_all(library, url):
    sys.modules[library] = None
    for name, start in STARTS.items():
        try:
            start(sidecar_url=url)
        except ConfigurationError as exc:
            print(exc.message)

start_all("psycopg", "embedded:postgresql://chio@127.0.0.1:1/chio?key=/nowhere/key")
for name in [name for name in sys.modules if name.startswith("chio_sidecar")]:
    del sys.modules[name]
start_all("ulid", "embedded:/nowhere/store.sqlite3")
"""


def test_without_an_extra_every_start_names_the_extra() -> None:
    # The sidecar is loaded here already, so another interpreter has to miss its libraries.
    done = run(sys.executable, "-c", WITHOUT_THE_EXTRA, cwd=ROOT, PYTHONPATH=os.pathsep.join(sys.path))
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2 * len(STARTS)
    needed = {"postgresql": "a receipt store in PostgreSQL needs", "sidecar": "an embedded sidecar needs"}
    for (extra, text), lines in zip(needed.items(), (told[: len(STARTS)], told[len(STARTS) :]), strict=True):
        (line,) = set(lines)
        assert line.startswith(f"sidecar_url (environment CHIO_SIDECAR_URL): {text} the extra '{extra}'")
        assert f"pip install -e '.[{extra}]'" in line


@pytest.mark.parametrize("start", STARTS)
def test_a_start_opens_and_creates_no_store(start: str, tmp_path: Path) -> None:
    """The server may fork after it, and commands import the application."""
    STARTS[start](sidecar_url=f"embedded:{tmp_path}/store.sqlite3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("name", [*UNUSABLE, *SEEDS])
def test_manage_py_check_names_a_file_that_cannot_be_used(name: str, deploy: bool, tmp_path: Path) -> None:
    options, text = {"CHIO_SIDECAR_URL": _no_store(tmp_path, name)}, UNUSABLE.get(name, "")
    if name in SEEDS:
        content, mode, text = SEEDS[name]
        options = {"CHIO_AUTHORITY_SEED_FILE": str(tmp_path / "seed"), "CHIO_SIDECAR_URL": "http://127.0.0.1:9090"}
        if content is not None:
            (tmp_path / "seed").write_text(content)
            (tmp_path / "seed").chmod(mode)
    with override_settings(MIDDLEWARE=[CHIO], **options):
        found = run_checks(include_deployment_checks=deploy)
    (error,) = [one for one in found if str(one.id).startswith("chio.E")]
    assert (error.id, error.level) == ("chio.E006", ERROR)
    assert re.search(text, error.msg)
    assert error.hint


def test_a_store_in_use_stops_no_start(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path}/store.sqlite3"
    with FlaskFace().opened(sidecar_url=url) as send:
        assert send(request("GET", "/hello")).status == 200
        for start in STARTS.values():
            start(sidecar_url=url)
    for start in STARTS.values():
        start(sidecar_url=url)


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
    "store": added,
}


@pytest.fixture(params=LATE)
def unusable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Starlette:
    urls = {"environment": "htp://sidecar", "store": f"embedded:{tmp_path}/missing/store.sqlite3"}
    if request.param in urls:
        monkeypatch.setenv("CHIO_SIDECAR_URL", urls[request.param])
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
