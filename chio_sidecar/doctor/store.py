"""An embedded sidecar's store and key: nothing is written, and no file is made beside the store."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from chio_core.errors import ConfigurationError
from chio_sidecar.doctor import Check
from chio_sidecar.keys import key_beside, load_key
from chio_sidecar.private_files import check_private, folder_risk
from chio_sidecar.records.archive import open_archive
from chio_sidecar.records.file import Header, connect_quietly, contents, newest_signer, quick_check
from chio_sidecar.store.driver import UNUSABLE, trouble
from chio_sidecar.store.live_state import mark_of
from chio_sidecar.store.place import Place
from chio_sidecar.store.schema import APPLICATION_ID
from chio_sidecar.store.tables import SCHEMA_VERSION

LITTLE_ROOM = 100 * 1024 * 1024
"""Bytes of free disk space below which the doctor warns."""

NO_ROOM = 256 * 1024
"""Bytes of free disk space below which a store is not writable."""

_UNKNOWN = ""  # the signer of a newest receipt that could not be read


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the integrity check may take, in seconds.

    Attributes:
        journal: with a rollback journal: a reader delays the sidecar's commits.
        wal: with a write-ahead log: a reader delays nothing.
    """

    journal: float = 0.5
    wal: float = 10.0


def check_place(place: Place, *, pinned: tuple[str, ...] = ()) -> Iterator[Check]:
    """Yield checks of a store and its key; `pinned` is the setting `trusted_kernel_keys`."""
    if isinstance(place, Path):
        yield from check_store(place, pinned=pinned)
        return
    with open_archive(place) as archive:
        text = f"{place.shown} holds receipts up to position {archive.last}"
        yield Check("store", "ok", text, None, {"last": archive.last})
    if place.key_path is not None:
        # Every sidecar of a database has a key of its own, so the newest receipt may be signed by another.
        yield from _key(place.key_path, None, pinned)


def check_store(
    path: Path,
    *,
    pinned: tuple[str, ...] = (),
    patience: Patience | None = None,
    clock: Callable[[], float] = time.monotonic,
    busy_seconds: float = 2.0,
) -> Iterator[Check]:
    """Yield checks of a store's folder, its file, and the key beside it.

    Args:
        path: the SQLite file, which need not exist yet.
        pinned: setting `trusted_kernel_keys`.
        patience: limits of the integrity check.
        clock: seconds from any start.
        busy_seconds: how long to wait for another process that holds the file.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        yield Check("store", "fail", f"the folder {folder} does not exist", f"mkdir -p {folder}")
    else:
        if not path.exists() and mark_of(path).exists():
            text = (
                f"{path} is gone, and {mark_of(path)} says that revocations, budgets or approvals were recorded in it"
            )
            yield Check("store", "fail", text, "put it back, or restore a backup; the sidecar does not start without")
        elif not path.exists():
            yield Check("store", "ok", f"{path} does not exist yet; the sidecar makes it when it starts")
        if not os.access(folder, os.W_OK | os.X_OK):
            yield Check("store.folder", "fail", f"{folder} cannot be written by this user", "run as its owner")
        if (risk := folder_risk(folder)) is not None:
            yield Check("store.folder", "warn", risk, "let only the sidecar's user write there")
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize
        text, facts = f"{free / 1024 / 1024:.0f} MiB are free on the disk of {folder}", {"bytes": free}
        if free < LITTLE_ROOM:
            yield Check("store.room", "fail" if free < NO_ROOM else "warn", text, "free some space", facts)
        else:
            yield Check("store.room", "ok", text, None, facts)
    last_key = (yield from _file(path, patience or Patience(), clock, busy_seconds)) if path.exists() else None
    yield from _key(key_beside(path), last_key, pinned)


def _file(
    path: Path, patience: Patience, clock: Callable[[], float], busy_seconds: float
) -> Generator[Check, None, str | None]:
    """Yield the checks of an existing file, and return the key that signed its newest receipt; None without one."""
    try:
        status = check_private(path, "receipt store") or path.stat()
    except ConfigurationError as exc:
        yield Check("store", "fail", exc.message)
        return _UNKNOWN
    mode = stat.S_IMODE(status.st_mode)
    if not os.access(path, os.R_OK | os.W_OK):
        yield Check("store", "fail", f"{path} (mode {mode:04o}) cannot be read and written", "run as its owner")
        return None
    if mode & 0o077:
        yield Check("store.mode", "warn", f"{path} has mode {mode:04o}, so others may read it", f"chmod 600 {path}")
    else:
        yield Check("store.mode", "ok", f"{path} has mode {mode:04o}")
    if status.st_size == 0:
        yield Check("store", "ok", f"{path} is empty; the sidecar makes a store of it when it starts")
        return None
    header = Header.read(path)
    problem = None
    if not header.is_sqlite:
        problem = "it is no SQLite database"
    elif header.application != APPLICATION_ID:
        problem = "it is a database of another program"
    elif header.version > SCHEMA_VERSION:  # an older one is upgraded when the sidecar starts
        problem = f"its schema has version {header.version}, this one reads up to {SCHEMA_VERSION}"
    if problem is not None:
        yield Check("store", "fail", f"{path} is no receipt store that can be used: {problem}", "name another file")
        return None
    try:
        connection = connect_quietly(path, busy_seconds=busy_seconds)
        if connection is None:
            yield Check("store", "warn", f"{path} was not closed in good order", "start the sidecar, which repairs it")
            return _UNKNOWN
        with closing(connection):
            receipts, revoked = contents(connection)
            text = f"{path} holds {receipts} receipt{'' if receipts == 1 else 's'}"
            text += f" and {revoked} revoked capabilit{'y' if revoked == 1 else 'ies'}"
            yield Check("store", "ok", text, None, {"receipts": receipts})
            seconds = patience.wal if header.is_wal else patience.journal
            end = clock() + seconds
            verdict = quick_check(connection, lambda: clock() >= end)
            if verdict is None:
                text = f"no damage was found within {seconds:g} s, which was not enough for the whole file"
                yield Check(
                    "store.integrity", "warn", text, "check a copy: chio-sidecar receipt backup, then receipt fsck"
                )
            elif verdict != ["ok"]:
                yield Check("store.integrity", "fail", f"{path} is damaged: {verdict[0]}", "restore it from a backup")
            else:
                yield Check("store.integrity", "ok", "every page of the file is in order")
            return newest_signer(connection)
    except UNUSABLE as exc:
        found = trouble(exc, path)
        yield Check("store", "fail", f"{path} cannot be read: {found.text}", found.remedy)
        return _UNKNOWN


def _key(path: Path, last_key: str | None, pinned: tuple[str, ...]) -> Iterator[Check]:
    try:
        key = load_key(path).public_hex
    except FileNotFoundError:
        if last_key is not None:
            signed = "may have receipts" if last_key == _UNKNOWN else f"has receipts that {last_key} signed"
            text = f"{path} is missing, and the store {signed}"
            yield Check("key", "fail", text, "restore it from a backup; the sidecar does not start without")
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
    elif last_key not in (None, _UNKNOWN, key):
        text = f"{path} holds {key}, but the newest receipt was signed by {last_key}"
        yield Check("key", "warn", text, "restore the older key, unless the store was meant to change hands", facts)
    else:
        yield Check("key", "ok", f"receipts are signed by {key}", None, facts)
