"""The trust service over HTTP (wire protocol, section 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_core.capabilities import verify_capability
from chio_core.errors import ConfigurationError
from chio_sidecar.app import create_app
from chio_sidecar.config import SidecarConfig
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app
from tests.sidecar.control_tools import NOBODY, ask, evaluate

TOKEN = "service-canary"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
ISSUE = {
    "subjectPublicKey": NOBODY,
    "scope": {
        "grants": [
            {
                "server_id": "http-sidecar-client",
                "tool_name": "hello_write",
                "operations": ["invoke"],
                "constraints": [],
            }
        ],
        "resource_grants": [],
        "prompt_grants": [],
    },
    "ttlSeconds": 3600,
}
PROTECTED = (
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

    def create(*names: str, folder: Path = tmp_path) -> Any:
        files: dict[str, Any] = {name: folder / name for name in names}
        opened.append(TrustService(TrustConfig(service_token=SecretStr(TOKEN), **files)))
        return create_trust_app(opened[-1])

    yield create
    for service in opened:
        service.close()


@pytest.fixture
def app(trust: Trust) -> Any:
    return trust("authority_db", "revocation_db", "receipt_db")


def authority(app: Any) -> dict[str, Any]:
    found: dict[str, Any] = ask(app, "GET", "/v1/authority", headers=AUTH).json()
    return found


def issue(app: Any, **members: Any) -> dict[str, Any]:
    answer = ask(app, "POST", "/v1/capabilities/issue", json=ISSUE | members, headers=AUTH)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["capability"]
    return found


@pytest.mark.parametrize(("method", "path", "body"), PROTECTED)
@pytest.mark.parametrize(
    "value", [None, "", TOKEN, f"bearer {TOKEN}", f"Bearer  {TOKEN}", f"Bearer {TOKEN} ", "Bearer x", "Bearer "]
)
def test_everything_but_health_needs_the_exact_bearer(
    app: Any, method: str, path: str, body: Any, value: str | None
) -> None:
    headers = {} if value is None else {"Authorization": value}
    answer = ask(app, method, path, json=body, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"error": "missing or invalid control bearer token"})
    assert answer.headers["www-authenticate"] == "Bearer"


def test_two_bearers_are_refused(app: Any) -> None:
    headers = [("Authorization", AUTH["Authorization"])] * 2
    assert ask(app, "GET", "/v1/authority", headers=headers).status_code == 401


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
def test_a_body_that_is_no_such_json_is_answered_in_plain_text_before_the_bearer_is_looked_at(
    app: Any, headers: dict[str, str], content: bytes, status: int
) -> None:
    for more in ({}, AUTH):
        answer = ask(app, "POST", "/v1/revocations", content=content, headers=headers | more)
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/health", "/v1/authority", "/nowhere", "/v1/capabilities/issue"])
def test_every_answer_has_a_content_security_policy(app: Any, path: str) -> None:
    answer = ask(app, "GET", path)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_health_needs_no_token_and_tells_what_is_there(app: Any, trust: Trust) -> None:
    found = ask(app, "GET", "/health").json()
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
    bare = ask(trust(), "GET", "/health").json()
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
    after = ask(app, "POST", "/v1/authority", headers=AUTH).json()
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
    assert token["subject"] == NOBODY
    assert token["expires_at"] - token["issued_at"] == 3600
    grant = {"server_id": "http-sidecar-client", "tool_name": "hello_write", "operations": ["invoke"]}
    assert token["scope"] == {"grants": [grant]}
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
def test_a_subject_that_is_no_key_is_answered_400(app: Any, subject: str, error: str) -> None:
    answer = ask(app, "POST", "/v1/capabilities/issue", json=ISSUE | {"subjectPublicKey": subject}, headers=AUTH)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)


@pytest.mark.parametrize("ttl", [0, 2**64 - 1])
def test_a_lifetime_that_no_token_can_have_is_answered_400(app: Any, ttl: int) -> None:
    answer = ask(app, "POST", "/v1/capabilities/issue", json=ISSUE | {"ttlSeconds": ttl}, headers=AUTH)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


@pytest.mark.parametrize("member", [{"ttlSeconds": "1"}, {"ttlSeconds": 1.0}, {"scope": {"grants": [{}]}}])
def test_another_shape_is_answered_422(app: Any, member: dict[str, Any]) -> None:
    answer = ask(app, "POST", "/v1/capabilities/issue", json=ISSUE | member, headers=AUTH)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "error"),
    [
        ("POST", "/v1/authority", None, "trust control service requires --authority-seed-file or --authority-db"),
        (
            "POST",
            "/v1/capabilities/issue",
            ISSUE,
            "trust control service requires --authority-seed-file or --authority-db",
        ),
        ("GET", "/v1/revocations", None, "trust control service requires --revocation-db"),
        ("POST", "/v1/revocations", {"capabilityId": "c"}, "trust control service requires --revocation-db"),
        ("GET", "/v1/receipts/query", None, "trust control service requires --receipt-db"),
    ],
)
def test_what_is_not_configured_is_answered_409(trust: Trust, method: str, path: str, body: Any, error: str) -> None:
    answer = ask(trust(), method, path, json=body, headers=AUTH)
    assert (answer.status_code, answer.json()) == (409, {"error": error})


def test_a_revocation_is_listed(app: Any) -> None:
    def revoke(capability_id: str) -> Any:
        return ask(app, "POST", "/v1/revocations", json={"capabilityId": capability_id}, headers=AUTH).json()

    assert revoke("cap-1") == {"capabilityId": "cap-1", "revoked": True, "newlyRevoked": True}
    assert revoke("cap-1")["newlyRevoked"] is False
    revoke("cap-2")
    found = ask(app, "GET", "/v1/revocations", headers=AUTH).json()
    assert (found["configured"], found["backend"], found["count"]) == (True, "sqlite", 2)
    assert "revoked" not in found
    one = ask(app, "GET", "/v1/revocations?capabilityId=cap-1&limit=999", headers=AUTH).json()
    assert (one["capabilityId"], one["revoked"], one["count"]) == ("cap-1", True, 1)
    none = ask(app, "GET", "/v1/revocations?capabilityId=cap-3", headers=AUTH).json()
    assert (none["capabilityId"], none["revoked"], none["revocations"]) == ("cap-3", False, [])


@pytest.mark.parametrize("limit", ["x", "-1", "1.5"])
def test_a_malformed_query_is_answered_400(app: Any, limit: str) -> None:
    assert ask(app, "GET", f"/v1/revocations?limit={limit}", headers=AUTH).status_code == 400


def test_the_sidecar_trusts_the_authoritys_keys_and_asks_it_about_revocations_at_once(
    app: Any, trust: Trust, tmp_path: Path
) -> None:
    stranger = trust("authority_db", folder=_folder(tmp_path, "other"))
    sidecar = create_app(
        SidecarConfig(
            store_path=tmp_path / "receipts.sqlite3",
            trusted_issuers=authority(app)["trustedPublicKeys"],
            control_url="http://trust.example",
            control_service_token=SecretStr(TOKEN),
            control_transport=httpx.ASGITransport(app),
        )
    )
    good = issue(app)
    assert evaluate(sidecar, good, request_id="r1")["verdict"] == {"verdict": "allow"}
    foreign = evaluate(sidecar, issue(stranger), request_id="r2")["verdict"]
    assert foreign["reason"] == "capability issuer is not trusted"
    ask(app, "POST", "/v1/revocations", json={"capabilityId": good["id"]}, headers=AUTH)
    revoked = evaluate(sidecar, good, request_id="r3")["verdict"]
    assert revoked["reason"] == "capability token has been revoked"
    asyncio.run(sidecar.state.close())


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_receipts_are_queried_page_by_page(app: Any, tmp_path: Path) -> None:
    query = "/v1/receipts/query"
    empty = {"totalCount": 0, "nextCursor": None, "receipts": []}
    assert ask(app, "GET", query, headers=AUTH).json() == empty
    sidecar = create_app(SidecarConfig(store_path=tmp_path / "receipt_db"))
    ids = [
        evaluate(sidecar, request_id=f"r{number}", method=method)["receipt"]["id"]
        for number, method in enumerate(["GET", "POST", "GET"])
    ]
    first = ask(app, "GET", f"{query}?limit=2", headers=AUTH).json()
    assert ([one["id"] for one in first["receipts"]], first["totalCount"]) == (ids[:2], 3)
    rest = ask(app, "GET", f"{query}?limit=2&cursor={first['nextCursor']}", headers=AUTH).json()
    assert ([one["id"] for one in rest["receipts"]], rest["nextCursor"]) == (ids[2:], None)
    denied = ask(app, "GET", f"{query}?outcome=deny&toolServer=http&toolName=POST%20/echo", headers=AUTH).json()
    assert [one["id"] for one in denied["receipts"]] == [ids[1]]
    asyncio.run(sidecar.state.close())


def test_a_blank_service_token_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the service token is blank"):
        TrustService(TrustConfig(service_token=SecretStr(" ")))


def test_two_authorities_are_refused(trust: Trust) -> None:
    with pytest.raises(ConfigurationError, match="give only one"):
        trust("authority_db", "authority_seed_file")


def test_a_store_that_fails_is_answered_500_without_a_secret(tmp_path: Path) -> None:
    service = TrustService(
        TrustConfig(service_token=SecretStr(TOKEN), authority_db=tmp_path / "a", revocation_db=tmp_path / "r")
    )
    app = create_trust_app(service)
    service.close()
    for method, path, body in PROTECTED[:5]:
        answer = ask(app, method, path, json=body, headers=AUTH)
        assert answer.status_code == 500
        assert list(answer.json()) == ["error"]
        assert TOKEN not in answer.text
    health = ask(app, "GET", "/health")
    assert (health.status_code, health.json()["authority"]["available"]) == (200, False)


def test_the_service_token_is_never_shown(app: Any) -> None:
    assert TOKEN not in repr(TrustConfig(service_token=SecretStr(TOKEN)))
    for method, path, body in PROTECTED:
        for headers in ({}, AUTH):
            assert TOKEN not in ask(app, method, path, json=body, headers=headers).text
