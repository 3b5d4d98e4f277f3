"""Follow the hash chain of a store row by row, for any backend, and sum up what was checked.

Each digest is compared with the digest of its row and of the digest *stored* in the row before. So one changed row is
one finding, and not one for each row after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from chio_sidecar.store.hash_chain import FIRST, follow, link
from chio_sidecar.store.statements import ArchiveStatement

Kind = Literal[
    "file", "schema", "gap", "text", "chain", "signature", "column", "end", "head", "record", "archive", "erasure"
]
"""`file`: SQLite's own check; `schema`: tables and triggers; `gap`: numbers are missing; `text`: a value is no text;
`chain`: a digest does not follow; `signature`: a receipt does not verify; `column`: a column contradicts its receipt;
`end`: the newest row is not the one that the store names; `head`: no row has the digest that was kept elsewhere, or
that digest proves nothing about the rows before an erased one;
`record`: an approval, a charge or a use contradicts the receipts; `archive`: rows are gone that no statement about an
archive covers, or a statement does not verify; `erasure`: the record in the place of a receipt does not count."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a sidecar would not have left like this.

    Attributes:
        place: where, for people: `row 17`, `rows 1 to 5`, `file`, or a table and the row's subject.
        text: one sentence.
        row: number of the receipt's row, if the finding is about one.
    """

    kind: Kind
    place: str
    text: str
    row: int | None = None

    def document(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        found = {"kind": self.kind, "place": self.place, "row": self.row, "text": self.text}
        return {name: value for name, value in found.items() if value is not None}


_CHANGED = (
    "its digest does not follow from its content and the row before it:"
    " this row was changed, or rows before it were changed, removed, inserted or moved"
)
_NO_DIGEST = "it has no digest: the sidecar did not write this row, or its digest was removed"
_TOO_OLD = "it has a digest, but the store says that the row is older than the chain"
_NO_TEXT = "one of its columns does not hold text, so the row cannot be checked"
_OTHER_START = "they were changed, added or removed since the chain was started after them"
_NO_START = "it does not say where its chain starts, as every store with a chain does"
_KEPT = "no row has the digest {head}: rows up to the one that had it were changed or removed, or this is another store"
_IN_ARCHIVE = (
    "no row has the digest {head}, but rows up to {base} are archived: check their archives too, with --archive"
)
_UNLINKED = (
    "its digest is stated by the record of its erasure alone, so the head that was kept proves nothing about it and the"
    " rows before it; give a head of the row before it too, and none of this row"
)
_NOT_REMOVED = "the store says that it was archived and removed"
_LONGEST_TEXT = 100


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read, whatever its columns hold.

    Attributes:
        members: receipt id, receipt JSON, request id, fingerprint and `created_at`.
        digest: None for a row without one.
    """

    sequence: int
    members: Sequence[object]
    digest: object

    @property
    def texts(self) -> list[str] | None:
        """The members, or None if one of them is no text."""
        return [str(member) for member in self.members] if all(map(_is_text, self.members)) else None


@dataclass(frozen=True, slots=True)
class Marks:
    """What a store says about its chain, apart from the rows.

    Attributes:
        start: last row without a digest, 0 if all have one; None in a store without a chain.
        start_digest: digest of that row.
        end: newest row; None if the store does not say.
        end_digest: digest of the newest row.
        base: last row that was archived and removed, 0 without one.
        base_digest: digest of that row.
    """

    start: int | None = None
    start_digest: object = None
    end: int | None = None
    end_digest: object = None
    base: int = 0
    base_digest: str = FIRST


class Heads:
    """Digests that were kept elsewhere, for the check of all files or logs of one store.

    Attributes:
        kept: the digests.
        missing: those that no row has so far.
    """

    def __init__(self, kept: Collection[str] = ()) -> None:
        self.kept = frozenset(kept)
        self.missing = set(kept)


class ChainCheck:
    """Checks rows in order of their numbers.

    Args:
        marks: what the store says about its chain.
        heads: what was kept elsewhere.
        unlinked: rows of earlier files of this chain, as `unlinked` of their check; None without such files.

    Attributes:
        marks: what the store says about its chain.
        digest: that of the newest row so far.
        by_signature: the digest of the newest row is only stated by the record of its erasure.
        anchored: the newest row with a kept digest, 0 for the digest before the first row; None until one is found.
        covered_from: the first row that this digest covers, if it is found. A digest that only a record states does not
            depend on the rows before it.
        unlinked: rows with such a digest, after the newest row with a kept one.
    """

    def __init__(self, marks: Marks, heads: Heads, unlinked: set[int] | None = None) -> None:
        self.marks = marks
        self._heads = heads
        self.unlinked = set() if unlinked is None else unlinked
        self._last = marks.base
        self._started = marks.start is None or 0 < marks.start <= marks.base
        self.digest = marks.base_digest
        self.by_signature = False
        self.covered_from = marks.base + 1
        self._stated = marks.base + 1
        at_base = marks.base_digest in heads.kept
        self.anchored = 0 if FIRST in heads.kept else marks.base if at_base else None
        heads.missing -= {FIRST, marks.base_digest}
        # True if the rows before an erased one are fixed by a kept digest, or there are none.
        self._fixed = at_base or not marks.base

    def row(self, row: Row) -> Iterator[Finding]:
        """Yield what is wrong with the next row."""
        place, start = f"row {row.sequence}", self.marks.start
        if row.sequence < 1:
            yield Finding("gap", place, "a row has a number below 1, which no sidecar gives", row.sequence)
        elif row.sequence <= self._last:
            yield Finding("gap", place, _NOT_REMOVED, row.sequence)
        elif row.sequence != self._last + 1:
            gap = f"rows {self._last + 1} to {row.sequence - 1} are" if row.sequence > self._last + 2 else None
            yield Finding("gap", place, f"{gap or f'row {self._last + 1} is'} missing before it", row.sequence)
        if not self._started and (not start or row.sequence > start):
            yield from self._check_start()
        texts = row.texts
        if texts is None:
            yield Finding("text", place, _NO_TEXT, row.sequence)
        followed = None if texts is None else follow(self.digest, row.sequence, texts, row.digest)
        expected = None if followed is None else followed.digest
        self.by_signature = followed is not None and followed.by_signature
        if start is None or row.sequence <= start:
            # A row from before the chain: its digest is computed, and the last one is compared with the start.
            if row.digest is not None:
                yield Finding("chain", place, _TOO_OLD, row.sequence)
            self.digest = expected or ""
        elif not _is_text(row.digest):
            yield Finding("chain", place, _NO_DIGEST, row.sequence)
            self.digest = "" if texts is None else link(self.digest, row.sequence, texts)
        else:
            if expected is not None and row.digest != expected:
                yield Finding("chain", place, _CHANGED, row.sequence)
            self.digest = str(row.digest)
        self._last = row.sequence
        is_kept = self.digest in self._heads.kept
        if not self.by_signature:
            self._fixed = is_kept
        elif is_kept or not self._fixed:
            # Its record can state any digest, also a kept one, and so hide rows before it, or after it.
            self._stated = row.sequence
            self.unlinked.add(row.sequence)
        if is_kept:
            self.anchored, self.covered_from = self._last, self._stated
            self._heads.missing.discard(self.digest)
            # A file can begin with rows that are also in the one before it, which goes further.
            before = {number for number in self.unlinked if number <= row.sequence}
            self.unlinked -= before
            for number in sorted(before):
                yield Finding("head", f"row {number}", _UNLINKED, number)

    def finish(self) -> Iterator[Finding]:
        """Yield what is wrong with the end; to be called after the last row."""
        end, last = self.marks.end, self._last
        if not self._started:
            yield from self._check_start()
        if self.marks.start is not None:
            if end is None:
                yield Finding("end", "store", "it does not say which row is the newest, so the last ones may be gone")
            elif end > last:
                place = f"rows {last + 1} to {end}" if end > last + 1 else f"row {end}"
                yield Finding("end", place, "gone: the store names a newer row than the last one in the table", end)
            elif end < last:
                text = f"the store says that its newest row is {end}: the rows after it were not added by a sidecar"
                yield Finding("end", f"row {last}", text, last)
            elif self.digest != self.marks.end_digest:
                text = "the store has another digest of its newest row than the row itself"
                yield Finding("end", f"row {last}", text, last)
        for head in sorted(self._heads.missing):
            text = _IN_ARCHIVE if self.marks.base else _KEPT
            yield Finding("head", "store", text.format(head=head, base=self.marks.base))

    def _check_start(self) -> Iterator[Finding]:
        self._started = True
        start, digest = self.marks.start, self.marks.start_digest
        if digest == (self.digest if start else FIRST):
            return
        if not start:
            yield Finding("chain", "store", _NO_START)
            return
        yield Finding("chain", f"rows 1 to {start}", _OTHER_START)
        # The stored value may be anything, of any length; it only has to differ from every digest.
        self.digest = str(digest)[:_LONGEST_TEXT] if _is_text(digest) else ""


def _is_text(value: object) -> bool:
    # Bytes that are not UTF-8 are read as lone surrogates.
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(slots=True)
class Summary:
    """What was checked.

    Attributes:
        rows: number of receipts.
        first: number of the first row, 0 without rows.
        last: number of the last row.
        chained_from: first row with a digest; None in a store from before the chain.
        head: digest of the last row, for an auditor to keep; None in a store from before the chain.
        anchored: newest row with a digest that was given as `--head`; 0 if no row was stored at that time.
        covered_from: the first row that this digest covers; rows before it are covered by a signature only.
        keys: public keys (hex) that signed; at most 16.
        unfinished: why the check did not come to its end; None for a complete one. Nothing is stated about the rest.
        pages: `part` if SQLite's check of pages and indexes was ended, because it would have stopped a sidecar.
        archived: last row that was archived and removed; 0 without one.
        archives: what the statements in the store say, oldest first.
        erased: number of receipts that were erased.
        erasures: what the records of the first of them say; see `Erasures.listed`.
        findings: number of findings.
    """

    rows: int = 0
    first: int = 0
    last: int = 0
    chained_from: int | None = None
    head: str | None = None
    anchored: int | None = None
    covered_from: int | None = None
    keys: list[str] = field(default_factory=list)
    unfinished: str | None = None
    pages: Literal["all", "part"] = "part"
    archived: int = 0
    archives: list[ArchiveStatement] = field(default_factory=list)
    erased: int = 0
    erasures: list[dict[str, Any]] = field(default_factory=list)
    findings: int = 0

    def document(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return asdict(self)

    def count(self, row: Row) -> None:
        """Count the next row."""
        self.first = self.first if self.rows else row.sequence
        self.rows, self.last = self.rows + 1, row.sequence

    def conclude(self, chain: ChainCheck) -> None:
        """State what the check of a chain has found by its last row."""
        start = chain.marks.start
        self.chained_from = None if start is None else start + 1
        self.head = None if start is None else chain.digest
        self.anchored = chain.anchored
        self.covered_from = None if chain.anchored is None else chain.covered_from
        self.archived = chain.marks.base
