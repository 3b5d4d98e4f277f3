"""One SQLite file of the trust service: opened privately, written in short, durable transactions.

The rollback journal with full synchronisation is used on every SQLite version: the write-ahead log can lose
committed rows when two processes share a file on versions before 3.51.3, and `trust revoke --revocation-db`
is such a second process. The load is a few writes a minute.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chio_core.errors import ConfigurationError

log = logging.getLogger(__name__)

_BUSY_SECONDS = 5.0


class Database:
    """A SQLite file that is created with mode 0600 when it is missing.

    Calls block for the time of a disk write; async code runs them in a thread. Any thread may call.

    Args:
        path: the file; its folder must exist.
        schema: `CREATE TABLE IF NOT EXISTS` statements.
        option: the command line option that named the file, for error messages.

    Raises:
        ConfigurationError: the file cannot be opened, is no SQLite database, or has other tables.
    """

    def __init__(self, path: Path, schema: str, *, option: str) -> None:
        self.path = path
        self.option = option
        self._lock = threading.Lock()
        create_private(path, option=option)
        try:
            self._connection = _open(path, schema)
        except sqlite3.Error as exc:
            raise ConfigurationError(
                f"cannot use {path} ({option}) as a database: {exc}; name another file or repair this one"
            ) from None

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one reader at a time."""
        with self._lock:
            yield self._connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction that is committed at the end, or undone on an exception."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file; later calls fail."""
        with self._lock:
            self._connection.close()


def _open(path: Path, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(schema)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def create_private(path: Path, *, option: str) -> None:
    """Create an empty file of mode 0600, or take the group's and the world's rights from an existing one.

    Raises:
        ConfigurationError: the file can neither be created nor opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                os.fchmod(descriptor, 0o600)
                log.warning("%s (%s) was open to other users; its mode is now 0600", path, option)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot open {path} ({option}): {exc.strerror}; the folder must exist and be writable"
        ) from None
