"""The SQLite file: how it is created, opened, recognised and brought up to date. Its tables are in `tables`."""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import stat
from pathlib import Path

from chio_core.errors import ConfigurationError
from chio_sidecar.store.tables import SCHEMA_VERSION, objects, upgrade

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4368696F
"""`PRAGMA application_id` of a receipt store: "Chio" in ASCII."""

FIRST_SAFE_WAL = (3, 51, 3)
"""Older versions can lose committed rows when two connections write and checkpoint a write-ahead log at once."""

UNUSABLE = (sqlite3.Error, UnicodeDecodeError)
"""What is raised about a file; the second where SQLite quotes a damaged schema, and that is no UTF-8."""

_SMALLEST = 512  # bytes; the smallest page, and so the smallest database


def journal_for(version: tuple[int, ...]) -> str:
    """Return the journal mode that is safe on this SQLite version.

    Returns:
        `wal`, or `persist`: the rollback journal whose header is overwritten at a commit. Deleting the journal
        means the same and is slower; and after a power failure a deleted one can come back, and with it undo a
        commit that was acknowledged.
    """
    return "wal" if version >= FIRST_SAFE_WAL else "persist"


def prepare(path: Path, *, journal: str, busy_seconds: float) -> None:
    """Create the file when it is missing, and make sure that it is a receipt store that can be written.

    Args:
        path: the SQLite file; its folder must exist.
        journal: `wal` or `persist`.
        busy_seconds: how long to wait for another process that holds the file.

    Raises:
        ConfigurationError: the file cannot be used; the sentence names it and the remedy.
    """
    try:
        _create_private(path)
        connection = _connect(path, mode="rw", busy_seconds=busy_seconds)
        try:
            _initialise(connection, path)  # first: a file that is not ours stays as it is, its mode too
            _make_private(path)
            _configure(connection, journal)
        finally:
            connection.close()
    except OSError as exc:
        raise ConfigurationError(
            f"cannot open receipt store {path}: {exc.strerror}; its folder must exist and be writable"
        ) from None
    except UNUSABLE as exc:
        text = trouble(exc)
        raise ConfigurationError(f"cannot use {path} as a receipt store: {text}; {_remedy(text)}") from None


def trouble(exc: Exception) -> str:
    """Return what SQLite says about a file, given one of `UNUSABLE`."""
    return "its schema is damaged" if isinstance(exc, UnicodeDecodeError) else str(exc)


def connect(path: Path, *, journal: str, busy_seconds: float) -> sqlite3.Connection:
    """Open the existing file for writing, every commit forced to the disk.

    Raises:
        sqlite3.Error: it cannot be opened, or stays in another journal mode.
    """
    connection = _connect(path, mode="rw", busy_seconds=busy_seconds)
    try:
        _configure(connection, journal)
    except BaseException:
        connection.close()
        raise
    return connection


def disconnect(connection: sqlite3.Connection) -> None:
    """Close a writing connection, and take the emptied rollback journal away."""
    try:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "persist":
            connection.execute("PRAGMA journal_mode=delete")
    except sqlite3.Error as exc:
        log.debug("receipt store: the journal stays: %s", exc)  # somebody else is writing, and will remove it
    finally:
        connection.close()


def connect_reader(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """Open the file read-only; such a connection never writes, repairs or checkpoints.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    return _connect(path, mode="ro", busy_seconds=busy_seconds)


def _connect(path: Path, *, mode: str, busy_seconds: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )


def _configure(connection: sqlite3.Connection, journal: str) -> None:
    (mode,) = connection.execute(f"PRAGMA journal_mode={journal}").fetchone()
    if mode != journal:
        raise sqlite3.OperationalError(f"database is locked in journal mode {mode}")
    connection.execute("PRAGMA synchronous=FULL")


def _create_private(path: Path) -> None:
    # Linked into place instead of opened there: closing a descriptor of a database file would drop the locks that
    # another connection of this process holds on it.
    if path.exists():
        _check_existing(path)
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process created it meanwhile
    finally:
        os.unlink(draft)


def _check_existing(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"receipt store {path} is no regular file; name another one")
    if 0 < status.st_size < _SMALLEST:
        # SQLite would take such a file for an empty one and write over it.
        raise ConfigurationError(
            f"cannot use {path} as a receipt store: it is damaged or no SQLite database;"
            " restore it from a backup, or name another file"
        )


def _make_private(path: Path) -> None:
    if not path.stat().st_mode & 0o077:
        return
    try:
        path.chmod(0o600)
    except PermissionError:
        log.warning("receipt store %s is open to other users, and this user may not change that", path)
    else:
        log.warning("receipt store %s was open to other users; its mode is now 0600", path)


def _initialise(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_empty(connection):
            upgrade(connection, 0)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        elif (version := _recognise(connection, path)) != SCHEMA_VERSION:
            upgrade(connection, version)
            log.info("receipt store %s: schema version %d is now %d", path, version, SCHEMA_VERSION)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _recognise(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of a receipt store."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a database of another program, no receipt store; name another file")
    if not 1 <= version <= SCHEMA_VERSION:
        raise ConfigurationError(
            f"receipt store {path} has schema version {version}, this version reads 1 to {SCHEMA_VERSION};"
            " use the version that wrote it, or name another file"
        )
    missing = objects(version) - {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if missing:
        raise ConfigurationError(
            f"receipt store {path} was altered: {min(missing)} is missing; restore it from a backup"
        )
    return int(version)


def _is_empty(connection: sqlite3.Connection) -> bool:
    (count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return (count, version) == (0, 0)


def _remedy(text: str) -> str:
    if "locked" in text or "busy" in text:
        return "another process holds it; stop that process, or name another file"
    if "full" in text:
        return "the disk is full; free some space"
    if "readonly" in text or "unable to open" in text:
        return "the file and its folder must be writable"
    return "it is damaged or no SQLite database; restore it from a backup, or name another file"
