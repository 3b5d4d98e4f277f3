"""The reference vectors of capability tokens and their scopes hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chio_core.canonical import canonical_json
from chio_core.capabilities import (
    CapabilityRejected,
    is_subset,
    parse_capability,
    pattern_covers,
    scope_allows,
    signing_text,
    verify_capability,
    verify_delegation_chain,
)
from chio_core.models.capability import CapabilityToken, ChioScope, ToolGrant
from tests.core.reference import cases, vectors


def _refusal(token: CapabilityToken, **options: Any) -> str | None:
    try:
        verify_capability(token, check_delegation=False, **options)
    except CapabilityRejected as exc:
        return exc.rule
    return None


def _check(case: dict[str, Any], *, schema_form: bool) -> None:
    token = parse_capability(case["capability"])
    plain = signing_text(token)
    assert plain == case["capability_body_canonical_json"].encode()
    if schema_form:
        with_schema = json.loads(plain) | {"schema": "chio.capability.v1"}
        assert signing_text(token, schema_form=True) == canonical_json(with_schema)
    _check_outcome(token, case["expected"], case["verify_at"], accept_schema_form=schema_form)
    if "expected_with_max_delegation_depth" in case:
        with pytest.raises(CapabilityRejected):
            verify_delegation_chain(token.delegation_chain, max_depth=case["max_delegation_depth"])


def _check_outcome(token: CapabilityToken, expected: dict[str, Any], now: int, **options: Any) -> None:
    rule = _refusal(token, now=now, **options)
    if not expected["signature_valid"]:
        assert rule == "R4"
    else:
        assert rule == {"valid": None, "not_yet_valid": "R5a", "expired": "R5b"}[expected["time_status"]]
    assert expected.get("delegation_chain_valid", expected.get("delegation_chain_shape_valid"))
    verify_delegation_chain(token.delegation_chain)


@cases("april/capability")
def test_april_tokens(case: dict[str, Any]) -> None:
    _check(case, schema_form=False)


@cases("newer/capability")
def test_newer_tokens(case: dict[str, Any]) -> None:
    _check(case, schema_form=True)


@cases("newer/capability")
def test_newer_tokens_are_refused_by_the_strict_april_profile(case: dict[str, Any]) -> None:
    token = parse_capability(case["capability"])
    assert _refusal(token, now=token.issued_at, accept_schema_form=False) == "R4"


@cases("april/issued-capability")
def test_issued_tokens(case: dict[str, Any]) -> None:
    if not case["expected"]["parses"]:
        with pytest.raises(CapabilityRejected) as refused:
            parse_capability(case["capability"])
        assert refused.value.rule == "R2"
        return
    token = parse_capability(case["capability"])
    rule = _refusal(token, now=token.issued_at, trusted_issuers=[token.issuer], accept_schema_form=False)
    assert (rule is None) is case["expected"]["signature_valid"]


@cases("composed/scope-match")
def test_scope_match(case: dict[str, Any]) -> None:
    scope = ChioScope.model_validate({"grants": case["grants"]})
    allowed = scope_allows(
        scope,
        case["tool_server"],
        case["tool_name"],
        case["arguments"],
        model_metadata=case.get("model_metadata"),
    )
    assert allowed is case["expected_match"]


@cases("composed/subset", "tool_cases")
def test_subset_of_tool_grants(case: dict[str, Any]) -> None:
    child, parent = ToolGrant.model_validate(case["child"]), ToolGrant.model_validate(case["parent"])
    assert is_subset(child, parent) is case["expected_subset"]


@cases("composed/subset", "pattern_cases")
def test_patterns_of_resources_and_prompts(case: dict[str, Any]) -> None:
    assert pattern_covers(case["parent"], case["child"]) is case["expected_covered"]


@pytest.mark.parametrize("case", [one for one in vectors("composed/mint")["cases"] if "expected_scope" in one])
def test_scopes_of_minted_tokens_are_written_as_they_were_read(case: dict[str, Any]) -> None:
    scope = ChioScope.model_validate(case["expected_scope"])
    assert json.dumps(scope.to_wire()) == json.dumps(case["expected_scope"])
    assert scope.to_signed() == case["expected_scope"]
    assert is_subset(scope, scope)
