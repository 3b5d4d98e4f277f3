"""Releasing, issuing and validating capabilities over the control plane (wire protocol, 7.4 and 7.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_core.capabilities import issue_capability, verify_capability
from chio_core.signing import SigningKey
from tests.sidecar.control_tools import NOBODY, ask, evaluate, sidecars

NOW = 1_776_272_775
AUTHORITY = SigningKey(b"\x21" * 32)
SCOPE: dict[str, Any] = {"grants": [{"server_id": "s", "tool_name": "t", "operations": ["invoke"]}]}


Create = Callable[..., Any]


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Create]:
    base = {
        "store_path": tmp_path / "receipts.sqlite3",
        "clock": lambda: NOW,
        "trusted_issuers": {AUTHORITY.public_hex},
    }
    with sidecars() as function:
        yield lambda **options: function(**base | options)


@pytest.fixture
def app(create: Create) -> Any:
    return create()


def token(key: SigningKey = AUTHORITY, **details: Any) -> dict[str, Any]:
    options = {"subject": NOBODY, "scope": SCOPE, "ttl_seconds": 60, "now": NOW} | details
    return issue_capability(key, **options).to_wire()


def validate(app: Any, document: dict[str, Any]) -> dict[str, Any]:
    answer = ask(app, "POST", "/v1/capabilities/validate", json=document)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def release(app: Any, **body: Any) -> httpx.Response:
    return ask(app, "POST", "/v1/capabilities/release", json=body)


def test_a_released_capability_is_refused_at_once(app: Any) -> None:
    capability = token()
    assert evaluate(app, capability, request_id="before")["verdict"] == {"verdict": "allow"}
    answer = release(app, capability_id=f"  {capability['id']} ", job_uid="j", reason="done")
    assert (answer.status_code, answer.json()) == (200, {"released": True})
    verdict = evaluate(app, capability, request_id="after")["verdict"]
    assert verdict["reason"] == "capability token has been revoked"


def test_a_release_holds_after_a_restart(create: Create) -> None:
    capability = token()
    release(create(), capability_id=capability["id"])
    assert evaluate(create(), capability)["verdict"]["verdict"] == "deny"


def test_a_release_of_an_unknown_or_released_id_is_answered_alike(app: Any) -> None:
    for _ in range(2):
        assert release(app, capability_id="cap-unknown").json() == {"released": True}


def test_a_released_job_stays_released_when_it_is_minted_again(app: Any) -> None:
    body = {"subject": "agent", "job_uid": "job", "scopes": ["tools:x"]}
    first = ask(app, "POST", "/v1/capabilities/mint", json=body).json()["capability"]
    release(app, capability_id=first["id"])
    again = ask(app, "POST", "/v1/capabilities/mint", json=body).json()["capability"]
    assert evaluate(app, again)["verdict"]["reason"] == "capability token has been revoked"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"capability_id":" "}', "capability_id must not be empty"),
        (b"{}", "invalid capability release payload: capability_id: Field required"),
        (b'{"capability_id":7}', "invalid capability release payload: capability_id: "),
        (b'{"capability_id":"x","reason":7}', "invalid capability release payload: reason: "),
    ],
)
def test_a_malformed_release_is_answered_400(app: Any, content: bytes, message: str) -> None:
    answer = ask(app, "POST", "/v1/capabilities/release", content=content)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(message)


def test_a_sidecar_without_a_lasting_store_refuses_to_release(create: Create) -> None:
    answer = release(create(ephemeral=True), capability_id="cap-1")
    assert (answer.status_code, answer.json()) == (
        500,
        {
            "error": "chio_capability_release_failed",
            "message": "persistent receipt_db must be configured for capability release",
        },
    )


def test_issue_answers_the_bare_token_for_a_public_key(app: Any) -> None:
    body = {"subject": AUTHORITY.public_hex, "scope": SCOPE, "ttl_seconds": 7}
    found = ask(app, "POST", "/v1/capabilities", json=body).json()
    verify_capability(found, trusted_issuers={app.state.sidecar.key.public_hex}, now=NOW)
    assert found["id"].startswith("cap-")
    assert found["scope"] == SCOPE
    assert found["expires_at"] == NOW + 7


def test_issue_also_takes_the_body_of_a_mint(app: Any) -> None:
    body = {"subject": "agent-1", "scopes": ["tools:search"], "ttl_seconds": 60}
    minted = ask(app, "POST", "/v1/capabilities/mint", json=body).json()["capability"]
    assert ask(app, "POST", "/v1/capabilities", json=body).json() == minted


def test_issue_refuses_a_label_where_a_key_is_due(app: Any) -> None:
    answer = ask(app, "POST", "/v1/capabilities", json={"subject": "agent-1", "scope": SCOPE})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("subject is no public key")


def test_a_good_token_is_valid(app: Any) -> None:
    capability = token()
    expected = {"valid": True, "expires_at": NOW + 60, "capability_id": capability["id"]}
    assert validate(app, capability) == expected
    narrowed = {"expected_subject": "0x" + NOBODY, "expected_scope": SCOPE}
    assert validate(app, capability | narrowed) == expected


WIDER: dict[str, Any] = {"grants": [{"server_id": "*", "tool_name": "t", "operations": ["invoke"]}]}


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
def test_validate_names_the_first_thing_that_is_wrong(app: Any, document: dict[str, Any], reason: str) -> None:
    found = validate(app, document)
    assert (found["valid"], found["reason"]) == (False, reason)
    assert found["capability_id"] == document["id"]


def test_validate_finds_a_revocation_first(app: Any) -> None:
    capability = token(SigningKey(b"\x23" * 32))
    release(app, capability_id=capability["id"])
    assert validate(app, capability)["reason"] == "capability token has been revoked"


def test_validate_says_so_when_the_revocation_authority_cannot_be_asked(create: Create) -> None:
    app = create(
        control_url="http://trust.example",
        control_service_token=SecretStr("t"),
        control_transport=httpx.MockTransport(lambda _: httpx.Response(503)),
    )
    found = validate(app, token())
    assert found["reason"] == "revocation authority is unavailable; no operation was dispatched"


def test_validate_refuses_what_is_no_token(app: Any) -> None:
    answer = ask(app, "POST", "/v1/capabilities/validate", json={"id": "x"})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("invalid capability validation payload: ")


def test_nobody_but_the_subject_can_attenuate(app: Any) -> None:
    body = {"parent_token": token(), "new_scope": SCOPE}
    answer = ask(app, "POST", "/v1/capabilities/attenuate", json=body)
    assert answer.status_code == 403
    assert answer.json()["error"] == "chio_attenuation_requires_subject_signer"
    assert answer.json()["authorization"] is False
