"""The answer of `POST /v1/receipts/verify` (wire protocol, sections 2.1 and 7.6)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from chio_core.models.base import Text
from chio_sidecar.control.access import read_model
from chio_sidecar.control.tool_receipts import ToolReceiptReport, check_tool_receipt

_RESULTS = ("allow", "deny", "cancelled", "incomplete")


class Expectations(BaseModel):
    """What the call may ask for beside the receipt itself."""

    expected_decision: Text | None = None
    expected_capability_id: Text | None = None


def tool_receipt_report(document: dict[str, Any], *, trusted: str) -> dict[str, Any]:
    """Check a tool-call receipt and return what was found.

    Args:
        document: the receipt's members and those of `Expectations`.
        trusted: public key, hex, whose receipts are trusted.

    Raises:
        ControlError: 400, when the expectations are no texts.
    """
    expected = read_model(Expectations, document, what="receipt verification")
    receipt = {name: value for name, value in document.items() if name not in Expectations.model_fields}
    found = check_tool_receipt(receipt)
    signer_trusted = receipt.get("kernel_key") == trusted
    ok = found.signature_valid and signer_trusted and found.parameter_hash_valid and found.authoritative
    reason = _reason(receipt, found, expected, signer_trusted)
    verdict = _checked_verdict(receipt)
    report = {
        "signature_valid": found.signature_valid,
        "signer_trusted": signer_trusted,
        "receipt_id_valid": found.receipt_id_valid,
        "parameter_hash_valid": found.parameter_hash_valid,
        "receipt_kind": receipt.get("receipt_kind"),
        "boundary_class": receipt.get("boundary_class"),
        "trust_level": receipt.get("trust_level", "mediated"),
        "result": verdict if verdict in _RESULTS else "incomplete",
        "authorized": ok and verdict == "allow",
        "signer_key_hex": receipt.get("kernel_key"),
        "ok": ok,
        "valid": reason is None,
        "reason": reason,
        "decision": verdict,
        "signed_at": receipt.get("timestamp"),
        "receipt_id": receipt.get("id"),
    }
    return {name: value for name, value in report.items() if value is not None}


def _reason(
    receipt: dict[str, Any], found: ToolReceiptReport, expected: Expectations, signer_trusted: bool
) -> str | None:
    decision, wanted = _checked_verdict(receipt), expected.expected_decision
    capability = expected.expected_capability_id
    checks = (
        (found.signature_holds, "receipt signature did not verify"),
        (signer_trusted, "receipt signer is not trusted"),
        (found.receipt_id_valid, "receipt id does not match body"),
        (found.parameter_hash_valid, "receipt action parameter_hash does not match parameters"),
        (found.authoritative, "receipt semantics are not authoritative"),
        (wanted in (None, decision), f"decision {decision} does not match expected {wanted}"),
        (
            capability in (None, receipt.get("capability_id")),
            "receipt capability_id does not match expected_capability_id",
        ),
    )
    return next((text for holds, text in checks if not holds), None)


def _checked_verdict(receipt: dict[str, Any]) -> str | None:
    decision = receipt.get("decision")
    verdict = decision.get("verdict") if isinstance(decision, dict) else None
    return verdict if isinstance(verdict, str) else None
