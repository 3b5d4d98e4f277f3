"""The project's own vectors hold; they were made without the code that they test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chio_core.capabilities import (
    CapabilityRejected,
    ConstraintError,
    is_subset,
    match_grant,
    pattern_covers,
    scope_allows,
    verify_capability,
)
from chio_core.models.capability import ChioScope, ToolGrant

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "capability"


def _load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))
    return document


TOKENS, SCOPE, SUBSET = _load("tokens"), _load("scope"), _load("subset")


def _ids(case: dict[str, Any]) -> str:
    return str(case["id"])


@pytest.mark.parametrize("case", TOKENS["cases"], ids=_ids)
def test_a_token_is_accepted_or_refused_with_the_protocols_text(case: dict[str, Any]) -> None:
    options = dict(case["options"])
    token = case.get("text") or case["token"]
    verify = {"trusted_issuers": options.pop("trusted"), "now": TOKENS["now"], **options}
    if case["reason"] is None:
        assert verify_capability(token, **verify).id == "cap-vector"
        return
    with pytest.raises(CapabilityRejected) as refused:
        verify_capability(token, **verify)
    if case["reason"].endswith(" "):
        assert refused.value.reason.startswith(case["reason"])
        assert refused.value.rule == "R2"
    else:
        assert refused.value.reason == case["reason"]


@pytest.mark.parametrize("case", [case for case in TOKENS["cases"] if "token" in case], ids=_ids)
def test_text_and_parsed_object_of_a_token_are_judged_alike(case: dict[str, Any]) -> None:
    options = dict(case["options"])
    verify = {"trusted_issuers": options.pop("trusted"), "now": TOKENS["now"], **options}

    def outcome(token: Any) -> str:
        try:
            return verify_capability(token, **verify).id
        except CapabilityRejected as exc:
            return exc.reason

    text = json.dumps(case["token"])
    assert outcome(text) == outcome(text.encode()) == outcome(case["token"])


@pytest.mark.parametrize("case", SCOPE["cases"], ids=_ids)
def test_a_scope_matches_as_the_table_says(case: dict[str, Any]) -> None:
    scope = ChioScope.model_validate({"grants": case["grants"]})
    call = (SCOPE["tool_server"], SCOPE["tool_name"], case["arguments"])
    metadata = case.get("model_metadata")
    if "reason" in case:
        with pytest.raises(ConstraintError) as refused:
            match_grant(scope, *call)
        assert refused.value.reason.startswith(case["reason"])
        assert len(refused.value.reason) > len(case["reason"])
    else:
        assert match_grant(scope, *call, model_metadata=metadata) == case["expected"]
    allowed = scope_allows(scope, *call, model_metadata=metadata)
    assert allowed is (case["expected"] is not None)


@pytest.mark.parametrize("case", SUBSET["tools"], ids=_ids)
def test_a_grant_is_a_subset_exactly_when_nothing_widens(case: dict[str, Any]) -> None:
    child, parent = ToolGrant.model_validate(case["child"]), ToolGrant.model_validate(case["parent"])
    assert is_subset(child, parent) is case["expected"]


@pytest.mark.parametrize("case", SUBSET["patterns"], ids=_ids)
def test_a_pattern_covers_only_by_a_trailing_star(case: dict[str, Any]) -> None:
    assert pattern_covers(case["parent"], case["child"]) is case["expected"]


@pytest.mark.parametrize("document", [TOKENS["cases"], SCOPE["cases"], SUBSET["tools"]])
def test_every_vector_says_why_it_exists_and_has_its_own_id(document: list[dict[str, Any]]) -> None:
    ids = [case["id"] for case in document]
    assert len(ids) == len(set(ids))
    assert all(case["why"].endswith((".", "?")) for case in document)


@pytest.mark.parametrize("case", [*TOKENS["cases"], *SCOPE["cases"], *SUBSET["tools"]], ids=_ids)
def test_the_id_of_a_vector_says_whether_it_must_be_refused(case: dict[str, Any]) -> None:
    if "child" in case:
        refused = not case["expected"]
    elif "grants" in case:
        refused = case["expected"] is None
    else:
        refused = case["reason"] is not None
    assert case["id"].endswith("_fail") is refused


def test_the_token_vectors_are_what_their_generator_writes() -> None:
    from tests.vectors.capability import generate

    assert json.loads(json.dumps(generate.tokens())) == TOKENS
