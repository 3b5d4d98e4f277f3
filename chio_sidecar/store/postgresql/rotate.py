"""Move the old receipts of a database into archives, a SQLite file for each log, while sidecars write to it.

It follows the steps of the rotation of a file (`chio_sidecar.store.rotate`), and its archives are stores of the same
form, which the same commands read. An archive has the receipts of one log, and the uses, charges and approvals of these
receipts. Accounts and grants are shared by all logs, so the numbers of a file have gaps, which `archived_state` in it
allows.

The rows of receipts never change, apart from erasures, and a sidecar neither changes nor reads rows that are removed:
nothing is locked, and no transaction is longer than a window of rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.private_files import new_folder
from chio_sidecar.store.backup import bare_tables, new_file
from chio_sidecar.store.driver import UNUSABLE, sqlite3
from chio_sidecar.store.driver import trouble as file_trouble
from chio_sidecar.store.hash_chain import FIRST, MEMBERS
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import Connection, DatabaseError, connect, trouble
from chio_sidecar.store.postgresql.schema import check
from chio_sidecar.store.rotate import ROWS, check_erased, end_of, stored_before
from chio_sidecar.store.statements import ArchiveStatement
from chio_sidecar.store.tables import SCHEMA_VERSION

_SECONDS = 60.0
"""How long one statement may take."""

_LOGS = f"""
SELECT l.log_id, l.seq, l.digest, coalesce(b.seq, 0), coalesce(b.digest, '{FIRST}'),
       coalesce((SELECT max(seq) FROM chio.receipt_archives a WHERE a.log_id = l.log_id), 0)
FROM chio.logs l LEFT JOIN chio.receipt_chain_base b USING (log_id) WHERE l.seq > 0 ORDER BY l.log_id
"""  # noqa: S608 - only constants are put together, here and below
_ROWS = f"""
SELECT seq, {MEMBERS}, chain FROM chio.http_receipts WHERE log_id = %s AND seq BETWEEN %s AND %s
ORDER BY seq LIMIT {ROWS}
"""  # noqa: S608
_STATEMENTS = "SELECT seq, statement FROM chio.receipt_archives WHERE log_id = %s ORDER BY number"
_APPROVALS = {
    "chio_hitl_pending": "seq, approval_id, intent_hash, requester, request_json, created_at, expires_at",
    "chio_hitl_resolved": ("approval_id, outcome, reason, approver, token_id, token_json, resolved_at, expires_at"),
}

# For each table of uses: its key, of which the last column is the number of a use in its account, and the rest.
_USES = {
    "capability_invocations": (("capability_id", "grant_index", "ordinal"), ("request_id",)),
    "budget_charges": (("account", "ordinal"), ("cost", "total", "request_id")),
    "chio_hitl_consumed_tokens": (("approval_id",), ("token_id", "request_id", "consumed_at")),
}
_ACCOUNTS = {
    "capability_invocations": ("t.capability_id", "t.grant_index", "t.ordinal"),
    "budget_charges": ("t.account", "0", "t.ordinal"),
    "chio_hitl_consumed_tokens": ("t.approval_id", "0", "0"),
}
"""Subject, part and ordinal of a row in `archived_state`."""
_TRIMMED = ("capability_invocations", "budget_charges")  # each use of an approval is a separate account, and stays

_MARK = """
INSERT INTO chio.archived_state SELECT %s, subject, part, ordinal
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS m (subject, part, ordinal) ON CONFLICT DO NOTHING
"""
_STATE = "INSERT INTO chio.receipt_archives (log_id, seq, statement) VALUES (%s, %s, %s)"
_LATER = """
SELECT min(seq) FROM chio.http_receipts WHERE log_id = %s AND seq BETWEEN %s AND %s AND created_at COLLATE "C" >= %s
"""
_ERASED = """
SELECT seq FROM chio.http_receipts
WHERE log_id = %s AND seq BETWEEN %s AND %s AND starts_with(receipt_json, '{"format":"chio-receipt-erasure/')
"""
_BASE = "SELECT seq, digest FROM chio.receipt_chain_base WHERE log_id = %s FOR UPDATE"
_MOVE_BASE = """
INSERT INTO chio.receipt_chain_base VALUES (%s, %s, %s)
ON CONFLICT (log_id) DO UPDATE SET seq = EXCLUDED.seq, digest = EXCLUDED.digest
"""
_REMOVE = "DELETE FROM chio.http_receipts WHERE log_id = %s AND seq <= %s"


@dataclass(frozen=True, slots=True)
class _Log:
    number: int
    last: int
    head: str
    base: int
    base_digest: str
    archived: int

    @property
    def is_rotated(self) -> bool:
        """True if only the newest archived row is left."""
        return self.last == self.archived == self.base + 1


def archive(place: DatabasePlace, folder: Path, key: SigningKey, *, now: int) -> dict[int, ArchiveStatement]:
    """Copy each log to a compressed file `log-N.xz` of a new folder, which appears when all files are complete.

    Args:
        place: the database; sidecars may be writing to it.
        folder: the new folder, of mode 0700; its files have mode 0400.
        key: signs the statements.
        now: seconds since 1970.

    Returns:
        For the number of each log the statement that is recorded in its file. A log of which nothing but its newest
        archived receipt is left has none.

    Raises:
        ConfigurationError: the database cannot be read, the folder cannot be written, or there is nothing to archive.
    """
    made: dict[int, ArchiveStatement] = {}
    try:
        with new_folder(folder) as draft, _connected(place) as connection, ExitStack() as files:
            logs = _logs(connection)
            if all(log.is_rotated for log in logs):
                raise ConfigurationError(f"{place.shown} has no receipts to archive")
            writers: dict[int, sqlite3.Connection] = {}
            for log in logs:
                if not log.is_rotated:
                    name = f"log-{log.number}.xz"
                    writers[log.number] = files.enter_context(_new_store(draft / name))
                    made[log.number] = said = ArchiveStatement(
                        f"{folder.name}/{name}", log.base + 1, log.last, log.head, now, key.public_hex
                    )
                    _copy_receipts(connection, writers[log.number], log, said.signed_by(key))
            _copy_uses(connection, writers, made)
            bases = {log.number: log.base for log in _logs(connection)}
            if any(bases[log.number] != log.base for log in logs):
                raise ConfigurationError(f"receipts of {place.shown} were archived during the copy; copy it again")
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot write {folder}: {file_trouble(exc)}") from None
    except OSError as exc:
        raise ConfigurationError(f"cannot write {folder}: {exc.strerror}") from None
    return made


def trim(
    place: DatabasePlace,
    made: Mapping[int, ArchiveStatement],
    statements: Mapping[int, str],
    *,
    before: int,
    erased: Mapping[int, Collection[int]] | None = None,
) -> Iterator[int]:
    """Remove from a database what its archives hold; yields the number of removed receipts after each transaction.

    Args:
        place: the database, as its owner, or as the role of rotations.
        made: what the statement of each log says.
        statements: for each log, as `ArchiveStatement.signed_by` returned it.
        before: receipts that were stored before this second since 1970 are removed, but for the newest of each log.
        erased: for each log the rows that are erased in its archive.

    Raises:
        ConfigurationError: the role may not remove receipts, or it is not the database that was archived; or a receipt
            of an archive was erased in the database meanwhile, and nothing is removed then.
    """
    with _connected(place) as connection:
        with _transaction(connection):
            for log, said in made.items():
                sql = "SELECT chain FROM chio.http_receipts WHERE log_id = %s AND seq = %s"
                if _fetch(connection, sql, log, said.last) != [(said.head,)]:
                    raise ConfigurationError(f"{place.shown} is not the database that was archived")
                connection.execute(_STATE, (log, said.last, statements[log]))
        yield 0
        # From here on an erasure finds the statement, and names the archive.
        for log, said in made.items():
            for first in range(said.first, said.last + 1, 10 * ROWS):
                for (row,) in _fetch(connection, _ERASED, log, first, min(first + 10 * ROWS - 1, said.last)):
                    check_erased(row, (erased or {}).get(log, ()), f"log {log} of {place.shown}", said.name)
        until = stored_before(before)
        lasts = {log: _last_before(connection, log, said, until) for log, said in made.items()}
        for table in _USES:
            for _ in _mark(connection, table, made):
                yield 0
        for table in _TRIMMED:
            for _ in _remove_uses(connection, table):
                yield 0
        for log, last in lasts.items():
            while removed := _remove_receipts(connection, f"log {log} of {place.shown}", log, last):
                yield removed


@contextmanager
def _connected(place: DatabasePlace) -> Iterator[Connection]:
    try:
        with closing(connect(place, seconds=_SECONDS)) as connection:
            check(connection, place.shown)
            yield connection
    except DatabaseError as exc:
        found = trouble(exc)
        if exc.sqlstate == "42501":
            raise ConfigurationError(
                f"this role may not remove receipts of {place.shown}: {exc}; rotate as the owner of the tables, or give"
                " a role its rights: chio-sidecar store migrate --archive-role"
            ) from None
        raise ConfigurationError(f"cannot rotate {place.shown}: {found or exc}") from None


def _fetch(connection: Connection, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    connection.limit(_SECONDS)
    return connection.execute(sql.encode(), parameters).fetchall()


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.limit(_SECONDS)
    with connection.transaction():
        yield


def _logs(connection: Connection) -> list[_Log]:
    return [_Log(*row) for row in _fetch(connection, _LOGS)]


@contextmanager
def _new_store(path: Path) -> Iterator[sqlite3.Connection]:
    """Give an empty store without triggers; after the block it has them, mode 0400 and its name, and is on the disk."""
    with new_file(path) as draft, closing(sqlite3.connect(draft, isolation_level=None)) as writer:
        writer.execute("PRAGMA synchronous=OFF")  # one sync at the end is enough
        writer.execute("PRAGMA journal_mode=MEMORY")
        with bare_tables(writer, SCHEMA_VERSION):
            writer.execute("BEGIN")
            yield writer
            writer.execute("COMMIT")
    path.chmod(0o400)


def _insert(writer: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        writer.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608


def _copy_receipts(connection: Connection, writer: sqlite3.Connection, log: _Log, statement: str) -> None:
    first = log.base + 1
    while rows := _fetch(connection, _ROWS, log.number, first, log.last):
        _insert(writer, "http_receipts", rows)
        first = rows[-1][0] + 1
    writer.execute("INSERT INTO receipt_chain_start VALUES (0, ?)", (FIRST,))
    for table, end in (("head", (log.last, log.head)), ("base", (log.base, log.base_digest))):
        writer.execute(f"DELETE FROM receipt_chain_{table}")  # noqa: S608
        writer.execute(f"INSERT INTO receipt_chain_{table} VALUES (1, ?, ?)", end)  # noqa: S608
    said = [*_fetch(connection, _STATEMENTS, log.number), (log.last, statement)]
    writer.executemany("INSERT INTO receipt_archives (seq, statement) VALUES (?, ?)", said)


def _copy_uses(
    connection: Connection, writers: Mapping[int, sqlite3.Connection], made: Mapping[int, ArchiveStatement]
) -> None:
    """Copy each use, charge and approval to the file that has its receipt."""
    for table, (key, _) in _USES.items():
        for rows in _windows(connection, table):
            own = [(log, row) for *row, log, seq, _ in rows if log in made and made[log].first <= seq <= made[log].last]
            for log, some in groupby(sorted(own, key=lambda one: one[0]), key=lambda one: one[0]):
                found = [row for _, row in some]
                _insert(writers[log], table, found)
                if len(key) == 1:
                    for other, columns in _APPROVALS.items():
                        sql = f"SELECT {columns} FROM chio.{other} WHERE approval_id = ANY(%s)"  # noqa: S608
                        _insert(writers[log], other, _fetch(connection, sql, [row[0] for row in found]))
    for table in _TRIMMED:
        subject, part, ordinal = _ACCOUNTS[table]
        sql = f"SELECT '{table}', {subject}, {part}, max({ordinal}) FROM {table} t GROUP BY 2, 3"  # noqa: S608
        for writer in writers.values():
            writer.execute(f"INSERT INTO archived_state {sql}")


def _windows(connection: Connection, table: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a table of uses in windows.

    Each row has, after its columns, log and row of its receipt, None without one, and whether it was archived before.
    """
    key, rest = _USES[table]
    subject, part, ordinal = _ACCOUNTS[table]
    keys, after = ", ".join(f"t.{name}" for name in key), "true"
    archived = (
        f"SELECT FROM chio.archived_state a WHERE a.source = '{table}' AND a.subject = {subject}"
        f" AND a.part = {part} AND a.ordinal >= {ordinal}"
    )
    sql = (
        f"SELECT {keys}, {', '.join(f't.{name}' for name in rest)}, r.log_id, r.seq, EXISTS ({archived})"  # noqa: S608
        f" FROM chio.{table} t LEFT JOIN chio.http_receipts r ON r.request_id = t.request_id"
        f" WHERE {{after}} ORDER BY {keys} LIMIT {ROWS}"
    )
    last: tuple[Any, ...] = ()
    while rows := _fetch(connection, sql.format(after=after), *last):
        yield rows
        after = f"({keys}) > ({', '.join(['%s'] * len(key))})"
        last = rows[-1][: len(key)]


def _last_before(connection: Connection, log: int, said: ArchiveStatement, until: str) -> int:
    """Return the last row before the newest archived one that, like all before it, was stored before this time."""
    for first in range(said.first, said.last, 10 * ROWS):
        end = min(first + 10 * ROWS - 1, said.last - 1)
        ((found,),) = _fetch(connection, _LATER, log, first, end, until)
        if found is not None:
            return int(found) - 1
    return said.last - 1


def _mark(connection: Connection, table: str, made: Mapping[int, ArchiveStatement]) -> Iterator[None]:
    """Mark for each account the newest use that is archived, with all uses before it.

    Uses of one account have their receipts in several logs. The ends of all logs were read in one statement, and the
    use before one was committed before it: so every use is marked whose receipt can be removed.
    """
    width = max(1, len(_USES[table][0]) - 1)
    account: tuple[Any, ...] | None = None
    is_open = True
    for rows in _windows(connection, table):
        marks: dict[tuple[Any, ...], int] = {}
        for row in rows:
            if row[:width] != account:
                account, is_open = row[:width], True
            *_, log, seq, was_archived = row
            if is_open and log in made and seq <= made[log].last:
                marks[account] = row[width] if table in _TRIMMED else 0
            elif not was_archived:
                is_open = False
        if marks:
            subjects = [one[0] for one in marks]
            parts = [one[1] if width == 2 else 0 for one in marks]
            with _transaction(connection):
                connection.execute(_MARK, (table, subjects, parts, list(marks.values())))
        yield None


def _remove_uses(connection: Connection, table: str) -> Iterator[None]:
    """Remove the uses before a mark."""
    key, _ = _USES[table]
    subject, part, ordinal = _ACCOUNTS[table]
    keys = ", ".join(f"t.{name}" for name in key)
    marked = (
        f"SELECT FROM chio.archived_state a WHERE a.source = '{table}' AND a.subject = {subject}"
        f" AND a.part = {part} AND a.ordinal > {ordinal}"
    )
    window = f"({keys}) BETWEEN ({', '.join(['%s'] * len(key))}) AND ({', '.join(['%s'] * len(key))})"
    sql = f"DELETE FROM chio.{table} t WHERE {window} AND EXISTS ({marked})"  # noqa: S608
    for rows in _windows(connection, table):
        connection.limit(_SECONDS)
        connection.execute(sql.encode(), (*rows[0][: len(key)], *rows[-1][: len(key)]))
        yield None


def _remove_receipts(connection: Connection, name: str, log: int, last: int) -> int:
    """Remove one window of receipts up to row `last`, and move the base of the chain; return how many."""
    with _transaction(connection):
        base, digest = (_fetch(connection, _BASE, log) or [(0, FIRST)])[0]
        rows = _fetch(connection, _ROWS, log, base + 1, last)
        if rows:
            digest = end_of(((row[0], row[-1], *row[1:-1]) for row in rows), base, digest, name)
            connection.execute(_MOVE_BASE, (log, rows[-1][0], digest))
            connection.execute(_REMOVE, (log, rows[-1][0]))
    return len(rows)
