"""One check of one store, from the file to the receipts and to what is recorded beside them.

Revocations are not compared with receipts: a receipt does not say what was not revoked at its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_sidecar.records.file import NO_CHAIN, Header, connect_quietly, in_pages, quick_check
from chio_sidecar.records.fsck_chain import ChainCheck, Finding, Heads, Marks, Row, Summary
from chio_sidecar.records.fsck_records import UNUSED, Erasures, check_archives, check_receipt, records
from chio_sidecar.store.driver import UNUSABLE, sqlite3, trouble
from chio_sidecar.store.hash_chain import FIRST, MEMBERS
from chio_sidecar.store.schema import APPLICATION_ID
from chio_sidecar.store.tables import ARCHIVED, CHAINED, SCHEMA_VERSION, upgrade

_WITH_APPROVALS = 2  # the first schema version that has them

_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_MARKS = "SELECT s.seq, s.digest, h.seq, h.digest FROM receipt_chain_start s LEFT JOIN receipt_chain_head h ON TRUE"

_BASE = "SELECT seq, digest FROM receipt_chain_base"
_STATEMENTS = """
SELECT a.seq, a.statement, r.chain FROM receipt_archives a LEFT JOIN http_receipts r ON r.seq = a.seq ORDER BY number
"""
_ROTATION = "SELECT (SELECT seq FROM receipt_chain_base), (SELECT max(rowid) FROM archived_state)"

_CONSUMED = "SELECT 1 FROM chio_hitl_consumed_tokens WHERE approval_id = ? AND request_id = ?"


class Inspection:
    """Reads a store once, from the first row to the last, in bounded memory.

    Args:
        path: the SQLite file; nothing is written or repaired, and no file is made beside it.
        trusted_keys: public keys (hex) that may have signed; None trusts any.
        heads: digests that were kept elsewhere, the same object for all files of a store.
        busy_seconds: how long to wait for another process that holds the file. A busy sidecar commits again and again,
            and each reader waits for a gap.
        all_pages: check all pages and indexes, also if that stops the sidecar which writes to the file.
        page_seconds: how long that check may stop it otherwise.

    Attributes:
        summary: complete after the last finding.
        base: number and digest of the last row that was archived and removed, (0, `FIRST`) without one.
        joint: number and digest of a row that must be here: the base of the file that goes on from this one. For the
            caller to set before the check.
        log: 1, the one log of a file.
        erasures: complete after the last finding.
        unlinked: `ChainCheck.unlinked`, the same object for all files of a chain. For the caller too.
        goes_on: it is no finding if no row has a digest of `heads`: a file that is checked later may have it. The same.

    Raises:
        ConfigurationError: there is no such store, or it cannot be read now.
    """

    def __init__(
        self,
        path: Path,
        *,
        trusted_keys: Collection[str] | None = None,
        heads: Heads | None = None,
        busy_seconds: float = 30.0,
        all_pages: bool = False,
        page_seconds: float = 0.5,
    ) -> None:
        self.summary = Summary()
        self._trusted = trusted_keys
        self._heads = heads or Heads()
        self._page_seconds = page_seconds
        self.base: tuple[int, str] = (0, FIRST)
        self.joint: tuple[int, str] | None = None
        self.unlinked: set[int] = set()
        self.goes_on = False
        self.log: int | None = 1
        self.erasures = Erasures()
        self._version = _version(path)
        try:
            connection = connect_quietly(path, busy_seconds=busy_seconds)
            if connection is None:
                raise ConfigurationError(f"{path} was not closed in good order; start the sidecar, which repairs it")
            # Text that is not UTF-8 becomes lone surrogates, which the check of its row finds.
            connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._connection = connection
            self._read_base()
        except UNUSABLE as exc:
            found = trouble(exc, path)
            # A journal that SQLite would have to roll back looks like a file that cannot be opened.
            repair = "it was not closed in good order: start the sidecar, which repairs it"
            remedy = repair if found.kind == "machine" else found.remedy
            raise ConfigurationError(f"cannot read {path}: {found.text}; {remedy}") from None
        # A rollback journal is there as long as a sidecar has the file open, and readers then stop its commits.
        self._whole = all_pages or Header.read(path).is_wal or not path.with_name(path.name + "-journal").exists()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def findings(self) -> Iterator[Finding]:
        """Yield everything that a sidecar would not have left like this: damage of the file first, then by row."""
        checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
            ("file", self._integrity),
            ("schema", self._schema),
            ("rows", self._rows),
        ]
        if self._version >= _WITH_APPROVALS:
            checks.append(("records", lambda: records(self._connection, self._version)))
        if self._version >= ARCHIVED:
            checks.append(("archives", lambda: check_archives(self._statements(), self._trusted, self.summary)))
        rotation = self._rotation()
        for place, check in checks:
            try:
                for finding in check():
                    if self._rotation() != rotation:
                        self.summary.unfinished = f"{place}: receipts were archived meanwhile; run the check again"
                        return
                    self.summary.findings += 1
                    yield finding
            except UNUSABLE as exc:
                found = trouble(exc)
                if found.kind != "content":
                    # A locked file says nothing about its rows: what was not read is not checked, and not missing.
                    after = f" after row {self.summary.last}" if place == "rows" and self.summary.rows else ""
                    self.summary.unfinished = f"{place}{after}: {found}"
                    return
                self.summary.findings += 1
                yield Finding("file", place, f"cannot be checked to the end: {found.text}")

    def statement(self) -> str | None:
        """Return the newest statement about an archive as it is stored, None without one."""
        try:
            found = [text for _, text, _ in self._statements()]
        except UNUSABLE:
            return None  # the check finds what is wrong
        return found[-1] if found else None

    def _statements(self) -> list[Any]:
        return self._connection.execute(_STATEMENTS).fetchall()

    def _read_base(self) -> None:
        found = None
        if self._version >= ARCHIVED:
            try:
                found = self._connection.execute(_BASE).fetchone()
            except sqlite3.Error as exc:
                if trouble(exc).kind != "content":
                    raise  # else the table is missing, which the check of the schema finds
        if found is not None and isinstance(found[0], int) and isinstance(found[1], str):
            self.base = found

    def _rotation(self) -> tuple[Any, ...] | None:
        """Return what a rotation that is under way moves on."""
        try:
            found: tuple[Any, ...] | None = self._connection.execute(_ROTATION).fetchone()
        except UNUSABLE:
            return None  # the tables are missing, which the check of the schema finds
        return found

    def _integrity(self) -> Iterator[Finding]:
        # SQLite checks the file under one lock. Where that lock stops a sidecar, the check is only as long as the
        # sidecar can wait; every row is read below in any case, in pages between which nothing is locked.
        end = None if self._whole else time.monotonic() + self._page_seconds
        found = quick_check(self._connection, lambda: end is not None and time.monotonic() >= end, full=True)
        self.summary.pages = "all" if found is not None else "part"
        for text in found or ():
            if text != "ok":
                yield Finding("file", "file", f"SQLite finds damage: {text}")

    def _schema(self) -> Iterator[Finding]:
        own = sqlite3.connect(":memory:")
        try:
            upgrade(own, 0, to=self._version)
            wanted = set(own.execute(_SCHEMA))
        finally:
            own.close()
        found = set(self._connection.execute(_SCHEMA))
        for kind, name, *_ in sorted(wanted - found, key=str):
            yield Finding("schema", f"{kind} {name}", "missing, or not as the sidecar makes it")
        names = {name for _, name, *_ in wanted}
        for kind, name, table, _ in sorted(found - wanted, key=str):
            if kind == "trigger" and name not in names:
                yield Finding("schema", f"trigger {name}", f"no sidecar makes it, and it acts on {table}")

    def _rows(self) -> Iterator[Finding]:
        summary, connection = self.summary, self._connection
        connection.execute("BEGIN")  # else a sidecar could store between the two statements
        try:
            first, last = connection.execute("SELECT min(seq), max(seq) FROM http_receipts").fetchone()
            marks = Marks()
            if self._version >= CHAINED:
                try:
                    stated = connection.execute(_MARKS).fetchall()
                except sqlite3.Error as exc:
                    if trouble(exc).kind != "content":
                        raise
                    stated = []
                marks = Marks(start=0)
                if len(stated) == 1 and isinstance(stated[0][0], int):
                    start, start_digest, end, end_digest = stated[0]
                    marks = Marks(start, start_digest, end if isinstance(end, int) else None, end_digest)
            self._read_base()
            marks = replace(marks, base=self.base[0], base_digest=self.base[1])
        finally:
            connection.execute("ROLLBACK")
        numbers = range(0) if first is None else range(first, last + 1)
        chain = ChainCheck(marks, self._heads, self.unlinked)
        joint = chain.digest if self.joint is not None and self.joint[0] == marks.base else None
        digest = "chain" if self._version >= CHAINED else "NULL"
        select = f"SELECT seq, {MEMBERS}, {digest} FROM http_receipts WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"  # noqa: S608
        try:
            for number, *members, stored in in_pages(connection, select, numbers):
                row = Row(number, members, stored)
                summary.count(row)
                yield from chain.row(row)
                if self.joint is not None and number == self.joint[0]:
                    joint = chain.digest
                if (texts := row.texts) is not None:
                    yield from self._receipt(number, *texts[:3], chained=not chain.by_signature)
        except UNUSABLE as exc:
            found = trouble(exc)
            if found.kind != "content":
                raise
            text = f"the rows after {summary.last} cannot be read: {found.text}"
            yield Finding("file", f"row {summary.last + 1}", text, summary.last + 1)
        else:
            yield from (one for one in chain.finish() if one.kind != "head" or not self.goes_on)
            yield from self.erasures.findings(self._trusted)
        summary.conclude(chain)
        summary.erased, summary.erasures = len(self.erasures.rows), self.erasures.listed
        if self.joint is not None and joint != self.joint[1]:
            text = "it is missing here, or another one than the row that the next file goes on from"
            yield Finding("archive", f"row {self.joint[0]}", text, self.joint[0])

    def _receipt(self, number: int, receipt_id: str, text: str, request_id: str, *, chained: bool) -> Iterator[Finding]:
        found = check_receipt(number, receipt_id, text, request_id, trusted=self._trusted, keys=self.summary.keys)
        self.erasures.add(number, found, chained=chained)
        yield from found.findings
        if found.approval is None or self._version < _WITH_APPROVALS:
            return
        try:
            if self._connection.execute(_CONSUMED, (found.approval, request_id)).fetchone() is None:
                yield Finding("record", f"row {number}", UNUSED, number)
        except (sqlite3.Error, UnicodeError) as exc:
            if isinstance(exc, sqlite3.Error) and trouble(exc).kind != "content":
                raise
            return  # the table is one finding by itself, not one of each receipt


def _version(path: Path) -> int:
    """Return the schema version of a receipt store.

    Raises:
        ConfigurationError: the file is no receipt store, or one of an unknown version.
    """
    try:
        header = Header.read(path)
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}; name the sidecar's file") from None
    if not header.is_sqlite:
        text = "is no SQLite database, or its first bytes are damaged; name the sidecar's file"
    elif header.application != APPLICATION_ID:
        text = NO_CHAIN
    elif not 1 <= header.version <= SCHEMA_VERSION:
        text = (
            f"has schema version {header.version}, this version reads 1 to {SCHEMA_VERSION};"
            " use the version that wrote it"
        )
    else:
        return header.version
    raise ConfigurationError(f"{path} {text}")
