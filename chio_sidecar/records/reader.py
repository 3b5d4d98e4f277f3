"""The archive in a SQLite file: its SQL.

A read lock that is held for long stops the commits of a sidecar that writes to the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_sidecar.records.archive import ReceiptArchive, ReceiptFilter
from chio_sidecar.store.driver import UNUSABLE, Unavailable, open_file, trouble
from chio_sidecar.store.statements import ERASURE

_STRICT = "receipt_json"  # a condition on a damaged text is an error
_TOLERANT = "CASE WHEN json_valid(receipt_json) THEN receipt_json ELSE '{}' END"  # it is an empty object

_RAW = "CAST(receipt_json AS BLOB)"  # so that a text that is not UTF-8 fails in its row

_LARGEST = 2**63 - 1  # row number in SQLite

# Compact JSON: no text in it has a quotation mark that is not escaped.
_SIGNED = f"""
SELECT 1 FROM http_receipts
WHERE instr(receipt_json, :member) AND NOT instr(receipt_json, '"format":"{ERASURE}"') LIMIT 1
"""  # noqa: S608 - only constants
_STATED = "SELECT 1 FROM receipt_archives WHERE instr(statement, :member) LIMIT 1"

_NEWEST_FIRST = "ORDER BY seq DESC LIMIT :limit"

# An HttpReceipt answers the filters of tool receipts by the conversion of wire protocol, section 3.8.
_CONDITIONS = {
    "capability_id": "json_extract({json}, '$.capability_id') = :capability_id",
    "outcome": "json_extract({json}, '$.verdict.verdict') = :outcome",
    "since": "json_extract({json}, '$.timestamp') >= :since",
    "until": "json_extract({json}, '$.timestamp') <= :until",
    "tool_server": ":tool_server = 'http'",
    "tool_name": ":tool_name = json_extract({json}, '$.method') || ' ' || json_extract({json}, '$.route_pattern')",
    "min_cost": "FALSE",
    "max_cost": "FALSE",
    "agent_subject": "FALSE",
    "method": "json_extract({json}, '$.method') = :method",
    "route": "instr(lower(json_extract({json}, '$.route_pattern')), lower(:route)) > 0",
    "caller": "instr(json_extract({json}, '$.caller_identity_hash'), :caller) > 0",
    "capability": "instr(json_extract({json}, '$.capability_id'), :capability) > 0",
}

# The tables of the published sidecar (wire protocol, section 10.5) under the columns of this one's. They hide it in
# this connection alone.
_PUBLISHED = (
    """CREATE TEMP VIEW http_receipts AS SELECT rowid AS seq, id, receipt_json,
    json_extract({json}, '$.request_id') AS request_id,
    ifnull(strftime('%Y-%m-%dT%H:%M:%SZ', json_extract({json}, '$.timestamp'), 'unixepoch'), '') AS created_at
    FROM main.http_receipts""".replace("{json}", _TOLERANT),
    "CREATE TEMP VIEW revoked_capabilities AS SELECT capability_id, 0 AS revoked_at FROM main.revoked_capabilities",
    "CREATE TEMP VIEW capability_invocations AS SELECT '' AS capability_id, 0 AS grant_index, 0 AS ordinal WHERE FALSE",
)


class ReceiptReader(ReceiptArchive):
    """A read-only connection to the file of a store, or to that of the published sidecar, whose rows have no chain.

    Args:
        path: the SQLite file of a sidecar.
        option: the command line option that named the file, for error messages.
        busy_seconds: how long to wait for another process that holds the file.

    Raises:
        ConfigurationError: the file does not exist or is no SQLite database.
    """

    _mark, _schema, _number, _text = "?", "", "seq", _RAW

    def __init__(self, path: Path, *, option: str | None = None, busy_seconds: float = 5.0) -> None:
        self.place = str(path) if option is None else f"{path} ({option})"
        try:
            exists = path.is_file()
        except OSError as exc:
            raise ConfigurationError(f"cannot read {self.place}: {exc.strerror}; run as the sidecar's user") from None
        if not exists:
            raise ConfigurationError(f"there is no receipt store at {self.place}; name the sidecar's file")
        self._path, self._file = path, _file_at(path)
        try:
            self._connection = open_file(path, "mode=ro", busy_seconds=busy_seconds)
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            # A database without any table is a store that no sidecar has opened yet.
            columns = {name for (name,) in self.fetch("SELECT name FROM pragma_table_info('http_receipts')", {})}
            self._numbered = not columns or "seq" in columns
            if columns == {"id", "receipt_json"}:
                for view in _PUBLISHED:
                    self.fetch(view, {})
            self.last = self.newest() if columns else 0
            self.first = self._oldest()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def refresh(self) -> None:
        """Include the rows that were stored since, and leave out those that were archived.

        Raises:
            ConfigurationError: also if the file at the path is another one than was opened.
        """
        if _file_at(self._path) != self._file:
            raise ConfigurationError(f"{self.place} was replaced or removed while it was read")
        super().refresh()
        self.first = self._oldest()

    def archived(self) -> tuple[int, str] | None:
        """Return how many rows were archived and removed, and the name of the newest archive; None without any."""
        if self.first == 1 or not self.fetch("SELECT 1 FROM sqlite_master WHERE name = 'receipt_archives'", {}):
            return None
        name = self._newest_archive()
        return None if name is None else (self.first - 1, name)

    def has_signed(self, key: str) -> bool:
        """Return True if a receipt that is not erased, or a statement about an archive, names a key (64 hex digits).

        No signature is verified.
        """
        member = {"member": f'"kernel_key":"{key}"'}
        if self.fetch(_SIGNED, member):
            return True
        there = self.fetch("SELECT 1 FROM sqlite_master WHERE name = 'receipt_archives'", {})
        return bool(there and self.fetch(_STATED, member))

    def after_archived(self) -> Sequence[int]:
        """Return the number of the first row if earlier ones were archived."""
        return [self.first] if self.first > 1 else []

    def newest(self) -> int:
        """Return the number of the newest row now, 0 for an empty store."""
        return int(self.fetch("SELECT ifnull(max(seq), 0) FROM http_receipts", {})[0][0])

    def matching(
        self, wanted: ReceiptFilter, first: int, last: int, *, newest_first: bool = False
    ) -> Iterable[tuple[int, bytes | str]]:
        """Return number and text of the matching rows from `first` to `last`."""
        order = "DESC" if newest_first else "ASC"
        sql = f"SELECT seq, {_RAW} FROM http_receipts WHERE {_where(wanted, _STRICT)} ORDER BY seq {order}"  # noqa: S608
        return self.fetch(sql, _values(wanted, first, last))

    def count(self, wanted: ReceiptFilter, *, after: int = 0) -> int:
        """Return how many receipts after row `after` and up to `last` match.

        Without a condition this follows from the row numbers, which have no gaps. With one every row is read, as in
        the file of the published sidecar.
        """
        if wanted.is_empty and self._numbered:
            return max(0, self.last - max(after, self.first - 1))
        return super().count(wanted, after=after)

    def count_matching(self, wanted: ReceiptFilter, first: int, last: int, *, tolerant: bool = False) -> int:
        """Return how many rows from `first` to `last` match."""
        json = _TOLERANT if tolerant else _STRICT
        sql = f"SELECT count(*) FROM http_receipts WHERE {_where(wanted, json)}"  # noqa: S608
        return int(self.fetch(sql, _values(wanted, first, last))[0][0])

    def cells(
        self, wanted: ReceiptFilter, first: int, last: int, *, limit: int, paths: Sequence[str]
    ) -> list[tuple[int, str, str]]:
        """Return number, id, and the values at `paths` as a JSON array, of matching rows, newest first."""
        # One JSON array for all values: SQLite's texts end at a character U+0000, JSON escapes it.
        names = ", ".join(f"'$.{path}'" for path in paths)
        select = f"SELECT seq, id, json_extract({_TOLERANT}, {names}) FROM http_receipts"  # noqa: S608
        sql = f"{select} WHERE {_where(wanted, _TOLERANT)} {_NEWEST_FIRST}"
        return self.fetch(sql, _values(wanted, first, last) | {"limit": limit})

    def texts(self, wanted: ReceiptFilter, first: int, last: int, *, limit: int) -> Iterator[str]:
        """Yield the exact texts of matching rows, newest first."""
        sql = f"SELECT receipt_json FROM http_receipts WHERE {_where(wanted, _TOLERANT)} {_NEWEST_FIRST}"  # noqa: S608
        for (text,) in self.each(sql, _values(wanted, first, last) | {"limit": limit}):
            yield text

    def _oldest(self) -> int:
        found = self.fetch("SELECT min(seq) FROM http_receipts", {}) if self._numbered and self.last else [(1,)]
        return int(found[0][0])

    def _next_row(self, wanted: ReceiptFilter, number: int, *, newest_first: bool = False) -> int | None:
        """Return the number of the next row; the numbers of the published sidecar's rows may have gaps."""
        if self._numbered:
            return number
        if number > _LARGEST:
            return None
        found = (
            "max(seq) FROM http_receipts WHERE seq <=" if newest_first else "min(seq) FROM http_receipts WHERE seq >="
        )
        row: int | None = self.fetch(f"SELECT {found} :number", {"number": number})[0][0]
        return row

    def _fetch(self, sql: str, *parameters: object) -> list[Any]:
        return list(self.each(sql, parameters))

    def _one(self, column: str, value: str) -> tuple[int, bytes | str] | None:
        return super()._one(column, value) if self.last else None  # an empty file may have no table

    def fetch(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        """Return all rows of a statement.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        return list(self.each(sql, parameters))

    def each(self, sql: str, parameters: dict[str, Any] | tuple[object, ...]) -> Iterator[Any]:
        """Yield the rows of a statement one by one; the file is locked until the last one.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        try:
            yield from self._connection.execute(sql, parameters)
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None

    def _unreadable(self, exc: Exception) -> ConfigurationError:
        found = trouble(exc, self._path)
        kind = ConfigurationError if found.kind == "content" else Unavailable
        return kind(f"cannot read {self.place} as a receipt store: {found}")


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at a path from others; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _where(wanted: ReceiptFilter, json: str) -> str:
    # Values are bound, never part of the text.
    stated = [sql for name, sql in _CONDITIONS.items() if getattr(wanted, name) is not None]
    return " AND ".join(["seq BETWEEN :first AND :last", *stated]).replace("{json}", json)


def _values(wanted: ReceiptFilter, first: int, last: int) -> dict[str, Any]:
    return vars(wanted) | {"outcome": wanted.verdict, "first": first, "last": last}
