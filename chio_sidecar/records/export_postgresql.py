"""The logs of a PostgreSQL database as sources of an export, all as of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.records.export import Source
from chio_sidecar.store.hash_chain import FIRST, MEMBERS
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import Connection, DatabaseError, connect, trouble
from chio_sidecar.store.postgresql.schema import check
from chio_sidecar.store.statements import ArchiveStatement

_BEGIN = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LOGS = f"""
SELECT log_id, l.seq, coalesce(b.seq, 0), coalesce(b.digest, '{FIRST}'),
       (SELECT statement FROM chio.receipt_archives a WHERE a.log_id = l.log_id ORDER BY number DESC LIMIT 1)
FROM chio.logs l LEFT JOIN chio.receipt_chain_base b USING (log_id) WHERE l.seq > 0 ORDER BY log_id
"""  # noqa: S608 - only constants, here and below
_ROWS = f"""
SELECT seq, {MEMBERS}, chain FROM chio.http_receipts WHERE log_id = %s AND seq BETWEEN %s AND %s ORDER BY seq LIMIT 500
"""  # noqa: S608 - only constants
_SECONDS = 60.0
"""How long one statement may take."""


@contextmanager
def open_logs(place: DatabasePlace) -> Iterator[list[Source]]:
    """Open the logs of a database that have receipts.

    Raises:
        ConfigurationError: there is no such store, or it cannot be read.
    """
    try:
        with closing(connect(place, seconds=_SECONDS)) as connection:
            check(connection, place.shown)
            connection.execute(_BEGIN)
            yield [_Log(connection, place, *row) for row in connection.execute(_LOGS.encode()).fetchall()]
    except DatabaseError as exc:
        raise ConfigurationError(f"cannot read {place.shown}: {trouble(exc) or exc}") from None


class _Log(Source):
    def __init__(
        self,
        connection: Connection,
        place: DatabasePlace,
        log: int,
        last: int,
        base: int,
        digest: str,
        statement: str | None,
    ) -> None:
        self.name = f"{place.shown}, log {log}"
        self.log = log
        self._connection = connection
        self._last = last
        self.base, self.base_digest = base, digest
        if statement is not None:
            self.archive = ArchiveStatement.read(statement).name

    def bounds(self, since: int, until: int) -> tuple[int, int] | None:
        # In Python: a text that is not JSON would end a statement that looks into it.
        found = [number for number, _, text, *_ in self.stored(1, self._last) if since <= _signed_at(text) <= until]
        return (found[0], found[-1]) if found else None

    def stored(self, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        while True:
            self._connection.limit(_SECONDS)
            rows = self._connection.execute(_ROWS.encode(), (self.log, first, last)).fetchall()
            if not rows:
                return
            yield from rows
            first = rows[-1][0] + 1


def _signed_at(text: str) -> float:
    try:
        document = parse_json(text)
    except InvalidDocument:
        return float("nan")
    time = document.get("timestamp") if isinstance(document, dict) else None
    return time if isinstance(time, int) else float("nan")
