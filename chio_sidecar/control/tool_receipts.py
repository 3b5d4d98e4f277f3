"""Checking a tool-call receipt (ChioReceipt) of either wire profile (wire protocol, section 3.8).

Sidecars sign HttpReceipts; kernels sign these. They are only checked here, never made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.errors import InvalidDocument
from chio_core.models.base import Text
from chio_core.signing import verify_signature
from chio_sidecar.control.access import read_model

_OPTIONAL = ("metadata", "tenant_id", "observation_outcome", "decision")
_OMIT_EMPTY = ("evidence", "actor_chain")
_SEMANTICS = {
    "mediated_decision": ("prevent", "mediated"),
    "trace_observation": ("detect_only", "verified"),
    "advisory_evaluation": ("advisory_only", "advisory"),
}


@dataclass(frozen=True, slots=True)
class ToolReceiptReport:
    """What holds for a receipt.

    Attributes:
        semantics_valid: kind, class, trust, decision and outcome go together.
        authoritative: it records a decision that stood between the caller and the tool, not an observation.
        receipt_id_valid: the id is the hash of the body; always true in the April profile, where ids are free.
        parameter_hash_valid: the hash is that of the parameters.
        signature_holds: the signature alone.
    """

    semantics_valid: bool
    authoritative: bool
    receipt_id_valid: bool
    parameter_hash_valid: bool
    signature_holds: bool

    @property
    def signature_valid(self) -> bool:
        """True when signature, id and semantics hold together."""
        return self.signature_holds and self.receipt_id_valid and self.semantics_valid


def check_tool_receipt(receipt: Mapping[str, Any]) -> ToolReceiptReport:
    """Check a receipt against the key that it names; whether that key is trusted is for the caller to say.

    Args:
        receipt: the parsed JSON object. Whatever is malformed makes the receipt invalid.
    """
    newer = "receipt_kind" in receipt
    semantics = _newer_semantics(receipt) if newer else _april_semantics(receipt)
    signed = _signed_bytes(receipt, newer=newer)
    key, signature = receipt.get("kernel_key"), receipt.get("signature")
    texts = isinstance(key, str) and isinstance(signature, str)
    return ToolReceiptReport(
        semantics_valid=semantics,
        authoritative=semantics
        and receipt.get("receipt_kind", "mediated_decision") == "mediated_decision"
        and receipt.get("trust_level", "mediated") == "mediated",
        receipt_id_valid=not newer or _hash(_body(receipt, newer=True)) == receipt.get("id"),
        parameter_hash_valid=_parameter_hash_valid(receipt),
        signature_holds=texts and signed is not None and verify_signature(str(key), signed, str(signature)),
    )


def _april_semantics(receipt: Mapping[str, Any]) -> bool:
    return _verdict(receipt) is not None


def _newer_semantics(receipt: Mapping[str, Any]) -> bool:
    kind = receipt.get("receipt_kind")
    wanted = _SEMANTICS.get(kind) if isinstance(kind, str) else None
    if wanted != (receipt.get("boundary_class"), receipt.get("trust_level")):
        return False
    decided, observed = receipt.get("decision") is not None, receipt.get("observation_outcome") is not None
    return decided != observed and decided == (kind == "mediated_decision")


def _verdict(receipt: Mapping[str, Any]) -> Any:
    decision = receipt.get("decision")
    return decision.get("verdict") if isinstance(decision, dict) else None


def _parameter_hash_valid(receipt: Mapping[str, Any]) -> bool:
    action = receipt.get("action")
    if not isinstance(action, dict) or "parameters" not in action:
        return False
    return _hash(action["parameters"]) == action.get("parameter_hash")


def _signed_bytes(receipt: Mapping[str, Any], *, newer: bool) -> bytes | None:
    body = _body(receipt, newer=newer)
    return _canonical({"id": receipt.get("id"), "body": body} if newer else body)


def _body(receipt: Mapping[str, Any], *, newer: bool) -> dict[str, Any]:
    left_out = {"signature", "algorithm"} | ({"id"} if newer else set())
    return {
        name: value
        for name, value in receipt.items()
        if name not in left_out
        and not (value is None and name in _OPTIONAL)
        and not (name in _OMIT_EMPTY and not value)
        and not (name == "trust_level" and value == "mediated" and not newer)
    }


def _canonical(value: Any) -> bytes | None:
    try:
        return canonical_json(value)
    except InvalidDocument:
        return None


def _hash(value: Any) -> str | None:
    text = _canonical(value)
    return None if text is None else sha256_hex(text)


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
