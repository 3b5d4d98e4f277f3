"""The embedded sidecar of `add_chio` has the application's routes and policies, wherever the application is mounted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Router
from starlette.testclient import TestClient

from chio_asgi import ChioASGIMiddleware
from chio_asgi.listing import document_for
from chio_fastapi import Budget, Policy, add_chio
from tests.support import settings


def make() -> FastAPI:
    """Return an application whose policies differ from the defaults of its methods."""
    app = FastAPI()

    @app.post("/login", dependencies=[Depends(Policy(side_effects=False))])
    def login() -> None: ...

    @app.get("/users/{user}/secret", openapi_extra={"x-chio-side-effects": True})
    def secret(user: str) -> None: ...

    @app.post("/spend", dependencies=[Depends(Policy(side_effects=False)), Depends(Budget(max_invocations=1))])
    def spend() -> None: ...

    return app


def mounted(*paths: str) -> Callable[[FastAPI], Any]:
    def outer(app: FastAPI) -> Any:
        return Starlette(routes=[Mount(path, app=app) for path in paths])

    return outer


PLACES: dict[str, tuple[Callable[[FastAPI], Any], str]] = {
    "alone": (lambda app: app, ""),
    "mounted": (mounted("/api"), "/api"),
    "mounted twice": (mounted("/v1", "/v2"), "/v2"),
    "mounted in a mount": (lambda app: Starlette(routes=[Mount("/a", app=mounted("/b")(app))]), "/a/b"),
    "mounted in a router": (lambda app: Starlette(routes=[Mount("/r", app=Router([Mount("/b", app=app)]))]), "/r/b"),
    "mounted in FastAPI": (lambda app: _mounted_in_fastapi(app), "/api"),
    "mounted with a parameter": (mounted("/tenants/{tenant}"), "/tenants/acme"),
}


def _mounted_in_fastapi(app: FastAPI) -> FastAPI:
    outer = FastAPI()
    outer.mount("/api", app)
    return outer


@contextmanager
def serving(place: str, folder: Path, app: FastAPI | None = None) -> Iterator[Callable[[str, str], int]]:
    app = app if app is not None else make()
    add_chio(app, sidecar_url=f"embedded:{folder}/store.sqlite3")
    outer, prefix = PLACES[place]
    with TestClient(outer(app)) as client:
        yield lambda method, path: client.request(method, prefix + path).status_code
        if place != "alone":  # a mounted application has no lifespan
            client.portal.call(app.state.chio_client.aclose)  # type: ignore[union-attr]


@pytest.mark.parametrize("place", PLACES)
def test_the_policies_of_the_routes_count(place: str, tmp_path: Path) -> None:
    """G21: alone login got 200, and 403 in a mount."""
    with serving(place, tmp_path) as send:
        assert send("POST", "/login") == 200
        assert send("GET", "/users/7/secret") == 403


@pytest.mark.parametrize("place", PLACES)
def test_no_warning_advises_what_cannot_be_done(place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = make()
    app.add_api_route("/users/{user}", lambda user: None)
    with serving(place, tmp_path, app) as send:
        assert send("GET", "/users/7") == 200
    assert "does not know route" not in caplog.text


@pytest.mark.parametrize("place", [place for place in PLACES if "parameter" not in place])
def test_a_budget_has_one_account(place: str, tmp_path: Path) -> None:
    with serving(place, tmp_path) as send:
        assert [send("POST", "/spend") for _ in range(2)] == [200, 403]


def test_the_document_of_the_outer_application_is_for_the_sidecar_of_a_mounted_one(tmp_path: Path) -> None:
    app = make()
    outer = _mounted_in_fastapi(app)
    spec = tmp_path / "openapi.json"
    spec.write_text(document_for(outer))
    assert {"/api/login", "/api/users/{user}/secret"} <= json.loads(spec.read_text())["paths"].keys()
    add_chio(app, sidecar_url=f"embedded:{tmp_path}/store.sqlite3?spec={spec}")
    with TestClient(outer) as client:
        answers = client.post("/api/login"), client.get("/api/users/7/secret")
        client.portal.call(app.state.chio_client.aclose)  # type: ignore[union-attr]
    assert [one.status_code for one in answers] == [200, 403]


def test_a_middleware_around_a_mounted_application_finds_its_place(tmp_path: Path) -> None:
    governed = ChioASGIMiddleware(
        make(), settings(sidecar_url=f"embedded:{tmp_path}/s.sqlite3", trusted_kernel_keys=())
    )
    with TestClient(Starlette(routes=[Mount("/api", app=governed)])) as client:
        assert client.get("/api/users/7/secret").status_code == 200  # this middleware brings no document
        assert governed.client.mounts == ("/api",)
        client.portal.call(governed.client.aclose)  # type: ignore[union-attr]
