"""Checking a tool-call receipt (ChioReceipt) of either wire profile (wire protocol, section 3.8).

Sidecars sign HttpReceipts; kernels sign these. They are only checked here, never made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.errors import InvalidDocument
from chio_core.signing import verify_signature

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
