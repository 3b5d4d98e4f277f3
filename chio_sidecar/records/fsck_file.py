"""A SQLite store as a file: opening it, SQLite's own check, its tables and triggers, and its rows in pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_sidecar.records.fsck_chain import Finding, Marks, Row
from chio_sidecar.records.reader import connect_quietly, header
from chio_sidecar.store.hash_chain import MEMBERS
from chio_sidecar.store.schema import APPLICATION_ID, UNUSABLE, trouble
from chio_sidecar.store.tables import CHAINED, SCHEMA_VERSION, upgrade

_PAGE = 500  # rows; a reader stands in the way of a commit while it reads
_MOST_OF_SQLITE = 100
_MAGIC = b"SQLite format 3\x00"
_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_MARKS = "SELECT s.seq, s.digest, h.seq, h.digest FROM receipt_chain_start s LEFT JOIN receipt_chain_head h ON TRUE"


class StoreFile:
    """A store that is read, and nothing else.

    Args:
        path: the SQLite file.

    Attributes:
        connection: read-only. Text that is no UTF-8 has lone surrogates in it.
        version: of the schema, as the file says.
        chained: it is of a version with a hash chain.

    Raises:
        ConfigurationError: there is no such store, or it cannot be read now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.version = _version(path)
        self.chained = self.version >= CHAINED
        try:
            connection = connect_quietly(path, busy_seconds=5.0)
            if connection is None:
                raise ConfigurationError(f"{path} was not closed in good order; start the sidecar, which repairs it")
            connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            self.connection = connection
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except UNUSABLE as exc:
            raise ConfigurationError(f"cannot read {path}: {trouble(exc)}; {_remedy(str(exc))}") from None

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def integrity(self) -> Iterator[Finding]:
        """Yield what SQLite finds in its pages and indexes.

        Raises:
            sqlite3.Error: it cannot say.
        """
        for (text,) in self.connection.execute(f"PRAGMA integrity_check({_MOST_OF_SQLITE})"):
            if text != "ok":
                yield Finding("file", "file", f"SQLite finds damage: {text}")

    def schema(self) -> Iterator[Finding]:
        """Yield what differs from the tables and triggers that a sidecar makes.

        Raises:
            sqlite3.Error: the file does not say.
        """
        wanted = _wanted(self.version)
        found = set(self.connection.execute(_SCHEMA))
        for kind, name, *_ in sorted(wanted - found, key=str):
            yield Finding("schema", f"{kind} {name}", "missing, or not as the sidecar makes it")
        names = {name for _, name, *_ in wanted}
        for kind, name, table, _ in sorted(found - wanted, key=str):
            if kind == "trigger" and name not in names:
                yield Finding("schema", f"trigger {name}", f"no sidecar makes it, and it acts on {table}")

    def extent(self) -> tuple[Marks, range]:
        """Return what the store says about its chain, and the numbers of its rows at the same moment.

        Where it cannot be read what the store says, that is nothing.

        Raises:
            sqlite3.Error: the rows cannot be read.
        """
        self.connection.execute("BEGIN")  # else a sidecar could store between the two questions
        try:
            first, last = self.connection.execute("SELECT min(seq), max(seq) FROM http_receipts").fetchone()
            return self._marks(), range(0) if first is None else range(first, last + 1)
        finally:
            self.connection.execute("ROLLBACK")

    def _marks(self) -> Marks:
        if not self.chained:
            return Marks()
        try:
            found = self.connection.execute(_MARKS).fetchall()
        except sqlite3.Error:
            found = []
        if len(found) != 1 or not isinstance(found[0][0], int):
            return Marks(start=0)
        start, start_digest, end, end_digest = found[0]
        return Marks(start, start_digest, end if isinstance(end, int) else None, end_digest)

    def rows(self, numbers: range) -> Iterator[Row]:
        """Yield the rows with these numbers, in their order; the file is free between two pages of them.

        Raises:
            sqlite3.Error: a row cannot be read; those before it were yielded.
        """
        chain = "chain" if self.chained else "NULL"
        select = f"SELECT seq, {MEMBERS}, {chain} FROM http_receipts WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"  # noqa: S608
        for sequence, *members, digest in in_pages(self.connection, select, numbers):
            yield Row(sequence, members, digest)


def in_pages(connection: sqlite3.Connection, select: str, numbers: range) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table; their number is the first value of each.

    Args:
        connection: where they are read.
        select: the statement; its parameters are the first and the last number, and how many rows at most.
        numbers: which.

    Raises:
        sqlite3.Error: a row cannot be read; those before it were yielded.
    """
    start, last = numbers.start, numbers.stop - 1
    while start <= last:
        page = list(_until_broken(connection.execute(select, (start, last, _PAGE))))
        for row in page:
            if isinstance(row, sqlite3.Error):
                raise row
            if row[0] < start:
                raise sqlite3.DatabaseError("its rows are not in their order")  # else this might never end
            start = row[0] + 1
            yield row
        if not page:
            return


def _until_broken(cursor: sqlite3.Cursor) -> Iterator[Any]:
    try:
        yield from cursor
    except sqlite3.Error as exc:
        yield exc


def _version(path: Path) -> int:
    try:
        first = header(path)
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}; name the sidecar's file") from None
    if not first.startswith(_MAGIC):
        raise ConfigurationError(
            f"{path} is no SQLite database, or its first bytes are damaged; name the sidecar's file"
        )
    if int.from_bytes(first[68:72], "big") != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a database of another program, no receipt store; name the sidecar's file")
    version = int.from_bytes(first[60:64], "big")
    if not 1 <= version <= SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} has schema version {version}, this version reads 1 to {SCHEMA_VERSION};"
            " use the version that wrote it"
        )
    return version


def _wanted(version: int) -> set[tuple[str, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        upgrade(connection, 0, to=version)
        return set(connection.execute(_SCHEMA))
    finally:
        connection.close()


def _remedy(text: str) -> str:
    if "locked" in text or "busy" in text:
        return "another process holds it; try again"
    if "readonly" in text or "unable to open" in text:
        return "it was not closed in good order: start the sidecar, which repairs it"
    return "it is damaged: restore it from a backup"
