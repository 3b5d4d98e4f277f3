"""What the writer of a SQLite store does inside its transaction.

Each call into SQLite lets other threads run and has to wait for its turn afterwards. A batch is therefore
written with as few statements as possible: one look at the revocations, one at the end of the hash chain, one
INSERT for many receipts.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chio_sidecar.store.base import (
    AppendOutcome,
    ApprovalAnswer,
    ApprovalWait,
    Conflict,
    Exhausted,
    Invocation,
    NewReceipt,
    Obstacle,
    Revoked,
    Stored,
    StoreUnavailable,
)
from chio_sidecar.store.demand_writes import answer, ask, find_obstacle, record
from chio_sidecar.store.hash_chain import MEMBERS, ChainEnd, link


@dataclass(frozen=True, slots=True)
class Append:
    """Store a receipt; gives an `AppendOutcome`. The time is in seconds since 1970."""

    entry: NewReceipt
    time: float


@dataclass(frozen=True, slots=True)
class Revoke:
    """Revoke a capability; gives True when it was not revoked before."""

    capability_id: str
    time: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Keep a question to a person; gives an obstacle or None."""

    wait: ApprovalWait


@dataclass(frozen=True, slots=True)
class Answer:
    """Keep a person's answer; gives an `AnswerOutcome`."""

    given: ApprovalAnswer


@dataclass(frozen=True, slots=True)
class Probe:
    """Write something that means nothing; gives None."""


Write = Append | Revoke | Ask | Answer | Probe

_ROWS_AT_ONCE = 64
_ROW = "(?, ?, ?, ?, ?, ?, ?)"
_INSERT = f"INSERT INTO http_receipts (seq, {MEMBERS}, chain) VALUES "  # noqa: S608 - only constants
_REVOKED = "SELECT capability_id FROM revoked_capabilities WHERE capability_id IN (SELECT value FROM json_each(?))"


def apply(connection: sqlite3.Connection, writes: Sequence[Write]) -> list[Any]:
    """Do all of these inside the open transaction and return what each gives.

    Raises:
        sqlite3.Error: the store failed.
        StoreUnavailable: one of the writes cannot be done; the transaction must be undone.
    """
    results: dict[int, Any] = {}
    end = ChainEnd(connection)
    simple = [index for index, write in enumerate(writes) if _is_simple(write)]
    for start in range(0, len(simple), _ROWS_AT_ONCE):
        indexes = simple[start : start + _ROWS_AT_ONCE]
        entries = [write for index in indexes if isinstance(write := writes[index], Append)]
        results.update(zip(indexes, _append_many(connection, end, entries), strict=True))
    return [results[index] if index in results else _one(connection, end, write) for index, write in enumerate(writes)]


def _is_simple(write: Write) -> bool:
    return isinstance(write, Append) and write.entry.invocation is None and not write.entry.obligations


def _one(connection: sqlite3.Connection, end: ChainEnd, write: Write) -> Any:
    if isinstance(write, Append):
        return _append(connection, end, write)
    if isinstance(write, Revoke):
        return _revoke(connection, write)
    if isinstance(write, Ask):
        return ask(connection, write.wait)
    if isinstance(write, Answer):
        return answer(connection, write.given)
    end.read()  # who cannot go on with the chain cannot store a receipt
    connection.execute("UPDATE write_probe SET probes = probes + 1")
    return None


def _append_many(connection: sqlite3.Connection, end: ChainEnd, writes: list[Append]) -> list[AppendOutcome]:
    named = {name for write in writes for name in write.entry.unless_revoked}
    revoked = _revoked(connection, named)
    clear = [write for write in writes if revoked.isdisjoint(write.entry.unless_revoked)]
    if clear and _insert(connection, end, clear):
        stored = {id(write): Stored(write.entry.receipt_json, fresh=True) for write in clear}
        return [stored.get(id(write)) or _append(connection, end, write) for write in writes]
    return [_append(connection, end, write) for write in writes]


def _append(connection: sqlite3.Connection, end: ChainEnd, write: Append) -> AppendOutcome:
    entry = write.entry
    obstacle = _obstacle(connection, entry)
    if obstacle is not None:
        return _earlier(connection, entry) or obstacle
    if not _insert(connection, end, [write]):
        earlier = _earlier(connection, entry)
        if earlier is None:
            raise StoreUnavailable(f"receipt id {entry.receipt_id} is taken by another request")
        return earlier
    if entry.invocation is not None:
        _spend(connection, entry.invocation, entry.request_id)
    for obligation in entry.obligations:
        record(connection, obligation, entry.request_id)
    return Stored(entry.receipt_json, fresh=True)


def _insert(connection: sqlite3.Connection, end: ChainEnd, writes: list[Append]) -> bool:
    """Insert all of these or, when an id is taken, none."""
    sequence, digest = end.read()
    values: list[str | int] = []
    for write in writes:
        sequence, entry = sequence + 1, write.entry
        created_at = datetime.fromtimestamp(write.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        members = (entry.receipt_id, entry.receipt_json, entry.request_id, entry.fingerprint, created_at)
        digest = link(digest, sequence, members)
        values += (sequence, *members, digest)
    try:
        connection.execute(_INSERT + ", ".join([_ROW] * len(writes)), values)
    except sqlite3.IntegrityError:
        return False
    end.move(sequence, digest)
    return True


def _obstacle(connection: sqlite3.Connection, entry: NewReceipt) -> Revoked | Exhausted | Obstacle | None:
    revoked = _revoked(connection, set(entry.unless_revoked))
    for name in entry.unless_revoked:
        if name in revoked:
            return Revoked(name)
    if entry.invocation is not None and _spent(connection, entry.invocation) >= entry.invocation.limit:
        return Exhausted(entry.invocation)
    for obligation in entry.obligations:
        if (found := find_obstacle(connection, obligation)) is not None:
            return found
    return None


def _revoked(connection: sqlite3.Connection, names: set[str]) -> set[str]:
    """Return which of these capabilities are revoked."""
    if not names:
        return set()
    return {name for (name,) in connection.execute(_REVOKED, (json.dumps(list(names), ensure_ascii=False),))}


def _earlier(connection: sqlite3.Connection, entry: NewReceipt) -> Stored | Conflict | None:
    row = connection.execute(
        "SELECT fingerprint, receipt_json FROM http_receipts WHERE request_id = ?", (entry.request_id,)
    ).fetchone()
    if row is None:
        return None
    return Stored(row[1], fresh=False) if row[0] == entry.fingerprint else Conflict()


def _spent(connection: sqlite3.Connection, invocation: Invocation) -> int:
    (spent,) = connection.execute(
        "SELECT ifnull(max(ordinal), 0) FROM capability_invocations WHERE capability_id = ? AND grant_index = ?",
        (invocation.capability_id, invocation.grant_index),
    ).fetchone()
    return int(spent)


def _spend(connection: sqlite3.Connection, invocation: Invocation, request_id: str) -> None:
    ordinal = _spent(connection, invocation) + 1
    connection.execute(
        "INSERT INTO capability_invocations VALUES (?, ?, ?, ?)",
        (invocation.capability_id, invocation.grant_index, ordinal, request_id),
    )


def _revoke(connection: sqlite3.Connection, write: Revoke) -> bool:
    if _revoked(connection, {write.capability_id}):
        return False
    connection.execute("INSERT INTO revoked_capabilities VALUES (?, ?)", (write.capability_id, int(write.time)))
    return True
