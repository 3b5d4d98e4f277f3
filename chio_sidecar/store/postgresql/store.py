"""A `ReceiptStore` in a PostgreSQL database that several sidecars share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from chio_core.concurrency.processes import PerProcess
from chio_core.errors import ConfigurationError
from chio_sidecar.store import (
    StoredReceipt,
    StoreHealth,
    StoreUnavailable,
)
from chio_sidecar.store.committed import CommittedStore
from chio_sidecar.store.committer import GroupCommitter
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import ISOLATED, SETTINGS, UNISOLATED, Connection, connect, trouble
from chio_sidecar.store.postgresql.log import marks
from chio_sidecar.store.postgresql.schema import check
from chio_sidecar.store.postgresql.tables import AUTHORITY_KEYS
from chio_sidecar.store.postgresql.writer import PostgresqlWriter
from chio_sidecar.store.writes import (
    Probe,
)

_COLUMNS = "SELECT position, id, request_id, receipt_json, created_at FROM http_receipts"
_SPARE_READERS = 4


class PostgresqlReceiptStore(CommittedStore):
    """A `ReceiptStore` in a database, which any number of sidecars may open at once.

    Args:
        place: the database, as the role of the sidecars.
        busy_seconds: how long a write or a read may take.
        max_waiting: number of writes that may wait.
        clock: seconds since 1970, for `created_at` and `revoked_at`.

    Raises:
        ConfigurationError: the database cannot be reached, or needs a migration.
    """

    def __init__(
        self,
        place: DatabasePlace,
        *,
        busy_seconds: float = 5.0,
        max_waiting: int = 8192,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.place = place
        self._readers = PerProcess(lambda: Readers(place, seconds=busy_seconds))
        try:
            self.detail = self._readers.get().run(self._checked)
        except psycopg.Error as exc:
            raise ConfigurationError(f"cannot use {place.shown} as a receipt store: {trouble(exc) or exc}") from None
        super().__init__(
            lambda: GroupCommitter(
                PostgresqlWriter(place, wait_seconds=busy_seconds), wait_seconds=busy_seconds, max_waiting=max_waiting
            ),
            columns=_COLUMNS,
            clock=clock,
        )

    def _checked(self, connection: Connection) -> str:
        check(connection, self.place.shown)
        settings = "SELECT current_setting('transaction_isolation'), current_setting('fsync')"
        isolation, fsync = connection.execute(settings).fetchone() or ("", "")
        if isolation not in UNISOLATED:
            raise ConfigurationError(
                f"transactions of this role in {self.place.shown} are {isolation}, so a receipt could be stored after"
                f" the revocation of its capability; {SETTINGS[ISOLATED]}"
            )
        number = connection.info.server_version
        synced = "every commit synced" if fsync == "on" else "commits are not synced: the server runs with fsync = off"
        return f"PostgreSQL {number // 10000}.{number % 10000}, a log of this sidecar, {synced}"

    async def list(self, *, after: int = 0, limit: int = 50) -> Sequence[StoredReceipt]:
        """Return at most `limit` receipts whose position is greater than `after`, oldest first."""
        # Not beyond what is complete: a position that another sidecar has taken may be committed later.
        (horizon,) = (await self._read("SELECT chio.horizon()"))[0]
        sql = f"{_COLUMNS} WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
        return [StoredReceipt(*row) for row in await self._read(sql, after, horizon, limit)]

    async def authority_keys(self) -> frozenset[str]:
        """Return the public keys of the authority in this database, the earlier ones included."""
        return frozenset(key for (key,) in await self._read(AUTHORITY_KEYS))

    async def health(self) -> StoreHealth:
        """Renew the lease of the log and return whether that was committed."""
        try:
            await self._committer.get().submit(Probe())
        except StoreUnavailable as exc:
            return StoreHealth(writable=False, detail=exc.message)
        return StoreHealth(writable=True, detail=self.detail)

    async def close(self) -> None:
        """Write what waits, then leave the log and disconnect. A second call does nothing."""
        await asyncio.to_thread(self._committer.get().shutdown)
        self._readers.get().close()

    async def _read(self, sql: str, *parameters: object) -> Sequence[Any]:
        def fetch(connection: Connection) -> Sequence[Any]:
            connection.execute("BEGIN READ ONLY; SET LOCAL search_path = chio, pg_catalog, pg_temp")
            rows = connection.execute(marks(sql), parameters).fetchall()
            connection.execute("COMMIT")
            return rows

        try:
            return await asyncio.to_thread(self._readers.get().run, fetch)
        except psycopg.Error as exc:
            raise StoreUnavailable(f"the receipt store cannot be read: {trouble(exc) or exc}") from None


class Readers:
    """Connections that read, made as they are needed; a few are kept. For any thread.

    Args:
        place: the database.
        seconds: how long one reading may take, connecting included.
    """

    def __init__(self, place: DatabasePlace, *, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._spare: list[Connection] = []
        self._lock = threading.Lock()

    def run(self, read: Callable[[Connection], Any]) -> Any:
        """Return the result of `read`; on a connection that has broken since its last use, of a second call of it.

        Raises:
            psycopg.Error: the database cannot be read.
        """
        with self._lock:
            connection = self._spare.pop() if self._spare else None
        if connection is not None:
            try:
                return self._use(connection, read)
            except psycopg.OperationalError:
                if time.monotonic() >= connection.until:
                    raise
        return self._use(connect(self._place, seconds=self._seconds), read)

    def _use(self, connection: Connection, read: Callable[[Connection], Any]) -> Any:
        try:
            connection.limit(self._seconds)
            result = read(connection)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if len(self._spare) < _SPARE_READERS:
                self._spare.append(connection)
                return result
        connection.close()
        return result

    def close(self) -> None:
        """Close the spare connections."""
        with self._lock:
            spare, self._spare = self._spare, []
        for connection in spare:
            connection.close()
