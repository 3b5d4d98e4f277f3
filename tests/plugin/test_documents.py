"""The fixture decides by the policy that an application states, as its sidecar in production does."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask

import chio_django
import chio_flask
from chio_asgi.listing import document_for
from chio_core import ConfigurationError
from chio_core.testing import ChioFixture
from chio_fastapi import Policy, RequireCapability, add_chio
from chio_flask import Chio
from tests.django import project


def shop(**options: Any) -> FastAPI:
    app = FastAPI()
    add_chio(app, **options)

    @app.post("/login", dependencies=[Depends(Policy(side_effects=False))])
    async def login() -> None: ...

    @app.get("/export", dependencies=[Depends(Policy(side_effects=True))])
    async def export() -> None: ...

    @app.post("/orders/{number}", dependencies=[Depends(RequireCapability("shop", "order"))])
    async def order(number: int) -> None: ...

    @app.post("/comments")
    async def comment() -> None: ...

    return app


@pytest.mark.parametrize("how", ["connect", "client", "document"])
def test_a_route_without_side_effects_is_open_as_in_production(how: str, chio: ChioFixture) -> None:
    if how == "connect":
        app = chio.connect(shop(sidecar_url="embedded:shop.sqlite3"))
    elif how == "client":
        app = shop(client=chio.client)
    else:
        app = shop()  # from the environment, over a socket
        chio.use_document(document_for(app))
    with TestClient(app) as client:
        assert client.post("/login").status_code == 200
        assert client.get("/export").status_code == 401
        assert client.get("/export", headers=chio.headers()).status_code == 200
        assert client.post("/comments").status_code == 403
        assert client.post("/orders/7").status_code == 401
        assert client.post("/orders/7", headers=chio.headers(chio.capability("shop", "order"))).status_code == 200


def flask_shop(**options: Any) -> Flask:
    app = Flask("shop")
    Chio(app, **options)
    app.add_url_rule("/login", "login", chio_flask.Policy(side_effects=False)(lambda: "in"), methods=["POST"])
    app.add_url_rule("/comments", "comment", lambda: "said", methods=["POST"])
    return app


@pytest.mark.parametrize("how", ["connect", "client"])
def test_flasks_views_state_their_policy_too(how: str, chio: ChioFixture) -> None:
    by_client = how == "client"
    app = (
        flask_shop(client=chio.sync_client)
        if by_client
        else chio.connect(flask_shop(sidecar_url="embedded:shop.sqlite3"))
    )
    client = app.test_client()
    assert [client.post(path).status_code for path in ("/login", "/comments")] == [200, 403]


def test_views_of_django_state_their_policy_too(chio: ChioFixture) -> None:
    views = ModuleType("shop_urls")
    vars(views)["urlpatterns"] = [
        path("login", csrf_exempt(chio_django.Policy(side_effects=False)(lambda request: HttpResponse()))),
        path("comments", csrf_exempt(lambda request: HttpResponse())),
    ]
    with override_settings(ROOT_URLCONF=views, MIDDLEWARE=[project.CHIO], **chio.django):
        client = Client()
        assert [client.post(place).status_code for place in ("/login", "/comments")] == [200, 403]


def test_a_mounted_application_states_its_policy_too(chio: ChioFixture) -> None:
    outer = FastAPI()
    outer.mount("/v1", shop(client=chio.client))
    assert TestClient(outer).post("/v1/login").status_code == 200


def test_a_hint_in_a_test_names_the_way_of_the_test(chio: ChioFixture) -> None:
    client = TestClient(chio.connect(shop(sidecar_url="embedded:shop.sqlite3")))
    hints = [client.post(path).json()["details"] for path in ("/orders/7", "/comments")]
    assert [one["hint"] for one in hints] == [
        "in a test, with the fixture chio: headers=chio.headers(chio.capability('shop', 'order'))",
        "in a test, with the fixture chio: headers=chio.headers()"
        "; where the route requires nothing, also chio.allow('POST', '/comments')",
    ]
    assert "hint_note" not in hints[0]


@pytest.mark.parametrize("document", ["no json", "[]", {"paths": []}, "{}"])
def test_what_is_no_document_is_refused_at_once(document: Any, chio: ChioFixture) -> None:
    with pytest.raises(ConfigurationError, match="chio-sidecar openapi"):
        chio.use_document(document)


def test_of_two_documents_the_stricter_counts(chio: ChioFixture) -> None:
    app = shop(client=chio.client)
    strict = json.loads(document_for(app))
    strict["paths"]["/login"]["post"]["x-chio-side-effects"] = True
    chio.use_document(strict)
    assert TestClient(app).post("/login").status_code == 403
