"""What a test can tell its sidecar to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from chio_core import ConfigurationError, SyncChioClient
from chio_core.testing import ChioFixture
from tests.core.views import View, question
from tests.hostile import BEHAVIOURS, bad_receipts
from tests.plugin.apps import Shop

TAMPERINGS = [*ChioFixture().tamperings, *(one.name for one in bad_receipts.BEHAVIOURS)]


@pytest.fixture
def shop() -> Shop:
    return Shop(sidecar_url="http://127.0.0.1:1")


@pytest.fixture
def client(shop: Shop, chio: ChioFixture) -> Iterator[TestClient]:
    with TestClient(chio.connect(shop.app)) as found:
        yield found


def code(client: TestClient, path: str = "/pets/7", method: str = "GET") -> tuple[int, str | None]:
    response = client.request(method, path)
    return response.status_code, response.json().get("error")


def test_a_denial_has_the_reason_and_the_status_that_the_test_gives(client: TestClient, chio: ChioFixture) -> None:
    chio.deny("GET", "/pets/{pet}", reason="the shop is closed", status=429, guard="OpeningHours")
    response = client.get("/pets/7")
    assert (response.status_code, response.json()["message"]) == (429, "the shop is closed")
    assert response.json()["guard"] == "OpeningHours"
    assert chio.receipt_of(response).verdict.reason == "the shop is closed"


def test_the_last_rule_that_covers_a_request_counts(client: TestClient, chio: ChioFixture) -> None:
    chio.deny()
    chio.allow(path="/pets/{pet}")
    chio.deny("get", "/pets/13")
    assert [code(client, path)[0] for path in ("/pets/7", "/pets/13")] == [200, 403]
    assert code(client, "/refunds", "POST")[0] == 403


def test_a_rule_can_be_about_what_a_route_asks_for(client: TestClient, chio: ChioFixture) -> None:
    chio.deny(requires="payments/transfer", reason="no transfers today")
    assert client.post("/transfers", headers=chio.headers()).json()["message"] == "no transfers today"
    assert client.post("/refunds", headers=chio.headers()).status_code == 200


def test_allowing_needs_no_capability_where_the_application_asks_for_none(
    client: TestClient, chio: ChioFixture
) -> None:
    chio.allow("POST")
    assert code(client, "/refunds", "POST")[0] == 200
    assert code(client, "/transfers", "POST") == (401, "chio_capability_required")


def test_a_block_ends_a_change_and_nothing_else(client: TestClient, chio: ChioFixture) -> None:
    chio.deny(path="/pets/13")
    with chio.deny():
        assert code(client)[0] == 403
        with chio.down():
            assert code(client) == (503, "chio_sidecar_unreachable")
        assert code(client)[0] == 403
    assert [code(client, path)[0] for path in ("/pets/7", "/pets/13")] == [200, 403]
    chio.reset()
    assert code(client, "/pets/13")[0] == 200


def test_a_block_ends_a_change_when_the_test_fails_in_it(client: TestClient, chio: ChioFixture) -> None:
    with pytest.raises(RuntimeError), chio.down():
        raise RuntimeError
    assert code(client)[0] == 200


def test_while_it_is_down_nobody_asks_and_nothing_is_stored(client: TestClient, chio: ChioFixture, shop: Shop) -> None:
    chio.down()
    assert code(client) == (503, "chio_sidecar_unreachable")
    assert (chio.asked, chio.receipts, shop.ran) == ([], [], [])


def test_it_goes_down_and_comes_back_on_its_socket_too(chio: ChioFixture) -> None:
    with SyncChioClient(chio.settings()) as client:
        assert client.evaluate(question(View("GET"))).allowed
        url = chio.url
        with chio.down():
            denial = client.evaluate(question(View("GET"))).denial
            assert denial is not None
            assert denial.code == "chio_sidecar_unreachable"
        assert chio.url == url
        assert client.evaluate(question(View("GET"))).allowed


def test_a_slow_sidecar_is_a_timeout_at_once_where_the_application_waits_less(chio: ChioFixture) -> None:
    shop = Shop(sidecar_url="http://127.0.0.1:1", timeout=300)
    client = TestClient(chio.connect(shop.app))
    with chio.slow():
        assert code(client) == (503, "chio_timeout")
    with chio.slow(299):
        assert code(client)[0] == 200
    assert len(chio.receipts) == 2, "a slow sidecar has stored what nobody waited for"


def test_a_slow_sidecar_is_slow_on_its_socket_too(chio: ChioFixture) -> None:
    with SyncChioClient(chio.settings(timeout=0.05)) as client, chio.slow():
        denial = client.evaluate(question(View("GET"))).denial
    assert denial is not None
    assert denial.code == "chio_timeout"


def test_fail_open_is_seen_by_a_test(chio: ChioFixture) -> None:
    shop = Shop(sidecar_url="http://127.0.0.1:1", fail_open=True)
    client = TestClient(chio.connect(shop.app))
    with chio.down():
        assert code(client)[0] == 200
        assert code(client, "/transfers", "POST")[0] == 503
    assert shop.ran == ["pet"]


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_a_tampered_receipt_is_refused_and_no_handler_runs(
    kind: str, client: TestClient, chio: ChioFixture, shop: Shop
) -> None:
    with chio.tamper(kind) if kind in chio.tamperings else chio.behave(BEHAVIOURS[kind]):
        response = client.post("/refunds", headers=chio.headers())
    # A verdict that only one of the two gives is no success either, whichever it is.
    assert response.status_code == 502
    assert response.json()["error"] in ("chio_invalid_receipt", "chio_evaluation_failed")
    assert shop.ran == []
    assert client.post("/refunds", headers=chio.headers()).status_code == 200


def test_a_tampering_that_there_is_not_is_named_with_the_nearest(chio: ChioFixture) -> None:
    with pytest.raises(ConfigurationError, match="'bad_signatur'; did you mean bad_signature"):
        chio.tamper("bad_signatur")
    with pytest.raises(ConfigurationError, match="no behaviour is called 'allow'"):
        chio.tamper("allow")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("status_500", (502, "chio_evaluation_failed")),
        ("incomplete", (403, "chio_access_denied")),
        ("receipt_persistence_failed", (502, "chio_evaluation_failed")),
        ("hang", (503, "chio_timeout")),
        ("refuse_connections", (503, "chio_sidecar_unreachable")),
    ],
)
def test_every_behaviour_of_a_scripted_sidecar_can_be_had_by_its_name(
    name: str, expected: tuple[int, str], client: TestClient, chio: ChioFixture
) -> None:
    with chio.behave(name):
        assert code(client) == expected
