"""Opening a store of somebody else: nothing is written, repaired or checkpointed, and no file is made beside it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_HEADER = 100  # bytes


def header(path: Path) -> bytes:
    """Return the first 100 bytes of a file, or what there is of them.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(_HEADER)


def is_wal(first: bytes) -> bool:
    """Tell from its header whether a file has a write-ahead log."""
    return first[18:19] == b"\x02"


def connect_quietly(path: Path, *, busy_seconds: float = 2.0) -> sqlite3.Connection | None:
    """Open the file so that SQLite makes no file beside it; None where that is not possible now.

    Raises:
        OSError: it cannot be read.
        sqlite3.Error: it cannot be opened.
    """
    log, index = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    if not is_wal(header(path)):
        mode = "mode=ro"
    elif not log.exists():
        mode = "immutable=1"  # nobody has it open; in mode=ro SQLite would make log and index
    elif index.exists():
        mode = "mode=ro"
    else:
        return None
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=busy_seconds, isolation_level=None)
