"""The archive in a PostgreSQL database: its SQL.

Rows are numbered by position, in the order of storage over all logs. Conditions on a receipt are met in Python: a text
that is not JSON, or that has U+0000 in it, would end a statement that looks into it. The database only leaves out texts
without the words that a condition names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.records.archive import WINDOW, ReceiptArchive, ReceiptFilter
from chio_sidecar.store.driver import Unavailable
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import DatabaseError, connect, is_passing, trouble
from chio_sidecar.store.postgresql.functions import REFUSALS, REFUSED, UNCERTAIN, key, keyed
from chio_sidecar.store.postgresql.schema import check
from chio_sidecar.store.postgresql.tables import AUTHORITY_KEYS

_WINDOW = "FROM chio.http_receipts WHERE position BETWEEN %s AND %s"
_PLAIN = re.compile(r"[\w./:{} -]+", re.ASCII)  # which JSON has no second spelling for
_ALL: list[tuple[str, list[str]]] = [("true", [])]
_SECONDS = 30.0  # how long one statement may take
_HASH = 64  # digits of the hash of a caller
_WORDS = ("capability_id", "verdict", "method", "caller", "capability")


class DatabaseArchive(ReceiptArchive):
    """A connection that reads the store of a database.

    Args:
        place: the database, as a role that may read the store.
        option: the command line option that named it, for error messages.

    Raises:
        ConfigurationError: the database cannot be reached, or has no store that this version can read.
    """

    _mark, _schema, _number, _text = "%s", "chio.", "position", "receipt_json"

    def __init__(self, place: DatabasePlace, *, option: str | None = None) -> None:
        self.place = place.shown if option is None else f"{place.shown} ({option})"
        try:
            self._connection = connect(place, seconds=_SECONDS)
        except DatabaseError as exc:
            raise self._unreadable(exc) from None
        try:
            check(self._connection, place.shown)
            self.last = self.newest()
            self.first = self._oldest()
        except DatabaseError as exc:
            self.close()
            raise self._unreadable(exc) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def newest(self) -> int:
        """Return the newest position up to which the store is complete, 0 for an empty one."""
        return int(self._fetch("SELECT chio.horizon()")[0][0])

    def refresh(self) -> None:
        """Include the rows that were stored since, and leave out those that were archived."""
        super().refresh()
        self.first = self._oldest()

    def archived(self) -> tuple[int, str] | None:
        """Return how many rows were archived and removed, and the name of the newest archive; None without any."""
        ((removed,),) = self._fetch("SELECT coalesce(sum(seq), 0) FROM chio.receipt_chain_base")
        if not removed:
            return None
        name = self._newest_archive()
        return None if name is None else (int(removed), name)

    def after_archived(self) -> Sequence[int]:
        """Return the position of the first row of each log whose earlier ones were archived."""
        sql = "SELECT position FROM chio.http_receipts r JOIN chio.receipt_chain_base b USING (log_id)"
        return [position for (position,) in self._fetch(f"{sql} WHERE r.seq = b.seq + 1")]

    def _oldest(self) -> int:
        return int(self._fetch("SELECT coalesce(min(position), 1) FROM chio.http_receipts")[0][0])

    def _next_row(self, wanted: ReceiptFilter, number: int, *, newest_first: bool = False) -> int | None:
        # Between two rows may be many positions without one: a rotation leaves the newest of a sidecar that is gone.
        extreme, beside, nearest = ("max", "<=", "greatest") if newest_first else ("min", ">=", "least")
        probes, values = [], []
        for condition, parameters in _indexed(wanted):
            probe = f"(SELECT {extreme}(position) FROM chio.http_receipts WHERE {condition} AND position"  # noqa: S608
            probes.append(f"{probe} {beside} %s)")
            values += [*parameters, number]
        found: int | None = self._fetch(f"SELECT {nearest}({', '.join(probes)})", *values)[0][0]
        return found

    def most_scanned(self, wanted: ReceiptFilter) -> int:
        """Return how many rows one page may pass in less than 50 ms of the database's time."""
        if _indexed(wanted) != _ALL:
            return WINDOW * 50
        return WINDOW * (2 if wanted.route is None else 1)  # letters in any case take longer

    def authority_keys(self) -> list[str]:
        """Return the public keys (64 hex digits) of the authority in this database, oldest first."""
        return [key for (key,) in self._fetch(AUTHORITY_KEYS)]

    def matching(
        self, wanted: ReceiptFilter, first: int, last: int, *, newest_first: bool = False
    ) -> Iterable[tuple[int, bytes | str]]:
        """Yield number and text of the matching rows from `first` to `last`."""
        order = "DESC" if newest_first else "ASC"
        window, words = _narrowed(wanted)
        rows = self._fetch(f"SELECT position, receipt_json {window} ORDER BY position {order}", first, last, *words)
        return [
            (number, text) for number, text in rows if wanted.is_empty or wanted.matches(self._receipt(number, text))
        ]

    def count(self, wanted: ReceiptFilter, *, after: int = 0) -> int:
        """Return how many receipts after position `after` match; of all of them, as the logs say."""
        if wanted.is_empty and after < self.first:
            sql = "SELECT coalesce(sum(l.seq - coalesce(b.seq, 0)), 0) FROM chio.logs l"
            return int(self._fetch(f"{sql} LEFT JOIN chio.receipt_chain_base b USING (log_id)")[0][0])
        return super().count(wanted, after=after)

    def count_matching(self, wanted: ReceiptFilter, first: int, last: int, *, tolerant: bool = False) -> int:
        """Return how many rows from `first` to `last` match."""
        if wanted.is_empty:
            return int(self._fetch(f"SELECT count(*) {_WINDOW}", first, last)[0][0])
        if not tolerant:
            return sum(1 for _ in self.matching(wanted, first, last))
        return sum(1 for _ in self._documents(wanted, first, last, limit=None))

    def cells(
        self, wanted: ReceiptFilter, first: int, last: int, *, limit: int, paths: Sequence[str]
    ) -> list[tuple[int, str, str]]:
        """Return number, id, and the values at `paths` as a JSON array, of matching rows, newest first."""
        return [
            (number, receipt_id, json.dumps([_value(document, path) for path in paths]))
            for number, receipt_id, _, document in self._documents(wanted, first, last, limit=limit)
        ]

    def texts(self, wanted: ReceiptFilter, first: int, last: int, *, limit: int) -> Iterator[str]:
        """Yield the exact texts of matching rows, newest first."""
        for _, _, text, _ in self._documents(wanted, first, last, limit=limit):
            yield text

    def _documents(
        self, wanted: ReceiptFilter, first: int, last: int, *, limit: int | None
    ) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        window, words = _narrowed(wanted)
        sql = f"SELECT position, id, receipt_json {window} ORDER BY position DESC LIMIT %s"
        left = limit
        for number, receipt_id, text in self._fetch(sql, first, last, *words, limit if wanted.is_empty else None):
            try:
                found = parse_json(text)
            except InvalidDocument:
                found = None
            document = found if isinstance(found, dict) else {}
            if wanted.matches(document):
                yield number, receipt_id, text, document
                left = None if left is None else left - 1
                if left == 0:
                    return

    def _fetch(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        self._connection.limit(_SECONDS)
        try:
            return self._connection.execute(sql.encode(), parameters).fetchall()
        except DatabaseError as exc:
            raise self._unreadable(exc) from None

    def _unreadable(self, exc: DatabaseError) -> ConfigurationError:
        kind = Unavailable if is_passing(exc) else ConfigurationError
        return kind(f"cannot read {self.place} as a receipt store: {trouble(exc) or exc}")


def _indexed(wanted: ReceiptFilter) -> list[tuple[str, list[str]]]:
    """Return conditions, each with its parameters, of which every match meets one, and which an index has."""
    for name, value in (("capability_id", wanted.capability_id), ("caller_identity_hash", wanted.caller)):
        is_whole = name == "capability_id" or (value is not None and len(value) == _HASH)
        if value is not None and is_whole and _PLAIN.fullmatch(value):
            return [
                (f"{key(name)} = hashtextextended(%s, 0) AND {keyed(name)}", [value]),
                (f"{key(name)} = {UNCERTAIN} AND {keyed(name)}", []),
            ]
    return [(REFUSED, [])] if wanted.verdict in REFUSALS else _ALL


def _narrowed(wanted: ReceiptFilter) -> tuple[str, list[str]]:
    """Return a condition that every match meets and few other rows do, and its further parameters."""
    indexed = _indexed(wanted)
    sql = f"{_WINDOW} AND ({' OR '.join(condition for condition, _ in indexed)})"
    values = [value for _, parameters in indexed for value in parameters]
    words = [word for name in _WORDS if (word := getattr(wanted, name)) is not None and _PLAIN.fullmatch(word)]
    if wanted.tool_name is not None and _PLAIN.fullmatch(wanted.tool_name):
        words.append(wanted.tool_name.partition(" ")[2])
    sql += " AND strpos(receipt_json, %s) > 0" * len(words)
    values += words
    if wanted.route is not None and _PLAIN.fullmatch(wanted.route):
        sql += ' AND strpos(lower(receipt_json COLLATE "C"), lower(%s COLLATE "C")) > 0'
        values.append(wanted.route)
    return sql, values


def _value(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document
