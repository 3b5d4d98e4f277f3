"""The trust service over HTTP (wire protocol, section 9)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_core.capabilities import verify_capability
from chio_core.errors import ConfigurationError
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.issuers import issuer_name
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app
from chio_sidecar.trust.client import TrustClient
from chio_sidecar.trust.stores import Database
from tests.sidecar.control_tools import ZEROS, evaluate, fetch

TOKEN = "service-canary"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
GRANT = {"server_id": "http-sidecar-client", "tool_name": "hello_write", "operations": ["invoke"]}
ISSUE = {
    "subjectPublicKey": ZEROS,
    "scope": {"grants": [GRANT | {"constraints": []}], "resource_grants": [], "prompt_grants": []},
    "ttlSeconds": 3600,
}
PROTECTED: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/v1/authority", None),
    ("POST", "/v1/authority", None),
    ("POST", "/v1/capabilities/issue", ISSUE),
    ("GET", "/v1/revocations", None),
    ("POST", "/v1/revocations", {"capabilityId": "c"}),
    ("GET", "/v1/receipts/query", None),
)


Trust = Callable[..., Any]


@pytest.fixture
def trust(tmp_path: Path) -> Iterator[Trust]:
    opened: list[TrustService] = []

    def create(*names: str, folder: Path = tmp_path, **options: Any) -> Any:
        files: dict[str, Any] = {name: folder / name for name in names}
        opened.append(TrustService(TrustConfig(service_token=SecretStr(TOKEN), **files, **options)))
        return create_trust_app(opened[-1])

    yield create
    for service in opened:
        service.close()


@pytest.fixture
def app(trust: Trust) -> Any:
    return trust("authority_db", "revocation_db", "receipt_db")


def get(app: Any, path: str) -> Any:
    return fetch(app, "GET", path, headers=AUTH).json()


def post(app: Any, path: str, **members: Any) -> httpx.Response:
    return fetch(app, "POST", path, json=members, headers=AUTH)


def authority(app: Any) -> Any:
    return get(app, "/v1/authority")


def issue(app: Any, **members: Any) -> Any:
    response = post(app, "/v1/capabilities/issue", **(ISSUE | members))
    assert response.status_code == 200, response.text
    return response.json()["capability"]


def revoke(app: Any, capability_id: str) -> Any:
    return post(app, "/v1/revocations", capabilityId=capability_id).json()


@pytest.mark.parametrize(("method", "path", "body"), PROTECTED)
@pytest.mark.parametrize(
    "value", [None, "", TOKEN, f"bearer {TOKEN}", f"Bearer  {TOKEN}", f"Bearer {TOKEN} ", "Bearer x", "Bearer "]
)
def test_everything_but_health_needs_the_exact_bearer(
    app: Any, method: str, path: str, body: Any, value: str | None
) -> None:
    headers = {} if value is None else {"Authorization": value}
    response = fetch(app, method, path, json=body, headers=headers)
    assert (response.status_code, response.json()) == (401, {"error": "missing or invalid control bearer token"})
    assert response.headers["www-authenticate"] == "Bearer"


def test_two_bearers_are_refused(app: Any) -> None:
    headers = [("Authorization", AUTH["Authorization"])] * 2
    assert fetch(app, "GET", "/v1/authority", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({}, b"{}", 415),
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/json"}, b"{", 400),
        ({"Content-Type": "application/json"}, b'{"capabilityId":"a","capabilityId":"b"}', 400),
        ({"Content-Type": "application/json; charset=utf-8"}, b"[]", 422),
        ({"Content-Type": "application/json"}, b"{}", 422),
        ({"Content-Type": "application/json"}, b'{"capabilityId":7}', 422),
        ({"Content-Type": "application/json"}, b" " * (2 * 1024 * 1024 + 1), 413),
    ],
)
def test_a_malformed_body_is_refused_in_plain_text_before_the_bearer_is_checked(
    app: Any, headers: dict[str, str], content: bytes, status: int
) -> None:
    for more in ({}, AUTH):
        response = fetch(app, "POST", "/v1/revocations", content=content, headers=headers | more)
        assert response.status_code == status
        assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/health", "/v1/authority", "/nowhere", "/v1/capabilities/issue"])
def test_every_response_has_a_content_security_policy(app: Any, path: str) -> None:
    response = fetch(app, "GET", path)
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_health_needs_no_token_and_reports_the_configuration(app: Any, trust: Trust) -> None:
    found = fetch(app, "GET", "/health").json()
    assert (found["ok"], found["clustered"], found["leaderUrl"], found["selfUrl"]) == (True, False, None, None)
    assert found["stores"] == {
        "receiptsConfigured": True,
        "revocationsConfigured": True,
        "budgetsConfigured": False,
        "verifierChallengesConfigured": False,
    }
    assert found["authority"]["available"] is True
    assert found["authority"]["trustedKeyCount"] == 1
    assert found["authority"]["publicKey"] == authority(app)["publicKey"]
    bare = fetch(trust(), "GET", "/health").json()
    assert (bare["ok"], bare["authority"]["configured"], bare["authority"]["publicKey"]) == (True, False, None)


def test_authority_writes_its_nulls(trust: Trust) -> None:
    assert authority(trust()) == {
        "configured": False,
        "backend": None,
        "publicKey": None,
        "generation": None,
        "rotatedAt": None,
        "appliesToFutureSessionsOnly": True,
        "trustedPublicKeys": [],
    }


@pytest.mark.parametrize(("name", "backend"), [("authority_db", "sqlite"), ("authority_seed_file", "seed_file")])
def test_a_rotation_keeps_trusting_the_old_key(trust: Trust, name: str, backend: str) -> None:
    app = trust(name)
    before = authority(app)
    old = issue(app)
    after = fetch(app, "POST", "/v1/authority", headers=AUTH).json()
    assert (before["backend"], after["backend"]) == (backend, backend)
    assert (before["generation"], after["generation"]) == (1, 2)
    assert after["trustedPublicKeys"] == [before["publicKey"], after["publicKey"]]
    assert authority(app) == after
    fresh = issue(app)
    assert (old["issuer"], fresh["issuer"]) == (before["publicKey"], after["publicKey"])
    for token in (old, fresh):
        verify_capability(token, trusted_issuers=after["trustedPublicKeys"])


def test_an_issued_capability_is_plain_lean_and_verifies(app: Any) -> None:
    token = issue(app)
    verify_capability(token, trusted_issuers={authority(app)["publicKey"]}, accept_schema_form=False)
    assert token["id"].startswith("cap-")
    assert token["id"][18] == "7"  # the version of a UUID
    assert token["subject"] == ZEROS
    assert token["expires_at"] - token["issued_at"] == 3600
    assert token["scope"] == {"grants": [GRANT]}
    assert "schema" not in token


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        ("zz", "invalid hex: "),
        ("0", "invalid hex: "),
        ("00 00", "invalid hex: "),
        ("é", "invalid hex: "),
        ("", "invalid public key: "),
        ("00", "invalid public key: "),
        ("0" * 66, "invalid public key: "),
    ],
)
def test_a_subject_that_is_no_key_is_refused_with_400(app: Any, subject: str, error: str) -> None:
    response = post(app, "/v1/capabilities/issue", **(ISSUE | {"subjectPublicKey": subject}))
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)


@pytest.mark.parametrize("ttl", [0, 2**64 - 1])
def test_a_lifetime_that_no_token_can_have_is_refused_with_400(app: Any, ttl: int) -> None:
    response = post(app, "/v1/capabilities/issue", **(ISSUE | {"ttlSeconds": ttl}))
    assert (response.status_code, list(response.json())) == (400, ["error"])


@pytest.mark.parametrize("member", [{"ttlSeconds": "1"}, {"ttlSeconds": 1.0}, {"scope": {"grants": [{}]}}])
def test_another_shape_is_refused_with_422(app: Any, member: dict[str, Any]) -> None:
    assert post(app, "/v1/capabilities/issue", **(ISSUE | member)).status_code == 422


@pytest.mark.parametrize(("method", "path", "body"), PROTECTED[1:])
def test_a_call_that_needs_a_missing_option_is_refused_with_409(
    trust: Trust, method: str, path: str, body: Any
) -> None:
    needed = {
        "/v1/authority": "--authority-seed-file or --authority-db",
        "/v1/capabilities/issue": "--authority-seed-file or --authority-db",
        "/v1/revocations": "--revocation-db",
        "/v1/receipts/query": "--receipt-db",
    }
    response = fetch(trust(), method, path, json=body, headers=AUTH)
    error = f"trust control service requires {needed[path]}"
    assert (response.status_code, response.json()) == (409, {"error": error})


def test_a_whole_token_is_not_revoked_as_if_it_were_an_id(app: Any) -> None:
    response = post(app, "/v1/revocations", capabilityId=json.dumps(issue(app)))
    assert (response.status_code, "send its member id" in response.text) == (400, True)
    assert get(app, "/v1/revocations")["count"] == 0


def test_a_whole_token_is_not_looked_up_as_if_it_were_an_id(app: Any) -> None:
    token = json.dumps(issue(app))
    response = fetch(app, "GET", "/v1/revocations", params={"capabilityId": token, "limit": 1}, headers=AUTH)
    assert (response.status_code, "send its member id" in response.text) == (400, True)


def test_an_id_that_only_begins_as_a_token_can_be_revoked_and_looked_up(app: Any) -> None:
    assert revoke(app, "{cap")["newlyRevoked"] is True
    assert get(app, "/v1/revocations?capabilityId=%7Bcap")["revoked"] is True


def test_a_revocation_is_listed(app: Any) -> None:
    assert revoke(app, "cap-1") == {"capabilityId": "cap-1", "revoked": True, "newlyRevoked": True}
    assert revoke(app, "cap-1")["newlyRevoked"] is False
    revoke(app, "cap-2")
    found = get(app, "/v1/revocations")
    assert (found["configured"], found["backend"], found["count"]) == (True, "sqlite", 2)
    assert "revoked" not in found
    one = get(app, "/v1/revocations?capabilityId=cap-1&limit=999")
    assert (one["capabilityId"], one["revoked"], one["count"]) == ("cap-1", True, 1)
    none = get(app, "/v1/revocations?capabilityId=cap-3")
    assert (none["capabilityId"], none["revoked"], none["revocations"]) == ("cap-3", False, [])


def test_one_question_may_name_the_ancestors_of_a_capability(app: Any) -> None:
    revoke(app, "cap 2")
    found = get(app, "/v1/revocations?capabilityId=cap-1&limit=1&ancestorId=cap%202&ancestorId=cap-3&ancestorId=")
    assert (found["capabilityId"], found["revoked"], found["count"]) == ("cap-1", False, 0)
    assert found["ancestors"] == [
        {"capabilityId": "cap 2", "revoked": True},
        {"capabilityId": "cap-3", "revoked": False},
        {"capabilityId": "", "revoked": False},
    ]
    assert "ancestors" not in get(app, "/v1/revocations?capabilityId=cap-1")


def test_a_withdrawn_key_of_the_authority_is_trusted_no_more(app: Any) -> None:
    first = authority(app)["publicKey"]
    fetch(app, "POST", "/v1/authority", headers=AUTH)
    second = authority(app)["publicKey"]
    assert authority(app)["trustedPublicKeys"] == [first, second]
    assert post(app, "/v1/revocations", capabilityId=f"issuer:{first}", issuerPublicKey=first).status_code == 200
    assert authority(app)["trustedPublicKeys"] == [second]
    assert fetch(app, "GET", "/health").json()["authority"]["trustedKeyCount"] == 1


@pytest.mark.parametrize("members", [{}, {"issuerPublicKey": "cd" * 32}, {"issuerPublicKey": "AB" * 32}])
@pytest.mark.parametrize("name", ["issuer:", f"issuer:{'ab' * 32}", f"issuer:{'AB' * 32}", "cap-1"])
def test_the_id_of_a_capability_withdraws_no_key(app: Any, name: str, members: dict[str, str]) -> None:
    if name == "cap-1" and not members:
        return
    response = post(app, "/v1/revocations", capabilityId=name, **members)
    assert response.status_code == 400
    assert "chio-sidecar trust revoke --issuer KEY" in response.json()["error"]
    assert get(app, "/v1/revocations")["count"] == 0


def test_the_client_of_the_commands_rotates_and_withdraws(app: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        found = fetch(app, request.method, request.url.path, content=request.content, headers=request.headers)
        return httpx.Response(found.status_code, content=found.content)

    with TrustClient("http://127.0.0.1", SecretStr(TOKEN), transport=httpx.MockTransport(answer)) as client:
        first = client.authority()["publicKey"]
        assert client.rotate()["trustedPublicKeys"] == [first, client.authority()["publicKey"]]
        assert client.revoke(issuer_name(first))
        assert client.authority()["trustedPublicKeys"] == [client.authority()["publicKey"]] != [first]


def test_another_server_in_the_place_of_the_service_names_the_option() -> None:
    elsewhere = httpx.MockTransport(lambda _: httpx.Response(404, json={"error": "chio_not_found"}))
    with (
        TrustClient("http://127.0.0.1", SecretStr(TOKEN), transport=elsewhere) as client,
        pytest.raises(ConfigurationError, match="is --control-url the address of a trust service"),
    ):
        client.authority()


def test_a_withdrawn_key_signs_no_capability_until_there_is_another(app: Any) -> None:
    key = authority(app)["publicKey"]
    post(app, "/v1/revocations", capabilityId=f"issuer:{key}", issuerPublicKey=key)
    response = post(app, "/v1/capabilities/issue", subjectPublicKey=ZEROS, scope={"grants": [GRANT]}, ttlSeconds=9)
    assert response.status_code == 409
    assert response.json()["error"].startswith(f"the key {key} was withdrawn")
    assert response.json()["error"].endswith("chio-sidecar trust rotate")
    fetch(app, "POST", "/v1/authority", headers=AUTH)
    assert issue(app)["issuer"] == authority(app)["publicKey"]


@pytest.mark.parametrize("limit", ["x", "-1", "1.5"])
def test_a_malformed_query_is_refused_with_400(app: Any, limit: str) -> None:
    assert fetch(app, "GET", f"/v1/revocations?limit={limit}", headers=AUTH).status_code == 400


def test_the_sidecar_trusts_the_authoritys_keys_and_sees_revocations_at_once(
    app: Any, trust: Trust, create: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = trust("authority_db", folder=tmp_path / "other")
    sidecar = create(
        clock=time.time,
        trusted_issuers=authority(app)["trustedPublicKeys"],
        control_url="http://trust.example",
        control_service_token=SecretStr(TOKEN),
        control_transport=httpx.ASGITransport(app),
    )
    good = issue(app)
    assert evaluate(sidecar, good, request_id="r1")["verdict"] == {"verdict": "allow"}
    foreign = evaluate(sidecar, issue(stranger), request_id="r2")["verdict"]
    assert foreign["reason"] == "capability issuer is not trusted"
    revoke(app, good["id"])
    revoked = evaluate(sidecar, good, request_id="r3")["verdict"]
    assert revoked["reason"] == "capability token has been revoked"


def test_receipts_are_queried_page_by_page(app: Any, create: Callable[..., Any], tmp_path: Path) -> None:
    query = "/v1/receipts/query"
    assert get(app, query) == {"totalCount": 0, "nextCursor": None, "receipts": []}
    sidecar = create(store_path=tmp_path / "receipt_db")
    ids = [
        evaluate(sidecar, request_id=f"r{number}", method=method)["receipt"]["id"]
        for number, method in enumerate(["GET", "POST", "GET"])
    ]
    first = get(app, f"{query}?limit=2")
    assert ([one["id"] for one in first["receipts"]], first["totalCount"]) == (ids[:2], 3)
    rest = get(app, f"{query}?limit=2&cursor={first['nextCursor']}")
    assert ([one["id"] for one in rest["receipts"]], rest["nextCursor"]) == (ids[2:], None)
    denied = get(app, f"{query}?outcome=deny&toolServer=http&toolName=POST%20/echo")
    assert [one["id"] for one in denied["receipts"]] == [ids[1]]


def test_a_blank_service_token_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the service token is blank"):
        TrustService(TrustConfig(service_token=SecretStr(" ")))


def test_two_authorities_are_refused(trust: Trust) -> None:
    with pytest.raises(ConfigurationError, match="give only one"):
        trust("authority_db", "authority_seed_file")


def test_a_store_that_fails_is_answered_with_500_without_a_secret(tmp_path: Path) -> None:
    service = TrustService(
        TrustConfig(service_token=SecretStr(TOKEN), authority_db=tmp_path / "a", revocation_db=tmp_path / "r")
    )
    app = create_trust_app(service)
    service.close()
    for method, path, body in PROTECTED[:5]:
        response = fetch(app, method, path, json=body, headers=AUTH)
        assert response.status_code == 500
        assert list(response.json()) == ["error"]
        assert TOKEN not in response.text
    health = fetch(app, "GET", "/health")
    assert (health.status_code, health.json()["authority"]["available"]) == (200, False)


def test_the_service_token_is_never_shown(app: Any) -> None:
    assert TOKEN not in repr(TrustConfig(service_token=SecretStr(TOKEN)))
    for method, path, body in PROTECTED:
        for headers in ({}, AUTH):
            assert TOKEN not in fetch(app, method, path, json=body, headers=headers).text


LONGEST = 366 * 24 * 3600


@pytest.mark.parametrize("seconds", [LONGEST + 1, 2**40, 2**63, 2**64 - 1])
def test_no_capability_lives_longer_than_the_service_allows(app: Any, seconds: int) -> None:
    refused = post(app, "/v1/capabilities/issue", **(ISSUE | {"ttlSeconds": seconds}))
    text = f"ttlSeconds {seconds} is longer than this service allows: {LONGEST} seconds"
    assert (refused.status_code, refused.json()) == (400, {"error": text})
    longest = issue(app, ttlSeconds=LONGEST)
    assert longest["expires_at"] - longest["issued_at"] == LONGEST


def test_the_longest_lifetime_can_be_set(trust: Trust) -> None:
    app = trust("authority_db", max_ttl=60)
    assert issue(app, ttlSeconds=60)["expires_at"]
    assert post(app, "/v1/capabilities/issue", **(ISSUE | {"ttlSeconds": 61})).status_code == 400


def test_a_grant_with_members_that_are_not_known_is_not_signed(app: Any) -> None:
    """The signature would not cover them, and whoever reads the token would not know what they restrict."""
    refused = post(
        app, "/v1/capabilities/issue", **(ISSUE | {"scope": {"grants": [GRANT | {"only_on_mondays": True}]}})
    )
    assert refused.status_code == 400
    assert "members that are not known" in refused.json()["error"]


def test_a_full_disk_is_named_as_the_cause_and_the_next_write_succeeds(tmp_path: Path) -> None:
    database = Database(tmp_path / "trust.sqlite3", "CREATE TABLE IF NOT EXISTS t (x)", option="--revocation-db")
    try:
        with database.read() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count={pages + 1}")
        with pytest.raises(sqlite3.OperationalError, match="full"), database.write() as connection:
            connection.executemany("INSERT INTO t VALUES (?)", [("lost",), (bytes(1_000_000),)])
        with database.write() as connection:
            connection.execute("INSERT INTO t VALUES ('kept')")
        with database.read() as connection:
            assert connection.execute("SELECT x FROM t").fetchall() == [("kept",)]
    finally:
        database.close()
