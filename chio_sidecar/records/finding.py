"""What a check of a store says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["file", "schema", "gap", "text", "chain", "signature", "column", "end", "head", "record"]
"""`file`: SQLite's own check; `schema`: tables and triggers; `gap`: numbers are missing; `text`: a value is no text;
`chain`: a digest does not follow; `signature`: a receipt does not verify; `column`: a column says something else than
its receipt; `end`: the newest row is not the one that the store names; `head`: so for a digest that was kept elsewhere;
`record`: an approval, a charge or a use does not fit to the receipts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as the sidecar leaves it.

    Attributes:
        place: where, for people: `row 17`, `rows 1 to 5`, `file`, or a table and what it is about.
        text: what it means, one sentence.
        row: number of the receipt's row, where the finding is about one.
    """

    kind: Kind
    place: str
    text: str
    row: int | None = None

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        found = {"kind": self.kind, "place": self.place, "row": self.row, "text": self.text}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(slots=True)
class Summary:
    """What was looked at.

    Attributes:
        rows: how many receipts.
        first: number of the first row, 0 without rows.
        last: number of the last one.
        chained_from: first row that has a digest of its own; None in a store from before the chain.
        head: digest of the last row, for an auditor to keep; None in a store from before the chain.
        anchored: row that has the digest which was given as `--head`; 0 when no row was stored at that time.
        keys: public keys that signed, hex; at most 16.
        findings: how many.
    """

    rows: int = 0
    first: int = 0
    last: int = 0
    chained_from: int | None = None
    head: str | None = None
    anchored: int | None = None
    keys: list[str] = field(default_factory=list)
    findings: int = 0

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "rows": self.rows,
            "first": self.first,
            "last": self.last,
            "chained_from": self.chained_from,
            "head": self.head,
            "anchored": self.anchored,
            "keys": self.keys,
            "findings": self.findings,
        }
