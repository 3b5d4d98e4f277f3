"""SQLite: what an exception of it says about the file, and what about the machine.

A file that another process holds, or that cannot be read here and now, is a condition of the machine. Only damage is a
statement about the content. Every caller that reports an exception of SQLite uses `trouble`, so that no locked store
is called damaged, and none of its rows missing.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

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
