"""The receipts of a store for the viewer: newest first, damaged ones included.

Each call opens the store, reads a bounded number of rows, and returns where the next call continues.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chio_sidecar.records.archive import ReceiptArchive, ReceiptFilter, StoredText, open_archive
from chio_sidecar.store.place import Place
from chio_sidecar.store.statements import ERASURE

PAGE = 200
"""Most receipts in one listing."""

MOST_TEXT = 16 * 1024 * 1024
"""Most characters of receipts that one call returns."""

COUNTED = 10_000
"""Most receipts that one tally counts."""

BARS = 48
"""Most spans of time in one tally."""

ERASED = "erased"
"""The verdict that is shown of an erased receipt."""

_ROUTES = 20
_WIDTHS = (1, 5, 15, 60, 300, 900, 3_600, 4 * 3_600, 86_400, 7 * 86_400)  # seconds of one bar; then whole multiples
_LONGEST = 400  # characters of one cell; a path is its sender's to choose
_EXACT = 2**53  # a browser rounds larger numbers

_CELLS = {
    "verdict": "verdict.verdict",
    "method": "method",
    "route": "route_pattern",
    "caller": "caller_identity_hash",
    "capability": "capability_id",
    "status": "response_status",
    "timestamp": "timestamp",
    "observed": "metadata.chio_enforcement",
    "format": "format",
}


@dataclass(frozen=True)
class Listing:
    """Some receipts as rows of a table, newest first.

    Attributes:
        next: row number to continue below; None if no older row is left.
        newest: number of the newest row, which is the number of receipts in the store.
    """

    rows: list[dict[str, Any]]
    next: int | None
    newest: int


@dataclass(frozen=True)
class Count:
    """How many of the scanned rows match; `next` as in `Listing`."""

    matched: int
    scanned: int
    next: int | None


@dataclass(frozen=True)
class Texts:
    """Exact texts of receipts, newest first; `complete` if no more match."""

    texts: list[str]
    complete: bool


@dataclass(frozen=True)
class Tally:
    """The verdicts of the newest matches.

    Attributes:
        counted: number of the receipts that were counted.
        complete: True if no older one matches.
        scanned: number of the newest rows that were passed, if that was all that one call may pass; else None.
        start: time of the first bar, in seconds since 1970.
        width: seconds of one bar.
        bars: number of receipts by verdict, for each span of time.
        routes: `method`, `route` and `verdicts` of those with the most receipts; `verdicts` as in `bars`.
    """

    counted: int
    complete: bool
    scanned: int | None
    start: int
    width: int
    bars: list[dict[str, int]]
    routes: list[dict[str, Any]]


class ReceiptWindow:
    """The receipts of a store, newest first; each call sees what is committed by then. Threads may share it.

    Every method raises `ConfigurationError` if the file cannot be read as a receipt store.

    Args:
        path: the SQLite file of a sidecar, or its database.
        scan: most rows that one call reads; None: as many as the store states.
    """

    def __init__(self, path: Place, *, scan: int | None = None) -> None:
        self._path = path.absolute() if isinstance(path, Path) else path
        self._scan = scan

    def newest(self) -> int:
        """Return the number of the newest row, 0 for an empty store."""
        with open_archive(self._path) as archive:
            return archive.newest()

    def list(self, wanted: ReceiptFilter, *, after: int = 0, before: int | None = None, limit: int = PAGE) -> Listing:
        """Return at most `limit` matches between two rows, both excluded, newest first."""
        with open_archive(self._path) as archive:
            newest = archive.newest()
            found: list[dict[str, Any]] = []
            low = after + 1
            for low, high in self._windows(
                archive, wanted, after, newest if before is None else min(before - 1, newest)
            ):
                rows = archive.cells(wanted, low, high, limit=limit - len(found), paths=list(_CELLS.values()))
                found += [_table_row(*row) for row in rows]
                if len(found) >= limit:
                    low = found[-1]["seq"]
                    break
            return Listing(found, low if low > max(after + 1, archive.first) else None, newest)

    def count(self, wanted: ReceiptFilter, *, before: int | None = None) -> Count:
        """Count the matches among the next rows below `before`."""
        with open_archive(self._path) as archive:
            newest = archive.newest()
            top = newest if before is None else min(before - 1, newest)
            matched, low = 0, top + 1
            for low, high in self._windows(archive, wanted, 0, top):
                matched += archive.count_matching(wanted, low, high, tolerant=True)
            return Count(matched, top + 1 - low, low if low > archive.first else None)

    def tally(self, wanted: ReceiptFilter, *, limit: int = COUNTED) -> Tally:
        """Count the verdicts of the newest matches, over time and by route."""
        paths = [_CELLS[name] for name in ("timestamp", "verdict", "method", "route", "format")]
        with open_archive(self._path) as archive:
            found: list[list[Any]] = []
            newest, first = archive.newest(), archive.first
            low = first
            for low, high in self._windows(archive, wanted, 0, newest):
                rows = archive.cells(wanted, low, high, limit=limit + 1 - len(found), paths=paths)
                found += [_cells_of(cells) for _, _, cells in rows]
                if len(found) > limit:
                    break
        complete = len(found) <= limit and low <= first
        scanned = None if complete or len(found) > limit else newest - low + 1
        return _tally(found[:limit], complete=complete, scanned=scanned)

    def open(self, receipt_id: str) -> StoredText | None:
        """Return the receipt with this id, its text cut after `MOST_TEXT` characters, or None."""
        with open_archive(self._path) as archive:
            return archive.stored_text(receipt_id, most=MOST_TEXT)

    def texts(self, wanted: ReceiptFilter, *, limit: int) -> Texts:
        """Return the exact texts of the newest matches: at most `limit`, and at most `MOST_TEXT` characters.

        Without `scan` it reads on to the oldest row if fewer match: what a list has found must not be missing here.
        """
        with open_archive(self._path) as archive:
            texts: list[str] = []
            size, low = 0, archive.first
            newest = archive.newest()
            for low, high in self._windows(archive, wanted, 0, newest, scan=self._scan or newest):
                for text in archive.texts(wanted, low, high, limit=limit + 1 - len(texts)):
                    size += len(text)
                    if len(texts) == limit or (texts and size > MOST_TEXT):
                        return Texts(texts, complete=False)
                    texts.append(text)
            # Rows that are archived may match too, unless those that follow them were signed before the time asked for.
            before = None if wanted.since is None else ReceiptFilter(until=wanted.since - 1)
            older = any(
                before is None or not archive.count_matching(before, number, number, tolerant=True)
                for number in archive.after_archived()
            )
            return Texts(texts, complete=low <= archive.first and not older)

    def _windows(
        self, archive: ReceiptArchive, wanted: ReceiptFilter, after: int, top: int, *, scan: int | None = None
    ) -> Iterator[tuple[int, int]]:
        # From `top` down to the row above `after`, and no further than one call may read.
        left = scan or self._scan or archive.most_scanned(wanted)
        for first, last in archive.windows(wanted, after, top, newest_first=True):
            low = max(first, last - left + 1)
            yield low, last
            left -= last - low + 1
            if left <= 0:
                return


def _table_row(sequence: int, receipt_id: str, cells: str) -> dict[str, Any]:
    """Return the cells of a receipt by name; `damaged` is among them if it holds no verdict."""
    try:
        values = dict(zip(_CELLS, json.loads(cells), strict=True))
    except (ValueError, RecursionError):
        values = {}
    row: dict[str, Any] = dict.fromkeys(_CELLS)
    for name, value in values.items():
        is_number = name in ("status", "timestamp") and type(value) is int and abs(value) < _EXACT
        if value is not None:
            row[name] = value if is_number else (value if isinstance(value, str) else json.dumps(value))[:_LONGEST]
    mode = values.get("observed")
    if row.pop("format") == ERASURE:
        row["verdict"] = ERASED
    row["observed"] = (mode.get("mode") if isinstance(mode, dict) else mode) == "observe"
    damaged = {} if row["verdict"] is not None else {"damaged": True}
    return {"seq": sequence, "id": receipt_id[:_LONGEST], **row, **damaged}


def _cells_of(text: str) -> list[Any]:
    try:
        cells: list[Any] = json.loads(text)
    except (ValueError, RecursionError):
        cells = [None] * 5
    return cells


def _tally(found: list[list[Any]], *, complete: bool, scanned: int | None) -> Tally:
    """Return the tally of receipts that are given by time, verdict, method, route and format."""
    times = [time for time, *_ in found if type(time) is int and 0 <= time < _EXACT]
    first, last = min(times, default=0), max(times, default=0)
    width = next((one for one in _WIDTHS if (last - first) // one < BARS - 1), 0) or (last - first) // (BARS - 2) + 1
    start = first - first % width
    bars: list[Counter[str]] = [Counter() for _ in range((last - start) // width + 1 if times else 0)]
    routes: dict[tuple[str, str], Counter[str]] = {}
    for time, verdict, method, route, form in found:
        is_erased = form == ERASURE
        word = verdict[:_LONGEST] if isinstance(verdict, str) else ERASED if is_erased else "damaged"
        if type(time) is int and 0 <= time < _EXACT:
            bars[(time - start) // width][word] += 1
        if is_erased:
            continue  # its route is erased too
        named = tuple(part[:_LONGEST] if isinstance(part, str) else "" for part in (method, route))
        routes.setdefault((named[0], named[1]), Counter())[word] += 1
    most = sorted(routes.items(), key=lambda one: (-one[1].total(), one[0]))[:_ROUTES]
    return Tally(
        len(found),
        complete,
        scanned,
        start,
        width,
        [dict(bar) for bar in bars],
        [{"method": method, "route": route, "verdicts": dict(counts)} for (method, route), counts in most],
    )
