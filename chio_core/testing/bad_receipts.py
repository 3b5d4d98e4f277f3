"""Behaviours of a sidecar, or of somebody in between, whose allow comes with a receipt that must not count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chio_core.canonical import sha256_hex
from chio_core.models.caller import CallerIdentity
from chio_core.receipts import signed_bytes
from chio_core.signing import SigningKey
from chio_core.testing.behaviour import Behaviour, Reply
from chio_core.testing.question import ALLOW, DENY, Asked, compact
from chio_core.testing.tamper import with_member_twice

HOUR = 3600
FOREIGN = SigningKey(bytes([0x66]) * 32)
"""A key that nobody trusts; it signs what a forger would sign."""


def signed_wrongly(name: str, summary: str, **changes: Any) -> Behaviour:
    """Return a behaviour that allows with a receipt that the sidecar's own key signed, but that says this.

    Args:
        changes: members of the receipt; a function is called with the question.
    """

    def reply(asked: Asked) -> Reply:
        members = {key: value(asked) if callable(value) else value for key, value in changes.items()}
        return Reply(asked.answer_bytes(**members))

    return Behaviour(name, summary, reply)


def changed_after_signing(name: str, summary: str, change: Callable[[dict[str, Any]], Any]) -> Behaviour:
    """Return a behaviour that allows with a receipt that was changed after it was signed.

    Args:
        change: changes the receipt that it is given.
    """

    def reply(asked: Asked) -> Reply:
        receipt = asked.receipt()
        change(receipt)
        return Reply(compact(asked.answer(receipt=receipt)))

    return Behaviour(name, summary, reply)


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return a change that takes a member out."""
    return lambda receipt: receipt.pop(name)


def setting(**members: Any) -> Callable[[dict[str, Any]], Any]:
    """Return a change that sets members."""
    return lambda receipt: receipt.update(members)


def _mixed(top: Mapping[str, Any], inner: Mapping[str, Any]) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(compact(asked.answer(top, receipt=asked.receipt(inner))))


def _foreign_key(asked: Asked) -> Reply:
    return Reply(compact(asked.answer(receipt=asked.receipt(key=FOREIGN))))


def _other_content(asked: Asked) -> str:
    return sha256_hex(asked.content_hash().encode())


def _other_caller(_: Asked) -> str:
    return CallerIdentity.bearer("somebody else").identity_hash()


def _other_method(asked: Asked) -> str:
    return "GET" if asked.method != "GET" else "DELETE"


def _newer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Asked], Reply]:
    def reply(asked: Asked) -> Reply:
        receipt = asked.receipt(newer=True)
        change(receipt)
        # Signed anew, but not given a new id: what a signer would do that skips the id.
        body = {name: value for name, value in receipt.items() if name != "signature"}
        return Reply(compact(asked.answer(receipt={**body, "signature": asked.key.sign(signed_bytes(body))})))

    return reply


def _twice(name: str, value: Any) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(with_member_twice(asked.answer_bytes(), name, value))


BEHAVIOURS = (
    Behaviour("deny_receipt_under_allow", "Says allow; the receipt says deny.", _mixed(ALLOW, DENY)),
    Behaviour("allow_receipt_under_deny", "Says deny; the receipt says allow.", _mixed(DENY, ALLOW)),
    Behaviour("cancel_receipt_under_allow", "Says allow; the receipt says cancel.",
              _mixed(ALLOW, {"verdict": "cancel", "reason": "no"})),
    Behaviour("allow_receipt_under_incomplete", "Says incomplete; the receipt says allow.",
              _mixed({"verdict": "incomplete", "reason": "more"}, ALLOW)),
    Behaviour("foreign_key", "The receipt is good, but signed with a key that nobody trusts.", _foreign_key),
    signed_wrongly("wrong_request_id", "The receipt is for another request id.", request_id="another-request"),
    signed_wrongly("wrong_method", "The receipt is for another method.", method=_other_method),
    signed_wrongly("wrong_caller", "The receipt is for another caller.", caller_identity_hash=_other_caller),
    signed_wrongly("wrong_content", "The receipt is for another body.", content_hash=_other_content),
    signed_wrongly("wrong_route", "The receipt was judged by the rule of another route.", route_pattern="/admin/{a}/b"),
    signed_wrongly("wrong_session", "The receipt is for a session that was not named.", session_id="another-session"),
    signed_wrongly("stale", "The receipt is an hour old.", timestamp=lambda asked: int(asked.now) - HOUR),
    signed_wrongly("from_the_future", "The receipt is an hour ahead.", timestamp=lambda asked: int(asked.now) + HOUR),
    signed_wrongly("final_scope", "The receipt records a final answer, no decision.",
                   metadata={"chio_http_status_scope": "final", "chio_decision_receipt_id": "x"}),
    signed_wrongly("unknown_scope", "The receipt has a scope that nobody knows.",
                   metadata={"chio_http_status_scope": "rehearsal"}),
    changed_after_signing("bad_signature", "The signature is somebody's, but not this receipt's.",
                          setting(signature="5a" * 64)),
    changed_after_signing("signature_missing", "The receipt is not signed.", without("signature")),
    changed_after_signing("signature_null", "The signature is null.", setting(signature=None)),
    changed_after_signing("signature_empty", "The signature is empty.", setting(signature="")),
    changed_after_signing("signature_in_capitals", "The signature is good, but in capitals.",
                          lambda receipt: receipt.update(signature=receipt["signature"].upper())),
    changed_after_signing("signature_cut", "The signature lacks its last byte.",
                          lambda receipt: receipt.update(signature=receipt["signature"][:-2])),
    changed_after_signing("signature_longer", "The signature has a byte too many.",
                          lambda receipt: receipt.update(signature=receipt["signature"] + "00")),
    changed_after_signing("key_missing", "The receipt names no key.", without("kernel_key")),
    changed_after_signing("key_of_small_order", "The key is the neutral point, under which everything verifies.",
                          setting(kernel_key="01" + "00" * 31, signature="01" + "00" * 63)),
    changed_after_signing("changed_status", "A member was changed after signing.", setting(response_status=201)),
    changed_after_signing("added_member", "A member was added after signing.", setting(note="harmless")),
    changed_after_signing("removed_evidence", "The evidence was taken out after signing.", without("evidence")),
    changed_after_signing("timestamp_as_text", "The time is a string.", setting(timestamp="now")),
    changed_after_signing("timestamp_as_float", "The time is a float.",
                          lambda receipt: receipt.update(timestamp=float(receipt["timestamp"]))),
    changed_after_signing("status_too_large", "The status does not fit its type.", setting(response_status=65536)),
    changed_after_signing("evidence_as_text", "The evidence is a string.", setting(evidence="all fine")),
    changed_after_signing("receipt_verdict_as_text", "The receipt's verdict is a string.", setting(verdict="allow")),
    changed_after_signing("receipt_without_verdict", "The receipt has no verdict.", without("verdict")),
    changed_after_signing("nan_in_receipt", "A number in the receipt is NaN.",
                          setting(metadata={"score": float("nan")})),
    Behaviour("newer_id_wrong", "A newer receipt whose id is not its hash.", _newer(setting(id="00" * 32))),
    Behaviour("newer_observation", "A newer receipt that only observed.",
              _newer(setting(receipt_kind="trace_observation", boundary_class="detect_only"))),
    Behaviour("newer_advice", "A newer receipt that only advised.", _newer(setting(trust_level="advisory"))),
    Behaviour("newer_kind_unknown", "A newer receipt of an unknown kind.", _newer(setting(receipt_kind="opinion"))),
    Behaviour("verdict_twice", "The verdict occurs twice: deny, then allow.", _twice("verdict", DENY)),
    Behaviour("receipt_twice", "The receipt occurs twice.", _twice("receipt", {})),
    Behaviour("member_twice_in_receipt", "A member of the receipt occurs twice.", _twice("request_id", "another")),
    Behaviour("member_twice_in_metadata", "A member deep inside the receipt occurs twice.",
              _twice("chio_http_status_scope", "final")),
)  # fmt: skip
