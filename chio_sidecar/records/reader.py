"""Read-only access to a receipt store: open the file, read receipts in order of storage, look up a capability.

The file may belong to a running sidecar. A read lock that is held for long stops the sidecar's commits, so receipts
are read in windows of row numbers, and nothing is locked between two windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.records.file import connect
from chio_sidecar.store.driver import UNUSABLE, trouble

WINDOW = 2_000
"""Rows that are read at once."""

STRICT = "receipt_json"
"""SQL expression of a receipt's JSON text: a condition on a damaged text is an error."""

TOLERANT = "CASE WHEN json_valid(receipt_json) THEN receipt_json ELSE '{}' END"
"""The same, but a damaged text is an empty object."""

_RAW = "CAST(receipt_json AS BLOB)"  # so that a text that is not UTF-8 fails in its row

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


@dataclass(frozen=True)
class ReceiptFilter:
    """Conditions on a receipt, all of which must hold; None is no condition.

    Attributes:
        capability_id: exactly this id.
        outcome: this verdict: `allow`, `deny`, `cancel` (also `cancelled`) or `incomplete`.
        since: signed at this second since 1970 or later.
        until: signed at this second since 1970 or earlier.
        tool_server: `http` matches every HTTP receipt, any other name none.
        tool_name: method and route pattern, for example `POST /echo`.
        min_cost, max_cost: any number matches none: HTTP receipts have no cost.
        agent_subject: any text matches none: HTTP receipts name no agent.
        method: exactly this method, for example `GET`.
        route: text in the route pattern; ASCII letters match in any case.
        caller: text in the hash of the caller's identity.
        capability: text in the capability's id.
    """

    capability_id: str | None = None
    outcome: str | None = None
    since: int | None = None
    until: int | None = None
    tool_server: str | None = None
    tool_name: str | None = None
    min_cost: int | None = None
    max_cost: int | None = None
    agent_subject: str | None = None
    method: str | None = None
    route: str | None = None
    caller: str | None = None
    capability: str | None = None

    @property
    def is_empty(self) -> bool:
        """True without any condition."""
        return all(value is None for value in vars(self).values())

    def where(self, json: str) -> str:
        """Return the SQL condition on the rows from `:first` to `:last`; values are bound, never part of the text.

        Args:
            json: `STRICT` or `TOLERANT`.
        """
        stated = [sql for name, sql in _CONDITIONS.items() if getattr(self, name) is not None]
        return " AND ".join(["seq BETWEEN :first AND :last", *stated]).replace("{json}", json)

    def parameters(self) -> dict[str, Any]:
        """Return the values that the condition names."""
        return vars(self) | {"outcome": "cancel" if self.outcome == "cancelled" else self.outcome}


@dataclass(frozen=True)
class ReceiptPage:
    """Some receipts, oldest first; `next` is the row number of the last one if more match, else None."""

    receipts: list[dict[str, Any]]
    next: int | None


class ReceiptReader:
    """A read-only connection to a receipt store; close it, or use it in a `with` block.

    Every method raises `ConfigurationError` if the file cannot be read, or a receipt that it returns is damaged.

    Args:
        path: the SQLite file of a sidecar.
        option: the command line option that named the file, for error messages.
        busy_seconds: how long to wait for another process that holds the file.

    Attributes:
        first: number of the oldest row when the file was opened, 1 for an empty store.
        last: number of the newest row then, 0 for an empty store; a sidecar numbers rows without gaps.

    Raises:
        ConfigurationError: the file does not exist or is no SQLite database.
    """

    def __init__(self, path: Path, *, option: str | None = None, busy_seconds: float = 5.0) -> None:
        self._place = str(path) if option is None else f"{path} ({option})"
        try:
            exists = path.is_file()
        except OSError as exc:
            raise ConfigurationError(f"cannot read {self._place}: {exc.strerror}; run as the sidecar's user") from None
        if not exists:
            raise ConfigurationError(f"there is no receipt store at {self._place}; name the sidecar's file")
        try:
            self._connection = connect(path, "mode=ro", busy_seconds=busy_seconds)
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            # A database without any table is a store that no sidecar has opened yet.
            known = self.fetch("SELECT 1 FROM sqlite_master WHERE name = 'http_receipts'", {})
            self.last = self.newest() if known else 0
            self.first = int(self.fetch("SELECT min(seq) FROM http_receipts", {})[0][0]) if self.last else 1
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def archived(self) -> tuple[int, str] | None:
        """Return the last row that was archived and removed, and the name of its archive; None if all rows are here."""
        if self.first == 1 or not self.fetch("SELECT 1 FROM sqlite_master WHERE name = 'receipt_archives'", {}):
            return None
        from chio_sidecar.store.archive import Archive  # takes longer to load than most lists

        found = self.fetch("SELECT statement FROM receipt_archives ORDER BY number DESC LIMIT 1", {})
        try:
            return (self.first - 1, Archive.read(found[0][0]).name) if found else None
        except InvalidDocument:
            return None  # `receipt fsck` says what is wrong with it

    def newest(self) -> int:
        """Return the number of the newest row now, 0 for an empty store."""
        return int(self.fetch("SELECT ifnull(max(seq), 0) FROM http_receipts", {})[0][0])

    def rows(
        self, wanted: ReceiptFilter, *, after: int = 0, before: int | None = None, newest_first: bool = False
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield row number and receipt of each match up to row `last`, oldest or newest first.

        Args:
            wanted: the conditions.
            after: only rows with a greater number.
            before: only rows with a smaller number.
            newest_first: from the newest row to the oldest.
        """
        order = "DESC" if newest_first else "ASC"
        sql = f"SELECT seq, {_RAW} FROM http_receipts WHERE {wanted.where(STRICT)} ORDER BY seq {order}"  # noqa: S608
        windows = self._windows(after, self.last if before is None else min(before - 1, self.last))
        for window in reversed(windows) if newest_first else windows:
            for number, raw in self.fetch(sql, wanted.parameters() | window):
                yield number, self._receipt(number, raw)

    def page(self, wanted: ReceiptFilter, *, after: int, limit: int) -> ReceiptPage:
        """Return the first `limit` matches after row `after`, oldest first."""
        found = list(islice(self.rows(wanted, after=after), limit + 1))
        more = len(found) > limit
        return ReceiptPage([receipt for _, receipt in found[:limit]], found[limit - 1][0] if more else None)

    def count(self, wanted: ReceiptFilter, *, after: int = 0) -> int:
        """Return how many receipts after row `after` and up to `last` match.

        Without a condition this follows from the row numbers. With one every row is read.
        """
        if wanted.is_empty:
            return max(0, self.last - max(after, self.first - 1))
        sql = f"SELECT count(*) FROM http_receipts WHERE {wanted.where(STRICT)}"  # noqa: S608
        windows = self._windows(after, self.last)
        return sum(self.fetch(sql, wanted.parameters() | window)[0][0] for window in windows)

    def get(self, receipt_id: str) -> dict[str, Any] | None:
        """Return the receipt with this id, or None."""
        return self._one("id", receipt_id)

    def get_by_request_id(self, request_id: str) -> dict[str, Any] | None:
        """Return the receipt of the request with this id, or None."""
        return self._one("request_id", request_id)

    def is_revoked(self, capability_id: str) -> bool:
        """Return True if the capability was revoked in this store."""
        return bool(self.fetch("SELECT 1 FROM revoked_capabilities WHERE capability_id = :id", {"id": capability_id}))

    def invocations(self, capability_id: str, grant: int) -> int:
        """Return how many uses of a limited grant are spent; `grant` is its index in the capability."""
        sql = "SELECT count(*) FROM capability_invocations WHERE capability_id = :id AND grant_index = :grant"
        return int(self.fetch(sql, {"id": capability_id, "grant": grant})[0][0])

    def fetch(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        """Return all rows of a statement.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        return list(self.each(sql, parameters))

    def each(self, sql: str, parameters: dict[str, Any]) -> Iterator[Any]:
        """Yield the rows of a statement one by one; the file is locked until the last one.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        try:
            yield from self._connection.execute(sql, parameters)
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None

    def _windows(self, after: int, last: int) -> Sequence[dict[str, int]]:
        starts = range(max(after, self.first - 1), last, WINDOW)
        return [{"first": start + 1, "last": min(start + WINDOW, last)} for start in starts]

    def _one(self, column: str, value: str) -> dict[str, Any] | None:
        if not self.last:
            return None
        sql = f"SELECT seq, {_RAW} FROM http_receipts WHERE {column} = :value"  # noqa: S608 - a constant name
        found = self.fetch(sql, {"value": value})
        return self._receipt(*found[0]) if found else None

    def _receipt(self, number: int, raw: bytes) -> dict[str, Any]:
        try:
            document = parse_json(raw)
        except InvalidDocument as exc:
            raise ConfigurationError(f"row {number} of {self._place} is damaged: {exc.message}") from None
        if not isinstance(document, dict) or not isinstance(document.get("verdict"), dict):
            raise ConfigurationError(f"row {number} of {self._place} is damaged: it holds no receipt")
        return document

    def _unreadable(self, exc: Exception) -> ConfigurationError:
        return ConfigurationError(f"cannot read {self._place} as a receipt store: {trouble(exc)}")
