"""A store's file, read from outside: its header, a connection that makes no file beside it, and facts about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.keys import existing_key
from chio_sidecar.store.driver import UNUSABLE, open_file, read_start, sqlite3
from chio_sidecar.store.place import Place

NO_CHAIN = (
    "is a database of another program: its rows have no chain. If the published sidecar wrote it, `receipt verify`"
    " checks its receipts, and `receipt list --json` writes them"
)
"""What is wrong with a file that is not a store of this sidecar."""

_PAGE = 500
_HEADER = 100  # bytes
_MAGIC = b"SQLite format 3\x00"
_STEPS = 10_000  # of SQLite's virtual machine, between two looks at the clock


@dataclass(frozen=True)
class Header:
    """What the first 100 bytes of a file state.

    Attributes:
        is_sqlite: they are those of a SQLite database, and complete.
        application: SQLite's `application_id`.
        version: of the schema, SQLite's `user_version`.
        is_wal: the database has a write-ahead log.
    """

    is_sqlite: bool
    application: int
    version: int
    is_wal: bool

    @classmethod
    def read(cls, path: Path) -> Header:
        """Read the header.

        Raises:
            OSError: the file cannot be read.
        """
        raw = read_start(path, _HEADER)
        return cls(
            is_sqlite=raw.startswith(_MAGIC) and len(raw) == _HEADER,
            application=int.from_bytes(raw[68:72], "big"),
            version=int.from_bytes(raw[60:64], "big"),
            is_wal=raw[18:19] == b"\x02",
        )


def connect_quietly(path: Path, *, busy_seconds: float = 2.0) -> sqlite3.Connection | None:
    """Open the file read-only and so that SQLite makes no file beside it.

    Returns:
        None if the file was not closed in good order: then SQLite would have to write to it first.

    Raises:
        OSError: the file cannot be read.
        sqlite3.Error: the file cannot be opened.
    """
    log, index = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    if Header.read(path).is_wal:
        if not log.exists():
            # No process has it open. In mode=ro SQLite would make log and index.
            return open_file(path, "immutable=1", busy_seconds=busy_seconds)
        if not index.exists():
            return None
    return open_file(path, "mode=ro", busy_seconds=busy_seconds)


def in_pages(connection: sqlite3.Connection, select: str, numbers: range) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of any table in order of their numbers; the file is free between two pages of them.

    Args:
        select: a statement whose first column is the number, and whose parameters are the first and the last number
            and the most rows to return.
        numbers: the wanted numbers.

    Raises:
        sqlite3.Error: a row cannot be read; those before it were yielded.
    """
    start, last = numbers.start, numbers.stop - 1
    while start <= last:
        page: list[tuple[Any, ...]] = []
        broken: sqlite3.Error | None = None
        try:
            for row in connection.execute(select, (start, last, _PAGE)):
                page.append(row)  # noqa: PERF402 - the rows before a broken one count
        except sqlite3.Error as exc:
            broken = exc
        for row in page:
            if row[0] < start:
                raise sqlite3.DatabaseError("its rows are not in their order")  # else this might never end
            start = row[0] + 1
            yield row
        if broken is not None:
            raise broken
        if not page:
            return


def contents(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the number of receipts and of revoked capabilities.

    Raises:
        sqlite3.Error: the tables cannot be read.
    """
    # Rows are numbered without gaps. Counting them would read the whole file, and hold the sidecar's commits up.
    sql = (
        "SELECT ifnull((SELECT max(seq) FROM http_receipts) - (SELECT min(seq) FROM http_receipts) + 1, 0),"
        " (SELECT count(*) FROM revoked_capabilities)"
    )
    receipts, revoked = connection.execute(sql).fetchone()
    return receipts, revoked


def newest_signer(connection: sqlite3.Connection) -> str | None:
    """Return the public key (hex) that the newest readable receipt names; None without one.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    for (text,) in connection.execute("SELECT receipt_json FROM http_receipts ORDER BY seq DESC"):
        try:
            document = parse_json(text)
        except InvalidDocument:
            continue
        if isinstance(document, dict) and isinstance(key := document.get("kernel_key"), str):
            return key
    return None


def last_kernel_key(place: Place | None) -> str | None:
    """Return the key that signed the newest receipt of a file; None if it cannot be read, or is a database."""
    if not isinstance(place, Path):
        return None
    try:
        connection = connect_quietly(place)
        if connection is None:
            return None
        with closing(connection):
            return newest_signer(connection)
    except (OSError, *UNUSABLE):
        return None


def refuse_lost_key(place: Place | None, key_path: Path) -> None:
    """Return if the key file exists, or may be created: no key has signed receipts of this file yet.

    A database may have receipts of other sidecars, so a new key is in order there.

    Raises:
        ConfigurationError: the key is lost, or its file cannot be used.
    """
    if existing_key(key_path) is not None or (former := last_kernel_key(place)) is None:
        return
    # Another process may have made the key since, and signed that receipt.
    if existing_key(key_path) is None:
        raise ConfigurationError(
            f"key file {key_path} is missing, and the receipts of {place} were signed with {former}; restore the file"
            " from a backup, or give the sidecar another key on purpose: docs/operations.md, Changing the sidecar's key"
        )


def quick_check(connection: sqlite3.Connection, is_over: Callable[[], bool], *, full: bool = False) -> list[str] | None:
    """Return what SQLite's check says, `ok` alone for a file in good order; None if it was ended before.

    Args:
        is_over: called now and then; True ends the check.
        full: compare indexes with their tables too, and return up to a hundred sentences instead of the first.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    connection.set_progress_handler(is_over, _STEPS)
    try:
        check = "PRAGMA integrity_check(100)" if full else "PRAGMA quick_check(1)"
        return [str(text) for (text,) in connection.execute(check).fetchall()]
    except sqlite3.OperationalError as exc:
        if "interrupted" not in str(exc):
            raise
        return None
    finally:
        connection.set_progress_handler(None, 0)
