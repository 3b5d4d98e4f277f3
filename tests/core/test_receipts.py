"""Accept a receipt: each rule separately, in the order in which they are checked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from chio_core.canonical import canonical_json
from chio_core.errors import ConfigurationError, ReceiptRejected, SidecarError
from chio_core.evaluation.conclude import conclude
from chio_core.models import HttpReceipt
from chio_core.receipts import Expectation, KeyTrust, receipt_id_is_valid, signed_bytes, verify_receipt
from chio_core.settings import ChioSettings
from chio_core.signing import Signed, SigningKey
from chio_core.testing import KEY, make_receipt, seal
from chio_core.testing.exchange import compact
from tests.core.views import NOW, View, answered, asked, question
from tests.hostile import BEHAVIOURS, tamper

QUESTION = question()
FOREIGN = SigningKey(b"f" * 32)


def receipt(*, newer: bool = False, **changes: Any) -> dict[str, Any]:
    return asked(QUESTION).receipt(newer=newer, **changes)


def accept(document: dict[str, Any], **options: Any) -> HttpReceipt:
    usual = {"trusted_keys": {KEY.public_hex}, "expected": QUESTION.expectation, "now": NOW}
    return verify_receipt(document, **{**usual, **options})


def rule_of(document: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ReceiptRejected) as refused:
        accept(document, **options)
    assert refused.value.code == "chio_invalid_receipt"
    return refused.value.rule


@pytest.mark.parametrize("newer", [False, True])
def test_a_genuine_receipt_is_accepted_and_returned_typed_with_all_its_members(newer: bool) -> None:
    document = receipt(newer=newer)
    found = accept(document)
    assert found.raw == document
    assert found.verdict.is_allow
    assert (found.receipt_kind is not None) is newer


def test_rule_1_it_is_a_receipt() -> None:
    assert rule_of({}) == "shape"
    assert rule_of({**receipt(), "timestamp": "now"}) == "shape"


@pytest.mark.parametrize(
    ("name", "value"),
    [("receipt_kind", "trace_observation"), ("boundary_class", "detect_only"), ("trust_level", "advisory"),
     ("observation_outcome", "observed"), ("receipt_kind", None), ("trust_level", "MEDIATED")],
)  # fmt: skip
def test_rule_2_a_newer_receipt_is_a_mediated_decision(name: str, value: Any) -> None:
    assert rule_of(seal({**receipt(newer=True), name: value}, KEY)) == "semantics"


def test_rule_2_the_id_of_a_newer_receipt_is_its_hash() -> None:
    body = {**receipt(newer=True), "id": "00" * 32}
    del body["signature"]
    signed = {**body, "signature": KEY.sign(signed_bytes(body))}
    assert not receipt_id_is_valid(signed)
    assert rule_of(signed) == "id"


def test_rule_3_the_key_is_trusted() -> None:
    assert rule_of(seal(receipt(), FOREIGN)) == "kernel_key"
    assert rule_of(receipt(), trusted_keys=()) == "kernel_key"
    assert accept(seal(receipt(), FOREIGN), trusted_keys=None).kernel_key == FOREIGN.public_hex
    assert accept(receipt(), trusted_keys=[FOREIGN.public_hex, KEY.public_hex]).id


def test_rule_3_one_string_is_no_collection_of_keys() -> None:
    # `key in text` would accept a key that is any part of it.
    for text in (KEY.public_hex, f"{FOREIGN.public_hex},{KEY.public_hex}"):
        with pytest.raises(ConfigurationError, match="trusted_keys is a collection of public keys, not one string"):
            accept(receipt(), trusted_keys=text)


@pytest.mark.parametrize("spelling", [str.upper, lambda key: "0x" + key, lambda key: key + " "])
def test_rule_3_the_key_is_written_in_one_way(spelling: Callable[[str], str]) -> None:
    body = {**receipt(), "kernel_key": spelling(KEY.public_hex)}
    del body["signature"]
    assert rule_of({**body, "signature": KEY.sign(signed_bytes(body))}) == "kernel_key"


def test_rule_4_the_signature_covers_everything() -> None:
    assert rule_of({**receipt(), "policy_hash": "00" * 32}) == "signature"
    assert rule_of({**receipt(), "unknown": 1}) == "signature"
    assert rule_of({**receipt(), "kernel_key": FOREIGN.public_hex}, trusted_keys=None) == "signature"
    assert rule_of({**receipt(), "signature": FOREIGN.sign(signed_bytes(receipt()))}) == "signature"


def test_rule_4_what_this_process_has_just_signed_counts_for_the_same_bytes_under_the_same_key_alone() -> None:
    document = receipt()
    signed = Signed(KEY.public_hex, signed_bytes(document), "00" * 64)
    assert accept({**document, "signature": "00" * 64}, signed=signed).signature == "00" * 64  # it was not computed
    changed = {**document, "policy_hash": "00" * 32}
    assert rule_of({**changed, "signature": "00" * 64}, signed=signed) == "signature"
    assert rule_of({**document, "signature": "11" * 64}, signed=signed) == "signature"
    foreign = {**document, "kernel_key": FOREIGN.public_hex, "signature": "00" * 64}
    assert rule_of(foreign, signed=signed, trusted_keys=None) == "signature"
    assert rule_of({**document, "signature": "00" * 64}, signed=signed, trusted_keys=()) == "kernel_key"
    # Another receipt is verified as without it.
    assert accept(document, signed=signed).raw == document
    assert rule_of(changed, signed=signed) == "signature"


def test_rule_4_a_receipt_without_canonical_form_cannot_be_verified() -> None:
    for value in (float("nan"), "\ud800", {1: 2}):
        assert rule_of({**receipt(), "metadata": {"x": value}}) == "signature"


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("request_id", {"request_id": "req-2"}),
        ("method", {"method": "DELETE"}),
        ("session_id", {"session_id": "another"}),
        ("caller_identity_hash", {"caller_identity_hash": "00" * 32}),
        ("content_hash", {"content_hash": "00" * 32}),
        ("route_pattern", {"route_pattern": "/{kind}/{id}"}),
        ("scope", {"metadata": {"chio_http_status_scope": "final"}}),
        ("scope", {"metadata": {"chio_http_status_scope": 1}}),
        ("timestamp", {"timestamp": NOW - 62}),
        ("timestamp", {"timestamp": NOW + 62}),
        ("timestamp", {"timestamp": 0}),
        ("timestamp", {"timestamp": 2**64 - 1}),
    ],
)
@pytest.mark.parametrize("newer", [False, True])
def test_rules_5_to_12_it_belongs_to_this_request(rule: str, changes: dict[str, Any], newer: bool) -> None:
    # All of these are signed with the trusted key: only the binding is wrong.
    assert rule_of(receipt(newer=newer, **changes)) == rule


def test_rule_9_the_pattern_that_the_receipt_states_is_part_of_the_content() -> None:
    content = asked(QUESTION).content_hash("/pets/{id}")
    assert rule_of(receipt(route_pattern="/pets/7", content_hash=content)) == "content_hash"


@pytest.mark.parametrize(
    ("template", "pattern"),
    [("/pets/{id}", "/pets/{petId}"), ("/pets/{id}", "/pets/7"), (None, "/pets/{id}"), (None, "/pets/7")],
)
def test_rule_10_names_of_parameters_do_not_count_nor_does_a_route_that_the_sidecar_does_not_know(
    template: str | None, pattern: str
) -> None:
    expected = Expectation(QUESTION.request, QUESTION.expectation.caller_hash, template)
    assert accept(receipt(route_pattern=pattern), expected=expected).route_pattern == pattern


def test_rule_11_a_receipt_need_not_state_its_scope() -> None:
    for metadata in (None, {}, {"other": 1}, "text", [1]):
        assert accept(receipt(metadata=metadata)).metadata == metadata


@pytest.mark.parametrize("difference", [-61, -60, 0, 60, 61])
def test_rule_12_a_time_within_the_tolerance_and_one_second_of_rounding_counts(difference: int) -> None:
    assert accept(receipt(timestamp=NOW + difference)).timestamp == NOW + difference


def test_rule_12_the_tolerance_can_be_chosen() -> None:
    assert accept(receipt(timestamp=NOW - 3600), tolerance=3600).id
    assert rule_of(receipt(timestamp=NOW - 2), tolerance=0) == "timestamp"


def test_a_stored_receipt_is_checked_by_rules_1_to_4_only() -> None:
    old = receipt(timestamp=1, request_id="another")
    assert verify_receipt(old, trusted_keys={KEY.public_hex}).timestamp == 1
    assert verify_receipt(HttpReceipt.from_wire(old)).timestamp == 1
    with pytest.raises(ReceiptRejected):
        verify_receipt({**old, "timestamp": 2})


def test_a_model_that_narrowed_a_receipt_cannot_make_a_changed_one_count() -> None:
    document = {**receipt(), "added": 1}
    with pytest.raises(ReceiptRejected):
        accept(HttpReceipt.from_wire(document))  # type: ignore[arg-type]


def test_the_rules_are_checked_in_their_order() -> None:
    # Each document breaks one rule and all that follow; the first is named.
    wrong: dict[str, Any] = {
        "request_id": "x",
        "method": "PUT",
        "session_id": "x",
        "caller_identity_hash": "00",
        "content_hash": "00",
        "route_pattern": "/x",
        "metadata": {"chio_http_status_scope": "final"},
        "timestamp": 1,
    }
    names = list(wrong)
    found = [rule_of(receipt(**{name: wrong[name] for name in names[at:]})) for at in range(len(names))]
    assert found == [*names[:6], "scope", "timestamp"]
    assert rule_of(seal(receipt(**wrong), FOREIGN)) == "kernel_key"
    assert rule_of({**receipt(**wrong), "signature": "00" * 64}) == "signature"


def test_the_signed_text_is_canonical_and_leaves_out_what_is_absent() -> None:
    document = {**receipt(), "session_id": None, "evidence": [], "actor_chain": None, "capability_id": None}
    body = signed_bytes(document)
    assert body == canonical_json({k: v for k, v in document.items() if v not in (None, []) and k != "signature"})


@pytest.mark.parametrize("newer", [False, True])
def test_other_spellings_of_the_same_receipt_count_too(newer: bool) -> None:
    for document in (receipt(newer=newer), receipt(newer=newer, evidence=None, metadata=None)):
        for spelling in tamper.equivalents(document):
            assert accept(spelling).id == document["id"]


def test_the_annotation_of_listings_counts_only_where_it_repeats_the_verdict() -> None:
    document = receipt()
    assert accept({**document, "verdict": {"verdict": "allow", "outcome": "allow"}}).verdict.is_allow
    assert rule_of({**document, "verdict": {"verdict": "allow", "outcome": "deny"}}) == "signature"


@pytest.mark.parametrize("newer", [False, True])
def test_unknown_members_are_signed_and_kept(newer: bool) -> None:
    extra = {"zeta": {"deep": [1, 2.5, None, "ä"]}, "alpha": None, "count": 2**60}
    document = seal({**receipt(newer=newer), **extra}, KEY)
    assert accept(document).raw == document
    for name in extra:
        assert rule_of({key: value for key, value in document.items() if key != name}) in ("signature", "id")


def test_the_worked_receipts_of_the_protocol_hold() -> None:
    # Wire protocol, section 3.7, seed 32 x 0x21; both profiles.
    members = {
        "caller_identity_hash": "5a45e80d1ab1a73e8c2644f3f6c6e53974d0a986c2fc86692372d3f130248c9c",
        "content_hash": "673a0bd39138de615d43d1d3560f315ca6390d4ed15e88de383cbaa879a29f17",
        "evidence": [
            {"details": "safe method, session-scoped allow", "guard_name": "DefaultPolicyGuard", "verdict": True}
        ],
        "id": "0198f0a0-0000-7000-8000-000000000001",
        "method": "GET",
        "policy_hash": "faa4988e76ddd0d66e9c95e3d7da6faecc44be96bf988ac35b22dd39213ff509",
        "request_id": "req-0001",
        "response_status": 200,
        "route_pattern": "/pets/{petId}",
        "timestamp": 1776272775,
    }
    key = SigningKey(b"\x21" * 32)
    april = make_receipt(key, members, {"verdict": "allow"})
    assert april["signature"] == (
        "e954f0ddb1501a5a057be29ddc46974e20d5a7d02c598fa1a2fce46a51a425ec"
        "c4ce14d31d26c9516308759e0b8480a9b1accbf0ba4139f7324f7775cf64150b"
    )
    newer = make_receipt(key, members, {"verdict": "allow"}, newer=True)
    assert newer["id"] == "6060fb04ff54cc3388483d38f21fda620293ccfc2ca141a4191e71e07e8727fe"
    assert newer["signature"].startswith("fe5b659849e18bc63131a2f84d86140c")
    verify_receipt(april, trusted_keys={key.public_hex})
    verify_receipt(newer, trusted_keys={key.public_hex})


def test_a_receipt_for_one_request_is_rejected_for_every_other() -> None:
    views = [
        View(),
        View("PUT"),
        View(path="/pets/8"),
        View(query="a=1"),
        View(query="a=2"),
        View(headers=[("authorization", "Bearer a")]),
        View(headers=[("authorization", "Bearer b")]),
        View(headers=[("x-api-key", "a")]),
    ]
    bodies = [
        {"body_hash": None},
        {"body_hash": "11" * 32, "body_length": 3},
        {"body_hash": "22" * 32, "body_length": 3},
    ]
    questions = [question(view, **body) for view in views for body in bodies]  # type: ignore[arg-type]
    receipts = [asked(one).receipt() for one in questions]
    for mine, one in enumerate(questions):
        for other, document in enumerate(receipts):
            if mine == other:
                assert accept(document, expected=one.expectation).id
            else:
                assert rule_of(document, expected=one.expectation) in ("method", "caller_identity_hash", "content_hash")


# The trusted kernel keys: the pinned ones, or that of the first valid receipt

UNPINNED = ChioSettings(trusted_kernel_keys=())


def test_only_pinned_keys_are_trusted() -> None:
    trust = KeyTrust([KEY.public_hex])
    assert trust.keys() == frozenset({KEY.public_hex})
    trust.remember(KEY.public_hex)
    with pytest.raises(ReceiptRejected, match="another kernel key"):
        trust.remember(FOREIGN.public_hex)


def test_the_first_key_is_trusted_with_one_warning_and_another_is_refused_from_then_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trust = KeyTrust()
    one = question()
    with caplog.at_level(logging.WARNING, logger="chio"):
        for _ in range(3):
            assert conclude(answered(asked(one).response_bytes()), one, UNPINNED, trust, NOW).allowed
    assert len([record for record in caplog.records if KEY.public_hex in record.getMessage()]) == 1
    other = compact(asked(one).response(receipt=seal(asked(one).receipt(), FOREIGN)))
    with pytest.raises(ReceiptRejected, match="not trusted"):
        conclude(answered(other), one, UNPINNED, trust, NOW)


def test_an_unusable_response_leaves_no_trust_behind() -> None:
    trust = KeyTrust()
    one = question()
    refused = 0
    for behaviour in BEHAVIOURS.values():
        reply = behaviour.reply(asked(one))
        try:
            conclude(answered(reply.body, reply.status, dict(reply.headers).get("content-type", "")), one, UNPINNED,
                     trust, NOW)  # fmt: skip
        except SidecarError:
            refused += 1
            assert trust.keys() is None, behaviour.name
        else:
            trust = KeyTrust()
    assert refused > 80


def test_of_several_first_keys_at_once_one_wins() -> None:
    for _ in range(50):
        trust = KeyTrust()
        keys = [SigningKey.generate().public_hex for _ in range(4)]
        start = threading.Barrier(len(keys))
        with ThreadPoolExecutor(len(keys)) as threads:
            refused = list(threads.map(partial(_is_refused, trust, start), keys))
        assert trust.keys() == frozenset(key for key, no in zip(keys, refused, strict=True) if not no)
        assert sum(refused) == 3


def _is_refused(trust: KeyTrust, start: threading.Barrier, key: str) -> bool:
    start.wait()
    try:
        trust.remember(key)
    except ReceiptRejected:
        return True
    return False


def test_a_route_unknown_to_the_sidecar_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    trust = KeyTrust([KEY.public_hex])
    with caplog.at_level(logging.WARNING, logger="chio"):
        for number in range(3):
            one = question(View(path=f"/pets/{number}"))
            trust.note_route(one.request.path, one.expectation)
            trust.note_route("/pets/{petId}", one.expectation)
        plain = question(View(path="/pets"), template="/pets")
        trust.note_route("/pets", plain.expectation)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "chio: the sidecar does not know route /pets/{id} and evaluated the plain path; give it an OpenAPI document"
    )


@pytest.mark.parametrize(("template", "path"), [("/files/{rest}", "/files/a/b"), ("/x/{name}.json", "/x/a.json")])
def test_a_route_that_no_document_can_name_gets_other_advice(
    template: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    trust = KeyTrust([KEY.public_hex])
    with caplog.at_level(logging.WARNING, logger="chio"):
        for _ in range(2):
            one = question(View(path=path), template=template)
            trust.note_route(path, one.expectation)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"chio: the sidecar cannot match route {template}, because a parameter takes")
    assert record.getMessage().endswith("require what the route needs in the application")
