"""The fixture `chio`: applications connected to it, and what its sidecar does by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core import ChioClient, ChioSettings, ConfigurationError
from chio_core.receipts import verify_receipt
from chio_core.testing import ChioFixture, ScriptedSidecar, behaviours
from chio_fastapi import RequireCapability, add_chio
from tests.core.views import View, question
from tests.plugin.apps import Shop, flask_app


@pytest.fixture
def shop() -> Shop:
    """An application that was built without knowing of any test."""
    return Shop(sidecar_url="http://127.0.0.1:1")


@pytest.fixture
def client(shop: Shop, chio: ChioFixture) -> Iterator[TestClient]:
    with TestClient(chio.connect(shop.app)) as found:
        yield found


def test_safe_methods_are_allowed_with_a_receipt_that_verifies(client: TestClient, chio: ChioFixture) -> None:
    response = client.get("/pets/7")
    assert response.json() == {"pet": 7}
    receipt = chio.receipt_of(response)
    assert receipt.verdict.is_allow
    assert receipt.route_pattern == "/pets/{pet}"
    assert verify_receipt(receipt, trusted_keys=[chio.public_key]).id == response.headers["X-Chio-Receipt"]
    assert chio.receipts == [receipt]


def test_a_side_effect_needs_a_capability_and_a_route_the_one_that_it_asks_for(
    client: TestClient, chio: ChioFixture, shop: Shop
) -> None:
    assert client.post("/refunds").status_code == 403
    assert client.post("/transfers").status_code == 401
    refund = chio.headers(chio.capability("payments", "refund"))
    assert client.post("/transfers", headers=refund).status_code == 403
    assert shop.ran == []
    transfer = chio.headers(chio.capability("payments", "transfer"))
    assert client.post("/transfers", headers=transfer).status_code == 200
    assert client.post("/refunds", headers=transfer).status_code == 200
    assert [one.verdict.verdict for one in chio.receipts] == ["deny", "deny", "deny", "allow", "allow"]


def test_headers_without_a_capability_present_one_that_grants_everything(client: TestClient, chio: ChioFixture) -> None:
    assert client.post("/transfers", headers=chio.headers()).status_code == 200


def test_a_capability_counts_for_its_time_its_authority_and_its_uses(client: TestClient, chio: ChioFixture) -> None:
    def transfer(token: str) -> tuple[int, str]:
        response = client.post("/transfers", headers=chio.headers(token))
        return response.status_code, response.json().get("message", "")

    assert "capability expired at" in transfer(chio.capability("payments", "transfer", ttl=0))[1]
    assert transfer(chio.capability(trusted=False)) == (403, "capability issuer is not trusted")
    once = chio.capability("payments", "transfer", max_invocations=1)
    assert transfer(once)[0] == 200
    assert "no invocation left of the 1 granted" in transfer(once)[1]
    revoked = chio.capability()
    chio.revoke(revoked)
    assert transfer(revoked) == (403, "capability token has been revoked")
    changed = chio.capability("payments", "refund").replace("refund", "transfer")
    assert transfer(changed) == (403, "capability signature verification failed")


def test_constraints_of_a_capability_hold(chio: ChioFixture) -> None:
    app = FastAPI()
    add_chio(app, client=chio.client)
    needs = RequireCapability("files", "read", arguments=lambda params: {"name": params["name"]})

    @app.get("/{name}", dependencies=[Depends(needs)])
    async def read(name: str) -> str:
        return name

    client = TestClient(app)
    short = chio.headers(chio.capability("files", "read", constraints=[{"type": "max_length", "value": 3}]))
    assert client.get("/abc", headers=short).status_code == 200
    assert client.get("/abcd", headers=short).status_code == 403


def test_an_application_that_a_test_makes_from_the_environment_asks_here(chio: ChioFixture) -> None:
    assert os.environ["CHIO_SIDECAR_URL"] == chio.url
    with TestClient(Shop().app) as client:
        assert client.get("/pets/7").status_code == 200
    assert chio.last.path == "/pets/7"


def test_the_environment_is_as_before_when_the_test_is_over(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os

        def test_one(chio):
            assert os.environ["CHIO_SIDECAR_URL"] == chio.url

        def test_two():
            assert "CHIO_SIDECAR_URL" not in os.environ
        """
    )
    pytester.runpytest_inprocess("--disable-plugin-autoload", "-p", "chio_pytest").assert_outcomes(passed=2)


def test_an_application_asks_its_own_sidecar_again_when_the_test_is_over() -> None:
    own = ScriptedSidecar(behaviours.deny("its own"))
    shop = Shop(client=own.client())
    client = TestClient(shop.app)
    with ChioFixture() as chio:
        chio.connect(shop.app)
        assert client.get("/pets/7").status_code == 200
        assert own.asked == []
    assert client.get("/pets/7").json()["message"] == "its own"
    assert len(own.asked) == 1


def test_connecting_changes_nothing_but_where_an_application_asks(chio: ChioFixture) -> None:
    shop = Shop(sidecar_url="http://127.0.0.1:1", receipt_header="X-Trace", exclude_paths={"/pets/1"})
    client = TestClient(chio.connect(shop.app))
    assert "X-Trace" in client.get("/pets/2").headers
    assert "X-Trace" not in client.get("/pets/1").headers
    assert len(chio.asked) == 1


def test_an_embedded_sidecar_is_not_opened_by_a_test(chio: ChioFixture, tmp_path: Path) -> None:
    shop = Shop(sidecar_url=f"embedded:{tmp_path}/chio.sqlite3")
    with TestClient(chio.connect(shop.app)) as client:
        assert client.get("/pets/7").status_code == 200
    assert list(tmp_path.iterdir()) == []


def test_starlette_and_a_middleware_around_an_application_can_be_connected(chio: ChioFixture) -> None:
    async def hello(_: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    nowhere = ChioASGIConfig(sidecar_url="http://127.0.0.1:1")
    routes = [Route("/hello", hello)]
    inside = Starlette(routes=routes, middleware=[Middleware(ChioASGIMiddleware, config=nowhere)])
    around = ChioASGIMiddleware(Starlette(routes=routes), nowhere)
    for app in (inside, around):
        assert TestClient(chio.connect(app)).get("/hello").text == "hello"
    assert len(chio.receipts) == 2


def test_what_is_mounted_is_connected_with_what_it_is_mounted_in(chio: ChioFixture) -> None:
    outer, inner = FastAPI(), Shop(sidecar_url="http://127.0.0.1:1")
    add_chio(outer, sidecar_url="http://127.0.0.1:1", exclude_prefixes=["/shop"])
    outer.mount("/shop", inner.app)
    client = TestClient(chio.connect(outer))
    assert client.get("/shop/pets/7").json() == {"pet": 7}
    assert client.get("/nowhere").status_code == 404
    assert [one.path for one in chio.asked] == ["/shop/pets/7", "/nowhere"]


def test_a_client_alone_can_be_connected(chio: ChioFixture) -> None:
    client = chio.connect(ChioClient(ChioSettings(sidecar_url="http://127.0.0.1:1")))
    assert asyncio.run(client.evaluate(question(View("GET")))).allowed


def test_an_application_with_dependencies_alone_can_be_connected() -> None:
    shop = Shop(governed=False)
    with ChioFixture() as chio:
        client = TestClient(chio.connect(shop.app))
        assert client.post("/transfers", headers=chio.headers()).status_code == 200
        chio.assert_requires("POST", "/transfers", "payments/transfer")
    assert not hasattr(shop.app.state, "chio_client")


def test_what_cannot_be_connected_is_said_with_the_remedy(chio: ChioFixture) -> None:
    with pytest.raises(ConfigurationError, match=r"object of type list.*override_settings\(\*\*chio.django\)"):
        chio.connect([])


def test_an_asynchronous_client_needs_no_thread_and_no_socket(shop: Shop, chio: ChioFixture) -> None:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(chio.connect(shop.app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/pets/7")

    assert chio.receipt_of(asyncio.run(call())).verdict.is_allow


def test_websocket_handshakes_are_judged_too(client: TestClient, chio: ChioFixture) -> None:
    with client.websocket_connect("/feed") as socket:
        assert chio.receipts[-1].id == socket.receive_text()


def test_flask_is_connected_with_its_own_settings_and_without_a_socket(chio: ChioFixture, tmp_path: Path) -> None:
    app = flask_app(sidecar_url=f"embedded:{tmp_path}/chio.sqlite3", receipt_header="X-Trace")
    client = chio.connect(app).test_client()
    assert client.get("/pets/7").json == {"pet": 7}
    assert client.post("/transfers").status_code == 401
    response = client.post("/transfers", headers=chio.headers(chio.capability("payments", "transfer")))
    assert chio.receipt_of(response).id == response.headers["X-Trace"]
    chio.assert_requires("POST", "/transfers", "payments/transfer")
    assert list(tmp_path.iterdir()) == []
    with chio.slow():
        assert client.get("/pets/7").status_code == 503


def test_flask_takes_the_client_and_the_configuration_too(chio: ChioFixture) -> None:
    shared = flask_app(client=chio.sync_client)
    configured = flask_app()
    configured.config.update(chio.config)
    for app in (shared, configured):
        assert chio.receipt_of(app.test_client().get("/pets/7")).verdict.is_allow


def test_questions_from_many_threads_are_all_stored(chio: ChioFixture) -> None:
    client = chio.connect(flask_app()).test_client

    def one(number: int) -> int:
        return client().get(f"/pets/{number}").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(50))) == {200}
    assert len({receipt.id for receipt in chio.receipts}) == len(chio.asked) == 50


def test_a_requirement_is_overridden_as_any_other_dependency(client: TestClient, chio: ChioFixture, shop: Shop) -> None:
    shop.app.dependency_overrides[RequireCapability("payments", "transfer")] = lambda: None
    chio.allow("POST", "/transfers")
    assert client.post("/transfers").status_code == 200
    assert chio.last.requires is None
