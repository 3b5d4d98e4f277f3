"""SQLite: the library that is used, and what its exceptions say about the file, and what about the machine.

Many Linux distributions have a SQLite whose write-ahead log is not safe. The wheel of `pysqlite3`, which the extra
`sidecar` installs where there is one, has a SQLite of its own. One process must not open one file through two
libraries: POSIX drops all locks of a process on a file when any of its descriptors is closed. So every module, and
every test that shares a process with a store, takes `sqlite3` from here.

A file that another process holds, or that cannot be read here and now, is a condition of the machine. Only damage is a
statement about the content. Every caller that reports an exception of SQLite uses `trouble`, so that no locked store
is called damaged, and none of its rows missing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from chio_core.errors import ConfigurationError

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

__all__ = ["DAMAGED", "FIRST_SAFE_WAL", "LOCKED", "UNUSABLE", "Kind", "Trouble", "Unavailable", "sqlite3", "trouble"]

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


def trouble(exc: Exception) -> Trouble:
    """Return what one of `UNUSABLE` says."""
    code = getattr(exc, "sqlite_errorcode", None)
    kind, remedy = _CONDITIONS.get(code & 0xFF if isinstance(code, int) else 0, ("content", DAMAGED))
    text = "its schema is damaged" if isinstance(exc, UnicodeDecodeError) else str(exc)
    return Trouble(kind, text, remedy)
