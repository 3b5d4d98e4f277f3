"""ReceiptArchive: the stored receipts as commands, viewer and trust service read them, whatever stores them.

An archive may belong to a running sidecar. Receipts are read in windows of row numbers, and nothing is locked between
two windows. Only the classes that read an engine know its SQL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from types import TracebackType
from typing import Any, ClassVar, Self

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.store.issuers import issuer_name
from chio_sidecar.store.place import Place
from chio_sidecar.store.statements import ArchiveStatement, states_erasure

WINDOW = 2_000
"""Rows that are read at once."""


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

    @property
    def verdict(self) -> str | None:
        """The verdict as receipts spell it."""
        return "cancel" if self.outcome == "cancelled" else self.outcome

    def matches(self, receipt: Mapping[str, Any]) -> bool:
        """Return True if a receipt meets all conditions; for archives whose engine cannot look into its JSON."""
        return self.is_empty or all(
            getattr(self, name) is None or holds(self, receipt) for name, holds in _CONDITIONS.items()
        )


def _has(text: object, part: str) -> bool:
    return isinstance(text, str) and part in text


_CONDITIONS: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "capability_id": lambda want, got: got.get("capability_id") == want.capability_id,
    "outcome": lambda want, got: _verdict(got) == want.verdict,
    "since": lambda want, got: _time(got) is not None and _time(got) >= want.since,
    "until": lambda want, got: _time(got) is not None and _time(got) <= want.until,
    "tool_server": lambda want, got: want.tool_server == "http",
    "tool_name": lambda want, got: want.tool_name == f"{got.get('method')} {got.get('route_pattern')}",
    "min_cost": lambda want, got: False,
    "max_cost": lambda want, got: False,
    "agent_subject": lambda want, got: False,
    "method": lambda want, got: got.get("method") == want.method,
    "route": lambda want, got: _has(_lower(got.get("route_pattern")), _lower(want.route)),
    "caller": lambda want, got: _has(got.get("caller_identity_hash"), want.caller),
    "capability": lambda want, got: _has(got.get("capability_id"), want.capability),
}


def _verdict(receipt: Mapping[str, Any]) -> object:
    verdict = receipt.get("verdict")
    return verdict.get("verdict") if isinstance(verdict, Mapping) else None


def _time(receipt: Mapping[str, Any]) -> Any:
    time = receipt.get("timestamp")
    return time if isinstance(time, int | float) else None


def _lower(text: Any) -> Any:
    # ASCII letters only, as SQLite's lower().
    return text.translate(_LOWER) if isinstance(text, str) else text


_LOWER = {ord(letter): letter.lower() for letter in ascii_uppercase}


@dataclass(frozen=True)
class ReceiptPage:
    """Some receipts, oldest first; `next` is the row number of the last one if more match, else None."""

    receipts: list[dict[str, Any]]
    next: int | None


@dataclass(frozen=True, slots=True)
class StoredText:
    """One stored receipt: its row number, the time it was stored, its exact text."""

    sequence: int
    created_at: str
    text: str


class ReceiptArchive(ABC):
    """An open archive; close it, or use it in a `with` block.

    Every method raises `ConfigurationError` if the archive cannot be read, or a receipt that it returns is damaged; the
    kind `chio_sidecar.store.driver.Unavailable` says that it cannot be read now, and may be later, opened again. In the
    place of a receipt that was erased is the record of that (`chio_sidecar.store.statements`).

    Attributes:
        place: what it is and which option named it, for messages.
        first: number of the oldest row when it was opened, or at the last `refresh`; 1 for an empty one.
        last: number of the newest row then, 0 for an empty one; no row with a smaller number appears later.
    """

    place: str
    first: int
    last: int

    # How the engine spells the statements that both have: a parameter, the tables, the number and text of a row.
    _mark: ClassVar[str]
    _schema: ClassVar[str]
    _number: ClassVar[str]
    _text: ClassVar[str]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release what was opened."""

    @abstractmethod
    def newest(self) -> int:
        """Return the number of the newest row now, 0 for an empty archive."""

    @abstractmethod
    def archived(self) -> tuple[int, str] | None:
        """Return how many rows were archived and removed, and the name of the newest archive; None without any."""

    @abstractmethod
    def after_archived(self) -> Sequence[int]:
        """Return the numbers of the rows that directly follow archived ones, one for each log that has any."""

    @abstractmethod
    def _fetch(self, sql: str, *parameters: object) -> list[Any]:
        """Return all rows of a statement."""

    def is_revoked(self, capability_id: str) -> bool:
        """Return True if the capability was revoked in this store."""
        sql = f"SELECT 1 FROM {self._schema}revoked_capabilities WHERE capability_id = {self._mark}"  # noqa: S608
        return bool(self._fetch(sql, capability_id))

    def revocations(self, limit: int) -> list[tuple[str, int]]:
        """Return id and time (seconds since 1970) of the newest revocations in this store, at most `limit`."""
        sql = f"SELECT capability_id, revoked_at FROM {self._schema}revoked_capabilities"  # noqa: S608
        return self._fetch(f"{sql} ORDER BY revoked_at DESC, capability_id DESC LIMIT {self._mark}", limit)

    def authority_keys(self) -> list[str]:
        """Return the public keys (64 hex digits) of the authority in this store, oldest first; none in a file."""
        return []

    def invocations(self, capability_id: str, grant: int) -> int:
        """Return how many uses of a limited grant are spent; `grant` is its index in the capability."""
        # The ordinal: uses whose receipts were archived are removed, but for the newest.
        sql = f"SELECT coalesce(max(ordinal), 0) FROM {self._schema}capability_invocations"  # noqa: S608
        where = f"WHERE capability_id = {self._mark} AND grant_index = {self._mark}"
        return int(self._fetch(f"{sql} {where}", capability_id, grant)[0][0])

    def find(self, receipt_id: str) -> tuple[int, bytes | str] | None:
        """Return row number and text of the receipt with this id, or None."""
        return self._one("id", receipt_id)

    def find_by_request(self, request_id: str) -> tuple[int, bytes | str] | None:
        """Return row number and text of the receipt of this request, or None."""
        return self._one("request_id", request_id)

    def _one(self, column: str, value: str) -> tuple[int, bytes | str] | None:
        sql = f"SELECT {self._number}, {self._text} FROM {self._schema}http_receipts"  # noqa: S608
        found = self._fetch(f"{sql} WHERE {column} = {self._mark}", value)
        return (found[0][0], found[0][1]) if found else None

    def stored_text(self, receipt_id: str, *, most: int) -> StoredText | None:
        """Return the receipt with this id, its text cut after `most` characters, or None."""
        mark, table = self._mark, f"{self._schema}http_receipts"
        sql = f"SELECT {self._number}, created_at, substr(receipt_json, 1, {mark}) FROM {table} WHERE id = {mark}"  # noqa: S608
        found = self._fetch(sql, most, receipt_id)
        return StoredText(*found[0]) if found else None

    def _newest_archive(self) -> str | None:
        """Return the name that the newest statement about an archive has for it; None without one."""
        sql = f"SELECT statement FROM {self._schema}receipt_archives ORDER BY number DESC LIMIT 1"  # noqa: S608
        found = self._fetch(sql)
        try:
            return ArchiveStatement.read(found[0][0]).name if found else None
        except InvalidDocument:
            return None  # `receipt fsck` says what is wrong with it

    @abstractmethod
    def matching(
        self, wanted: ReceiptFilter, first: int, last: int, *, newest_first: bool = False
    ) -> Iterable[tuple[int, bytes | str]]:
        """Return number and text of the matching rows from `first` to `last`; a damaged one is an error."""

    @abstractmethod
    def count_matching(self, wanted: ReceiptFilter, first: int, last: int, *, tolerant: bool = False) -> int:
        """Return how many rows from `first` to `last` match; a damaged one is an error, or it matches no condition."""

    @abstractmethod
    def cells(
        self, wanted: ReceiptFilter, first: int, last: int, *, limit: int, paths: Sequence[str]
    ) -> list[tuple[int, str, str]]:
        """Return number, id, and the values at `paths` as a JSON array, of matching rows, newest first.

        A damaged row has no values, and matches no condition.
        """

    @abstractmethod
    def texts(self, wanted: ReceiptFilter, first: int, last: int, *, limit: int) -> Iterator[str]:
        """Yield the exact texts of matching rows, newest first; a damaged row matches no condition."""

    def most_scanned(self, wanted: ReceiptFilter) -> int:
        """Return how many rows one page may pass."""
        return 50_000

    def refresh(self) -> None:
        """Include the rows that were stored since."""
        self.last = self.newest()

    def rows(
        self, wanted: ReceiptFilter, *, after: int = 0, before: int | None = None, newest_first: bool = False
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield row number and receipt of each match, as `stored_rows` does."""
        for number, text in self.stored_rows(wanted, after=after, before=before, newest_first=newest_first):
            yield number, self._receipt(number, text)

    def stored_rows(
        self, wanted: ReceiptFilter, *, after: int = 0, before: int | None = None, newest_first: bool = False
    ) -> Iterator[tuple[int, bytes | str]]:
        """Yield row number and exact text of each match up to row `last`, oldest or newest first.

        Args:
            wanted: the conditions.
            after: only rows with a greater number.
            before: only rows with a smaller number.
            newest_first: from the newest row to the oldest.
        """
        top = self.last if before is None else min(before - 1, self.last)
        for first, last in self.windows(wanted, after, top, newest_first=newest_first):
            yield from self.matching(wanted, first, last, newest_first=newest_first)

    def page(self, wanted: ReceiptFilter, *, after: int, limit: int) -> ReceiptPage:
        """Return the first `limit` matches after row `after`, oldest first."""
        found = list(islice(self.rows(wanted, after=after), limit + 1))
        more = len(found) > limit
        return ReceiptPage([receipt for _, receipt in found[:limit]], found[limit - 1][0] if more else None)

    def count(self, wanted: ReceiptFilter, *, after: int = 0) -> int:
        """Return how many receipts after row `after` and up to `last` match."""
        return sum(self.count_matching(wanted, *window) for window in self.windows(wanted, after, self.last))

    def get(self, receipt_id: str) -> dict[str, Any] | None:
        """Return the receipt with this id, or None."""
        found = self.find(receipt_id)
        return None if found is None else self._receipt(*found)

    def get_by_request_id(self, request_id: str) -> dict[str, Any] | None:
        """Return the receipt of the request with this id, or None."""
        found = self.find_by_request(request_id)
        return None if found is None else self._receipt(*found)

    def windows(
        self, wanted: ReceiptFilter, after: int, last: int, *, newest_first: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Yield the first and the last number of each window of rows that may have a match.

        Args:
            wanted: the conditions.
            after: only rows with a greater number.
            last: only rows up to this one.
            newest_first: from the newest window to the oldest.
        """
        lowest = max(after + 1, self.first)
        if newest_first:
            while (top := self._next_row(wanted, last, newest_first=True)) is not None and top >= lowest:
                yield max(lowest, top - WINDOW + 1), top
                last = top - WINDOW
        else:
            while (low := self._next_row(wanted, lowest)) is not None and low <= last:
                yield low, min(low + WINDOW - 1, last)
                lowest = low + WINDOW

    def _next_row(self, wanted: ReceiptFilter, number: int, *, newest_first: bool = False) -> int | None:
        """Return the number of a row from this one on before which none matches; None if none matches from it on."""
        return number

    def _receipt(self, number: int, raw: bytes | str) -> dict[str, Any]:
        try:
            document = parse_json(raw)
        except InvalidDocument as exc:
            raise ConfigurationError(f"row {number} of {self.place} is damaged: {exc.message}") from None
        known = isinstance(document, dict) and (isinstance(document.get("verdict"), dict) or states_erasure(document))
        if not isinstance(document, dict) or not known:
            raise ConfigurationError(f"row {number} of {self.place} is damaged: it holds no receipt")
        return document


def open_archive(place: Place, *, option: str | None = None) -> ReceiptArchive:
    """Open the receipts of a store.

    Args:
        place: the SQLite file of a sidecar, or its database.
        option: the command line option that named it, for error messages.

    Raises:
        ConfigurationError: there is no such store, or it cannot be read.
    """
    if isinstance(place, Path):
        from chio_sidecar.records.reader import ReceiptReader

        return ReceiptReader(place, option=option)
    from chio_sidecar.records.postgresql import DatabaseArchive

    return DatabaseArchive(place, option=option)


def is_withdrawn(place: Place, public_key: str) -> bool:
    """Return True if the key of an issuer was withdrawn in a store; False if no sidecar has opened that yet.

    Args:
        place: the SQLite file of a sidecar, or its database.
        public_key: 64 hex digits.

    Raises:
        ConfigurationError: the store cannot be read.
    """
    if isinstance(place, Path) and (not place.is_file() or not place.stat().st_size):
        return False
    with open_archive(place) as archive:
        return archive.is_revoked(issuer_name(public_key))
