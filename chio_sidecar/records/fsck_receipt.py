"""Check one receipt, its signature and the columns beside it, for any engine; and collect the erasures of one chain."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_sidecar.policy.approvals import APPROVAL_ID
from chio_sidecar.records.fsck_chain import Finding
from chio_sidecar.store.statements import Erasure, is_erasure

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


LISTED = 100
"""Most erasures that a summary describes."""

_STRANGE = (
    "its receipt was erased by {key}, which signs no receipt here; name it with --trusted-key if it is the sidecar's"
)
_MOST_SIGNERS = 10_000


@dataclass(slots=True)
class Erasures:
    """The erasures of one chain.

    Attributes:
        rows: numbers of the erased rows.
        listed: what the first `LISTED` records say; `chained` is False if the digest of the row, and so that of each
            row before it, rests on the signature of the record alone.
    """

    rows: set[int] = field(default_factory=set)
    listed: list[dict[str, Any]] = field(default_factory=list)
    _erasers: dict[str, int] = field(default_factory=dict)
    _signers: set[str] = field(default_factory=set)

    def add(self, number: int, found: CheckedReceipt, *, chained: bool) -> None:
        """Note who signed the receipt of a row, or erased it."""
        if found.signer is not None and len(self._signers) < _MOST_SIGNERS:
            self._signers.add(found.signer)
        if (said := found.erasure) is None:
            return
        self.rows.add(number)
        self._erasers.setdefault(said.kernel_key, number)
        if len(self.listed) < LISTED:
            about = {"row": number, "id": said.id, "erased_at": said.erased_at, "reason": said.reason}
            self.listed.append(about | {"kernel_key": said.kernel_key, "chained": chained})

    def findings(self, trusted: Collection[str] | None) -> Iterator[Finding]:
        """Yield an erasure by a stranger; to be called after the last row.

        Args:
            trusted: public keys (hex) that may have signed, which were compared before; None trusts those that signed
                receipts of this chain: none if all of them are erased.
        """
        for key, number in self._erasers.items():
            if trusted is None and key not in self._signers:
                yield Finding("erasure", f"row {number}", _STRANGE.format(key=key), number)
