"""Following the hash chain, row by row, for any backend.

Each digest is compared with the one that follows from its row and the digest *stored* in the row before, so one row
that was changed is one finding, and not also one for each row behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chio_sidecar.store.hash_chain import FIRST, link

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


_CHANGED = (
    "its digest does not follow from its content and the row before it:"
    " this row was changed, or rows before it were changed, taken out, put in or moved"
)
_NO_DIGEST = "it has no digest, so the sidecar did not write it, or somebody took the digest away"
_TOO_OLD = "it has a digest, though the store says that it is older than the chain"
_NO_TEXT = "one of its columns does not hold text, so nothing can be said about the row"
_OTHER_START = (
    "they are not what they were when the chain was started behind them: rows were changed, added or taken out"
)
_NO_START = "it does not say where its chain starts, as every store with a chain does"
_KEPT = (
    "no row has the digest {head}: rows up to the one that had it were changed or are gone, or it is another store's"
)
_LONGEST_TEXT = 100


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read, whatever its columns hold.

    Attributes:
        members: receipt id, receipt JSON, request id, fingerprint and `created_at`.
        digest: None where there is none.
    """

    sequence: int
    members: Sequence[object]
    digest: object

    @property
    def texts(self) -> list[str] | None:
        """The members, or None when one of them is no text."""
        return [str(member) for member in self.members] if all(map(is_text, self.members)) else None


@dataclass(frozen=True, slots=True)
class Marks:
    """What a store says about its chain beside the rows.

    Attributes:
        start: last row without a digest of its own, 0 where all have one; None in a store without a chain.
        start_digest: its digest.
        end: newest row; None when the store does not say.
        end_digest: its digest.
    """

    start: int | None = None
    start_digest: object = None
    end: int | None = None
    end_digest: object = None


class ChainCheck:
    """Looks at rows in their order.

    Args:
        marks: what the store says about its chain.
        kept: a digest that somebody kept, or None.

    Attributes:
        anchored: row that has the kept digest, once it was met.
        digest: of the newest row that was met.
    """

    def __init__(self, marks: Marks, kept: str | None) -> None:
        self._marks = marks
        self._kept = kept
        self._last = 0
        self._started = marks.start is None
        self.digest = FIRST
        self.anchored: int | None = None
        self._meet()

    def row(self, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with a row; to be called in the order of their numbers."""
        place = f"row {row.sequence}"
        if row.sequence != self._last + 1:
            yield Finding("gap", place, _gap(self._last, row.sequence), row.sequence)
        if not self._started and (not self._marks.start or row.sequence > self._marks.start):
            yield from self._start()
        if (texts := row.texts) is None:
            yield Finding("text", place, _NO_TEXT, row.sequence)
        expected = None if texts is None else link(self.digest, row.sequence, texts)
        yield from self._compare(row, expected)
        self._last = row.sequence
        self._meet()

    def finish(self) -> Iterator[Finding]:
        """Yield what is wrong with the end, when all rows were met."""
        marks = self._marks
        if not self._started:
            yield from self._start()
        if marks.start is not None:
            yield from self._end()
        if self._kept is not None and self.anchored is None:
            yield Finding("head", "store", _KEPT.format(head=self._kept))

    def _compare(self, row: Row, expected: str | None) -> Iterator[Finding]:
        if self._marks.start is None or row.sequence <= self._marks.start:
            if row.digest is not None:
                yield Finding("chain", f"row {row.sequence}", _TOO_OLD, row.sequence)
            self.digest = expected or ""
            return
        if not is_text(row.digest):
            yield Finding("chain", f"row {row.sequence}", _NO_DIGEST, row.sequence)
            self.digest = expected or ""
            return
        if expected is not None and row.digest != expected:
            yield Finding("chain", f"row {row.sequence}", _CHANGED, row.sequence)
        self.digest = str(row.digest)

    def _start(self) -> Iterator[Finding]:
        self._started = True
        marks = self._marks
        if self.digest == marks.start_digest:
            return
        if not marks.start:
            yield Finding("chain", "store", _NO_START)
            return
        yield Finding("chain", f"rows 1 to {marks.start}", _OTHER_START)
        self.digest = _shortened(marks.start_digest)

    def _end(self) -> Iterator[Finding]:
        end = self._marks.end
        if end is None:
            yield Finding("end", "store", "it does not say which row is the newest, so the last ones could be gone")
        elif end > self._last:
            place = f"rows {self._last + 1} to {end}" if end > self._last + 1 else f"row {end}"
            yield Finding("end", place, "gone: the store names a newer row than the last one that is there", end)
        elif end < self._last:
            text = f"the store says that its newest row is {end}: what is behind it was added by somebody else"
            yield Finding("end", f"row {self._last}", text, self._last)
        elif self.digest != self._marks.end_digest:
            text = "the store has another digest of its newest row than the row itself"
            yield Finding("end", f"row {self._last}", text, self._last)

    def _meet(self) -> None:
        if self._kept is not None and self.digest == self._kept:
            self.anchored = self._last


def is_text(value: object) -> bool:
    """Tell whether a value is text, without the lone surrogates that stand for bytes which are none."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shortened(value: object) -> str:
    # What stands there may be anything; compared with a digest it is another one in any case.
    return str(value)[:_LONGEST_TEXT] if is_text(value) else ""


def _gap(last: int, sequence: int) -> str:
    if sequence < 1:
        return "a row has a number below 1, which no sidecar gives"
    if sequence == last + 2:
        return f"row {last + 1} is missing before it"
    return f"rows {last + 1} to {sequence - 1} are missing before it"
