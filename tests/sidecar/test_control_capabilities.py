"""Releasing, issuing and validating capabilities over the control plane (wire protocol, 7.4 and 7.6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_core.capabilities import backdated, issue_capability, verify_capability
from chio_core.errors import InvalidDocument
from chio_core.signing import SigningKey
from chio_sidecar.control.capabilities import parse_scopes
from chio_sidecar.store.issuers import issuer_name
from tests.sidecar.control_tools import GRANT, ZEROS, evaluate, fetch
from tests.sidecar.sidecar_tools import AUTHORITY, NOW

SCOPE: dict[str, Any] = {"grants": [GRANT]}
WIDER: dict[str, Any] = {"grants": [GRANT | {"server_id": "*"}]}
REVOKED = "capability token has been revoked"
Create = Callable[..., Any]


def token(key: SigningKey = AUTHORITY, **details: Any) -> dict[str, Any]:
    options = {"subject": ZEROS, "scope": SCOPE, "ttl_seconds": 60, "now": NOW} | details
    return issue_capability(key, **options).to_wire()


def validate(app: Any, document: dict[str, Any]) -> dict[str, Any]:
    response = fetch(app, "POST", "/v1/capabilities/validate", json=document)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def release(app: Any, **body: Any) -> httpx.Response:
    return fetch(app, "POST", "/v1/capabilities/release", json=body)


def test_a_released_capability_is_refused_at_once(app: Any) -> None:
    capability = token()
    assert evaluate(app, capability, request_id="before")["verdict"] == {"verdict": "allow"}
    response = release(app, capability_id=f"  {capability['id']} ", job_uid="j", reason="done")
    assert (response.status_code, response.json()) == (200, {"released": True})
    assert evaluate(app, capability, request_id="after")["verdict"]["reason"] == REVOKED


def test_a_release_holds_after_a_restart(app: Any, create: Create) -> None:
    capability = token()
    release(app, capability_id=capability["id"])
    assert evaluate(create(), capability)["verdict"]["reason"] == REVOKED


def test_a_release_of_an_unknown_or_released_id_has_the_same_response(app: Any) -> None:
    for _ in range(2):
        assert release(app, capability_id="cap-unknown").json() == {"released": True}


def test_a_whole_token_is_not_released_as_if_it_were_an_id(app: Any) -> None:
    response = release(app, capability_id=json.dumps(token()))
    assert (response.status_code, "send its member id" in response.text) == (400, True)


def test_the_release_of_a_capability_withdraws_no_key(app: Any) -> None:
    response = release(app, capability_id=f" issuer:{'ab' * 32}")
    assert response.status_code == 400
    assert "chio-sidecar trust revoke --issuer KEY" in response.json()["message"]


def test_a_sidecar_mints_nothing_with_a_withdrawn_key(app: Any) -> None:
    key = app.state.sidecar.key.public_hex
    asyncio.run(app.state.sidecar.store.revoke(issuer_name(key)))
    for path in ("/v1/capabilities/mint", "/v1/capabilities"):
        response = fetch(app, "POST", path, json={"subject": "s", "scopes": ["tools:read"]})
        assert (response.status_code, response.json()["error"]) == (409, "chio_capability_mint_failed")
        assert f"the key {key} was withdrawn" in response.json()["message"]


@pytest.mark.parametrize(("withdrawn", "status"), [(True, 409), (False, 200), (None, 200)])
def test_a_sidecar_mints_nothing_with_a_key_that_its_trust_service_has_withdrawn(
    create: Create, withdrawn: bool | None, status: int
) -> None:
    def service(request: httpx.Request) -> httpx.Response:
        found = {"capabilityId": request.url.params["capabilityId"], "revoked": withdrawn}
        return httpx.Response(503 if withdrawn is None else 200, json=found)

    app = create(control_url="http://trust.example", control_transport=httpx.MockTransport(service))
    response = fetch(app, "POST", "/v1/capabilities/mint", json={"subject": "s", "scopes": ["tools:read"]})
    assert response.status_code == status


def test_a_released_job_stays_released_when_it_is_minted_again(app: Any) -> None:
    body = {"subject": "agent", "job_uid": "job", "scopes": ["tools:x"]}
    first = fetch(app, "POST", "/v1/capabilities/mint", json=body).json()["capability"]
    release(app, capability_id=first["id"])
    again = fetch(app, "POST", "/v1/capabilities/mint", json=body).json()["capability"]
    assert evaluate(app, again)["verdict"]["reason"] == REVOKED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"capability_id":" "}', "capability_id must not be empty"),
        (b"{}", "invalid capability release payload: capability_id: Field required"),
        (b'{"capability_id":7}', "invalid capability release payload: capability_id: "),
        (b'{"capability_id":"x","reason":7}', "invalid capability release payload: reason: "),
    ],
)
def test_a_malformed_release_is_refused_with_400(app: Any, content: bytes, message: str) -> None:
    response = fetch(app, "POST", "/v1/capabilities/release", content=content)
    assert response.status_code == 400
    assert response.json()["message"].startswith(message)


def test_a_sidecar_without_a_lasting_store_refuses_to_release(create: Create) -> None:
    response = release(create(ephemeral=True), capability_id="cap-1")
    message = "persistent receipt_db must be configured for capability release"
    assert response.status_code == 500
    assert response.json() == {"error": "chio_capability_release_failed", "message": message}


def test_issue_returns_the_bare_token_for_a_public_key(app: Any) -> None:
    body = {"subject": AUTHORITY.public_hex, "scope": SCOPE, "ttl_seconds": 7}
    found = fetch(app, "POST", "/v1/capabilities", json=body).json()
    verify_capability(found, trusted_issuers={app.state.sidecar.key.public_hex}, now=NOW)
    assert found["id"].startswith("cap-")
    assert found["scope"] == SCOPE
    assert found["expires_at"] == NOW + 7


def test_issue_also_accepts_the_body_of_a_mint(app: Any) -> None:
    body = {"subject": "agent-1", "scopes": ["tools:search"], "ttl_seconds": 60}
    minted = fetch(app, "POST", "/v1/capabilities/mint", json=body).json()["capability"]
    assert fetch(app, "POST", "/v1/capabilities", json=body).json() == minted


def test_issue_refuses_a_label_instead_of_a_key(app: Any) -> None:
    response = fetch(app, "POST", "/v1/capabilities", json={"subject": "agent-1", "scope": SCOPE})
    assert response.status_code == 400
    assert response.json()["message"].startswith("subject is not a public key")


def test_a_good_token_is_valid(app: Any) -> None:
    capability = token()
    expected = {"valid": True, "expires_at": NOW + 60, "capability_id": capability["id"]}
    assert validate(app, capability) == expected
    narrowed = {"expected_subject": "0x" + ZEROS, "expected_scope": SCOPE}
    assert validate(app, capability | narrowed) == expected


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (token(SigningKey(b"\x23" * 32)), "capability issuer is not trusted"),
        (token() | {"scope": WIDER}, "capability signature did not verify"),
        (token(now=NOW - 60), "capability has expired"),
        (token(now=NOW + 1), "capability is not yet valid"),
        (token() | {"expected_subject": "1" * 64}, "capability subject does not match expected_subject"),
        (token() | {"expected_scope": WIDER}, "expected_scope is not a subset of capability scope"),
    ],
)
def test_validate_names_the_first_reason(app: Any, document: dict[str, Any], reason: str) -> None:
    found = validate(app, document)
    assert (found["valid"], found["reason"]) == (False, reason)
    assert found["capability_id"] == document["id"]


def test_validate_reports_a_revocation_first(app: Any) -> None:
    capability = token(SigningKey(b"\x23" * 32))
    release(app, capability_id=capability["id"])
    assert validate(app, capability)["reason"] == REVOKED


def test_validate_reports_an_unavailable_revocation_authority(create: Create) -> None:
    app = create(
        control_url="http://trust.example",
        control_service_token=SecretStr("t"),
        control_transport=httpx.MockTransport(lambda _: httpx.Response(503)),
    )
    found = validate(app, token())
    assert found["reason"] == "revocation authority is unavailable; no operation was dispatched"


def test_validate_refuses_a_document_that_is_no_token(app: Any) -> None:
    response = fetch(app, "POST", "/v1/capabilities/validate", json={"id": "x"})
    assert response.status_code == 400
    assert response.json()["message"].startswith("invalid capability validation payload: ")


def test_only_the_subject_can_attenuate(app: Any) -> None:
    body = {"parent_token": token(), "new_scope": SCOPE}
    response = fetch(app, "POST", "/v1/capabilities/attenuate", json=body)
    assert response.status_code == 403
    assert response.json()["error"] == "chio_attenuation_requires_subject_signer"
    assert response.json()["authorization"] is False


# Scope texts, ids, subject keys and lifetimes of minted capabilities (wire protocol, section 7.3)


VECTORS = Path(__file__).parents[1] / "vectors" / "composed" / "mint" / "v1.json"
CASES = json.loads(VECTORS.read_text("utf-8"))["cases"]


def mint(app: Any, **body: Any) -> Any:
    return fetch(app, "POST", "/v1/capabilities/mint", json=body)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_mint_responds_as_the_vector_says(app: Any, case: dict[str, Any]) -> None:
    names = ("subject", "job_uid", "scopes", "ttl", "ttl_seconds", "ttl_nanos")
    response = mint(app, **{name: case[name] for name in names if name in case})
    if "expected_error_message" in case:
        expected = {"error": "chio_bad_request", "message": case["expected_error_message"]}
        assert (response.status_code, response.json()) == (400, expected)
        return
    token = response.json()["capability"]
    assert token["id"] == case["expected_capability_id"]
    assert token["subject"] == case["expected_subject_key"]
    assert token["scope"] == case["expected_scope"]
    assert token["issued_at"] == backdated(NOW, case["expected_ttl_seconds"])
    assert token["expires_at"] - token["issued_at"] == case["expected_ttl_seconds"]


@pytest.mark.parametrize(("ttl", "before"), [(3600, 5), (50, 5), (49, 4), (10, 1), (9, 0), (1, 0)])
def test_a_sidecar_whose_clock_is_behind_accepts_a_new_token_at_once(app: Any, ttl: int, before: int) -> None:
    token = mint(app, subject="agent", scopes=["tools:search"], ttl_seconds=ttl).json()["capability"]
    assert (token["issued_at"], token["expires_at"]) == (NOW - before, NOW - before + ttl)
    verify_capability(token, trusted_issuers={app.state.sidecar.key.public_hex}, now=NOW - before)


def test_a_minted_capability_verifies_under_the_sidecars_own_key(app: Any) -> None:
    token = mint(app, subject="agent", scopes=["tools:search"]).json()["capability"]
    verify_capability(token, trusted_issuers={app.state.sidecar.key.public_hex}, now=NOW)
    assert evaluate(app, token)["verdict"] == {"verdict": "allow"}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({}, 3600),
        ({"ttl_seconds": 0}, 3600),
        ({"ttl_seconds": 0, "ttl_nanos": 5}, 3600),
        ({"ttl_seconds": None, "ttl_nanos": 5}, 1),
        ({"ttl_nanos": 0, "ttl": 7}, 3600),
        ({"ttl_nanos": 1_000_000_000}, 1),
        ({"ttl_nanos": 1_000_000_001}, 2),
        ({"ttl": 0}, 3600),
        ({"ttl": 999_999_999}, 999_999_999),
        ({"ttl": 1_000_000_000}, 1),
        ({"ttl": 1_500_000_001}, 2),
    ],
)
def test_the_first_lifetime_that_is_present_counts(app: Any, body: dict[str, Any], seconds: int) -> None:
    token = mint(app, subject="a", **body).json()["capability"]
    assert token["expires_at"] - token["issued_at"] == seconds


@pytest.mark.parametrize(
    ("text", "kind", "grant"),
    [
        ("tools : a : b ", "grants", {"server_id": "*", "tool_name": "a:b", "operations": ["invoke"]}),
        ("tools::x", "grants", {"server_id": "*", "tool_name": "x", "operations": ["invoke"]}),
        ("files:write", "grants", {"server_id": "*", "tool_name": "files", "operations": ["invoke"]}),
        ("files:READ", "grants", {"server_id": "*", "tool_name": "files", "operations": ["read"]}),
        ("tool:invoke", "grants", {"server_id": "*", "tool_name": "tool", "operations": ["invoke"]}),
        ("tool:s:t:Result", "grants", {"server_id": "s", "tool_name": "t", "operations": ["read_result"]}),
        ("resource:u/*:watch", "resource_grants", {"uri_pattern": "u/*", "operations": ["subscribe"]}),
        ("prompt:p:get", "prompt_grants", {"prompt_name": "p", "operations": ["get"]}),
        ("prompt:p:delegate", "prompt_grants", {"prompt_name": "p", "operations": ["delegate"]}),
    ],
)
def test_the_scope_grammar_uses_the_first_rule_that_fits(text: str, kind: str, grant: dict[str, Any]) -> None:
    assert parse_scopes([text]) == {kind: [grant]}


@pytest.mark.parametrize("text", ["", ":", "tools", "tools:", "Tool:a:b:invoke", "resource:a:b:c", "a:b:c"])
def test_another_syntax_is_refused_with_its_own_text(text: str) -> None:
    with pytest.raises(InvalidDocument, match="unsupported controller scope") as caught:
        parse_scopes([text])
    assert caught.value.message == f"unsupported controller scope syntax: {text}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "invalid capability mint payload: "),
        (b"[]", "invalid capability mint payload: a JSON object is expected"),
        (b"{}", "invalid capability mint payload: subject: Field required"),
        (b'{"subject":1}', "invalid capability mint payload: subject: "),
        (b'{"subject":"a","subject":"b"}', "invalid capability mint payload: member 'subject' occurs twice"),
        (b'{"subject":"\\ud800"}', "invalid capability mint payload: "),
        (b'{"subject":"a","ttl_seconds":1.0}', "invalid capability mint payload: ttl_seconds: "),
        (b'{"subject":"a","ttl_seconds":-1}', "invalid capability mint payload: ttl_seconds: "),
        (b'{"subject":"a","scopes":"x"}', "invalid capability mint payload: scopes: "),
        (b'{"subject":"  "}', "subject must not be empty"),
        (b'{"subject":"a","ttl_seconds":18446744073709551615}', "cannot sign this CapabilityToken"),
        (
            b'{"subject":"a","ttl_seconds":1000000000}',
            "cannot sign this CapabilityToken: it would be valid for more than 999999999 seconds",
        ),
    ],
)
def test_a_malformed_mint_is_refused_with_400_in_one_sentence(app: Any, content: bytes, message: str) -> None:
    response = fetch(app, "POST", "/v1/capabilities/mint", content=content)
    assert response.status_code == 400
    assert response.json()["error"] == "chio_bad_request"
    assert response.json()["message"].startswith(message)
