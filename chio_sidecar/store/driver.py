"""SQLite: the library that is used, and what its exceptions say about the file, and what about the machine.

Many Linux distributions have a SQLite whose write-ahead log is not safe. The wheel of `pysqlite3`, which the extra
`sidecar` installs where there is one, has a SQLite of its own. One process must not open one file through two
libraries: POSIX drops all locks of a process on a file when any of its descriptors is closed. So every module, and
every test that shares a process with a store, takes `sqlite3` from here; every module opens a file with `open_file`,
and reads its first bytes with `read_start`.

A file that another process holds, or that cannot be read here and now, is a condition of the machine. Only damage is a
statement about the content. Every caller that reports an exception of SQLite uses `trouble`, so that no locked store
is called damaged, and none of its rows missing.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chio_core.errors import ConfigurationError
from chio_sidecar.store.compressed import check_plain, decompressed, is_compressed, plain_copy

FIRST_SAFE_WAL = (3, 51, 3)
"""Older versions can lose committed rows when two connections write and checkpoint a write-ahead log at once."""


def _library() -> Any:
    """Return Python's own `sqlite3` if its write-ahead log is safe, else that of `pysqlite3` if it is newer."""
    own = importlib.import_module("sqlite3")
    if own.sqlite_version_info >= FIRST_SAFE_WAL:
        return own
    try:
        other = importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return own
    return max(own, other, key=lambda library: library.sqlite_version_info)


if TYPE_CHECKING:
    import sqlite3
else:
    sqlite3 = _library()

__all__ = [
    "DAMAGED",
    "FIRST_SAFE_WAL",
    "LOCKED",
    "UNUSABLE",
    "ForeignLog",
    "Kind",
    "Trouble",
    "Unavailable",
    "has_log",
    "open_file",
    "read_start",
    "sqlite3",
    "trouble",
]

Kind = Literal["busy", "machine", "content"]
"""`busy`: another process holds the file; `machine`: it cannot be read or written here and now; `content`: the file is
damaged, or no store."""

UNUSABLE = (sqlite3.Error, UnicodeDecodeError)
"""Exceptions about a file; the second if SQLite quotes a damaged schema that is not UTF-8."""

LOCKED = "another process holds it; try again, or stop that process"
DAMAGED = "it is damaged or no receipt store; restore it from a backup, or name another file"

_FULL = "the disk is full; free some space"
_UNREACHABLE = "the file and its folder must be readable and writable; run as their owner"
_CONDITIONS: dict[int, tuple[Kind, str]] = {
    sqlite3.SQLITE_BUSY: ("busy", LOCKED),
    sqlite3.SQLITE_LOCKED: ("busy", LOCKED),
    sqlite3.SQLITE_PROTOCOL: ("busy", LOCKED),
    sqlite3.SQLITE_FULL: ("machine", _FULL),
    sqlite3.SQLITE_IOERR: ("machine", "the disk failed to read or write; check it, and its room"),
    sqlite3.SQLITE_NOMEM: ("machine", "there is too little memory; free some"),
    sqlite3.SQLITE_CANTOPEN: ("machine", _UNREACHABLE),
    sqlite3.SQLITE_READONLY: ("machine", _UNREACHABLE),
    sqlite3.SQLITE_PERM: ("machine", _UNREACHABLE),
    sqlite3.SQLITE_INTERRUPT: ("machine", "the work was interrupted; try again"),
}


File = tuple[int, int]
"""Device and inode."""

_open: Counter[File] = Counter()  # SQLite's connections of this process
_kept: dict[File, int] = {}  # descriptors of open files, closed with the last connection
_lock = threading.RLock()  # a connection that is collected while this thread holds it takes it again


class ForeignLog(sqlite3.DatabaseError):
    """The write-ahead log beside a file is that of another file, which had its name before."""


class Unavailable(ConfigurationError):
    """A store that cannot be read here and now; the same may succeed later."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What one of `UNUSABLE` says.

    Attributes:
        text: SQLite's message.
        remedy: what to do.
    """

    kind: Kind
    text: str
    remedy: str

    def __str__(self) -> str:
        """Return message and remedy."""
        return f"{self.text}; {self.remedy}"


def trouble(exc: Exception, path: Path | None = None) -> Trouble:
    """Return what one of `UNUSABLE` says.

    Args:
        exc: the exception.
        path: the file; a write-ahead log beside it may be the cause of damage.
    """
    code = getattr(exc, "sqlite_errorcode", None)
    kind, remedy = _CONDITIONS.get(code & 0xFF if isinstance(code, int) else 0, ("content", DAMAGED))
    if path is not None and kind == "content" and has_log(path):
        remedy = _remove_log(path) if isinstance(exc, ForeignLog) else f"{_remove_log(path)}; else {DAMAGED}"
    text = "its schema is damaged" if isinstance(exc, UnicodeDecodeError) else str(exc)
    return Trouble(kind, text, remedy)


def has_log(path: Path) -> bool:
    """Return True if there is a write-ahead log beside a file: it is open, or was not closed in good order."""
    return _log_at(path) is not None


def open_file(path: Path, mode: str, *, busy_seconds: float = 30.0) -> sqlite3.Connection:
    """Open an existing file, for use in any thread, one at a time; each statement is its own transaction.

    Args:
        path: the file.
        mode: what follows the question mark in SQLite's URI. With `mode=ro` SQLite never writes, repairs or
            checkpoints.
        busy_seconds: how long a statement waits for another process that holds the file. A busy sidecar commits again
            and again, and a command waits for a gap.

    A compressed file is read from a temporary copy, which has no name any more and ends with the connection.

    Raises:
        ConfigurationError: it is compressed, and damaged or to be written.
        ForeignLog: the write-ahead log beside it is that of another file. Nothing was opened.
        sqlite3.Error: it cannot be opened.
    """
    if is_compressed(path):
        if mode == "mode=rw":
            check_plain(path)
        with plain_copy(path) as copy:
            return _connect(copy, "mode=ro&immutable=1", busy_seconds)
    _check_log(path)
    with _lock:  # `read_start` closes no descriptor of the file between SQLite's opening it and the count
        connection = _connect(path, mode, busy_seconds)
        connection.count(path)
    return connection


def _connect(path: Path, mode: str, busy_seconds: float) -> _Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write inside a block: committed at its end, rolled back on an exception. Another writer waits for its end.

    Raises:
        sqlite3.Error: it cannot begin, or cannot be committed; then nothing was written.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after a full disk, for example, SQLite has rolled it back
            connection.execute("ROLLBACK")
        raise


def read_start(path: Path, length: int) -> bytes:
    """Return the first bytes of a file, decompressed ones of a compressed file, fewer if it has fewer.

    SQLite is not asked: it would make files beside some databases.

    Raises:
        ConfigurationError: it is compressed, and damaged.
        OSError: the file cannot be read.
    """
    if is_compressed(path):
        return b"".join(decompressed(path, most=length))
    with _lock:
        found = path.stat()
        file = (found.st_dev, found.st_ino)
        descriptor = _kept.get(file)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, 0)
        finally:
            # To close any descriptor of a file drops the locks that SQLite has on it in this process.
            if file in _open:
                _kept[file] = descriptor
            else:
                os.close(descriptor)


class _Connection(sqlite3.Connection):
    _end: weakref.finalize[..., Any] | None = None

    def count(self, path: Path) -> None:
        """Count this connection to a file until it is closed, or collected."""
        try:
            found = path.stat()
        except OSError:
            return  # removed in this moment; a file that comes in its place is another one
        file = (found.st_dev, found.st_ino)
        _open[file] += 1
        self._end = weakref.finalize(self, _closed, file)
        self._end.atexit = False

    def close(self) -> None:
        super().close()
        if self._end is not None:
            self._end()


def _closed(file: File) -> None:
    with _lock:
        _open[file] -= 1
        if not _open[file]:
            del _open[file]
            if file in _kept:
                os.close(_kept.pop(file))


def _check_log(path: Path) -> None:
    """Return if the write-ahead log beside a file, if there is one, can be its own.

    SQLite applies a log to any file of its name, and writes it into the file when it closes it. A file that states a
    rollback journal, as `receipt backup` makes it, has no log: SQLite states the log before it makes it, and removes it
    before it states a journal again.

    Raises:
        ForeignLog: it is that of another file.
    """
    try:
        log = _log_at(path)
        if log is None:
            return
        states_journal = read_start(path, 20)[18:] == b"\x01\x01"
    except OSError:
        return  # SQLite says what is wrong
    # The same log before and after: no process has closed the file in between.
    if states_journal and log == _log_at(path):
        raise ForeignLog(f"{path}-wal is the log of another file of this name")


def _log_at(path: Path) -> tuple[int, int] | None:
    """Return what tells the write-ahead log beside a file from others; None without one, or if it is empty."""
    try:
        found = path.with_name(f"{path.name}-wal").stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found.st_size else None


def _remove_log(path: Path) -> str:
    return f"if a copy replaced {path}, remove {path}-wal and {path}-shm, which the former file left"
