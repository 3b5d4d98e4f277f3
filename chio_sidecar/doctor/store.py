"""An embedded sidecar's store and key: read-only, without opening the store for writing or making a file."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.doctor.result import Check
from chio_sidecar.keys import key_beside, load_key
from chio_sidecar.records.reader import connect_quietly, header, is_wal
from chio_sidecar.store.schema import APPLICATION_ID, UNUSABLE, trouble
from chio_sidecar.store.tables import SCHEMA_VERSION

LITTLE_ROOM = 100 * 1024 * 1024
"""Bytes of free disk space below which the doctor warns."""

NO_ROOM = 256 * 1024
"""Bytes below which a store calls itself unwritable."""

_MAGIC = b"SQLite format 3\x00"
_HEADER = 100
_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the integrity check may take, in seconds.

    Attributes:
        journal: with a rollback journal, where a reader holds up the sidecar's commits.
        wal: with a write-ahead log, where it does not.
    """

    journal: float = 0.5
    wal: float = 10.0


def check_store(
    path: Path,
    *,
    pinned: tuple[str, ...] = (),
    patience: Patience | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Check]:
    """Yield what can be said about a store file and the key beside it.

    Args:
        path: the SQLite file, which may not exist yet.
        pinned: setting `trusted_kernel_keys`.
        patience: bounds of the integrity check.
    """
    key_path = key_beside(path)
    last_key: str | None = None
    yield from _folder(path)
    if path.exists():
        usable = yield from _file(path)
        if usable:
            last_key = yield from _content(path, patience or Patience(), clock)
    yield from _key(key_path, path.exists(), last_key, pinned)


def last_kernel_key(path: Path) -> str | None:
    """Return the key that signed the newest receipt of a store; None when nobody can tell."""
    try:
        connection = connect_quietly(path)
        if connection is None:
            return None
        try:
            return _last_key(connection)
        finally:
            connection.close()
    except (OSError, *UNUSABLE):
        return None


def _folder(path: Path) -> Iterator[Check]:
    folder = path.absolute().parent
    if not folder.is_dir():
        yield Check("store", "fail", f"the folder {folder} does not exist", f"mkdir -p {folder}")
        return
    if not path.exists():
        yield Check("store", "ok", f"{path} does not exist yet; the sidecar makes it when it starts")
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Check("store.folder", "fail", f"{folder} cannot be written by this user", "run as its owner")
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    text, facts = f"{free / 1024 / 1024:.0f} MiB are free on the disk of {folder}", {"bytes": free}
    if free < LITTLE_ROOM:
        yield Check("store.room", "fail" if free < NO_ROOM else "warn", text, "free some space", facts)
    else:
        yield Check("store.room", "ok", text, None, facts)


def _file(path: Path) -> Generator[Check, None, bool]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        yield Check("store", "fail", f"{path} is no regular file", "name another one")
        return False
    mode = stat.S_IMODE(status.st_mode)
    if not os.access(path, os.R_OK | os.W_OK):
        yield Check("store", "fail", f"{path} (mode {mode:04o}) cannot be read and written", "run as its owner")
        return False
    if mode & 0o077:
        yield Check("store.mode", "warn", f"{path} has mode {mode:04o}, so others may read it", f"chmod 600 {path}")
    else:
        yield Check("store.mode", "ok", f"{path} has mode {mode:04o}")
    return True


def _content(path: Path, patience: Patience, clock: Callable[[], float]) -> Generator[Check, None, str | None]:
    if path.stat().st_size == 0:
        yield Check("store", "ok", f"{path} is empty; the sidecar makes a store of it when it starts")
        return None
    first = header(path)
    if problem := _foreign(first):
        yield Check("store", "fail", f"{path} is no receipt store that can be used: {problem}", "name another file")
        return None
    try:
        connection = connect_quietly(path)
        if connection is None:
            yield Check("store", "warn", f"{path} was not closed in good order", "start the sidecar, which repairs it")
            return None
        try:
            yield _described(path, connection)
            yield _integrity(path, connection, patience.wal if is_wal(first) else patience.journal, clock)
            return _last_key(connection)
        finally:
            connection.close()
    except UNUSABLE as exc:
        text = f"{path} cannot be read: {trouble(exc)}"
        yield Check("store", "fail", text, "stop what holds it, or restore it from a backup")
        return None


def _described(path: Path, connection: sqlite3.Connection) -> Check:
    (count, revoked) = connection.execute(
        "SELECT (SELECT count(*) FROM http_receipts), (SELECT count(*) FROM revoked_capabilities)"
    ).fetchone()
    receipts = f"{count} receipt{'' if count == 1 else 's'}"
    text = f"{path} holds {receipts} and {revoked} revoked capabilit{'y' if revoked == 1 else 'ies'}"
    return Check("store", "ok", text, None, {"receipts": count})


def _integrity(path: Path, connection: sqlite3.Connection, seconds: float, clock: Callable[[], float]) -> Check:
    end = clock() + seconds
    connection.set_progress_handler(lambda: clock() >= end, _STEPS)
    try:
        (first,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as exc:
        if "interrupted" not in str(exc):
            raise
        text = f"nothing wrong was found within {seconds:g} s, which was not enough for the whole file"
        return Check("store.integrity", "warn", text, f"sqlite3 {path} 'PRAGMA quick_check' on a copy")
    finally:
        connection.set_progress_handler(None, 0)
    if first != "ok":
        return Check("store.integrity", "fail", f"{path} is damaged: {first}", "restore it from a backup")
    return Check("store.integrity", "ok", "every page of the file is in order")


def _key(path: Path, store_exists: bool, last_key: str | None, pinned: tuple[str, ...]) -> Iterator[Check]:
    try:
        key = load_key(path).public_hex
    except FileNotFoundError:
        if last_key is not None:
            text = f"{path} is missing, and the store has receipts that {last_key} signed"
            yield Check("key", "fail", text, "restore it from a backup; a new key would be made otherwise")
        else:
            yield Check("key", "ok", f"{path} does not exist yet; the sidecar makes it when it starts")
        return
    except ConfigurationError as exc:
        yield Check("key", "fail", exc.message)
        return
    facts = {"kernel_key": key}
    if pinned and key not in pinned:
        text = f"{path} holds {key}, which is not pinned, so every receipt is refused"
        yield Check("key", "fail", text, "pin it in CHIO_TRUSTED_KERNEL_KEYS, or pin none", facts)
    elif last_key not in (None, key):
        text = f"{path} holds {key}, but the newest receipt was signed by {last_key}"
        yield Check("key", "warn", text, "restore the older key if the store was not meant to change hands", facts)
    else:
        yield Check("key", "ok", f"receipts are signed by {key}", None, facts)


def _foreign(first: bytes) -> str | None:
    if len(first) < _HEADER or not first.startswith(_MAGIC):
        return "it is no SQLite database"
    if int.from_bytes(first[68:72], "big") != APPLICATION_ID:
        return "it is a database of another program"
    version = int.from_bytes(first[60:64], "big")
    # An older one is brought up to date when the sidecar starts.
    return (
        f"its schema has version {version}, this one reads up to {SCHEMA_VERSION}" if version > SCHEMA_VERSION else None
    )


def _last_key(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT receipt_json FROM http_receipts ORDER BY seq DESC LIMIT 1").fetchone()
    try:
        document = parse_json(row[0]) if row is not None else None
    except InvalidDocument:
        return None
    key = document.get("kernel_key") if isinstance(document, dict) else None
    return key if isinstance(key, str) else None
