"""Which receipts the viewer shows: newest first, filtered by SQLite, in steps that hold little and lock briefly.

The file may belong to a running sidecar. Rows are looked at in windows of row numbers with a read-only connection
that lives for one question, and nothing is locked between two windows. A question looks at a bounded number of
rows; its answer says where the next one goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.records.rows import CELLS, row_of
from chio_sidecar.store.schema import UNUSABLE, connect_reader, trouble

_LONGEST = 2_000
_DIGITS = 18


@dataclass(frozen=True)
class Wanted:
    """Which receipts are wanted; None asks nothing.

    Attributes:
        verdict: exactly this verdict, for example `deny`.
        method: exactly this method, for example `GET`.
        route: text in the route pattern; ASCII letters in any case.
        caller: text in the hash of the caller's identity.
        capability: text in the capability's id.
        since: signed at this second since 1970 or later.
        until: signed at this second or earlier.
    """

    verdict: str | None = None
    method: str | None = None
    route: str | None = None
    caller: str | None = None
    capability: str | None = None
    since: int | None = None
    until: int | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Wanted:
        """Read the filters of a query; a blank one asks nothing, and so does a name that is not known.

        Raises:
            InvalidDocument: a value cannot be used.
        """
        return cls(
            verdict=_parameter_text(query, "verdict"),
            method=_parameter_text(query, "method"),
            route=_parameter_text(query, "route"),
            caller=_parameter_text(query, "caller"),
            capability=_parameter_text(query, "capability"),
            since=number_of(query, "since"),
            until=number_of(query, "until"),
        )

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the query."""
        return dict(vars(self))


def _parameter_text(query: Mapping[str, str], name: str) -> str | None:
    text = query.get(name, "").strip()
    if len(text) > _LONGEST:
        raise InvalidDocument(f"{name} is longer than {_LONGEST} characters")
    return text or None


def number_of(query: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of a query, or None when it is blank.

    Raises:
        InvalidDocument: it is no whole number.
    """
    text = query.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS:
        raise InvalidDocument(f"{name} must be a whole number that is not negative")
    return int(text)


PAGE = 200
"""Most receipts in one answer."""

SCAN = 50_000
"""Most rows that one question looks at."""

MOST_TEXT = 16 * 1024 * 1024
"""Most characters of receipts in one bundle, and of the one receipt that is opened."""

_WINDOW = 2_000
_BUSY_SECONDS = 5.0

# A damaged row is shown as one, so it must not end the question that finds it.
_DOCUMENT = "CASE WHEN json_valid(receipt_json) THEN receipt_json ELSE '{}' END"


def _member(path: str) -> str:
    return f"json_extract({_DOCUMENT}, '$.{path}')"


_MATCH = f"""
    (:verdict IS NULL OR {_member("verdict.verdict")} = :verdict)
    AND (:method IS NULL OR {_member("method")} = :method)
    AND (:since IS NULL OR {_member("timestamp")} >= :since)
    AND (:until IS NULL OR {_member("timestamp")} <= :until)
    AND (:route IS NULL OR instr(lower({_member("route_pattern")}), lower(:route)) > 0)
    AND (:caller IS NULL OR instr({_member("caller_identity_hash")}, :caller) > 0)
    AND (:capability IS NULL OR instr({_member("capability_id")}, :capability) > 0)
"""
_BETWEEN = "FROM http_receipts WHERE seq >= :first AND seq <= :last"
# Only constants are put together; what a caller says is bound.
_LIST = f"SELECT seq, id, {CELLS.format(document=_DOCUMENT)} {_BETWEEN} AND {_MATCH} ORDER BY seq DESC LIMIT :limit"
_COUNT = f"SELECT count(*) {_BETWEEN} AND {_MATCH}"
_TEXTS = f"SELECT seq, receipt_json {_BETWEEN} AND {_MATCH} ORDER BY seq DESC LIMIT :limit"


@dataclass(frozen=True)
class Listing:
    """Some receipts, newest first, as cells of a table.

    Attributes:
        next: row to go on below; None when there is nothing more.
        newest: number of the newest row that was looked at: the number of receipts in the store.
    """

    rows: list[dict[str, Any]]
    next: int | None
    newest: int


@dataclass(frozen=True)
class Count:
    """How many of the rows that were looked at match; `next` as in `Listing`."""

    matched: int
    scanned: int
    next: int | None


@dataclass(frozen=True)
class Opened:
    """One stored receipt: its exact text, and what the store knows about it."""

    sequence: int
    created_at: str
    text: str


@dataclass(frozen=True)
class Texts:
    """Exact texts of receipts, newest first; `complete` when no more match."""

    texts: list[str] = field(default_factory=list)
    complete: bool = True


class ReceiptWindow:
    """A read-only look at a store; each call sees what is committed by then. May be used from any thread.

    Args:
        path: the SQLite file of a sidecar.
        scan: most rows that one question looks at.

    Every method raises `ConfigurationError` when the file cannot be read as a receipt store.
    """

    def __init__(self, path: Path, *, scan: int = SCAN) -> None:
        self.path = path.absolute()
        self._scan = scan

    def newest(self) -> int:
        """Return the number of the newest row, 0 for an empty store."""
        with self._reading() as connection:
            return _newest(connection)

    def list(self, wanted: Wanted, *, after: int = 0, before: int | None = None, limit: int = PAGE) -> Listing:
        """Return at most `limit` matches between two rows, both left out, newest first."""
        with self._reading() as connection:
            newest = _newest(connection)
            found: list[dict[str, Any]] = []
            low = after + 1
            for window in self._windows(after, newest if before is None else min(before - 1, newest)):
                values = wanted.parameters() | window | {"limit": limit - len(found)}
                found += [row_of(*row) for row in connection.execute(_LIST, values)]
                low = window["first"]
                if len(found) >= limit:
                    low = found[-1]["seq"]
                    break
            return Listing(found, low if low > after + 1 else None, newest)

    def count(self, wanted: Wanted, *, before: int | None = None) -> Count:
        """Count the matches among the next rows below `before`."""
        with self._reading() as connection:
            newest = _newest(connection)
            top = newest if before is None else min(before - 1, newest)
            matched, low = 0, top + 1
            for window in self._windows(0, top):
                matched += connection.execute(_COUNT, wanted.parameters() | window).fetchone()[0]
                low = window["first"]
            return Count(matched, top + 1 - low, low if low > 1 else None)

    def open(self, receipt_id: str) -> Opened | None:
        """Return the receipt with this id, or None."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT seq, created_at, substr(receipt_json, 1, ?) FROM http_receipts WHERE id = ?",
                (MOST_TEXT, receipt_id),
            ).fetchone()
        return Opened(*row) if row else None

    def texts(self, wanted: Wanted, *, limit: int) -> Texts:
        """Return the exact texts of the newest matches: at most `limit`, and at most `MOST_TEXT` characters."""
        with self._reading() as connection:
            texts: list[str] = []
            size, low = 0, 1
            for window in self._windows(0, _newest(connection)):
                low = window["first"]
                rows = connection.execute(_TEXTS, wanted.parameters() | window | {"limit": limit + 1 - len(texts)})
                for _, text in rows:
                    size += len(text)
                    if len(texts) == limit or (texts and size > MOST_TEXT):
                        return Texts(texts, complete=False)
                    texts.append(text)
            return Texts(texts, complete=low <= 1)

    def _windows(self, after: int, top: int) -> Iterator[dict[str, int]]:
        """Yield row numbers from `top` down to the row behind `after`, as far as one question goes."""
        lowest = max(after + 1, top - self._scan + 1)
        for last in range(top, lowest - 1, -_WINDOW):
            yield {"first": max(lowest, last - _WINDOW + 1), "last": last}

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = connect_reader(self.path, busy_seconds=_BUSY_SECONDS)
            connection.text_factory = _text
            try:
                yield connection
            finally:
                connection.close()
        except UNUSABLE as exc:
            raise ConfigurationError(
                f"cannot read {self.path} as a receipt store: {trouble(exc)}; name the file of a sidecar"
            ) from None


def _newest(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT ifnull(max(seq), 0) FROM http_receipts").fetchone()[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
