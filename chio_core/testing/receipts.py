"""Receipts that really are signed, of both wire profiles (wire protocol, sections 3.1 and 3.6)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from chio_core.canonical import sha256_hex
from chio_core.models.demands import POLICY_GUARD
from chio_core.receipts import signed_bytes
from chio_core.signing import SigningKey

POLICY_HASH = sha256_hex(b"scripted sidecar\n")
"""`policy_hash` of every receipt made here: SHA-256 of the text `scripted sidecar` and a newline."""

_NEWER: Mapping[str, Any] = {
    "receipt_kind": "mediated_decision",
    "boundary_class": "prevent",
    "tool_origin": "caller_executed",
    "redaction_mode": "none",
    "trust_level": "mediated",
}


def make_receipt(
    key: SigningKey, members: Mapping[str, Any], verdict: Mapping[str, Any], *, newer: bool = False
) -> dict[str, Any]:
    """Return a signed receipt as a JSON object.

    Args:
        key: the signer.
        members: what the receipt says: request, route, hashes, timestamp. They replace the defaults; None takes
            a member out.
        verdict: the verdict object.
        newer: the newer profile, whose id is the hash of the content.
    """
    body: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "verdict": dict(verdict),
        **(_NEWER if newer else {}),
        "evidence": [_evidence(verdict)],
        "response_status": _status(verdict),
        "policy_hash": POLICY_HASH,
        "metadata": {"chio_http_status_scope": "decision"},
        **members,
    }
    return seal({name: value for name, value in body.items() if value is not None}, key)


def seal(document: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return a copy of a receipt, signed anew: `kernel_key`, the id of a newer receipt, and `signature`.

    This is what an attacker can do who has a key of his own, or a sidecar that signs what it should not.

    Raises:
        InvalidDocument: the receipt has no canonical form.
    """
    body = {name: value for name, value in document.items() if name != "signature"}
    body["kernel_key"] = key.public_hex
    if "receipt_kind" in body:
        body.pop("id", None)
        body = {"id": sha256_hex(signed_bytes(body)), **body}
    return {**body, "signature": key.sign(signed_bytes(body))}


def _evidence(verdict: Mapping[str, Any]) -> dict[str, Any]:
    if verdict.get("verdict") == "allow":
        return {"guard_name": POLICY_GUARD, "verdict": True, "details": "scripted"}
    return {"guard_name": str(verdict.get("guard", "ScriptedGuard")), "verdict": False, "details": "scripted"}


def _status(verdict: Mapping[str, Any]) -> int:
    # Wire protocol, section 3.1: 200 for allow, the deny's own status, 500 for everything else.
    if verdict.get("verdict") == "allow":
        return 200
    status = verdict.get("http_status", 403)
    return status if verdict.get("verdict") == "deny" and isinstance(status, int) else 500
