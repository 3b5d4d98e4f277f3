"""The fixture with Django's test clients."""

from __future__ import annotations

import asyncio

from django.http import HttpResponseBase
from django.test import AsyncClient, Client, override_settings

from chio_core.testing import ChioFixture
from tests.django import project  # noqa: F401 - configures Django


def test_a_project_without_an_address_of_its_own_asks_here(chio: ChioFixture) -> None:
    response = Client().get("/hello")
    assert chio.receipt_of(response).verdict.is_allow


def test_a_project_with_one_is_connected_by_its_settings_and_keeps_the_others(chio: ChioFixture) -> None:
    own = {"CHIO_SIDECAR_URL": "http://127.0.0.1:1", "CHIO_RECEIPT_HEADER": "X-Trace", "CHIO_FAIL_OPEN": True}
    with override_settings(**own), override_settings(**chio.django):
        response = Client().get("/hello")
        assert chio.receipt_of(response).id == response.headers["X-Trace"]
        with chio.slow():
            assert Client().get("/hello").json()["passthrough"] == "chio_timeout"
        assert Client().post("/transfer").status_code == 401
        chio.assert_requires("POST", "/transfer", "payments/transfer")
        assert Client(headers=chio.headers()).post("/transfer").status_code == 200


def test_its_asynchronous_client_needs_no_socket_either(chio: ChioFixture) -> None:
    async def call() -> HttpResponseBase:
        return await AsyncClient().get("/ahello")

    with override_settings(**chio.django):
        assert chio.receipt_of(asyncio.run(call())).verdict.is_allow


def test_it_can_be_pointed_to_the_socket_too(chio: ChioFixture) -> None:
    with override_settings(**chio.config):
        assert chio.receipt_of(Client().get("/hello")).verdict.is_allow
        with chio.down():
            assert Client().get("/hello").status_code == 503
        assert Client().get("/hello").status_code == 200
