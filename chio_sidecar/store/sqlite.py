"""The SQLite backend: one file, one writer thread, readers that never write."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chio_sidecar.store import (
    StoredReceipt,
    StoreHealth,
    StoreUnavailable,
    live_state,
)
from chio_sidecar.store.committed import CommittedStore
from chio_sidecar.store.committer import GroupCommitter
from chio_sidecar.store.driver import Trouble, open_file, sqlite3, trouble
from chio_sidecar.store.hash_chain import MEMBERS
from chio_sidecar.store.schema import connect, disconnect, journal_for, prepare
from chio_sidecar.store.writes import (
    Probe,
    Row,
    Write,
    apply,
)

_COLUMNS = "SELECT seq, id, request_id, receipt_json, created_at FROM http_receipts"
_HEAD = "SELECT seq, digest, (SELECT ifnull(max(seq), 0) FROM http_receipts) FROM receipt_chain_head"
_ROW = "(?, ?, ?, ?, ?, ?, ?)"
_INSERT = f"INSERT INTO http_receipts (seq, {MEMBERS}, chain) VALUES "  # noqa: S608 - only constants


class SqliteReceiptStore(CommittedStore):
    """A `ReceiptStore` in one SQLite file of mode 0600, which several processes may open at once.

    Args:
        path: the file, created if it is missing.
        busy_seconds: how long a write or a read waits for another process that holds the file.
        max_waiting: number of writes that may wait.
        clock: seconds since 1970, for `created_at` and `revoked_at`.
        max_pages: size limit of the file in pages of usually 4096 bytes; None: the disk is the limit.
        spare_bytes: with less room on the disk `health` reports the store as not writable: a probe needs no room, but
            the next receipt may.
        version: the SQLite version, which decides the journal mode.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_seconds: float = 5.0,
        max_waiting: int = 8192,
        clock: Callable[[], float] = time.time,
        max_pages: int | None = None,
        spare_bytes: int = 256 * 1024,
        version: tuple[int, ...] = sqlite3.sqlite_version_info,
    ) -> None:
        self.place = self.path = path = path.absolute()  # the program may change its folder later
        self.journal = journal_for(version)
        self._busy_seconds = busy_seconds
        self._spare_bytes = spare_bytes
        prepare(path, journal=self.journal, busy_seconds=busy_seconds)
        writer = _SqliteWriter(path, self.journal, max_pages)
        super().__init__(
            lambda: GroupCommitter(writer, wait_seconds=busy_seconds, max_waiting=max_waiting),
            columns=_COLUMNS,
            clock=clock,
        )

    @property
    def detail(self) -> str:
        """How this store writes, in one sentence."""
        runtime = ".".join(map(str, sqlite3.sqlite_version_info))
        if self.journal == "wal":
            return f"SQLite {runtime}, write-ahead log, every commit synced"
        return f"SQLite {runtime}, rollback journal (this version's write-ahead log is not safe), every commit synced"

    async def list(self, *, after: int = 0, limit: int = 50) -> Sequence[StoredReceipt]:
        """Return at most `limit` receipts whose row number is greater than `after`, oldest first."""
        rows = await self._read(f"{_COLUMNS} WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        return [StoredReceipt(*row) for row in rows]

    async def health(self) -> StoreHealth:
        """Commit a row of no meaning and return whether that succeeded and the disk has room."""
        try:
            await self._committer.get().submit(Probe())
            status = await asyncio.to_thread(os.statvfs, self.path)
        except StoreUnavailable as exc:
            return StoreHealth(writable=False, detail=exc.message)
        except OSError as exc:
            return StoreHealth(writable=False, detail=f"the receipt store cannot be found: {exc.strerror}")
        room = status.f_bavail * status.f_frsize
        if room < self._spare_bytes:
            return StoreHealth(writable=False, detail=f"the disk of the receipt store has {room} bytes left")
        return StoreHealth(writable=True, detail=self.detail)

    async def close(self) -> None:
        """Write what waits, then close the file. A second call does nothing."""
        await asyncio.to_thread(self._committer.get().shutdown)

    async def _read(self, sql: str, *parameters: object) -> Sequence[Any]:
        def fetch() -> Sequence[Any]:
            connection = open_file(self.path, "mode=ro", busy_seconds=self._busy_seconds)
            try:
                return connection.execute(sql, parameters).fetchall()
            finally:
                connection.close()

        try:
            return await asyncio.to_thread(fetch)
        except sqlite3.Error as exc:
            raise StoreUnavailable(f"the receipt store cannot be read: {trouble(exc)}") from None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _SqliteWriter:
    def __init__(self, path: Path, journal: str, max_pages: int | None) -> None:
        self._path = path
        self._journal = journal
        self._max_pages = max_pages
        self._file: tuple[int, int] | None = None
        self._marked = False

    def open(self) -> sqlite3.Connection:
        self._file = _identity(self._path)
        connection = connect(self._path, journal=self._journal, busy_seconds=0.0)
        if self._max_pages is not None:
            connection.execute(f"PRAGMA max_page_count={self._max_pages:d}")
        return connection

    def apply(self, connection: sqlite3.Connection, works: Sequence[Write]) -> Sequence[Any]:
        # With a write-ahead log SQLite itself would go on writing to a file that was moved or replaced.
        if _identity(self._path) != self._file:
            raise sqlite3.OperationalError("the file was moved or replaced")
        if not self._marked and any(map(live_state.records_state, works)):
            live_state.mark(self._path)
            self._marked = True
        return apply(connection, SqliteLog(connection), works)

    def has_ended(self, connection: sqlite3.Connection) -> bool:
        return False

    def begin(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def commit(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")

    def rollback(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def discard(self, connection: sqlite3.Connection) -> None:
        connection.close()

    def trouble(self, exc: Exception) -> Trouble | None:
        # Other children of sqlite3.Error are about a statement or its values, so about one piece of work.
        if isinstance(exc, sqlite3.OperationalError) or type(exc) is sqlite3.DatabaseError:
            return trouble(exc)
        return None

    def release(self, connection: sqlite3.Connection) -> None:
        disconnect(connection)


class SqliteLog:
    """The hash chain of a file, for `apply`. The transaction excludes other writers, so its end is read once.

    Args:
        connection: the writer's, in a transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._end: tuple[int, str] | None = None

    def end(self) -> tuple[int, str]:
        """Return sequence and digest of the newest row.

        Raises:
            sqlite3.DatabaseError: rows are missing at the end of the store, or were added without a chain.
        """
        if self._end is None:
            found = self._connection.execute(_HEAD).fetchone()
            if found is None or found[0] != found[2]:
                raise sqlite3.DatabaseError("its newest rows are not those that were stored; see receipt fsck")
            self._end = (found[0], found[1])
        return self._end

    def insert(self, rows: Sequence[Row]) -> bool:
        """Insert all of these rows or, if an id is taken, none; return True for all."""
        values = [value for row in rows for value in (row.sequence, *row.members, row.digest)]
        try:
            self._connection.execute(_INSERT + ", ".join([_ROW] * len(rows)), values)
        except sqlite3.IntegrityError:
            return False
        self._end = (rows[-1].sequence, rows[-1].digest)
        return True

    def probe(self) -> None:
        """Write a row of no meaning."""
        self._connection.execute("UPDATE write_probe SET probes = probes + 1")
