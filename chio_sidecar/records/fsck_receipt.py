"""Check one stored receipt against its signature and the columns beside it, for any engine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_sidecar.policy.approvals import APPROVAL_ID
from chio_sidecar.records.fsck_chain import Finding
from chio_sidecar.store.erasure import Erasure, is_erasure

UNUSED = "it allowed a request by an approval, and no use of that approval is recorded, so it could be used again"
"""The finding about a receipt whose approval has no record of its use."""

_MOST_KEYS = 16


@dataclass(slots=True)
class CheckedReceipt:
    """What a receipt shows.

    Attributes:
        approval: id of the approval that it used, if it did.
        signer: public key (hex) that signed it; None if its signature does not count, or it is erased.
        erasure: the record in its place.
    """

    findings: list[Finding] = field(default_factory=list)
    approval: str | None = None
    signer: str | None = None
    erasure: Erasure | None = None


def check_receipt(
    number: int, receipt_id: str, text: str, request_id: str, *, trusted: Collection[str] | None, keys: list[str]
) -> CheckedReceipt:
    """Verify a receipt, and compare it with its columns.

    Args:
        number: of its row.
        receipt_id: a column.
        text: the receipt.
        request_id: a column.
        trusted: public keys (hex) that may have signed; None trusts any.
        keys: the keys that signed so far, at most 16; the receipt's is added.
    """
    place, found = f"row {number}", CheckedReceipt()
    if is_erasure(text):
        try:
            said = Erasure.read(text)
        except InvalidDocument as exc:
            text = f"its receipt was replaced, and the record of an erasure does not count: {exc.message}"
            found.findings.append(Finding("erasure", place, text, number))
            return found
        if (said.row, said.id, said.request_id) != (number, receipt_id, request_id):
            text = "its receipt was replaced by the record of the erasure of another one"
            found.findings.append(Finding("erasure", place, text, number))
        elif trusted is not None and said.kernel_key not in trusted:
            text = f"its receipt was erased by {said.kernel_key}, which is not trusted"
            found.findings.append(Finding("erasure", place, text, number))
        else:
            found.erasure = said
        return found
    try:
        receipt = parse_json(text)
        if not isinstance(receipt, dict):
            raise InvalidDocument("it holds no JSON object")
        key = verify_receipt(receipt, trusted_keys=trusted).kernel_key
    except (InvalidDocument, ReceiptRejected) as exc:
        found.findings.append(Finding("signature", place, f"its receipt does not verify: {exc.message}", number))
        return found
    found.signer = key
    if key not in keys and len(keys) < _MOST_KEYS:
        keys.append(key)
    for name, column in (("id", receipt_id), ("request_id", request_id)):
        if receipt.get(name) != column:
            text = f"its column {name} contradicts its receipt"
            found.findings.append(Finding("column", place, text, number))
    metadata = receipt.get("metadata")
    used = metadata.get(APPROVAL_ID) if isinstance(metadata, dict) else None
    if isinstance(used, str) and receipt["verdict"]["verdict"] == "allow":
        found.approval = used
    return found
