"""The vectors of capability tokens and scopes hold: the protocol's, and the project's own, made without this code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chio_core.canonical import canonical_json
from chio_core.capabilities import (
    CapabilityRejected,
    ConstraintError,
    is_subset,
    match_grant,
    parse_capability,
    pattern_covers,
    scope_allows,
    signing_text,
    verify_capability,
    verify_delegation_chain,
)
from chio_core.models.capability import CapabilityToken, ChioScope, ToolGrant
from tests.core.reference import cases, vectors
from tests.vectors.capability import generate


def _refusal(token: CapabilityToken, **options: Any) -> str | None:
    try:
        verify_capability(token, check_delegation=False, **options)
    except CapabilityRejected as exc:
        return exc.rule
    return None


@cases("april/capability", "newer/capability")
def test_a_token_of_both_profiles(case: dict[str, Any]) -> None:
    newer = case in vectors("newer/capability")["cases"]
    token, expected = parse_capability(case["capability"]), case["expected"]
    plain = signing_text(token)
    assert plain == case["capability_body_canonical_json"].encode()
    if newer:
        with_schema = json.loads(plain) | {"schema": "chio.capability.v1"}
        assert signing_text(token, schema_form=True) == canonical_json(with_schema)
        assert _refusal(token, now=token.issued_at, accept_schema_form=False) == "R4"
    rules = {"valid": None, "not_yet_valid": "R5a", "expired": "R5b"}
    rule = rules[expected["time_status"]] if expected["signature_valid"] else "R4"
    assert _refusal(token, now=case["verify_at"], accept_schema_form=newer) == rule
    assert expected.get("delegation_chain_valid", expected.get("delegation_chain_shape_valid"))
    verify_delegation_chain(token.delegation_chain)
    if "expected_with_max_delegation_depth" in case:
        with pytest.raises(CapabilityRejected):
            verify_delegation_chain(token.delegation_chain, max_depth=case["max_delegation_depth"])


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
    call = (case["tool_server"], case["tool_name"], case["arguments"])
    assert scope_allows(scope, *call, model_metadata=case.get("model_metadata")) is case["expected_match"]


@pytest.mark.parametrize("case", [one for one in vectors("composed/mint")["cases"] if "expected_scope" in one])
def test_scopes_of_minted_tokens_are_written_as_they_were_read(case: dict[str, Any]) -> None:
    scope = ChioScope.model_validate(case["expected_scope"])
    assert json.dumps(scope.to_wire()) == json.dumps(case["expected_scope"])
    assert scope.to_signed() == case["expected_scope"]
    assert is_subset(scope, scope)


SUBSETS = [(case, case["expected_subset"]) for case in vectors("composed/subset")["tool_cases"]]
SUBSETS += [(case, case["expected"]) for case in vectors("capability/subset")["tools"]]
PATTERNS = [(case, case["expected_covered"]) for case in vectors("composed/subset")["pattern_cases"]]
PATTERNS += [(case, case["expected"]) for case in vectors("capability/subset")["patterns"]]


@pytest.mark.parametrize(("case", "expected"), SUBSETS, ids=[case["id"] for case, _ in SUBSETS])
def test_a_grant_is_a_subset_exactly_if_nothing_widens(case: dict[str, Any], expected: bool) -> None:
    assert is_subset(ToolGrant.model_validate(case["child"]), ToolGrant.model_validate(case["parent"])) is expected


@pytest.mark.parametrize(("case", "expected"), PATTERNS, ids=[case["id"] for case, _ in PATTERNS])
def test_a_pattern_covers_only_by_a_trailing_star(case: dict[str, Any], expected: bool) -> None:
    assert pattern_covers(case["parent"], case["child"]) is expected


# The project's own vectors


@cases("capability/tokens")
def test_a_token_is_accepted_or_refused_with_the_protocols_text_as_text_and_as_object(case: dict[str, Any]) -> None:
    options = dict(case["options"])
    verify = {"trusted_issuers": options.pop("trusted"), "now": vectors("capability/tokens")["now"], **options}
    token = case.get("text") or case["token"]
    spellings = [token] if "token" not in case else [token, json.dumps(token), json.dumps(token).encode()]
    reasons = set()
    for spelling in spellings:
        if case["reason"] is None:
            assert verify_capability(spelling, **verify).id == "cap-vector"
            continue
        with pytest.raises(CapabilityRejected) as refused:
            verify_capability(spelling, **verify)
        reasons.add(refused.value.reason)
        if case["reason"].endswith(" "):
            assert refused.value.reason.startswith(case["reason"])
            assert refused.value.rule == "R2"
        else:
            assert refused.value.reason == case["reason"]
    assert len(reasons) == (case["reason"] is not None)


@cases("capability/scope")
def test_a_scope_matches_as_the_table_says(case: dict[str, Any]) -> None:
    scope, about = ChioScope.model_validate({"grants": case["grants"]}), vectors("capability/scope")
    call = (about["tool_server"], about["tool_name"], case["arguments"])
    metadata = case.get("model_metadata")
    if "reason" in case:
        with pytest.raises(ConstraintError) as refused:
            match_grant(scope, *call)
        assert refused.value.reason.startswith(case["reason"])
        assert len(refused.value.reason) > len(case["reason"])
    else:
        assert match_grant(scope, *call, model_metadata=metadata) == case["expected"]
    assert scope_allows(scope, *call, model_metadata=metadata) is (case["expected"] is not None)


@pytest.mark.parametrize(("name", "member"), [("tokens", "cases"), ("scope", "cases"), ("subset", "tools")])
def test_every_own_vector_has_an_id_that_tells_refusals_and_says_why_it_exists(name: str, member: str) -> None:
    found = vectors(f"capability/{name}")[member]
    assert len({case["id"] for case in found}) == len(found)
    assert all(case["why"].endswith((".", "?")) for case in found)
    for case in found:
        refused = (
            case["reason"] is not None if name == "tokens" else (case["expected"] is None or case["expected"] is False)
        )
        assert case["id"].endswith("_fail") is refused, case["id"]


def test_the_token_vectors_are_what_their_generator_writes() -> None:
    assert json.loads(json.dumps(generate.tokens())) == vectors("capability/tokens")
