"""Read, verify and issue tokens: the promises that the vectors cannot express."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chio_core.canonical import canonical_json
from chio_core.capabilities import (
    MAX_TOKEN_BYTES,
    CapabilityRejected,
    issue_capability,
    parse_capability,
    sign_link,
    signing_text,
    verify_capability,
    verify_delegation_chain,
)
from chio_core.capabilities.tokens import NARROWING
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.models.capability import (
    CONSTRAINT_TYPES,
    Attenuation,
    CapabilityToken,
    ChioScope,
    Constraint,
    DelegationLink,
)
from chio_core.signing import SigningKey

NOW = 1_800_000_000
ISSUER, SUBJECT, OTHER = (SigningKey(bytes([number]) * 32) for number in (61, 62, 63))
SCOPE = {"grants": [{"server_id": "shop", "tool_name": "order", "operations": ["invoke"]}]}

# The worked example of wire protocol, section 5.2.
WORKED_ISSUER, WORKED_SUBJECT = SigningKey(b"\x21" * 32), SigningKey(b"\x22" * 32)
WORKED_SCOPE = {"grants": [{"server_id": "http-sidecar-client", "tool_name": "hello_write", "operations": ["invoke"]}]}
WORKED_PLAIN = (
    "f294de3713bbf6bf1fa6c3117ccec9a44d640c364aa60deba6da1af135b3c82d"
    "11e4b65d592a5209224c0da86fac7b72129b429a9615a2e220bbfe27d719c907"
)
WORKED_WITH_SCHEMA = (
    "21dcbae45fde79aefdc3761ad7e7b0165dc617c17ab43a45bbc66c95fd890fa7"
    "9377823aafb15202c628f9f7f270e5861574d82461a2d3eaebdac5cb67f3200e"
)


def issue(**options: Any) -> CapabilityToken:
    members: dict[str, Any] = {"subject": SUBJECT.public_hex, "scope": SCOPE, "ttl_seconds": 60, "now": NOW}
    return issue_capability(ISSUER, **(members | options))


def refusal(token: Any, **options: Any) -> CapabilityRejected:
    with pytest.raises(CapabilityRejected) as refused:
        verify_capability(token, **({"now": NOW} | options))
    return refused.value


@pytest.mark.parametrize(("schema_form", "signature"), [(False, WORKED_PLAIN), (True, WORKED_WITH_SCHEMA)])
def test_the_worked_example_of_the_protocol_is_signed_alike(schema_form: bool, signature: str) -> None:
    token = issue_capability(
        WORKED_ISSUER,
        subject=WORKED_SUBJECT.public_hex,
        scope=WORKED_SCOPE,
        ttl_seconds=300,
        now=1_776_272_700,
        capability_id="cap-0198f0a0-0000-7000-8000-000000000002",
        schema_form=schema_form,
    )
    assert token.signature == signature
    assert token.expires_at == 1_776_273_000


def test_an_issued_token_survives_the_header_and_verifies() -> None:
    token = issue(scope={"prompt_grants": [{"prompt_name": "grüße-*", "operations": ["get"]}]})
    header = token.to_header()
    assert header.isascii()
    assert "\n" not in header
    assert " " not in header
    again = verify_capability(header, trusted_issuers=[ISSUER.public_hex], now=NOW)
    assert again == token
    assert "schema" not in json.loads(header)


def test_a_token_of_the_newer_form_has_a_schema_and_is_refused_by_strict_april() -> None:
    token = issue(schema_form=True)
    assert token.to_wire()["schema"] == "chio.capability.v1"
    assert verify_capability(token.to_header(), now=NOW) == token
    assert refusal(token, accept_schema_form=False).rule == "R4"


@pytest.mark.parametrize(
    "name", ["caveats", "scope_attenuations", "attenuation_proof", "budget_share_bps", "aggregate_invocation_budget"]
)
def test_a_member_that_narrows_a_token_in_a_way_that_is_not_known_refuses_it(name: str) -> None:
    assert name in NARROWING
    document = issue().to_wire()
    for value in (1, ["x"], {"x": 1}):
        assert refusal(document | {name: value}).rule == "R4"
    for value in (None, [], {}):
        assert verify_capability(document | {name: value}, now=NOW).id == document["id"]


def test_an_issued_id_is_a_uuid_of_version_seven() -> None:
    pattern = r"cap-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    ids = {issue().id for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(pattern, one) for one in ids)


@pytest.mark.parametrize(
    "options",
    [{"ttl_seconds": 0}, {"ttl_seconds": 2**64}, {"subject": "agent-1"}, {"scope": {"grants": [{}]}}, {"now": -1}],
)
def test_a_token_that_could_not_be_read_is_not_issued(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        issue(**options)


@pytest.mark.parametrize("written", [str.upper, lambda key: f"0x{key}"])
def test_trusted_keys_may_be_written_in_any_accepted_way(written: Any) -> None:
    assert verify_capability(issue(), trusted_issuers=(written(ISSUER.public_hex),), now=NOW)


def test_without_a_trusted_issuer_every_token_is_refused() -> None:
    assert refusal(issue(), trusted_issuers=[]).reason == "capability issuer is not trusted"


@pytest.mark.parametrize("trusted", [ISSUER.public_hex, ["not a key"]])
def test_a_mistake_in_the_trusted_keys_is_a_configuration_error(trusted: Any) -> None:
    with pytest.raises(ConfigurationError, match="trusted_issuers"):
        verify_capability(issue(), trusted_issuers=trusted, now=NOW)


def test_the_clock_of_the_machine_is_used_without_now() -> None:
    token = issue_capability(ISSUER, subject=SUBJECT.public_hex, scope={}, ttl_seconds=600)
    assert verify_capability(token, trusted_issuers=[ISSUER.public_hex]) is token
    assert refusal(issue(now=1), now=None).rule == "R5b"


def test_every_change_of_a_signed_member_breaks_the_signature() -> None:
    wire = issue(delegation_chain=[sign_link(ISSUER, capability_id="p", delegatee=SUBJECT.public_hex, timestamp=1)])
    document = wire.to_wire()
    changes: dict[str, Any] = {
        "id": "cap-other",
        "subject": OTHER.public_hex,
        "issuer": OTHER.public_hex,
        "scope": {},
        "issued_at": NOW - 1,
        "expires_at": NOW + 61,
        "delegation_chain": [],
    }
    assert set(changes) == set(signed_members(wire))
    for name, value in changes.items():
        assert refusal(document | {name: value}).rule == "R4"


def signed_members(token: CapabilityToken) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(signing_text(token))
    return members


@pytest.mark.parametrize("wide", [2**53, 2**53 + 1, 2**63 + 1, 2**64 - 1])
def test_wide_integers_are_signed_digit_by_digit(wide: int) -> None:
    token = issue(
        ttl_seconds=wide - NOW,
        scope={"grants": [SCOPE["grants"][0] | {"max_total_cost": {"units": wide, "currency": "EUR"}}]},
    )
    assert str(wide).encode() in signing_text(token)
    assert verify_capability(token.to_header(), now=wide - 1).expires_at == wide
    changed = token.to_header().replace(f'"units":{wide}', f'"units":{wide - 1}')
    assert refusal(changed).rule == "R4"


@pytest.mark.parametrize("number", ["18446744073709551616", "9" * 400, "9" * 5000, "1e400", "-1", "1.0"])
def test_a_number_that_is_no_u64_makes_the_token_unreadable(number: str) -> None:
    text = issue().to_header().replace(str(NOW + 60), number)
    assert refusal(text).rule == "R2"


def test_a_token_without_a_canonical_form_has_no_valid_signature() -> None:
    members = issue().to_wire()
    assert refusal(members | {"id": "\ud800"}).rule == "R4"
    link = sign_link(ISSUER, capability_id="p", delegatee=SUBJECT.public_hex, timestamp=1)
    with pytest.raises(CapabilityRejected, match="signature invalid at link index 0"):
        verify_delegation_chain([link.model_copy(update={"capability_id": "\ud800"})])


def test_the_size_of_a_token_is_bounded_in_bytes() -> None:
    members = issue().to_wire()
    room = MAX_TOKEN_BYTES - len(json.dumps(members | {"note": ""}, ensure_ascii=False).encode())
    fits = json.dumps(members | {"note": "é" * (room // 2)}, ensure_ascii=False)
    assert verify_capability(fits, now=NOW)
    longer = json.dumps(members | {"note": "é" * (room // 2 + 1)}, ensure_ascii=False)
    assert refusal(longer).reason == f"invalid capability token: longer than {MAX_TOKEN_BYTES} bytes"


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        "\ud800",
        "",
        "null",
        "5",
        '"text"',
        [],
        5,
        None,
        {1: 2},
        "[" * 60_000,
        '{"id":' * 10_000,
        "{" + '"a":{' * 9000,
    ],
)
def test_any_other_value_is_refused_as_a_malformed_token(text: Any) -> None:
    assert refusal(text).reason.startswith("invalid capability token: ")


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200), st.dictionaries(st.text(), st.integers())))
def test_no_input_raises_anything_but_a_rejection(token: Any) -> None:
    with pytest.raises(CapabilityRejected):
        verify_capability(token, now=NOW)


@given(st.data())
def test_a_token_with_one_changed_byte_is_refused_or_means_the_same(data: st.DataObject) -> None:
    token = issue(capability_id="cap-x")
    raw = bytearray(token.to_header().encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    try:
        read = verify_capability(bytes(raw), trusted_issuers=[ISSUER.public_hex], now=NOW)
    except CapabilityRejected:
        return
    assert signing_text(read) == signing_text(token)


def test_a_refusal_does_not_repeat_the_token() -> None:
    secret = "s3cr3t-content"
    members = issue().to_wire()
    texts = [
        json.dumps(members | {"issued_at": secret}),
        json.dumps(members | {"subject": secret}),
        json.dumps(members | {"algorithm": secret}),
        json.dumps(members | {"scope": {"grants": [{"server_id": "s", "tool_name": "t", "operations": [secret]}]}}),
        json.dumps(members | {"scope": {"grants": [SCOPE["grants"][0] | {"constraints": [{"type": secret}]}]}}),
        json.dumps(members).replace("{", f'{{"{secret}":1,"{secret}":2,', 1),
        json.dumps(members) + secret,
        f'{{"{secret}',
    ]
    for text in texts:
        refused = refusal(text)
        assert refused.rule == "R2"
        assert secret not in refused.reason
        assert secret not in str(refused)


def test_a_token_does_not_show_its_signature() -> None:
    token = issue()
    assert token.signature not in f"{token!r} {token}"
    assert token.id in repr(token)


def test_a_link_is_made_and_checked() -> None:
    link = sign_link(
        ISSUER,
        capability_id="cap-1",
        delegatee=SUBJECT.public_hex,
        timestamp=NOW,
        attenuations=[Attenuation(type="shorten_expiry", new_expires_at=NOW + 5)],
    )
    verify_delegation_chain([link])
    assert verify_capability(issue(delegation_chain=[link]).to_header(), now=NOW).delegation_chain == [link]
    with pytest.raises(CapabilityRejected, match="signature invalid at link index 0") as refused:
        verify_delegation_chain([link.model_copy(update={"attenuations": []})])
    assert refused.value.rule == "delegation"


@pytest.mark.parametrize("name", ["issuer:", "issuer:x", f"issuer:{ISSUER.public_hex}"])
def test_no_token_and_no_link_has_the_name_of_an_issuer_as_its_id(name: str) -> None:
    link = sign_link(ISSUER, capability_id="parent", delegatee=SUBJECT.public_hex, timestamp=NOW)
    wire = issue(delegation_chain=[link]).to_wire()
    for named in ({"id": name}, {"delegation_chain": [{**link.to_wire(), "capability_id": name}]}):
        assert "an id must not begin with issuer:" in refusal({**wire, **named}).message
    with pytest.raises(InvalidDocument, match="must not begin with issuer:"):
        issue(capability_id=name)
    with pytest.raises(InvalidDocument, match="must not begin with issuer:"):
        sign_link(ISSUER, capability_id=name, delegatee=SUBJECT.public_hex, timestamp=NOW)


def test_a_newer_link_is_refused_by_strict_april() -> None:
    plain = sign_link(ISSUER, capability_id="cap-1", delegatee=SUBJECT.public_hex, timestamp=NOW)
    link = DelegationLink.model_validate(plain.to_wire() | {"scope_hash": "ab" * 32})
    verify_delegation_chain([link])  # an unknown member is not signed in the plain form
    body = link.to_signed() | {"scope_hash": "ab" * 32}
    del body["signature"]
    newer = link.model_copy(update={"signature": ISSUER.sign(canonical_json(body))})
    verify_delegation_chain([newer])
    with pytest.raises(CapabilityRejected):
        verify_delegation_chain([newer], accept_newer=False)


def test_a_link_to_a_malformed_key_is_not_signed() -> None:
    with pytest.raises(InvalidDocument):
        sign_link(ISSUER, capability_id="cap-1", delegatee="agent", timestamp=NOW)


def test_unknown_members_survive_reading_and_writing() -> None:
    wire = issue().to_wire() | {"note": {"a": [1, None]}}
    wire["scope"]["grants"][0]["hint"] = "kept"
    token = parse_capability(json.dumps(wire))
    assert token.to_wire() == wire
    assert verify_capability(token, now=NOW)


TEXTS: tuple[list[Any], list[Any]] = ([[], ["a", "b"]], ["a", [1], ["a", None], {"a": "b"}, None])
TEXT: tuple[list[Any], list[Any]] = (["", "a"], [None, 1, True, ["a"]])
COUNT: tuple[list[Any], list[Any]] = ([0, 2**64 - 1], [-1, 2**64, 1.0, True, "1", None])


def _words(*good: str) -> tuple[list[Any], list[Any]]:
    return list(good), [good[0].upper(), "", None, 1, [good[0]]]


# For every type of the table: values that it accepts, and values that make a token unreadable.
SHAPES: dict[str, tuple[list[Any], list[Any]]] = {
    "path_prefix": TEXT,
    "domain_exact": TEXT,
    "domain_glob": TEXT,
    "regex_match": TEXT,
    "seller_exact": TEXT,
    "max_transaction_amount_usd": TEXT,
    "max_length": COUNT,
    "max_args_size": COUNT,
    "max_rows_returned": COUNT,
    "custom": ([["key", "text"]], [["key"], ["a", "b", "c"], ["a", 1], "ab", {"a": "b"}, None]),
    "audience_allowlist": TEXTS,
    "memory_store_allowlist": TEXTS,
    "memory_write_deny_patterns": TEXTS,
    "table_allowlist": TEXTS,
    "column_denylist": TEXTS,
    "model_constraint": (
        [{}, {"allowed_model_ids": ["m"], "min_safety_tier": None}, {"min_safety_tier": "low"}],
        [None, ["m"], {"allowed_model_ids": "m"}, {"allowed_model_ids": None}, {"min_safety_tier": ["low"]}],
    ),
    "governed_intent_required": ([None], [True, "", {}]),
    "require_approval_above": (
        [{"threshold_units": 0}],
        [None, 5, {}, {"threshold_units": "5"}, {"threshold_units": -1}],
    ),
    "require_dual_approval": ([True, False], [None, 1, "true"]),
    "minimum_runtime_assurance": _words("none", "basic", "attested", "verified"),
    "minimum_autonomy_tier": _words("direct", "delegated", "autonomous"),
    "operation_class": _words("read_only", "read_write", "admin"),
    "content_review_tier": _words("none", "basic", "strict"),
}


def test_every_type_of_the_table_is_known() -> None:
    assert set(SHAPES) == CONSTRAINT_TYPES


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_constraint_accepts_values_of_its_shape_only(name: str) -> None:
    good, bad = SHAPES[name]
    for value in good:
        assert Constraint.model_validate({"type": name, "value": value}).value == value
    for value in bad:
        with pytest.raises(ValueError, match=f"the value of {name} must be"):
            Constraint.model_validate({"type": name, "value": value})


def test_only_known_members_of_a_value_are_signed() -> None:
    value = {"allowed_model_ids": ["m"], "later": 1}
    assert Constraint(type="model_constraint", value=value).to_signed()["value"] == {"allowed_model_ids": ["m"]}
    surplus = Constraint.model_validate({"type": "max_length", "value": 1, "note": "x"})
    assert surplus.to_signed() == {"type": "max_length", "value": 1}


def test_an_attenuation_signs_only_the_members_of_its_type() -> None:
    attenuation = Attenuation.model_validate(
        {"type": "remove_tool", "server_id": "s", "tool_name": "t", "operation": "invoke", "note": 1}
    )
    assert attenuation.to_signed() == {"type": "remove_tool", "server_id": "s", "tool_name": "t"}


def test_a_scope_of_models_is_issued_like_one_of_json() -> None:
    scope = ChioScope.model_validate(SCOPE)
    both = [issue(scope=form, capability_id="cap-same") for form in (scope, SCOPE)]
    assert both[0] == both[1]
