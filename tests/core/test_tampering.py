"""Thousands of small changes to genuine receipts: none is accepted, and no genuine one is refused."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.receipts import ReceiptRejected, verify_receipt
from chio_core.signing import SigningKey
from chio_core.testing import KEY, seal
from chio_core.testing.exchange import ALLOW, DENY
from tests.core.views import NOW, View, asked, question
from tests.hostile import tamper

FOREIGN = SigningKey(b"f" * 32)
EXTRA: dict[str, Any] = {
    "tree": {"root": "aa" * 32, "size": 2**60, "ratio": 0.5},
    "labels": ["b", "a"],
    "note": "Grüße",
}


def genuine() -> list[tuple[EvaluateCall, dict[str, Any]]]:
    """Twenty receipts: both profiles, all verdicts, with and without every optional member."""
    found = []
    verdicts: list[Any] = [ALLOW, DENY, {"verdict": "cancel", "reason": "r"}, {"verdict": "incomplete", "reason": "r"},
                           {**DENY, "details": {"hint": "h", "required_scope": "s"}}]  # fmt: skip
    for number, verdict in enumerate(verdicts):
        view = View(path=f"/pets/{number}", query="a=1", headers=[("authorization", f"Bearer {number}")])
        one = question(view, request_id=f"req-{number}", body_hash="ab" * 32, body_length=5)
        for newer in (False, True):
            full = asked(one).receipt(verdict, newer=newer, capability_id="cap-1", **EXTRA)
            if newer:
                full = seal({**full, "actor_chain": [{"actor_id": "a"}, {"actor_id": "b", "actor_kind": "k"}]}, KEY)
            found.append((one, full))
            found.append((one, asked(one).receipt(verdict, newer=newer, evidence=None, metadata=None)))
    return found


GENUINE = genuine()


def refused(one: EvaluateCall, document: Any) -> str | None:
    """The rule that refuses a receipt; None when it is accepted."""
    try:
        verify_receipt(document, trusted_keys={KEY.public_hex}, expected=one.expectation, now=NOW)
    except ReceiptRejected as exc:
        return exc.rule
    return None


def test_there_are_twenty_genuine_receipts_and_all_count() -> None:
    assert len(GENUINE) == 20
    assert [refused(one, document) for one, document in GENUINE] == [None] * 20


def test_no_change_of_a_value_is_accepted() -> None:
    count = 0
    for one, document in GENUINE:
        digits = (tamper.digit_mutations(document, member) for member in ("signature", "kernel_key"))
        for mutation in itertools.chain(tamper.mutations(document), *digits):
            count += 1
            rule = refused(one, mutation.document)
            assert rule in expected_rules(mutation), f"{mutation} of {document}: {rule}"
    assert count >= 5_000


def expected_rules(mutation: tamper.Mutation) -> set[str]:
    """What may refuse a change: its type first, then meaning and id of a newer receipt, key, signature."""
    top = mutation.place[0] if mutation.place else None
    rules = {"signature", "shape", "id"}
    if top in ("receipt_kind", "boundary_class", "trust_level"):
        rules.add("semantics")
    if top == "kernel_key":
        rules = {"kernel_key", "shape", "id"}
    if top == "signature":
        rules -= {"id"}
    return rules


@pytest.mark.parametrize("member", ["content_hash", "caller_identity_hash", "policy_hash"])
def test_no_digit_is_without_meaning(member: str) -> None:
    for one, document in GENUINE:
        rules = {refused(one, mutation.document) for mutation in tamper.digit_mutations(document, member)}
        assert rules <= {"signature", "id"}


def test_no_changed_byte_of_the_text_is_accepted() -> None:
    count = 0
    for one, document in GENUINE[::4]:
        for text in tamper.text_mutations(document):
            count += 1
            try:
                changed = parse_json(text)
            except InvalidDocument:
                continue
            assert refused(one, changed) is not None, text
    assert count >= 5_000


def test_a_member_that_occurs_twice_is_refused_wherever_it_stands() -> None:
    count = 0
    for _, document in GENUINE:
        for text in tamper.duplicates(document):
            count += 1
            with pytest.raises(InvalidDocument, match="occurs twice"):
                parse_json(text)
    assert count >= 400


def test_a_forger_with_a_key_of_his_own_is_refused() -> None:
    for one, document in GENUINE:
        assert refused(one, seal(document, FOREIGN)) == "kernel_key"
        claimed = {**seal(document, FOREIGN), "kernel_key": KEY.public_hex}
        assert refused(one, claimed) in ("signature", "id")


def test_a_receipt_put_together_from_two_is_refused() -> None:
    for one, document in GENUINE:
        for _, other in GENUINE:
            for name in ("signature", "verdict", "request_id", "content_hash", "caller_identity_hash", "id"):
                if name in other and other[name] != document[name]:
                    assert refused(one, {**document, name: other[name]}) is not None


def test_a_refusal_cannot_be_turned_into_an_allow() -> None:
    for one, document in GENUINE:
        if document["verdict"] != ALLOW:
            for verdict in (ALLOW, {**document["verdict"], "verdict": "allow"}):
                assert refused(one, {**document, "verdict": verdict, "response_status": 200}) is not None


@pytest.mark.slow  # 2,000 spellings, 10,000 at full size
def test_genuine_receipts_with_members_of_a_time_to_come_count_in_all_their_spellings(full_size: bool) -> None:
    rng = random.Random(20)
    base = asked(GENUINE[0][0])
    for count in range(2_500 if full_size else 500):
        document = base.receipt(newer=bool(count % 2), **dict(_unknown_members(rng)))
        for ascii_only in (True, False):
            # As it comes over the wire: written by another encoder, in any order.
            for members in (list(document.items()), rng.sample(list(document.items()), len(document))):
                text = json.dumps(dict(members), ensure_ascii=ascii_only)
                assert refused(GENUINE[0][0], parse_json(text)) is None, text


def _unknown_members(rng: random.Random) -> Iterator[tuple[str, Any]]:
    values: list[Any] = [
        rng.random() * 10 ** rng.randint(-9, 22),
        rng.randint(-(2**63), 2**64 - 1),
        {"k": [None, True, "\U0001f600", {"x": rng.random()}]},
        "".join(chr(rng.randint(1, 0x2FFF)) for _ in range(5)),
        [],
    ]
    for number in range(rng.randint(0, 4)):
        yield f"x_{rng.randint(0, 99)}_{number}", rng.choice(values)
