"""A capability that a login issues opens the routes for its user, and for no other one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from flask import Flask, session
from starlette.middleware.sessions import SessionMiddleware

import chio_django
import chio_fastapi
import chio_flask
from chio_core.errors import ConfigurationError
from tests.django.project import CHIO
from tests.faces.faces import SIGNED

Browser = Callable[[str], Any]
"""Sends a POST of one browser from a page of the application, and returns the response."""

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The address of an embedded sidecar."""
    return f"embedded:{tmp_path / 'receipts.sqlite3'}"


@contextmanager
def fastapi_browser(store: str) -> Iterator[Browser]:
    app = FastAPI()
    extractor = chio_fastapi.from_session("user")
    chio_fastapi.add_chio(app, sidecar_url=store, extractor=extractor, capability_source="session")
    app.add_middleware(SessionMiddleware, secret_key="for tests")
    free = [Depends(chio_fastapi.Policy(side_effects=False))]

    @app.post("/login/{user}", dependencies=free)
    async def login(user: str, request: Request, issuer: chio_fastapi.IssuerDep) -> None:
        request.session["user"] = user
        request.session["chio_capability"] = (await issuer.aissue("shop/order")).to_header()

    @app.post("/login/sync/{user}", dependencies=free)
    def login_in_a_thread(user: str, request: Request, issuer: chio_fastapi.IssuerDep) -> None:
        request.session["user"] = user
        request.session["chio_capability"] = issuer.issue("shop/order").to_header()

    @app.post("/as/{user}", dependencies=free)
    async def become(user: str, request: Request) -> None:
        request.session["user"] = user

    @app.post("/orders", dependencies=[Depends(chio_fastapi.RequireCapability("shop", "order"))])
    async def order() -> None: ...

    @app.post("/anonymous", dependencies=free)
    async def anonymous(issuer: chio_fastapi.IssuerDep) -> None:
        await issuer.aissue("shop/order")

    with TestClient(app) as client:
        yield lambda where: client.post(where, headers=OWN)


@contextmanager
def flask_browser(store: str) -> Iterator[Browser]:
    app = Flask("shop")
    app.secret_key = "for tests"
    app.testing = True
    extractor = chio_flask.from_session("user")
    chio = chio_flask.Chio(app, sidecar_url=store, extractor=extractor, capability_source="session")
    free = chio_flask.Policy(side_effects=False)

    @app.post("/login/<user>")
    @free
    async def login(user: str) -> str:
        session["user"] = user
        session["chio_capability"] = (await chio_flask.aissue_capability("shop/order")).to_header()
        return "in"

    @app.post("/login/sync/<user>")
    @free
    def login_in_a_thread(user: str) -> str:
        session["user"] = user
        session["chio_capability"] = chio_flask.issue_capability("shop/order").to_header()
        return "in"

    @app.post("/as/<user>")
    @free
    def become(user: str) -> str:
        session["user"] = user
        return "in"

    @app.post("/orders")
    @chio_flask.require_capability("shop", "order")
    def order() -> str:
        return "ordered"

    @app.post("/anonymous")
    @free
    def anonymous() -> str:
        return chio_flask.issue_capability("shop/order").to_header()

    client = app.test_client()
    yield lambda where: client.post(where, headers=OWN)
    chio.close(app)


FREE = chio_django.Policy(side_effects=False)


@FREE
async def alogin(request: HttpRequest, user: str) -> HttpResponse:
    request.session[SESSION_KEY] = user
    token = await chio_django.aissue_capability(request, "shop/order")
    request.session["chio_capability"] = token.to_header()
    return HttpResponse("in")


@FREE
def login(request: HttpRequest, user: str) -> HttpResponse:
    request.session[SESSION_KEY] = user
    request.session["chio_capability"] = chio_django.issue_capability(request, "shop/order").to_header()
    return HttpResponse("in")


@FREE
def become(request: HttpRequest, user: str) -> HttpResponse:
    request.session[SESSION_KEY] = user
    return HttpResponse("in")


@chio_django.require_capability("shop", "order")
def order(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ordered")


@FREE
def anonymous(request: HttpRequest) -> HttpResponse:
    return HttpResponse(chio_django.issue_capability(request, "shop/order").to_header())


urlpatterns = [
    path("login/sync/<user>", login), path("login/<user>", alogin), path("as/<user>", become), path("orders", order),
    path("anonymous", anonymous),
]  # fmt: skip


@contextmanager
def django_project(store: str) -> Iterator[None]:
    with override_settings(
        MIDDLEWARE=[CHIO, "django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE=SIGNED,
        ROOT_URLCONF=__name__,
        CHIO_SIDECAR_URL=store,
        CHIO_CAPABILITY_SOURCE="session",
        CHIO_EXTRACTOR=chio_django.session_user,
    ):
        yield


@contextmanager
def django_browser(store: str) -> Iterator[Browser]:
    with django_project(store):
        client = Client(headers=OWN)
        yield client.post


@contextmanager
def django_async_browser(store: str) -> Iterator[Browser]:
    with django_project(store), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        client = AsyncClient()
        yield lambda where: runner.run(client.post(where, headers=OWN))


each_face = pytest.mark.parametrize("face", [fastapi_browser, flask_browser, django_browser, django_async_browser])


@each_face
@pytest.mark.parametrize("login", ["/login", "/login/sync"])
def test_a_login_issues_a_capability_that_opens_the_routes_of_its_user_only(face: Any, login: str, store: str) -> None:
    with face(store) as post:
        assert post("/orders").status_code == 401
        assert post(f"{login}/alice").status_code == 200
        assert post("/orders").status_code == 200
        assert post("/as/bob").status_code == 200
        refused = post("/orders")
        assert post("/as/alice").status_code == 200
        again = post("/orders")
    assert (refused.status_code, again.status_code) == (401, 200)


@each_face
def test_an_anonymous_caller_gets_none(face: Any, store: str) -> None:
    with face(store) as post, pytest.raises(ConfigurationError, match="anonymous caller"):
        post("/anonymous")
