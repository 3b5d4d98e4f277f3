"""Reading a store of HTTP receipts from outside: in insertion order, read-only, in short steps.

The file may belong to a running sidecar. A read lock that is held for long would stop its commits, so rows are
read in windows of row numbers, and nothing is locked between two windows, however slowly the reader reads on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.store.schema import UNUSABLE, trouble

_WINDOW = 2_000

# An HttpReceipt answers the filters of tool receipts by the conversion of wire protocol, section 3.8. It has no
# cost, so a filter on cost matches none.
_MATCH = """
    (:capability_id IS NULL OR json_extract(receipt_json, '$.capability_id') = :capability_id)
    AND (:outcome IS NULL OR json_extract(receipt_json, '$.verdict.verdict') = :outcome)
    AND (:since IS NULL OR json_extract(receipt_json, '$.timestamp') >= :since)
    AND (:until IS NULL OR json_extract(receipt_json, '$.timestamp') <= :until)
    AND (:tool_server IS NULL OR :tool_server = 'http')
    AND (:tool_name IS NULL OR :tool_name =
         json_extract(receipt_json, '$.method') || ' ' || json_extract(receipt_json, '$.route_pattern'))
    AND :min_cost IS NULL AND :max_cost IS NULL AND :agent_subject IS NULL
"""
_ROWS = (
    "SELECT rowid, receipt_json FROM http_receipts"  # noqa: S608 - only constants are put together
    f" WHERE rowid > :after AND rowid <= :last AND {_MATCH} ORDER BY rowid"
)
_COUNT = (
    "SELECT count(*) FROM http_receipts"  # noqa: S608 - only constants are put together
    f" WHERE rowid > :after AND rowid <= :last AND {_MATCH}"
)


@dataclass(frozen=True)
class ReceiptFilter:
    """Which receipts are wanted; None asks nothing. Times are whole seconds since 1970, both ends included.

    Attributes:
        tool_server: `http` for every HTTP receipt.
        tool_name: method and route pattern, for example `POST /echo`.
        outcome: `allow`, `deny`, `cancel` (also `cancelled`) or `incomplete`.
        min_cost: HTTP receipts have no cost: any number matches none.
        max_cost: the same.
        agent_subject: HTTP receipts name no agent: any text matches none.
    """

    capability_id: str | None = None
    tool_server: str | None = None
    tool_name: str | None = None
    outcome: str | None = None
    since: int | None = None
    until: int | None = None
    min_cost: int | None = None
    max_cost: int | None = None
    agent_subject: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the query."""
        return vars(self) | {"outcome": "cancel" if self.outcome == "cancelled" else self.outcome}


@dataclass(frozen=True)
class ReceiptPage:
    """Some receipts in insertion order.

    Attributes:
        next: row number of the last one when more follow, else None.
    """

    receipts: list[dict[str, Any]]
    next: int | None


class ReceiptReader:
    """A read-only view of the receipts that a store holds at this moment.

    Args:
        path: the SQLite file of a sidecar.
        option: the command line option that named it, for error messages.

    Raises:
        ConfigurationError: there is no such file, or it is no SQLite database.
    """

    def __init__(self, path: Path, *, option: str) -> None:
        self._place = f"{path} ({option})"
        if not path.is_file():
            raise ConfigurationError(f"there is no receipt store at {self._place}; name the sidecar's file")
        try:
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0, check_same_thread=False
            )
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None
        try:
            self._last = self._last_row()
        except UNUSABLE as exc:
            self._connection.close()
            raise self._unreadable(exc) from None

    def _last_row(self) -> int:
        known = self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'http_receipts'").fetchone()
        if known is None:
            return 0
        return int(self._connection.execute("SELECT ifnull(max(rowid), 0) FROM http_receipts").fetchone()[0])

    @property
    def last(self) -> int:
        """Number of the newest row when the file was opened; a sidecar numbers them from 1, without gaps."""
        return self._last

    def rows(self, wanted: ReceiptFilter, *, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield row number and receipt of each match behind row `after`, oldest first.

        Raises:
            ConfigurationError: the file is damaged; the message names the row when it is known.
        """
        for window in self._windows(wanted, after):
            for number, text in self._fetch(_ROWS, window):
                yield number, self._receipt(number, text)

    def page(self, wanted: ReceiptFilter, *, after: int, limit: int) -> ReceiptPage:
        """Return the first `limit` matches behind row `after`.

        Raises:
            ConfigurationError: the file is damaged.
        """
        found = list(islice(self.rows(wanted, after=after), limit + 1))
        more = len(found) > limit
        return ReceiptPage([receipt for _, receipt in found[:limit]], found[limit - 1][0] if more else None)

    def count(self, wanted: ReceiptFilter) -> int:
        """Return how many receipts match.

        Raises:
            ConfigurationError: the file is damaged.
        """
        return sum(self._fetch(_COUNT, window)[0][0] for window in self._windows(wanted, 0))

    def get(self, receipt_id: str) -> dict[str, Any] | None:
        """Return the receipt with this id, or None.

        Raises:
            ConfigurationError: the file is damaged.
        """
        return self._one("id", receipt_id)

    def get_by_request_id(self, request_id: str) -> dict[str, Any] | None:
        """Return the receipt of the request with this id, or None.

        Raises:
            ConfigurationError: the file is damaged.
        """
        return self._one("request_id", request_id)

    def _one(self, column: str, value: str) -> dict[str, Any] | None:
        if not self._last:
            return None
        sql = f"SELECT rowid, receipt_json FROM http_receipts WHERE {column} = :value"  # noqa: S608 - a constant name
        found = self._fetch(sql, {"value": value})
        return self._receipt(*found[0]) if found else None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _windows(self, wanted: ReceiptFilter, after: int) -> Iterator[dict[str, Any]]:
        for start in range(after, self._last, _WINDOW):
            yield wanted.parameters() | {"after": start, "last": min(start + _WINDOW, self._last)}

    def _fetch(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None

    def _receipt(self, number: int, text: str) -> dict[str, Any]:
        try:
            document = parse_json(text)
        except InvalidDocument as exc:
            raise ConfigurationError(f"row {number} of {self._place} is damaged: {exc.message}") from None
        if not isinstance(document, dict) or not isinstance(document.get("verdict"), dict):
            raise ConfigurationError(f"row {number} of {self._place} is damaged: it holds no receipt")
        return document

    def _unreadable(self, exc: Exception) -> ConfigurationError:
        text = trouble(exc)
        return ConfigurationError(f"cannot read {self._place} as a receipt store: {text}; name the sidecar's file")


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
