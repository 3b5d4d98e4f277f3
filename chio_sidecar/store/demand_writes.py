"""What the writer of a SQLite store does for demands, inside its transaction; and how approvals are read.

An account keeps a running total in each of its rows, and the newest row is found by the primary key, so a charge
costs the same however long the account is.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from chio_sidecar.store.base import (
    AlreadyAsked,
    AnswerOutcome,
    ApprovalAnswer,
    ApprovalRefused,
    ApprovalUse,
    ApprovalWait,
    BudgetExceeded,
    Charge,
    Obligation,
    Obstacle,
    StoredApproval,
    TooManyWaiting,
)

MAX_TOTAL = 2**63 - 1
"""What SQLite can count."""

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
"""Parameters: now, and how many."""

_OF_INTENT = f"{_APPROVAL} WHERE p.intent_hash = ? ORDER BY p.seq DESC LIMIT 1"
_COUNT_OPEN = """
SELECT count(*), ifnull(sum(requester = ?), 0) FROM chio_hitl_pending p
WHERE expires_at > ? AND NOT EXISTS (SELECT 1 FROM chio_hitl_resolved r WHERE r.approval_id = p.approval_id)
"""
_LAST_CHARGE = "SELECT ordinal, total FROM budget_charges WHERE account = ? ORDER BY ordinal DESC LIMIT 1"


def approval_from_row(row: tuple[Any, ...]) -> StoredApproval:
    """Read a row of `SELECT_ONE` or `SELECT_OPEN`."""
    approval_id, intent_hash, request_json, created_at, expires_at, outcome, *more, used_by = row
    answer = None if outcome is None else ApprovalAnswer(approval_id, outcome, *more)
    return StoredApproval(approval_id, intent_hash, request_json, created_at, expires_at, answer, used_by)


def find_obstacle(connection: sqlite3.Connection, obligation: Obligation) -> Obstacle | None:
    """Return what stands in the way of a demand; None if it can be recorded."""
    if isinstance(obligation, Charge):
        return _exceeded(connection, obligation)
    if isinstance(obligation, ApprovalUse):
        return _refused(connection, obligation)
    return _asked(connection, obligation)


def record(connection: sqlite3.Connection, obligation: Obligation, request_id: str) -> None:
    """Record a demand that nothing stands in the way of."""
    if isinstance(obligation, Charge):
        _charge(connection, obligation, request_id)
    elif isinstance(obligation, ApprovalUse):
        _use(connection, obligation, request_id)
    else:
        _ask(connection, obligation)


def ask(connection: sqlite3.Connection, wait: ApprovalWait) -> AlreadyAsked | TooManyWaiting | None:
    """Record a question by itself; None when it is new."""
    obstacle = _asked(connection, wait)
    if obstacle is None:
        _ask(connection, wait)
    return obstacle


def answer(connection: sqlite3.Connection, given: ApprovalAnswer) -> AnswerOutcome:
    """Record an answer, if the question is open and the token new."""
    found = _find(connection, SELECT_ONE, given.approval_id)
    if found is None:
        return "unknown"
    if found.answer is not None:
        # The very token again is told apart from a second opinion.
        return "replayed" if found.answer.token_id == given.token_id else "answered"
    if found.expires_at <= given.resolved_at:
        return "expired"
    if _is_known_token(connection, given.token_id):
        return "replayed"
    _answer(connection, given)
    return "recorded"


def _exceeded(connection: sqlite3.Connection, charge: Charge) -> BudgetExceeded | None:
    count, total = _account(connection, charge.account)
    if charge.max_invocations is not None and count >= charge.max_invocations:
        return BudgetExceeded(charge, "invocations", 0)
    most = MAX_TOTAL if charge.max_total is None else charge.max_total
    if charge.cost > most - total:
        return BudgetExceeded(charge, "total", max(most - total, 0))
    return None


def _charge(connection: sqlite3.Connection, charge: Charge, request_id: str) -> None:
    count, total = _account(connection, charge.account)
    row = (charge.account, count + 1, charge.cost, total + charge.cost, request_id)
    connection.execute("INSERT INTO budget_charges VALUES (?, ?, ?, ?, ?)", row)


def _account(connection: sqlite3.Connection, account: str) -> tuple[int, int]:
    row = connection.execute(_LAST_CHARGE, (account,)).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _refused(connection: sqlite3.Connection, use: ApprovalUse) -> ApprovalRefused | None:
    found = _find(connection, SELECT_ONE, use.approval_id)
    if found is None:
        return ApprovalRefused(use.approval_id, "unknown")
    if found.intent_hash != use.intent_hash:
        return ApprovalRefused(use.approval_id, "another request")
    if found.used_by is not None:
        return ApprovalRefused(use.approval_id, "used")
    if found.answer is not None:
        return _answered(found.answer, use)
    if found.expires_at <= use.at:
        return ApprovalRefused(use.approval_id, "expired")
    if use.token is None:
        return ApprovalRefused(use.approval_id, "waiting")
    return ApprovalRefused(use.approval_id, "replayed") if _is_known_token(connection, use.token.token_id) else None


def _answered(given: ApprovalAnswer, use: ApprovalUse) -> ApprovalRefused | None:
    if given.outcome == "denied":
        return ApprovalRefused(use.approval_id, "denied")
    # A token that is presented was checked by itself; the answer that is kept must not have grown old either.
    return ApprovalRefused(use.approval_id, "expired") if given.expires_at <= use.at else None


def _use(connection: sqlite3.Connection, use: ApprovalUse, request_id: str) -> None:
    found = _find(connection, SELECT_ONE, use.approval_id)
    given = use.token if found is None or found.answer is None else found.answer
    if given is None:
        raise sqlite3.IntegrityError(f"approval {use.approval_id} was never given")
    if given is use.token:
        _answer(connection, given)
    connection.execute(
        "INSERT INTO chio_hitl_consumed_tokens VALUES (?, ?, ?, ?)",
        (use.approval_id, given.token_id, request_id, use.at),
    )


def _asked(connection: sqlite3.Connection, wait: ApprovalWait) -> AlreadyAsked | TooManyWaiting | None:
    found = _find(connection, _OF_INTENT, wait.intent_hash)
    if found is not None and found.used_by is None:
        until = found.expires_at if found.answer is None else found.answer.expires_at
        if until > wait.created_at:
            denied = found.answer is not None and found.answer.outcome == "denied"
            return AlreadyAsked(found.approval_id, denied)
    waiting, own = connection.execute(_COUNT_OPEN, (wait.requester, wait.created_at)).fetchone()
    if own >= wait.max_open_each:
        return TooManyWaiting(wait.max_open_each, own=True)
    return TooManyWaiting(wait.max_open, own=False) if waiting >= wait.max_open else None


def _ask(connection: sqlite3.Connection, wait: ApprovalWait) -> None:
    connection.execute(
        "INSERT INTO chio_hitl_pending"
        " (approval_id, intent_hash, requester, request_json, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
        (wait.approval_id, wait.intent_hash, wait.requester, wait.request_json, wait.created_at, wait.expires_at),
    )


def _answer(connection: sqlite3.Connection, given: ApprovalAnswer) -> None:
    connection.execute(
        "INSERT INTO chio_hitl_resolved"
        " (approval_id, outcome, reason, approver, token_id, token_json, resolved_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            given.approval_id,
            given.outcome,
            given.reason,
            given.approver,
            given.token_id,
            given.token_json,
            given.resolved_at,
            given.expires_at,
        ),
    )


def _is_known_token(connection: sqlite3.Connection, token_id: str) -> bool:
    return connection.execute("SELECT 1 FROM chio_hitl_resolved WHERE token_id = ?", (token_id,)).fetchone() is not None


def _find(connection: sqlite3.Connection, sql: str, value: str) -> StoredApproval | None:
    row = connection.execute(sql, (value,)).fetchone()
    return None if row is None else approval_from_row(row)
