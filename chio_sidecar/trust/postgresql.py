"""The data of the trust service in the PostgreSQL database of the sidecars.

Its revocations are those that the sidecars check in the transaction that stores a receipt, so a sidecar on the same
database asks no trust service.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from chio_core.errors import ConfigurationError
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import Connection, DatabaseError, connect, trouble
from chio_sidecar.store.postgresql.functions import APPENDING
from chio_sidecar.store.postgresql.log import Dialect
from chio_sidecar.store.postgresql.schema import check
from chio_sidecar.store.postgresql.writer import BEGIN

BACKEND = "postgresql"
"""Name of this kind of store on the wire and in the output of commands."""

_SECONDS = 5.0
_NO_RIGHT = ("42501", "42P01")  # the second because a schema that may not be used is not searched


class PostgresqlDatabase:
    """The database, as the role of the trust service: what `Database` is for a file. Any thread may call.

    Args:
        place: the database; `store migrate --trust-role` makes its tables.
        option: command line option that named it, for error messages.

    Raises:
        ConfigurationError: it cannot be reached, or needs a migration.
    """

    backend = BACKEND

    def __init__(self, place: DatabasePlace, *, option: str) -> None:
        self.path = place.shown
        self.option = option
        self._place = place
        self._lock = threading.Lock()
        self._spare: Connection | None = None
        with self._connected() as connection:
            check(connection, place.shown)

    @contextmanager
    def read(self) -> Iterator[Dialect]:
        """Give a connection to one thread at a time.

        Raises:
            ConfigurationError: the database cannot be read now.
        """
        with self._connected() as connection:
            connection.execute("BEGIN READ ONLY; SET LOCAL search_path = chio, chio_trust, pg_catalog, pg_temp")
            yield Dialect(connection)
            connection.execute("COMMIT")

    @contextmanager
    def write(self) -> Iterator[Dialect]:
        """Give the connection inside a transaction: committed at the end, rolled back on an exception.

        It excludes every transaction that stores a receipt: a revocation precedes all later ones.

        Raises:
            ConfigurationError: the database cannot be written now.
        """
        with self._connected() as connection:
            connection.execute(BEGIN.format(wait=int(_SECONDS * 1000), shared="", key=APPENDING).encode())
            connection.execute("SET LOCAL search_path = chio, chio_trust, pg_catalog, pg_temp")
            yield Dialect(connection)
            connection.execute("COMMIT")

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._spare is not None:
                self._spare.close()
                self._spare = None

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._lock:
            try:
                connection = self._live()
                try:
                    yield connection
                except BaseException:
                    connection.close()  # with it the transaction ends
                    raise
                self._spare = connection
            except DatabaseError as exc:
                what = f"cannot use {self.path} ({self.option})"
                if exc.sqlstate in _NO_RIGHT:
                    raise ConfigurationError(
                        f"{what}: this role has not the rights of a trust service; run, as the owner of the tables:"
                        " chio-sidecar store migrate --trust-role"
                    ) from None
                raise ConfigurationError(f"{what}: {trouble(exc) or exc}") from None

    def _live(self) -> Connection:
        """Return the connection of before, or another one if the database has closed it meanwhile."""
        connection, self._spare = self._spare, None
        if connection is not None:
            try:
                connection.limit(_SECONDS)
                connection.execute("SELECT 1")
                return connection
            except DatabaseError:
                connection.close()
        return connect(self._place, seconds=_SECONDS)
