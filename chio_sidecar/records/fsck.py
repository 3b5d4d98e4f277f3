"""One check of one store, from the file to the receipts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from chio_sidecar.records.fsck_chain import ChainCheck, Finding, Marks, Row, Summary
from chio_sidecar.records.fsck_file import StoreFile
from chio_sidecar.records.fsck_rows import ReceiptCheck, check_records, is_use_known
from chio_sidecar.store.schema import UNUSABLE, trouble

__all__ = ["Finding", "Inspection", "Summary"]


_WITH_APPROVALS = 2  # the first schema version that has them


class Inspection:
    """Reads a store once, from the first row to the last, in bounded memory.

    Args:
        path: the SQLite file; it is not written, not repaired, and no file is made beside it.
        trusted_keys: public keys in hex that may have signed; None: any.
        kept: digest of a head that somebody kept.

    Attributes:
        summary: complete once all findings were taken.

    Raises:
        ConfigurationError: there is no such store, or it cannot be read now.
    """

    def __init__(self, path: Path, *, trusted_keys: Collection[str] | None = None, kept: str | None = None) -> None:
        self._trusted = trusted_keys
        self._kept = kept
        self.summary = Summary()
        self._file = StoreFile(path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def findings(self) -> Iterator[Finding]:
        """Yield everything that is not as a sidecar leaves it: the file's own damage first, then in order of rows."""
        for finding in self._findings():
            self.summary.findings += 1
            yield finding

    def _findings(self) -> Iterator[Finding]:
        file = self._file
        yield from _readable("file", file.integrity)
        yield from _readable("schema", file.schema)
        yield from _readable("rows", self._rows)
        if file.version >= _WITH_APPROVALS:
            yield from _readable("records", partial(check_records, file.connection))

    def _rows(self) -> Iterator[Finding]:
        known = partial(is_use_known, self._file.connection) if self._file.version >= _WITH_APPROVALS else None
        marks, numbers = self._file.extent()
        chain, receipts = ChainCheck(marks, self._kept), ReceiptCheck(self._trusted, known)
        try:
            for row in self._file.rows(numbers):
                self._count(row)
                yield from chain.row(row)
                if (texts := row.texts) is not None:
                    yield from receipts.row(row.sequence, *texts[:3])
        except UNUSABLE as exc:
            text = f"what is behind row {self.summary.last} cannot be read: {trouble(exc)}"
            yield Finding("file", f"row {self.summary.last + 1}", text, self.summary.last + 1)
        yield from chain.finish()
        self._sum_up(marks, chain, receipts)

    def _count(self, row: Row) -> None:
        summary = self.summary
        summary.first = summary.first if summary.rows else row.sequence
        summary.rows, summary.last = summary.rows + 1, row.sequence

    def _sum_up(self, marks: Marks, chain: ChainCheck, receipts: ReceiptCheck) -> None:
        summary = self.summary
        summary.chained_from = None if marks.start is None else marks.start + 1
        summary.head = None if marks.start is None else chain.digest
        summary.anchored, summary.keys = chain.anchored, receipts.keys


def _readable(what: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except UNUSABLE as exc:
        yield Finding("file", what, f"cannot be checked to the end: {trouble(exc)}")
