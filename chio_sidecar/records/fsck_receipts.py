"""Holding each row against the receipt in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_sidecar.records.finding import Finding

UseKnown = Callable[[str, str], bool]
"""Tells whether the store records that an approval (its id) was used by a request (its id)."""

_MOST_KEYS = 16
_APPROVAL_ID = "chio_approval_id"
_UNUSED = "it allowed a request by an approval, and no use of that approval is recorded, so it could be used again"


class ReceiptCheck:
    """Verifies receipts, and compares the columns beside them.

    Args:
        trusted_keys: public keys in hex that may have signed; None: any.
        use_known: looks up the use of an approval; None where the store keeps none.

    Attributes:
        keys: who signed.
    """

    def __init__(self, trusted_keys: Collection[str] | None, use_known: UseKnown | None) -> None:
        self._trusted = trusted_keys
        self._use_known = use_known
        self.keys: list[str] = []

    def row(self, sequence: int, receipt_id: str, text: str, request_id: str) -> Iterator[Finding]:
        """Yield what is wrong with one row."""
        place = f"row {sequence}"
        try:
            receipt = parse_json(text)
            if not isinstance(receipt, dict):
                raise InvalidDocument("it holds no JSON object")
            key = verify_receipt(receipt, trusted_keys=self._trusted).kernel_key
        except (InvalidDocument, ReceiptRejected) as exc:
            yield Finding("signature", place, f"its receipt does not verify: {exc.message}", sequence)
            return
        if key not in self.keys and len(self.keys) < _MOST_KEYS:
            self.keys.append(key)
        for name, column in (("id", receipt_id), ("request_id", request_id)):
            if receipt.get(name) != column:
                yield Finding("column", place, f"its column {name} says something else than its receipt", sequence)
        if self._is_unrecorded(receipt):
            yield Finding("record", place, _UNUSED, sequence)

    def _is_unrecorded(self, receipt: dict[str, Any]) -> bool:
        metadata = receipt.get("metadata")
        used = metadata.get(_APPROVAL_ID) if isinstance(metadata, dict) else None
        if self._use_known is None or not isinstance(used, str) or receipt["verdict"]["verdict"] != "allow":
            return False
        return not self._use_known(used, receipt["request_id"])
