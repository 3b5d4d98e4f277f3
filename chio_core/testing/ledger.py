"""Ledger: the receipts that the sidecar of a test has stored, and which question each belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.models.receipt import HttpReceipt
from chio_core.receipts import verify_receipt
from chio_core.testing.behaviours import Reply
from chio_core.testing.question import Asked


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored receipt."""

    asked: Asked
    receipt: HttpReceipt

    @property
    def observed(self) -> bool:
        """True where the application would not have carried a refusal out (observe mode)."""
        return bool(self.asked.document.get("enforcement"))

    @property
    def allows(self) -> bool:
        """True for a receipt that lets the handler run; what the route requires counts in observe mode too."""
        stated = self.asked.document.get("enforcement") or {}
        unmet = "lacks" in stated or ("requires" in stated and self.receipt.capability_id is None)
        return self.receipt.verdict.is_allow and not unmet


class Ledger:
    """Stored receipts, in order.

    Attributes:
        entries: all of them.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def keep(self, asked: Asked, reply: Reply) -> Reply:
        """Store the receipt of an answer before it is handed out, if it is one that this sidecar has signed."""
        document = reply.kept if reply.kept is not None else _receipt_in(reply)
        try:
            receipt = verify_receipt(document, trusted_keys=[asked.key.public_hex]) if document else None
        except ReceiptRejected:
            receipt = None
        if receipt is not None:
            self.entries.append(Entry(asked, receipt))
        return reply

    def find(self, receipt_id: str, since: int = 0) -> Entry | None:
        """Return the entry of a receipt; None if it was not stored, or is one of the first `since`."""
        return next((entry for entry in self.entries[since:] if entry.receipt.id == receipt_id), None)


def _receipt_in(reply: Reply) -> dict[str, object] | None:
    try:
        document = parse_json(reply.body)
    except InvalidDocument:
        return None
    found = document.get("receipt") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else None
