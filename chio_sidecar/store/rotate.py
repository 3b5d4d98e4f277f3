"""Move the old receipts of a store into an archive, and keep its live state, while a sidecar writes to it.

The archive is a whole copy, with a signed statement about its last row. Then the rows that it holds are removed from
the store, each step in a short transaction of its own:

1. the statement is recorded;
2. for each account and limited grant, the newest archived charge or use is marked: it stays, as the number and total to
   go on from; and each archived use of an approval is marked;
3. charges and uses before a mark are removed;
4. receipts are removed from the oldest on, and the base of the chain moves with them.

Revocations and approvals stay whole. After every step the store is one that `receipt fsck` accepts and that the sidecar
goes on with, so a rotation that ends early loses nothing: the next one goes on. The newest archived receipt stays in
the store: both files have it, which shows that one follows the other.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.store.backup import Copied, backup
from chio_sidecar.store.driver import UNUSABLE, open_file, sqlite3, transaction, trouble
from chio_sidecar.store.hash_chain import MEMBERS, follow
from chio_sidecar.store.rewriting import unmoved
from chio_sidecar.store.schema import connect, disconnect, journal_for
from chio_sidecar.store.statements import ArchiveStatement
from chio_sidecar.store.tables import ARCHIVED

ROWS = 500
"""Rows in one window."""

_PAUSE_SECONDS = 0.002  # SQLite's locks know no order: between two transactions the sidecar gets its turn

_ERASED = """
SELECT seq FROM http_receipts
WHERE seq BETWEEN ? AND ? AND seq <= ? AND receipt_json GLOB '{"format":"chio-receipt-erasure/*'
"""

# For each table of uses: the columns that tell one account from another, and the number of a use in its account.
_USES = {
    "capability_invocations": ("capability_id", "t.grant_index", "t.ordinal"),
    "budget_charges": ("account", "0", "t.ordinal"),
    "chio_hitl_consumed_tokens": ("approval_id", "0", "0"),
}
# Parameters: the window of rows, and the last receipt to remove.
_MARK = """
INSERT INTO archived_state
SELECT '{table}', t.{subject}, {part}, {ordinal} FROM {table} t JOIN http_receipts r ON r.request_id = t.request_id
WHERE t.rowid BETWEEN ?1 AND ?2 AND r.seq <= ?3
  AND NOT EXISTS (SELECT 1 FROM {table} n JOIN http_receipts q ON q.request_id = n.request_id
    WHERE n.{subject} = t.{subject} AND {next} AND q.seq <= ?3)
  AND NOT EXISTS (SELECT 1 FROM archived_state a WHERE a.source = '{table}'
    AND a.subject = t.{subject} AND a.part = {part} AND a.ordinal = {ordinal})
"""
_NEXT = {
    "capability_invocations": "n.grant_index = t.grant_index AND n.ordinal = t.ordinal + 1",
    "budget_charges": "n.ordinal = t.ordinal + 1",
    "chio_hitl_consumed_tokens": "FALSE",
}
_REMOVE = """
DELETE FROM {table} AS t WHERE t.rowid BETWEEN ? AND ? AND EXISTS (SELECT 1 FROM archived_state a
    WHERE a.source = '{table}' AND a.subject = t.{subject} AND a.part = {part} AND a.ordinal > {ordinal})
"""


def archive(store: Path, target: Path, key: SigningKey, *, now: int) -> ArchiveStatement:
    """Copy a store to an archive, and return the statement that is recorded in it.

    Args:
        store: the SQLite file; a sidecar may be writing to it.
        target: the new file, of mode 0400, compressed if its name ends in `.xz`; it must not exist, its folder must.
        key: signs the statement.
        now: seconds since 1970.

    Raises:
        ConfigurationError: one of the files cannot be used, the target exists, or there is nothing to archive.
    """
    made: list[ArchiveStatement] = []

    def state(copied: Copied) -> str:
        if not copied.rows or copied.head is None:
            raise ConfigurationError(f"receipt store {store} has no receipts to archive")
        first = copied.last - copied.rows + 1
        made.append(ArchiveStatement(target.name, first, copied.last, copied.head, now, key.public_hex))
        return made[0].signed_by(key)

    try:
        with closing(open_file(store, "mode=ro")) as reader:
            (version,) = reader.execute("PRAGMA user_version").fetchone()
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot read {store}: {trouble(exc, store)}") from None
    if version < ARCHIVED:
        raise ConfigurationError(
            f"receipt store {store} has schema version {version}, and a rotation needs {ARCHIVED}; start the sidecar of"
            " this version once, which upgrades the file"
        )
    backup(store, target, state=state)
    target.chmod(0o400)
    return made[0]


def trim(
    store: Path,
    archived: ArchiveStatement,
    statement: str,
    *,
    before: int,
    erased: Collection[int] = (),
    version: tuple[int, ...] = sqlite3.sqlite_version_info,
) -> Iterator[int]:
    """Remove from a store what its archive holds; yields the number of removed receipts after each transaction.

    Args:
        store: the store that was archived.
        archived: what the statement says.
        statement: as `ArchiveStatement.signed_by` returned it.
        before: receipts that were stored before this second since 1970 are removed, but for the newest archived one.
        erased: the rows that are erased in the archive.
        version: the SQLite version, which decides the journal mode.

    Raises:
        ConfigurationError: the file cannot be written, is being rewritten, or is not the store that was archived; or
            a receipt of the archive was erased in the store meanwhile, and nothing is removed then.
    """
    try:
        with unmoved(store):
            connection = connect(store, journal=journal_for(version), busy_seconds=30.0)
            try:
                connection.execute("PRAGMA secure_delete=ON")  # else free pages keep what may be erased in the archive
                for removed in _steps(connection, store, archived, statement, before, erased):
                    yield removed
                    time.sleep(_PAUSE_SECONDS)
            finally:
                disconnect(connection)
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot rotate {store}: {trouble(exc, store)}") from None


def _steps(
    connection: sqlite3.Connection,
    store: Path,
    archived: ArchiveStatement,
    statement: str,
    before: int,
    erased: Collection[int],
) -> Iterator[int]:
    with transaction(connection):
        found = connection.execute("SELECT chain FROM http_receipts WHERE seq = ?", (archived.last,)).fetchone()
        if found is None or found[0] != archived.head:
            raise ConfigurationError(f"{store} is not the store that was archived: row {archived.last} is another one")
        connection.execute("INSERT INTO receipt_archives (seq, statement) VALUES (?, ?)", (archived.last, statement))
    yield 0
    # From here on an erasure finds the statement, and names the archive.
    for window in _windows(connection, "http_receipts"):
        for (row,) in connection.execute(_ERASED, (*window, archived.last)).fetchall():
            check_erased(row, erased, str(store), archived.name)
    last = _last_before(connection, archived.last, before)
    for sql in (_MARK, _REMOVE):
        for table, (subject, part, ordinal) in _USES.items():
            if sql is _REMOVE and ordinal == "0":
                continue  # each use of an approval is a separate account
            statement = sql.format(table=table, subject=subject, part=part, ordinal=ordinal, next=_NEXT[table])
            for window in _windows(connection, table):
                with transaction(connection):
                    connection.execute(statement, (*window, last) if sql is _MARK else window)
                yield 0
    while True:
        with transaction(connection):
            removed = _remove_receipts(connection, store, last)
        if not removed:
            return
        yield removed


def check_erased(row: int, erased: Collection[int], name: str, archive: str) -> None:
    """Return if the erased row of a store is one of the rows that are erased in its archive.

    Raises:
        ConfigurationError: it is not.
    """
    if row not in erased:
        raise ConfigurationError(
            f"row {row} of {name} was erased after {archive} was copied, which still has the receipt; remove {archive}"
        )


def _last_before(connection: sqlite3.Connection, newest: int, before: int) -> int:
    """Return the last row before `newest` that, like all before it, was stored before this second."""
    until = stored_before(before)
    later = "SELECT min(seq) FROM http_receipts WHERE seq BETWEEN ? AND ? AND created_at >= ?"
    for first, end in _windows(connection, "http_receipts"):
        (found,) = connection.execute(later, (first, min(end, newest), until)).fetchone()
        if found is not None or end >= newest:
            return int(found or newest) - 1
    return newest - 1


def stored_before(seconds: int) -> str:
    """Return the first `created_at` that is not before this second since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _windows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[int, int]]:
    """Yield the first and last row id of each window of a table."""
    end = f"SELECT max(rowid) FROM (SELECT rowid FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {ROWS})"  # noqa: S608
    first = -(2**63)
    while (last := connection.execute(end, (first,)).fetchone()[0]) is not None:
        yield first + 1, last
        first = last


def _remove_receipts(connection: sqlite3.Connection, store: Path, last: int) -> int:
    """Remove one window of receipts up to row `last`, and move the base of the chain; return how many."""
    base, digest = connection.execute("SELECT seq, digest FROM receipt_chain_base").fetchone()
    select = f"SELECT seq, chain, {MEMBERS} FROM http_receipts WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT {ROWS}"  # noqa: S608
    rows = connection.execute(select, (base + 1, last)).fetchall()
    if rows:
        digest = end_of(rows, base, digest, str(store))
        connection.execute("UPDATE receipt_chain_base SET seq = ?, digest = ?", (rows[-1][0], digest))
        connection.execute("DELETE FROM http_receipts WHERE seq <= ?", (rows[-1][0],))
    return len(rows)


def end_of(rows: Iterable[Sequence[Any]], base: int, digest: str, name: str) -> str:
    """Return the digest of the last of these rows, which follow the base of a chain.

    Args:
        rows: sequence, stored digest (None in a row from before the chain), and members.
        base: number of the last row that was removed.
        digest: its digest.
        name: the store, for messages.

    Raises:
        ConfigurationError: a row is missing, or not as it was stored.
    """
    for number, (sequence, stored, *members) in enumerate(rows, base + 1):
        digest = follow(digest, sequence, members, stored).digest
        if sequence != number or not digest or stored not in (digest, None):
            raise ConfigurationError(f"row {number} of {name} was changed since it was archived; see receipt fsck")
    return digest
