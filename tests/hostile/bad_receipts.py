"""Allows with a receipt that must not count, from a sidecar or from a process between it and the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chio_core.receipts import signed_bytes
from chio_core.testing.behaviours import Behaviour, Reply, changed_after_signing, mixed, signed_wrongly
from chio_core.testing.exchange import ALLOW, DENY, EvaluateRequest, compact
from tests.hostile.tamper import with_member_twice


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return a change that takes a member out."""
    return lambda receipt: receipt.pop(name)


def setting(**members: Any) -> Callable[[dict[str, Any]], Any]:
    """Return a change that sets members."""
    return lambda receipt: receipt.update(members)


def _newer(change: Callable[[dict[str, Any]], Any]) -> Callable[[EvaluateRequest], Reply]:
    def reply(request: EvaluateRequest) -> Reply:
        receipt = request.receipt(newer=True)
        change(receipt)
        # Signed again without a new id, as by a signer that skips the id.
        body = {name: value for name, value in receipt.items() if name != "signature"}
        return Reply(compact(request.response(receipt={**body, "signature": request.key.sign(signed_bytes(body))})))

    return reply


def _twice(name: str, value: Any) -> Callable[[EvaluateRequest], Reply]:
    return lambda request: Reply(with_member_twice(request.response_bytes(), name, value))


BEHAVIOURS = (
    mixed("cancel_receipt_under_allow", "Says allow; the receipt says cancel.",
          ALLOW, {"verdict": "cancel", "reason": "no"}),
    mixed("allow_receipt_under_incomplete", "Says incomplete; the receipt says allow.",
          {"verdict": "incomplete", "reason": "more"}, ALLOW),
    signed_wrongly("unknown_scope", "The receipt has an unknown scope.",
                   metadata={"chio_http_status_scope": "rehearsal"}),
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
