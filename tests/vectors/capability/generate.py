"""Make the token vectors: `python tests/vectors/capability/generate.py` writes `tokens.json`.

Nothing of `chio_core` is used here. Canonical text comes from `rfc8785`, signatures from `cryptography`, so that
the vectors hold the code to the protocol and not to itself. The seeds are the digests of the names in `_SEEDS`.
Ids that end in `_fail` must be refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FOLDER = Path(__file__).resolve().parent
NOW = 1_800_000_000
SCHEMA = "chio.capability.v1"

_SEEDS = ("issuer", "subject", "delegate one", "delegate two", "stranger")
_KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"capability vectors: {name}".encode()).digest())
    for name in _SEEDS
}
_PUBLIC = {name: key.public_key().public_bytes_raw().hex() for name, key in _KEYS.items()}

_ORDER = {"server_id": "shop", "tool_name": "order"}
_INVOKE = _ORDER | {"operations": ["invoke"]}
_R4 = "capability signature verification failed"
_R2 = "invalid capability token: "


def _sign(name: str, body: dict[str, Any]) -> str:
    return _KEYS[name].sign(rfc8785.dumps(body)).hex()


def _body(**changes: Any) -> dict[str, Any]:
    body = {
        "id": "cap-vector",
        "issuer": _PUBLIC["issuer"],
        "subject": _PUBLIC["subject"],
        "scope": {"grants": [_INVOKE]},
        "issued_at": NOW - 60,
        "expires_at": NOW + 60,
    }
    return {name: value for name, value in (body | changes).items() if value is not None}


def _token(by: str = "issuer", *, unsigned: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Sign a body in the plain form, then add or replace members that the signature does not cover."""
    body = _body(**changes)
    return body | {"signature": _sign(by, body)} | (unsigned or {})


def _schema_token(**changes: Any) -> dict[str, Any]:
    body = _body(**changes) | {"schema": SCHEMA}
    return body | {"signature": _sign("issuer", body)}


def _link(by: str, to: str, at: int = NOW, **changes: Any) -> dict[str, Any]:
    link = {"capability_id": "cap-parent", "delegator": _PUBLIC[by], "delegatee": _PUBLIC[to], "timestamp": at}
    link |= changes
    return link | {"signature": _sign(by, link)}


def _grants(*constraints: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"grants": [_INVOKE | ({"constraints": list(constraints)} if constraints else {}) | members]}


def _valid_tokens() -> list[dict[str, Any]]:
    chain = [_link("issuer", "delegate one"), _link("delegate one", "delegate two", NOW + 5)]
    every_attenuation = [
        {"type": "remove_tool", **_ORDER},
        {"type": "remove_operation", **_ORDER, "operation": "delegate"},
        {"type": "add_constraint", **_ORDER, "constraint": {"type": "max_length", "value": 80}},
        {"type": "reduce_budget", **_ORDER, "max_invocations": 2},
        {"type": "reduce_cost_per_invocation", **_ORDER, "max_cost_per_invocation": {"units": 5, "currency": "EUR"}},
        {"type": "reduce_total_cost", **_ORDER, "max_total_cost": {"units": 50, "currency": "EUR"}},
        {"type": "shorten_expiry", "new_expires_at": NOW + 30},
    ]
    rich = {
        "grants": [
            _INVOKE
            | {
                "constraints": [
                    {"type": "audience_allowlist", "value": ["#ops"]},
                    {"type": "require_dual_approval", "value": True},
                    {"type": "require_approval_above", "value": {"threshold_units": 7}},
                    {"type": "model_constraint", "value": {"allowed_model_ids": [], "min_safety_tier": None}},
                    {"type": "governed_intent_required"},
                ],
                "max_invocations": 4,
                "max_total_cost": {"units": 9, "currency": "EUR"},
                "dpop_required": False,
            }
        ],
        "resource_grants": [{"uri_pattern": "file:///ü/*", "operations": ["read", "subscribe"]}],
        "prompt_grants": [{"prompt_name": "review-*", "operations": ["get"]}],
    }
    return [
        _case("plain", "The form that both generations of verifiers understand.", _token()),
        _case("empty_scope", "A scope may be empty; it is signed as an object.", _token(scope={})),
        _case(
            "rich_scope", "Lists, objects, booleans and null inside a scope are signed as they are.", _token(scope=rich)
        ),
        _case(
            "unknown_members_are_not_signed",
            "Members that the protocol does not know change nothing, at any level.",
            _token(unsigned={"note": {"deep": [1.5]}, "scope": _grants(x_hint="later") | {"y": 1}}),
        ),
        _case(
            "empty_lists_are_not_signed",
            "A list that is written although it is empty stands for the absent one.",
            _token(unsigned={"delegation_chain": [], "scope": _grants(constraints=[]) | {"prompt_grants": []}}),
        ),
        _case("null_is_absent", "An optional member may be null.", _token(unsigned={"algorithm": None})),
        _case(
            "named_algorithm",
            "`algorithm` is not signed; Ed25519 may be named.",
            _token(unsigned={"algorithm": "ed25519"}),
        ),
        _case(
            "keys_are_normalised",
            "A key may start with 0x and be upper case in the text; it is signed in its own form.",
            _token(unsigned={"issuer": "0x" + _PUBLIC["issuer"].upper()}),
        ),
        _case("first_second", "Valid from issued_at on.", _token(issued_at=NOW)),
        _case("last_second", "Valid until the second before expires_at.", _token(expires_at=NOW + 1)),
        _case("chain_of_two", "Two links, connected, in order of time.", _token(delegation_chain=chain)),
        _case(
            "every_attenuation",
            "A link that carries all seven kinds of attenuation.",
            _token(delegation_chain=[_link("issuer", "subject", attenuations=every_attenuation)]),
        ),
        _case(
            "chain_is_not_tied_to_the_token",
            "The rules do not compare the chain with issuer, subject or id.",
            _token(delegation_chain=[_link("stranger", "delegate two")]),
        ),
        _case(
            "broken_chain_unchecked",
            "The April profile's evaluate call does not look at the chain.",
            _token(delegation_chain=[_link("issuer", "subject") | {"timestamp": 1}]),
            check_delegation=False,
        ),
        _case("schema_form", "The newer form, with `schema` written and signed.", _schema_token()),
        _case(
            "schema_form_left_out",
            "Newer verifiers add `schema` themselves when the text leaves it out.",
            {name: value for name, value in _schema_token().items() if name != "schema"},
        ),
        _case(
            "other_schema_on_a_plain_token",
            "`schema` is no part of the plain form, so its value does not matter there.",
            _token(unsigned={"schema": "chio.capability.v9"}),
        ),
        _case(
            "caveats_in_strict_april",
            "The strict April profile does not know caveats: they are unknown members.",
            _token(unsigned={"caveats": ["x"]}),
            accept_schema_form=False,
        ),
        _case(
            "scope_hash_of_newer_links",
            "Newer links sign `scope_hash`, and the newer form of the token signs them with it.",
            _schema_token(delegation_chain=[_link("issuer", "subject", scope_hash="ab" * 32)]),
        ),
    ]


def _invalid_tokens() -> list[dict[str, Any]]:
    one, two = "delegate one", "delegate two"
    late = [_link("issuer", one, NOW + 9), _link(one, two, NOW + 8)]
    forged = [_link("issuer", one), _link(one, two) | {"capability_id": "cap-other"}]
    broken = "delegation chain broken: "
    return [
        _case(
            "stranger_fail",
            "Well signed, but by nobody who is trusted.",
            _token("stranger", issuer=_PUBLIC["stranger"]),
            "capability issuer is not trusted",
        ),
        _case(
            "expired_and_stranger_fail",
            "Trust is asked before time.",
            _token("stranger", issuer=_PUBLIC["stranger"], expires_at=1, issued_at=0),
            "capability issuer is not trusted",
        ),
        _case("wrong_signer_fail", "Names the issuer, signed by somebody else.", _token("stranger"), _R4),
        _case(
            "widened_fail",
            "The scope was changed after signing.",
            _token(unsigned={"scope": _grants(tool_name="*")}),
            _R4,
        ),
        _case(
            "prolonged_fail", "The expiry was changed after signing.", _token(unsigned={"expires_at": NOW + 61}), _R4
        ),
        _case(
            "signed_with_empty_lists_fail",
            "An issuer that signs its raw text with empty lists signs other bytes.",
            _token(delegation_chain=[]),
            _R4,
        ),
        _case(
            "signed_with_algorithm_fail", "`algorithm` never enters the signature.", _token(algorithm="ed25519"), _R4
        ),
        _case(
            "signed_with_unknown_member_fail",
            "An unknown member never enters the signature.",
            _token(note="hello"),
            _R4,
        ),
        _case("other_algorithm_fail", "Only Ed25519 verifies here.", _token(unsigned={"algorithm": "p256"}), _R4),
        _case(
            "other_curve_fail",
            "Keys of other curves can be read, but never verify.",
            _token(unsigned={"issuer": "p256:04" + "ab" * 64}),
            _R4,
            trusted=None,
        ),
        _case(
            "upper_case_signature_fail",
            "A signature has one text; upper case is another one.",
            _token() | {"signature": _token()["signature"].upper()},
            _R4,
        ),
        _case(
            "dropped_chain_fail",
            "The chain is signed, so it cannot be taken away.",
            {
                name: value
                for name, value in _token(delegation_chain=[_link("issuer", one)]).items()
                if name != "delegation_chain"
            },
            _R4,
        ),
        _case(
            "schema_form_in_april_fail",
            "The strict April profile knows only the plain form.",
            _schema_token(),
            _R4,
            accept_schema_form=False,
        ),
        _case(
            "other_schema_signed_fail",
            "A later form is signed with its own name and does not verify.",
            _body()
            | {
                "schema": "chio.capability.v2",
                "signature": _sign("issuer", _body() | {"schema": "chio.capability.v2"}),
            },
            _R4,
        ),
        _case(
            "caveats_fail",
            "A narrowing that is not understood must not be skipped.",
            _token(unsigned={"caveats": ["x"]}),
            _R4,
        ),
        _case("signed_caveats_fail", "The same when it is signed.", _schema_token(caveats=["x"]), _R4),
        _case(
            "not_yet_fail",
            "One second too early, exact text.",
            _token(issued_at=NOW + 1),
            f"{_R2}capability not yet valid (not_before: {NOW + 1})",
        ),
        _case(
            "expired_fail",
            "expires_at itself is too late, exact text.",
            _token(expires_at=NOW),
            f"{_R2}capability expired at {NOW}",
        ),
        _case(
            "depth_fail",
            "Nine links, eight are the limit.",
            _token(delegation_chain=[_link("issuer", "issuer")] * 9),
            "delegation depth 9 exceeds maximum 8",
        ),
        _case(
            "link_signature_fail",
            "The second link was changed after signing.",
            _token(delegation_chain=forged),
            f"{broken}signature invalid at link index 1",
        ),
        _case(
            "link_gap_fail",
            "The second delegator never received anything.",
            _token(delegation_chain=[_link("issuer", one), _link(two, one)]),
            f"{broken}link 1 delegator does not match link 0 delegatee",
        ),
        _case(
            "link_time_fail",
            "The second link is older than the first.",
            _token(delegation_chain=late),
            f"{broken}link 1 timestamp ({NOW + 8}) precedes link 0 timestamp ({NOW + 9})",
        ),
    ]


def _unreadable() -> list[dict[str, Any]]:
    text = json.dumps(_token())
    scopes = {
        "unknown_constraint": (
            {"type": "moon_phase", "value": "full"},
            "A condition that nobody understands is never skipped.",
        ),
        "constraint_without_value": ({"type": "path_prefix"}, "A value that is missing is of the wrong shape."),
        "constraint_with_surplus_value": ({"type": "governed_intent_required", "value": 1}, "This type has no value."),
        "text_for_list": ({"type": "audience_allowlist", "value": "#ops"}, "A string is no array of strings."),
        "bool_for_int": ({"type": "max_length", "value": True}, "A boolean is no integer."),
        "float_for_int": ({"type": "max_length", "value": 3.0}, "A float is no integer, even a whole one."),
        "negative_count": ({"type": "max_args_size", "value": -1}, "Counts are not negative."),
        "triple_for_pair": ({"type": "custom", "value": ["a", "b", "c"]}, "A pair has two elements."),
        "unknown_tier": (
            {"type": "model_constraint", "value": {"min_safety_tier": "extreme"}},
            "A tier that nobody knows.",
        ),
        "unknown_word": ({"type": "operation_class", "value": "READ_ONLY"}, "The words of the table are exact."),
    }
    cases = [
        _case(f"{name}_fail", why, _token(scope=_grants(constraint)), _R2) for name, (constraint, why) in scopes.items()
    ]
    members: dict[str, tuple[Any, str]] = {
        "pascal_case_operation": ({"scope": _grants(operations=["Invoke"])}, "Operations are snake_case."),
        "null_list": ({"delegation_chain": None}, "A list may be absent or empty, not null."),
        "float_time": ({"issued_at": 1.0}, "A float is no time."),
        "bool_time": ({"issued_at": True}, "A boolean is no time."),
        "text_time": ({"expires_at": "1800000060"}, "A string is no time."),
        "time_overflow": ({"expires_at": 2**64}, "Beyond u64."),
        "count_overflow": ({"scope": _grants(max_invocations=2**32)}, "Beyond u32."),
        "text_for_bool": ({"scope": _grants(dpop_required="true")}, "A string is no boolean."),
        "short_key": ({"subject": "ab" * 31}, "A key has 64 hex digits."),
        "padded_key": ({"subject": " " + _PUBLIC["subject"]}, "Spaces are no hex digits."),
        "short_signature": ({"signature": "ab" * 63}, "A signature has 128 hex digits."),
        "unknown_algorithm": ({"algorithm": "rsa"}, "An algorithm that nobody knows."),
        "attenuation_without_type": (
            {"delegation_chain": [_link("issuer", "subject", attenuations=[{"kind": "read_only"}])]},
            "An attenuation that is not understood makes the token unreadable.",
        ),
        "attenuation_incomplete": (
            {"delegation_chain": [_link("issuer", "subject", attenuations=[{"type": "shorten_expiry"}])]},
            "A known attenuation without what it needs.",
        ),
    }
    for name, (unsigned, why) in members.items():
        cases.append(_case(f"{name}_fail", why, _token(unsigned=unsigned), _R2))
    texts = {
        "no_json": ("hello", "No JSON at all."),
        "array": ("[]", "JSON, but no object."),
        "missing_subject": (text.replace('"subject"', '"sub"'), "A required member is missing."),
        "duplicate_member": (text.replace('"id":', '"id": "cap-first", "id":', 1), "Which of the two counts?"),
        "duplicate_deep_member": (
            text.replace('"tool_name":', '"tool_name": "*", "tool_name":'),
            "The same inside a grant.",
        ),
        "not_a_number": (text.replace(str(NOW + 60), "NaN"), "NaN is not JSON."),
        "exponent": (text.replace(str(NOW + 60), "1.9e9"), "A float is no time, however it is written."),
        "lone_surrogate": (text.replace("cap-vector", "cap-\\ud800"), "Half a character is no text."),
        "lone_surrogate_in_unknown_member": (
            text.replace("{", '{"note": "\\udfff",', 1),
            "Also where it is not signed.",
        ),
        "too_deep": (text.replace("{", '{"note": ' + "[" * 200 + "]" * 200 + ",", 1), "Deeper than 128 levels."),
        "trailing_text": (text + "{}", "Only one document."),
        "truncated": (text[:-9], "A document that ends too early."),
    }
    return cases + [_text_case(f"{name}_fail", why, text) for name, (text, why) in texts.items()]


def _case(name: str, why: str, token: dict[str, Any], reason: str | None = None, **options: Any) -> dict[str, Any]:
    options = {"trusted": [_PUBLIC["issuer"]]} | options
    return {"id": name, "why": why, "token": token, "options": options, "reason": reason}


def _text_case(name: str, why: str, text: str) -> dict[str, Any]:
    return {"id": name, "why": why, "text": text, "options": {"trusted": None}, "reason": _R2}


def tokens() -> dict[str, Any]:
    """Return the token vectors. A `reason` that ends in a space is the start of the expected one."""
    return {"now": NOW, "cases": [*_valid_tokens(), *_invalid_tokens(), *_unreadable()]}


def write() -> None:
    """Write the file of token vectors."""
    text = json.dumps(tokens(), indent=1, ensure_ascii=True)
    (FOLDER / "tokens.json").write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    write()
