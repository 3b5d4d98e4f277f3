"""What an export is made from: the rows of one hash chain, in a file, or of one log of a database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_sidecar.records.file import NO_CHAIN, Header, connect, in_pages
from chio_sidecar.store.driver import UNUSABLE, sqlite3, trouble
from chio_sidecar.store.hash_chain import FIRST, MEMBERS, follow
from chio_sidecar.store.place import Place
from chio_sidecar.store.schema import APPLICATION_ID
from chio_sidecar.store.statements import ArchiveStatement
from chio_sidecar.store.tables import ARCHIVED, CHAINED

_ROWS_AT_ONCE = 2_000
_IN_TIME = "json_extract(receipt_json, '$.timestamp') BETWEEN ? AND ?"


class Source(ABC):
    """The rows of one hash chain.

    Attributes:
        name: for messages.
        log: number of the log; None for a file.
        base: number of the newest row that was archived, 0 if none was.
        base_digest: its digest.
        archive: name of its archive; empty without one.
    """

    name: str
    log: int | None = None
    base = 0
    base_digest = FIRST
    archive = ""

    @abstractmethod
    def bounds(self, since: int, until: int) -> tuple[int, int] | None:
        """Return the first and the last row that was signed from `since` to `until`, seconds since 1970."""

    @abstractmethod
    def stored(self, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        """Yield number, members and digest of rows as they are stored; the digest is None in rows older than chains."""

    def rows(self, first: int, last: int, digest: str) -> Iterator[tuple[int, list[str], str]]:
        """Yield number, members and digest of rows; `digest` is that of the row before.

        Raises:
            ConfigurationError: a row is missing, damaged, or not as it was stored.
        """
        expected = first
        for number, *members, stored in self.stored(first, last):
            if number != expected or not all(isinstance(member, str) for member in members):
                raise ConfigurationError(f"row {expected} of {self.name} is damaged; see receipt fsck")
            digest = follow(digest, number, members, stored).digest
            if not digest or stored not in (digest, None) or "\n" in members[1]:
                raise ConfigurationError(f"row {number} of {self.name} is not as it was stored; see receipt fsck")
            yield number, members, digest
            expected += 1
        if expected <= last:
            raise ConfigurationError(f"row {expected} of {self.name} is missing; see receipt fsck")

    def digest_before(self, first: int) -> str:
        """Return the digest of the row before `first`."""
        if first - 1 == self.base:
            return self.base_digest
        for *_, stored in self.stored(first - 1, first - 1):
            if stored is not None:
                return str(stored)
        # The rows before are older than the chain.
        return deque((digest for *_, digest in self.rows(self.base + 1, first - 1, self.base_digest)), maxlen=1).pop()


@contextmanager
def open_sources(place: Place) -> Iterator[list[Source]]:
    """Open what an export of a store is made from: one source for a file, one for each log of a database.

    Raises:
        ConfigurationError: the store cannot be read.
    """
    if not isinstance(place, Path):
        from chio_sidecar.records.export_postgresql import open_logs

        with open_logs(place) as logs:
            yield [*logs]
        return
    try:
        header = Header.read(place)
        if header.application != APPLICATION_ID:
            raise ConfigurationError(f"{place} {NO_CHAIN}")
        with closing(connect(place, "mode=ro", busy_seconds=30.0)) as connection:
            yield [_File(connection, place, header.version)]
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot read {place}: {trouble(exc)}") from None


class _File(Source):
    def __init__(self, connection: sqlite3.Connection, path: Path, version: int) -> None:
        self._connection = connection
        self.name = str(path)
        digest = "chain" if version >= CHAINED else "NULL"
        self._select = (
            f"SELECT seq, {MEMBERS}, {digest} FROM http_receipts WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"  # noqa: S608
        )
        if version >= ARCHIVED:
            self.base, self.base_digest = connection.execute("SELECT seq, digest FROM receipt_chain_base").fetchone()
            newest = "SELECT statement FROM receipt_archives ORDER BY number DESC LIMIT 1"
            for (statement,) in connection.execute(newest):
                self.archive = ArchiveStatement.read(statement).name

    def bounds(self, since: int, until: int) -> tuple[int, int] | None:
        low, high = self._connection.execute("SELECT min(seq), max(seq) FROM http_receipts").fetchone()
        sql = f"SELECT min(seq), max(seq) FROM http_receipts WHERE seq BETWEEN ? AND ? AND {_IN_TIME}"  # noqa: S608
        first = last = None
        for start in range(low or 0, (high or -1) + 1, _ROWS_AT_ONCE):
            window = (start, min(start + _ROWS_AT_ONCE - 1, high))
            found = self._connection.execute(sql, (*window, since, until)).fetchone()
            first, last = found[0] if first is None else first, last if found[1] is None else found[1]
        return None if first is None or last is None else (first, last)

    def stored(self, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        return in_pages(self._connection, self._select, range(first, last + 1))
