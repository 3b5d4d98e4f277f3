"""A consistent copy of a store, made in windows of rows while a sidecar writes.

SQLite's own backup reads the file under one lock: with a rollback journal the sidecar cannot commit meanwhile, and a
copy in steps starts again at each commit. Rows of a store never change. So the end of each table is read once, in one
transaction, and everything up to it is copied in windows; between two windows nothing is locked.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_sidecar.private_files import create_private, sync_folder
from chio_sidecar.store.compressed import compress, is_compressed
from chio_sidecar.store.driver import UNUSABLE, open_file, sqlite3, trouble
from chio_sidecar.store.rewriting import unmoved
from chio_sidecar.store.schema import APPLICATION_ID
from chio_sidecar.store.tables import ARCHIVED, CHAINED, SCHEMA_VERSION, upgrade

ROWS = 500
"""Rows in one window."""

_OWN = ("write_probe", "receipt_chain_head", "receipt_chain_base")  # tables of one row, which are not copied row by row


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup holds.

    Attributes:
        rows: number of receipts.
        last: row of the newest of them; 0 in a store from before the chain.
        head: its digest; None in a store from before the chain.
    """

    rows: int
    last: int
    head: str | None


def backup(source: Path, target: Path, *, state: Callable[[Copied], str] | None = None) -> Copied:
    """Copy a store as it is now; the target appears when it is complete and on the disk.

    Args:
        source: the SQLite file; a sidecar may be writing to it.
        target: the new file, of mode 0600, compressed if its name ends in `.xz`; it must not exist, its folder must.
        state: makes the copy an archive: returns the statement about it.

    Raises:
        ConfigurationError: one of the files cannot be used, the target exists, the source is being rewritten, or a
            rotation has removed rows that were not copied yet.
    """
    try:
        with (
            unmoved(source),
            closing(open_file(source, "mode=ro")) as reader,
            new_file(target) as draft,
        ):
            version, ends, head, base = _ends(reader, source)
            with closing(sqlite3.connect(draft, isolation_level=None)) as writer:
                # A crash leaves a draft, whose content does not matter: one sync at the end is enough.
                writer.execute("PRAGMA synchronous=OFF")
                writer.execute("PRAGMA journal_mode=MEMORY")
                with bare_tables(writer, version):
                    rows = sum(_copy(reader, writer, table, *end) for table, end in ends.items())
                    if head is not None:
                        writer.execute("DELETE FROM receipt_chain_head")
                        writer.execute("INSERT INTO receipt_chain_head VALUES (1, ?, ?)", head)
                    if base is not None:
                        writer.execute("DELETE FROM receipt_chain_base")
                        writer.execute("INSERT INTO receipt_chain_base VALUES (1, ?, ?)", base)
                    copied = Copied(rows, *(head or (0, None)))
                    if state is not None:
                        row = (copied.last, state(copied))
                        writer.execute("INSERT INTO receipt_archives (seq, statement) VALUES (?, ?)", row)
            _, now, _, base_now = _ends(reader, source)
            if base_now != base or now.get("archived_state") != ends.get("archived_state"):
                raise ConfigurationError(f"receipts of {source} were archived during the copy; copy it again")
            return copied
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot copy {source} to {target}: {trouble(exc, source)}") from None
    except OSError as exc:
        reason = "it exists; name a new file" if isinstance(exc, FileExistsError) else exc.strerror
        raise ConfigurationError(f"cannot write {target}: {reason}") from None


def _ends(reader: sqlite3.Connection, source: Path) -> tuple[int, dict[str, tuple[int, int]], Any, Any]:
    """Return schema version, first and last row id of each table, and head and base of the chain, of one moment."""
    reader.execute("BEGIN")
    try:
        (application,) = reader.execute("PRAGMA application_id").fetchone()
        (version,) = reader.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID or not 1 <= version <= SCHEMA_VERSION:
            raise ConfigurationError(f"{source} is no receipt store of this version; name the sidecar's file")
        tables = [name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        ends = {}
        for table in tables:
            if table not in _OWN:
                (first,) = reader.execute(f"SELECT min(rowid) FROM {table}").fetchone()  # noqa: S608 - of the schema
                (last,) = reader.execute(f"SELECT max(rowid) FROM {table}").fetchone()  # noqa: S608
                ends[table] = (0, -1) if first is None else (first, last)
        head = base = None
        if version >= CHAINED:
            head = reader.execute("SELECT seq, digest FROM receipt_chain_head").fetchone()
        if version >= ARCHIVED:
            base = reader.execute("SELECT seq, digest FROM receipt_chain_base").fetchone()
        return version, ends, head, base
    finally:
        reader.execute("ROLLBACK")


def _copy(reader: sqlite3.Connection, writer: sqlite3.Connection, table: str, first: int, last: int) -> int:
    """Copy the rows of a table between two row ids; return the number of receipts among them."""
    window = f"SELECT rowid, * FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid LIMIT {ROWS}"  # noqa: S608
    copied = 0
    while first <= last:
        rows = reader.execute(window, (first, last)).fetchall()
        if not rows:
            break
        copied, first = copied + len(rows), rows[-1][0] + 1
        marks = ", ".join("?" * (len(rows[0]) - 1))
        writer.execute("BEGIN")
        writer.executemany(f"INSERT INTO {table} VALUES ({marks})", [row[1:] for row in rows])  # noqa: S608
        writer.execute("COMMIT")
    return copied if table == "http_receipts" else 0


@contextmanager
def bare_tables(writer: sqlite3.Connection, version: int) -> Iterator[None]:
    """Make the tables of a store in an empty file; inside the block they have no triggers and no first rows."""
    writer.execute(f"PRAGMA application_id={APPLICATION_ID}")
    upgrade(writer, 0, to=version)
    triggers = writer.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        writer.execute(f"DROP TRIGGER {name}")
    if version >= CHAINED:
        writer.execute("DELETE FROM receipt_chain_start")
    yield
    for _, sql in triggers:
        writer.execute(sql)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give an empty file of mode 0600 to fill; after the block it is on the disk under its name.

    A name that ends in `.xz` makes it a compressed one.

    Raises:
        FileExistsError: the name is taken.
        OSError: the file cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    create_private(draft)
    try:
        yield draft
        if is_compressed(path):
            compress(draft)
        descriptor = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(draft, path)  # never over a file that has appeared meanwhile
    finally:
        os.unlink(draft)
    sync_folder(path.parent)
