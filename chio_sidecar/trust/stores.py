"""Files of the trust service, and the revocations, in one of them or in a database (wire protocol, 9.6 and 10.5)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from chio_core.errors import ConfigurationError
from chio_sidecar.private_files import check_private, create_private
from chio_sidecar.store import live_state
from chio_sidecar.store.driver import open_file, sqlite3, transaction, trouble
from chio_sidecar.store.issuers import check_revocable
from chio_sidecar.store.place import Place

if TYPE_CHECKING:
    from chio_sidecar.trust.postgresql import PostgresqlDatabase

log = logging.getLogger(__name__)

_BUSY_SECONDS = 5.0


class Database:
    """A SQLite file of mode 0600 that is written in short, durable transactions.

    It uses the rollback journal with full synchronisation on every SQLite version: before 3.51.3 the write-ahead log
    can lose committed rows when two processes share a file, and `trust revoke --revocation-db` is such a second
    process. The load is a few writes a minute.

    Calls block for the time of a disk write; async code runs them in a thread. Any thread may call.

    Args:
        path: the file, created if it is missing; its folder must exist.
        schema: `CREATE TABLE IF NOT EXISTS` statements.
        option: command line option that named the file, for error messages.

    Raises:
        ConfigurationError: the file cannot be opened, is not a SQLite database, or has other tables.
    """

    backend = "sqlite"
    """Name of this kind of store on the wire and in the output of commands."""

    def __init__(self, path: Path, schema: str, *, option: str) -> None:
        self.path = path
        self.option = option
        self._lock = threading.Lock()
        # SQLite creates a file with the process's umask, which may let others read the keys.
        try:
            found = check_private(path, f"database of {option}")
            if found is None:
                create_private(path)
            elif found.st_mode & 0o077:
                path.chmod(0o600)
                log.warning("%s (%s) was open to other users; its mode is now 0600", path, option)
        except OSError as exc:
            raise ConfigurationError(
                f"cannot open {path} ({option}): {exc.strerror}; the folder must exist and be writable"
            ) from None
        connection = None
        try:
            connection = open_file(path, "mode=rw", busy_seconds=_BUSY_SECONDS)
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(schema)
        except sqlite3.Error as exc:
            if connection is not None:
                connection.close()
            raise ConfigurationError(f"cannot use {path} ({option}) as a database: {trouble(exc, path)}") from None
        self._connection = connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time."""
        with self._lock:
            yield self._connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction: committed at the end, rolled back on an exception."""
        with self._lock, transaction(self._connection):
            yield self._connection

    def close(self) -> None:
        """Close the file; later calls fail."""
        with self._lock:
            self._connection.close()


def open_database(place: Place, schema: str, *, option: str) -> Database | PostgresqlDatabase:
    """Open a file, which is created if it is missing, or a database, whose tables `store migrate` has made.

    Args:
        place: the file or the database.
        schema: of a file.
        option: command line option that named it, for error messages.

    Raises:
        ConfigurationError: it cannot be used.
    """
    if isinstance(place, Path):
        return Database(place, schema, option=option)
    from chio_sidecar.trust.postgresql import PostgresqlDatabase

    return PostgresqlDatabase(place, option=option)


class Revocation(NamedTuple):
    """One revoked capability; the time is in whole seconds since 1970."""

    capability_id: str
    revoked_at: int


class RevocationStore:
    """The revocation database. A revocation is permanent.

    Args:
        path: the SQLite file, created if it is missing; or the database of the sidecars, whose revocations these are.

    Raises:
        ConfigurationError: it cannot be used, or the file is gone after a revocation was recorded in it.
    """

    def __init__(self, path: Place) -> None:
        if isinstance(path, Path) and not path.exists():
            live_state.check_not_lost(path, "database of --revocation-db")
        schema = """CREATE TABLE IF NOT EXISTS revoked_capabilities (
            capability_id TEXT PRIMARY KEY,
            revoked_at INTEGER NOT NULL
        );"""
        self._file = path if isinstance(path, Path) else None
        self._db = open_database(path, schema, option="--revocation-db")
        self.backend = self._db.backend

    def revoke(self, capability_id: str) -> bool:
        """Revoke a capability durably; return False if it was revoked before.

        Raises:
            InvalidDocument: see `check_revocable`.
        """
        check_revocable(capability_id)
        if self._file is not None:
            live_state.mark(self._file)
        with self._db.write() as connection:
            added = connection.execute(
                "INSERT INTO revoked_capabilities (capability_id, revoked_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (capability_id, int(time.time())),
            )
            return bool(added.rowcount == 1)

    def is_revoked(self, capability_id: str) -> bool:
        """Return True if this capability was revoked; raises as `find`."""
        return bool(self.find(capability_id, 1))

    def revoked_of(self, capability_ids: Collection[str]) -> set[str]:
        """Return the revoked ones of these capabilities."""
        if not capability_ids:
            return set()
        marks = ", ".join("?" * len(capability_ids))
        sql = f"SELECT capability_id FROM revoked_capabilities WHERE capability_id IN ({marks})"  # noqa: S608 - marks
        with self._db.read() as connection:
            return {name for (name,) in connection.execute(sql, tuple(capability_ids))}

    def find(self, capability_id: str | None, limit: int) -> list[Revocation]:
        """Return the newest revocations, at most `limit`; only that of `capability_id` if it is given.

        Raises:
            InvalidDocument: see `check_revocable`. The response "not revoked" would be about no capability.
        """
        if capability_id is not None:
            check_revocable(capability_id)
        select, wanted = "SELECT capability_id, revoked_at FROM revoked_capabilities", (capability_id,)
        where, values = ("", ()) if capability_id is None else (" WHERE capability_id = ?", wanted)
        with self._db.read() as connection:
            sql = f"{select}{where} ORDER BY revoked_at DESC, capability_id DESC LIMIT ?"
            rows = connection.execute(sql, (*values, limit)).fetchall()
        return [Revocation(*row) for row in rows]

    def newest(self, limit: int) -> list[tuple[str, int]]:
        """Return id and time (seconds since 1970) of the newest revocations, at most `limit`."""
        return [(one.capability_id, one.revoked_at) for one in self.find(None, limit)]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
