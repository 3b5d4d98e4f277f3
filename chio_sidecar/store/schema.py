"""The SQLite file: creating, opening, recognising and upgrading it. Its tables are in `tables`.

It knows no table and no column: a change of these is a step in `tables`, which this module runs.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from pathlib import Path

from chio_core.errors import ConfigurationError
from chio_sidecar.private_files import check_private, create_private
from chio_sidecar.store import live_state
from chio_sidecar.store.compressed import check_plain
from chio_sidecar.store.driver import (
    DAMAGED,
    FIRST_SAFE_WAL,
    UNUSABLE,
    has_log,
    open_file,
    sqlite3,
    transaction,
    trouble,
)
from chio_sidecar.store.tables import SCHEMA_VERSION, objects, upgrade

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4368696F
"""`PRAGMA application_id` of a receipt store: "Chio" in ASCII."""

JOURNAL_BYTES = 16 * 1024 * 1024
"""Size to which the journal shrinks again after a commit or a checkpoint."""

_POLL_SECONDS = 0.001
_SMALLEST = 512  # bytes; the smallest page, and so the smallest database


def journal_for(version: tuple[int, ...]) -> str:
    """Return the journal mode that is safe on this SQLite version.

    Returns:
        `wal`, or `persist`: a commit overwrites the header of the rollback journal. Deleting the journal instead is
        slower; and after a power failure a deleted one can reappear and undo an acknowledged commit.
    """
    return "wal" if version >= FIRST_SAFE_WAL else "persist"


def prepare(path: Path, *, journal: str, busy_seconds: float) -> None:
    """Create the file if it is missing, and check that it is a receipt store that can be written.

    Args:
        path: the SQLite file; its folder must exist.
        journal: `wal` or `persist`.
        busy_seconds: how long to wait for another process that holds the file.

    Raises:
        ConfigurationError: the file cannot be used; the message names it and the remedy.
    """
    try:
        if not check_file(path):
            create_private(path)
        if has_log(path):
            # A log of another file stays as it is: a writing connection would remove it as it closes.
            with closing(open_file(path, "mode=ro", busy_seconds=busy_seconds)) as reader:
                recognise(reader, path)
        connection = open_file(path, "mode=rw", busy_seconds=busy_seconds)
        try:
            _initialise(connection, path)
            if live_state.has_state(connection):
                live_state.mark(path)  # a store of an earlier version has none
            # Only now: the mode of a file of another program stays.
            if path.stat().st_mode & 0o077:
                try:
                    path.chmod(0o600)
                    log.warning("receipt store %s was open to other users; its mode is now 0600", path)
                except PermissionError:
                    log.warning("receipt store %s is open to other users, and this user may not change that", path)
            _configure(connection, journal, busy_seconds)
        finally:
            connection.close()
    except OSError as exc:
        raise ConfigurationError(
            f"cannot open receipt store {path}: {exc.strerror}; its folder must exist and be writable"
        ) from None
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot use {path} as a receipt store: {trouble(exc, path)}") from None


def connect(path: Path, *, journal: str, busy_seconds: float) -> sqlite3.Connection:
    """Open the existing file for writing, every commit forced to the disk.

    Raises:
        sqlite3.Error: it cannot be opened, or stays in another journal mode.
    """
    connection = open_file(path, "mode=rw", busy_seconds=busy_seconds)
    try:
        _configure(connection, journal, busy_seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def disconnect(connection: sqlite3.Connection) -> None:
    """Close a writing connection, and leave one file that every version of SQLite reads without making others.

    The rollback journal, or the write-ahead log, goes with the last connection that closes.
    """
    try:
        connection.execute("PRAGMA journal_mode=delete")
    except sqlite3.Error as exc:
        log.debug("receipt store: the journal stays: %s", exc)  # another writer will remove it
    finally:
        connection.close()


def _configure(connection: sqlite3.Connection, journal: str, busy_seconds: float) -> None:
    # SQLite does not wait to change the journal mode, and another process may open the store in the same moment.
    latest = time.monotonic() + busy_seconds
    while True:
        try:
            (mode,) = connection.execute(f"PRAGMA journal_mode={journal}").fetchone()
        except UNUSABLE as exc:
            if trouble(exc).kind != "busy" or time.monotonic() >= latest:
                raise
        else:
            if mode == journal:
                break
            if time.monotonic() >= latest:
                raise sqlite3.OperationalError(f"database is locked in journal mode {mode}")
        time.sleep(_POLL_SECONDS)
    connection.execute("PRAGMA synchronous=FULL")
    # Else a log that once grew, while a reader held it, keeps its size.
    connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES}")


def check_file(path: Path) -> bool:
    """Check that a file can be given to SQLite; return False if it does not exist.

    Raises:
        ConfigurationError: it is a link, no regular file, another user's, compressed, or too small for a database; or
            there is none, or an empty one, where a store had live state.
        OSError: its status cannot be read.
    """
    check_plain(path)
    status = check_private(path, "receipt store")
    if status is not None and 0 < status.st_size < _SMALLEST:
        # SQLite would take such a file for an empty database and overwrite it.
        raise ConfigurationError(f"cannot use {path} as a receipt store: {DAMAGED}")
    if status is None or status.st_size == 0:
        live_state.check_not_lost(path)
    return status is not None


def recognise(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a store's tables; 0 for an empty file.

    Raises:
        ConfigurationError: the file is not a store, is of a newer version, or misses tables or triggers.
    """
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    version, application = (
        int(connection.execute(f"PRAGMA {pragma}").fetchone()[0]) for pragma in ("user_version", "application_id")
    )
    if not names and version == 0:
        return 0
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a database of another program, no receipt store; name another file")
    if not 1 <= version <= SCHEMA_VERSION:
        raise ConfigurationError(
            f"receipt store {path} has schema version {version}, this version reads 1 to {SCHEMA_VERSION};"
            " use the version that wrote it, or name another file"
        )
    if missing := objects(version) - names:
        raise ConfigurationError(
            f"receipt store {path} was altered: {min(missing)} is missing; restore it from a backup"
        )
    return version


def _initialise(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of an empty file, or check and upgrade those of a store; see `recognise`."""
    with transaction(connection):
        version = recognise(connection, path)
        if version == 0:
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        if version != SCHEMA_VERSION:
            upgrade(connection, version)
    if version not in (0, SCHEMA_VERSION):
        log.info("receipt store %s: schema version %d is now %d", path, version, SCHEMA_VERSION)
