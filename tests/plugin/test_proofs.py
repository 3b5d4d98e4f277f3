"""What a test can find out: missing requirements, handlers that ran without a receipt."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from werkzeug.test import Client as WerkzeugClient

from chio_core.testing import ChioFixture
from chio_fastapi import RequireCapability, add_chio
from tests.plugin.apps import Shop, flask_app


def watched(chio: ChioFixture, *, governed: bool = True, **options: Any) -> TestClient:
    shop = Shop(governed=governed, **options)
    return TestClient(chio.require_receipts(chio.connect(shop.app), except_paths={"/healthz"}))


def test_a_missing_requirement_is_noticed(chio: ChioFixture) -> None:
    client = TestClient(chio.connect(Shop().app))
    client.post("/transfers", headers=chio.headers())
    client.post("/refunds", headers=chio.headers())
    chio.assert_requires("POST", "/transfers", "payments/transfer")
    with pytest.raises(AssertionError, match=r"POST /refunds required no capability.*RequireCapability\(\"payments\""):
        chio.assert_requires("POST", "/refunds", "payments/refund")
    with pytest.raises(AssertionError, match="POST /transfers required payments/transfer, not payments/refund"):
        chio.assert_requires("POST", "/transfers", "payments/refund")


def test_a_request_that_did_not_reach_the_sidecar_is_noticed(chio: ChioFixture) -> None:
    with pytest.raises(AssertionError, match="the sidecar got no request; it got no request at all"):
        _ = chio.last
    TestClient(chio.connect(Shop().app)).get("/pets/7")
    with pytest.raises(AssertionError, match="got no request for POST /transfers; it got GET /pets/7"):
        chio.assert_requires("POST", "/transfers", "payments/transfer")
    assert (chio.last.method, chio.last.path, chio.last.route) == ("GET", "/pets/7", "/pets/{pet}")


def test_what_is_governed_passes(chio: ChioFixture) -> None:
    client = watched(chio)
    assert client.get("/pets/7").status_code == 200
    assert client.get("/pets/none").status_code == 422
    assert client.get("/nowhere").status_code == 404
    assert client.head("/refunds").status_code == 405
    assert client.post("/refunds").status_code == 403
    assert client.post("/transfers").status_code == 401
    assert client.post("/transfers", headers=chio.headers()).status_code == 200
    with chio.down():
        assert client.get("/pets/7").status_code == 503
    with chio.tamper():
        assert client.get("/pets/7").status_code == 502
    with client.websocket_connect("/feed") as socket:
        socket.receive_text()


@pytest.mark.parametrize(
    "options",
    [{"exclude_paths": {"/pets/7"}}, {"governed": False}, {"fail_open": True}, {"observe": True}],
    ids=lambda options: next(iter(options)),
)
def test_what_runs_without_a_stored_receipt_fails_the_test(chio: ChioFixture, options: dict[str, Any]) -> None:
    client = watched(chio, **options)
    with (
        chio.down() if "fail_open" in options else chio.deny(),
        pytest.raises(AssertionError, match="GET /pets/7 was answered with status 200, but"),
    ):
        client.get("/pets/7")


def test_what_observe_mode_lets_run_fails_the_test_whatever_it_answers(chio: ChioFixture) -> None:
    app = FastAPI()
    needed = [Depends(RequireCapability("payments", "read"))]
    add_chio(app, client=chio.new_client(observe=True))

    @app.post("/nowhere")
    async def nowhere() -> None:
        raise HTTPException(404)

    @app.get("/balance", dependencies=needed)
    async def balance() -> None: ...

    client = TestClient(chio.require_receipts(app))
    assert client.get("/balance", headers=chio.headers()).status_code == 200
    with pytest.raises(AssertionError, match="POST /nowhere was answered with status 404, but its receipt says"):
        client.post("/nowhere")
    with pytest.raises(AssertionError, match="GET /balance was answered with status 200, but its receipt says"):
        client.get("/balance")


def test_an_answer_that_names_the_receipt_of_an_earlier_request_does_not_count(chio: ChioFixture) -> None:
    earlier = TestClient(chio.connect(Shop().app)).get("/pets/7")

    async def cache(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("cached", headers=dict(earlier.headers))(scope, receive, send)

    with pytest.raises(AssertionError, match="no receipt that allows it was stored"):
        TestClient(chio.require_receipts(cache)).get("/pets/7")


def test_paths_may_be_excepted(chio: ChioFixture) -> None:
    client = watched(chio, exclude_paths={"/healthz"})
    assert client.get("/healthz").status_code == 404


def test_dependencies_without_the_middleware_are_enough(chio: ChioFixture) -> None:
    client = watched(chio, governed=False)
    assert client.post("/transfers").status_code == 401
    assert client.post("/transfers", headers=chio.headers()).status_code == 200
    with pytest.raises(AssertionError, match="no receipt that allows it was stored"):
        client.post("/refunds", headers=chio.headers())


def test_a_receipt_that_the_sidecar_has_not_stored_does_not_count(chio: ChioFixture) -> None:
    async def forger(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("hello", headers={"X-Chio-Receipt": "made-up"})(scope, receive, send)

    with pytest.raises(AssertionError, match="no receipt that allows it was stored"):
        TestClient(chio.require_receipts(forger)).get("/")


def test_a_response_without_a_stored_receipt_has_none(chio: ChioFixture) -> None:
    client = TestClient(Shop(governed=False).app)
    with pytest.raises(AssertionError, match=r"the response \(status 200\) names no receipt"):
        chio.receipt_of(client.get("/pets/7"))


def test_wsgi_applications_are_watched_in_the_same_way(chio: ChioFixture) -> None:
    app = chio.connect(flask_app(exclude_paths=["/pets/1", "/pets/2"]))
    app.wsgi_app = chio.require_receipts(app.wsgi_app, except_paths={"/pets/2"})  # type: ignore[method-assign]
    client = app.test_client()
    assert [client.get(f"/pets/{pet}").status_code for pet in (7, 2)] == [200, 200]
    assert client.post("/transfers").status_code == 401
    with pytest.raises(AssertionError, match="GET /pets/1 was answered with status 200"):
        client.get("/pets/1")
    bare = WerkzeugClient(chio.require_receipts(flask_app(exclude_prefixes=["/pets"])))
    with pytest.raises(AssertionError, match="GET /pets/7"):
        bare.get("/pets/7")


def test_a_handler_that_fails_is_told_by_its_own_error(chio: ChioFixture) -> None:
    app = FastAPI()
    add_chio(app, client=chio.client)

    @app.get("/")
    async def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TestClient(chio.require_receipts(app)).get("/")
