"""Scope texts, ids, subject keys and lifetimes of minted capabilities (wire protocol, section 7.3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chio_core.capabilities import backdated, verify_capability
from chio_core.errors import InvalidDocument
from chio_sidecar.control.capabilities import parse_scopes
from tests.sidecar.control_tools import evaluate, fetch
from tests.sidecar.sidecar_tools import NOW

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
