"""What the writer of a store does inside its transaction, in SQL that is not SQLite's alone.

The SQL is standard, with `?` for parameters. Each statement costs: SQLite lets other threads run and waits
for its turn afterwards, a server is a round trip away. A batch is therefore written with as few statements as possible:
one SELECT of revocations, one of the end of the hash chain, one INSERT for many receipts.

An account keeps a running total in each of its rows, and the primary key finds the newest row: a charge costs the same
however long the account is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from chio_sidecar.store import (
    AlreadyRequested,
    AppendOutcome,
    ApprovalRefused,
    ApprovalRequest,
    ApprovalResponse,
    ApprovalUse,
    BudgetExceeded,
    Charge,
    Conflict,
    Exhausted,
    Invocation,
    NewReceipt,
    Obligation,
    Obstacle,
    ResponseOutcome,
    Revoked,
    Stored,
    StoredApproval,
    StoreUnavailable,
    TooManyWaiting,
)
from chio_sidecar.store.hash_chain import link


@dataclass(frozen=True, slots=True)
class Append:
    """Store a receipt; returns an `AppendOutcome`. The time is in seconds since 1970."""

    entry: NewReceipt
    time: float


@dataclass(frozen=True, slots=True)
class Revoke:
    """Revoke a capability; returns True if it was not revoked before."""

    capability_id: str
    time: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Write a row of no meaning; returns None."""


Write = Append | Revoke | ApprovalRequest | ApprovalResponse | Probe

MAX_TOTAL = 2**63 - 1
"""Largest integer of SQLite, and of a bigint."""

ROWS_AT_ONCE = 64
"""Receipts in one INSERT."""

_REVOKED = "SELECT capability_id FROM revoked_capabilities WHERE capability_id IN "
_EARLIER = "SELECT fingerprint, receipt_json FROM http_receipts WHERE request_id = ?"
_SPENT = "SELECT coalesce(max(ordinal), 0) FROM capability_invocations WHERE capability_id = ? AND grant_index = ?"
_ACCOUNT = "SELECT ordinal, total FROM budget_charges WHERE account = ? ORDER BY ordinal DESC LIMIT 1"
_ADD_USE = "INSERT INTO capability_invocations VALUES (?, ?, ?, ?)"
_ADD_CHARGE = "INSERT INTO budget_charges VALUES (?, ?, ?, ?, ?)"

_APPROVAL = """
SELECT p.approval_id, p.intent_hash, p.request_json, p.created_at, p.expires_at,
       r.outcome, r.approver, r.token_id, r.token_json, r.resolved_at, r.expires_at, r.reason, c.request_id
FROM chio_hitl_pending p
LEFT JOIN chio_hitl_resolved r ON r.approval_id = p.approval_id
LEFT JOIN chio_hitl_consumed_tokens c ON c.approval_id = p.approval_id
"""
SELECT_ONE = f"{_APPROVAL} WHERE p.approval_id = ?"
"""Parameter: the id."""

SELECT_OPEN = f"{_APPROVAL} WHERE p.expires_at > ? AND r.approval_id IS NULL ORDER BY p.seq LIMIT ?"
"""Parameters: now, and the largest number of rows."""

_OF_INTENT = f"{_APPROVAL} WHERE p.intent_hash = ? ORDER BY p.seq DESC LIMIT 1"
_COUNT_OPEN = """
SELECT count(*), coalesce(sum(CASE WHEN requester = ? THEN 1 ELSE 0 END), 0) FROM chio_hitl_pending p
WHERE expires_at > ? AND NOT EXISTS (SELECT 1 FROM chio_hitl_resolved r WHERE r.approval_id = p.approval_id)
"""


class Connection(Protocol):
    """A connection to the database, inside a transaction that excludes writers of the same rows."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any:
        """Run a statement and return its cursor, whose rows are tuples."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """A receipt on its place in the chain.

    Attributes:
        members: receipt id, receipt JSON, request id, fingerprint and `created_at`, as the digest covers them.
    """

    sequence: int
    members: tuple[str, str, str, str, str]
    digest: str


class Log(Protocol):
    """The hash chain that a transaction appends to."""

    def end(self) -> tuple[int, str]:
        """Return sequence and digest of the newest row. Raises the database's error if the chain cannot go on."""
        ...

    def insert(self, rows: Sequence[Row]) -> bool:
        """Insert all of these rows after the end or, if an id is taken, none; return True for all."""
        ...

    def probe(self) -> None:
        """Write a row of no meaning."""
        ...


def members_of(write: Append) -> tuple[str, str, str, str, str]:
    """Return the members of a `Row` for a receipt."""
    entry = write.entry
    created_at = datetime.fromtimestamp(write.time, UTC).isoformat(timespec="microseconds")[:-6] + "Z"
    return entry.receipt_id, entry.receipt_json, entry.request_id, entry.fingerprint, created_at


def chained(end: tuple[int, str], writes: Sequence[Append]) -> list[Row]:
    """Return the rows that these receipts become after a row with this sequence and digest.

    Raises:
        UnicodeEncodeError: a text has no UTF-8.
    """
    rows: list[Row] = []
    sequence, digest = end
    for write in writes:
        sequence, members = sequence + 1, members_of(write)
        digest = link(digest, sequence, members)
        rows.append(Row(sequence, members, digest))
    return rows


def apply(connection: Connection, receipts: Log, writes: Sequence[Write]) -> list[Any]:
    """Do all of these inside the open transaction and return the result of each.

    Raises:
        StoreUnavailable: one of the writes cannot be done; the transaction must be undone. Other exceptions are those
            of the database.
    """
    results: dict[int, Any] = {}
    # Receipts without conditions share statements; they come first.
    simple = [
        (index, write)
        for index, write in enumerate(writes)
        if isinstance(write, Append) and write.entry.invocation is None and not write.entry.obligations
    ]
    for start in range(0, len(simple), ROWS_AT_ONCE):
        some = simple[start : start + ROWS_AT_ONCE]
        revoked = _revoked(connection, {name for _, write in some for name in write.entry.unless_revoked})
        clear = [(index, write) for index, write in some if revoked.isdisjoint(write.entry.unless_revoked)]
        if clear and receipts.insert(chained(receipts.end(), [write for _, write in clear])):
            results.update((index, Stored(write.entry.receipt_json, fresh=True)) for index, write in clear)
    for index, write in enumerate(writes):
        if index not in results:
            results[index] = _apply_one(connection, receipts, write)
    return [results[index] for index in range(len(writes))]


def _apply_one(connection: Connection, receipts: Log, write: Write) -> Any:
    if isinstance(write, Append):
        return _append(connection, receipts, write)
    if isinstance(write, ApprovalRequest):
        obstacle = _find_obstacle(connection, write)
        if obstacle is None:
            _record(connection, write, "")
        return obstacle
    if isinstance(write, ApprovalResponse):
        return _respond(connection, write)
    if isinstance(write, Revoke):
        if _revoked(connection, {write.capability_id}):
            return False
        row = (write.capability_id, int(write.time))
        connection.execute("INSERT INTO revoked_capabilities VALUES (?, ?)", row)
        return True
    receipts.end()  # a store whose chain cannot go on cannot store a receipt
    receipts.probe()
    return None


def _append(connection: Connection, receipts: Log, write: Append) -> AppendOutcome:
    """Check the conditions of one receipt, store it, and record what it spends."""
    entry = write.entry

    def earlier() -> Stored | Conflict | None:
        row = connection.execute(_EARLIER, (entry.request_id,)).fetchone()
        if row is None:
            return None
        return Stored(row[1], fresh=False) if row[0] == entry.fingerprint else Conflict()

    obstacle: Revoked | Obstacle | None = None
    revoked = _revoked(connection, set(entry.unless_revoked))
    if revoked:
        obstacle = Revoked(next(name for name in entry.unless_revoked if name in revoked))
    else:
        own = () if entry.invocation is None else (entry.invocation,)
        found = (_find_obstacle(connection, obligation) for obligation in (*own, *entry.obligations))
        obstacle = next((one for one in found if one is not None), None)
    if obstacle is not None:
        return earlier() or obstacle

    if not receipts.insert(chained(receipts.end(), [write])):
        known = earlier()
        if known is None:
            raise StoreUnavailable(f"receipt id {entry.receipt_id} is taken by another request")
        return known
    if entry.invocation is not None:
        _record(connection, entry.invocation, entry.request_id)
    for obligation in entry.obligations:
        _record(connection, obligation, entry.request_id)
    return Stored(entry.receipt_json, fresh=True)


def _revoked(connection: Connection, names: set[str]) -> set[str]:
    """Return the revoked ones of these capabilities."""
    if not names:
        return set()
    marks = ", ".join("?" * len(names))
    return {name for (name,) in connection.execute(f"{_REVOKED}({marks})", tuple(names))}


def _spent(connection: Connection, invocation: Invocation) -> int:
    (spent,) = connection.execute(_SPENT, (invocation.capability_id, invocation.grant_index)).fetchone()
    return int(spent)


def _find_obstacle(connection: Connection, obligation: Obligation) -> Obstacle | None:
    """Return why an obligation cannot be recorded; None if it can."""
    if isinstance(obligation, Invocation):
        return Exhausted(obligation) if _spent(connection, obligation) >= obligation.limit else None
    if isinstance(obligation, Charge):
        count, total = _account(connection, obligation.account)
        if obligation.max_invocations is not None and count >= obligation.max_invocations:
            return BudgetExceeded(obligation, "invocations", 0)
        most = MAX_TOTAL if obligation.max_total is None else obligation.max_total
        if obligation.cost > most - total:
            return BudgetExceeded(obligation, "total", max(most - total, 0))
        return None
    if isinstance(obligation, ApprovalUse):
        return _refused(connection, obligation)
    found = _find(connection, _OF_INTENT, obligation.intent_hash)
    if found is not None and found.used_by is None:
        until = found.expires_at if found.response is None else found.response.expires_at
        if until > obligation.created_at:
            denied = found.response is not None and found.response.outcome == "denied"
            return AlreadyRequested(found.approval_id, denied)
    waiting, own = connection.execute(_COUNT_OPEN, (obligation.requester, obligation.created_at)).fetchone()
    if own >= obligation.max_open_each:
        return TooManyWaiting(obligation.max_open_each, own=True)
    return TooManyWaiting(obligation.max_open, own=False) if waiting >= obligation.max_open else None


def _refused(connection: Connection, use: ApprovalUse) -> ApprovalRefused | None:
    """Return why an approval cannot be used."""
    found = _find(connection, SELECT_ONE, use.approval_id)
    if found is None:
        return ApprovalRefused(use.approval_id, "unknown")
    if found.intent_hash != use.intent_hash:
        return ApprovalRefused(use.approval_id, "another request")
    if found.used_by is not None:
        return ApprovalRefused(use.approval_id, "used")
    if found.response is not None:
        if found.response.outcome == "denied":
            return ApprovalRefused(use.approval_id, "denied")
        # A presented token was checked before; the stored response must not have expired either.
        return ApprovalRefused(use.approval_id, "expired") if found.response.expires_at <= use.at else None
    if found.expires_at <= use.at:
        return ApprovalRefused(use.approval_id, "expired")
    if use.token is None:
        return ApprovalRefused(use.approval_id, "waiting")
    return ApprovalRefused(use.approval_id, "replayed") if _is_known_token(connection, use.token.token_id) else None


def _record(connection: Connection, obligation: Obligation, request_id: str) -> None:
    """Record an obligation that has no obstacle, for a request."""
    if isinstance(obligation, Invocation):
        used = (obligation.capability_id, obligation.grant_index, _spent(connection, obligation) + 1, request_id)
        connection.execute(_ADD_USE, used)
        return
    if isinstance(obligation, Charge):
        count, total = _account(connection, obligation.account)
        row = (obligation.account, count + 1, obligation.cost, total + obligation.cost, request_id)
        connection.execute(_ADD_CHARGE, row)
    elif isinstance(obligation, ApprovalUse):
        found = _find(connection, SELECT_ONE, obligation.approval_id)
        response = obligation.token if found is None or found.response is None else found.response
        if response is None:
            raise StoreUnavailable(f"approval {obligation.approval_id} was never given")
        if response is obligation.token:
            _insert_response(connection, response)
        connection.execute(
            "INSERT INTO chio_hitl_consumed_tokens VALUES (?, ?, ?, ?)",
            (obligation.approval_id, response.token_id, request_id, obligation.at),
        )
    else:
        connection.execute(
            "INSERT INTO chio_hitl_pending"
            " (approval_id, intent_hash, requester, request_json, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            (
                obligation.approval_id,
                obligation.intent_hash,
                obligation.requester,
                obligation.request_json,
                obligation.created_at,
                obligation.expires_at,
            ),
        )


def _respond(connection: Connection, response: ApprovalResponse) -> ResponseOutcome:
    """Record a response if its approval request is pending and its token new."""
    found = _find(connection, SELECT_ONE, response.approval_id)
    if found is None:
        return "unknown"
    if found.response is not None:
        # The same token again is no second opinion.
        return "replayed" if found.response.token_id == response.token_id else "resolved"
    if found.expires_at <= response.resolved_at:
        return "expired"
    if _is_known_token(connection, response.token_id):
        return "replayed"
    _insert_response(connection, response)
    return "recorded"


def _insert_response(connection: Connection, response: ApprovalResponse) -> None:
    connection.execute(
        "INSERT INTO chio_hitl_resolved"
        " (approval_id, outcome, reason, approver, token_id, token_json, resolved_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            response.approval_id,
            response.outcome,
            response.reason,
            response.approver,
            response.token_id,
            response.token_json,
            response.resolved_at,
            response.expires_at,
        ),
    )


def _account(connection: Connection, account: str) -> tuple[int, int]:
    """Return the number of charges of an account, and their sum."""
    row = connection.execute(_ACCOUNT, (account,)).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _is_known_token(connection: Connection, token_id: str) -> bool:
    return connection.execute("SELECT 1 FROM chio_hitl_resolved WHERE token_id = ?", (token_id,)).fetchone() is not None


def _find(connection: Connection, sql: str, value: str) -> StoredApproval | None:
    row = connection.execute(sql, (value,)).fetchone()
    return None if row is None else approval_from_row(row)


def approval_from_row(row: tuple[Any, ...]) -> StoredApproval:
    """Read a row of `SELECT_ONE` or `SELECT_OPEN`."""
    approval_id, intent_hash, request_json, created_at, expires_at, outcome, *more, used_by = row
    response = None if outcome is None else ApprovalResponse(approval_id, outcome, *more)
    return StoredApproval(approval_id, intent_hash, request_json, created_at, expires_at, response, used_by)
