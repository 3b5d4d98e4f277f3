"""Holding what the store records beside receipts against them: uses of grants, charges, and approvals.

Revocations have nothing to be held against: a receipt says nothing about what was not revoked at its time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_core.signing import verify_signature
from chio_sidecar.policy.approvals import intent_hash, read_token
from chio_sidecar.policy.rules import Refused
from chio_sidecar.records.fsck_chain import Finding
from chio_sidecar.records.fsck_file import in_pages

_NO_RECEIPT = "NOT EXISTS (SELECT 1 FROM http_receipts r WHERE r.request_id = t.request_id)"

# Each gives what a row is about, as far as it has words for it.
_USES = "SELECT capability_id || ' grant ' || grant_index || ' use ' || ordinal FROM capability_invocations t"
_CHARGES = "SELECT account || ' charge ' || ordinal FROM budget_charges t"
_CONSUMED = "SELECT approval_id FROM chio_hitl_consumed_tokens t"
_RESOLVED = "SELECT approval_id FROM chio_hitl_resolved t"

_UNBOUND = "the request that it names has no receipt: a receipt is gone, or this row was changed"
_UNCOUNTED = "its number does not follow on the one before: a row is gone, or this one was changed"
_UNSUMMED = "its total is not the total before and its cost: this row was changed, or one before it is gone"
_UNASKED = "nobody asked what it answers: the question is gone, or this row was changed"
_UNGIVEN = "the use of an approval that was not given by that token: the answer is gone, or this row was changed"

_CHECKS: tuple[tuple[str, str, str, str], ...] = (
    ("capability_invocations", _USES, f"WHERE {_NO_RECEIPT}", _UNBOUND),
    (
        "capability_invocations",
        _USES,
        "WHERE ordinal <> 1 AND NOT EXISTS (SELECT 1 FROM capability_invocations b WHERE b.ordinal = t.ordinal - 1"
        " AND b.capability_id = t.capability_id AND b.grant_index = t.grant_index)",
        _UNCOUNTED,
    ),
    ("budget_charges", _CHARGES, f"WHERE {_NO_RECEIPT}", _UNBOUND),
    (
        "budget_charges",
        _CHARGES,
        "WHERE ordinal <> 1 AND NOT EXISTS"
        " (SELECT 1 FROM budget_charges b WHERE b.account = t.account AND b.ordinal = t.ordinal - 1)",
        _UNCOUNTED,
    ),
    (
        "budget_charges",
        _CHARGES,
        "WHERE cost < 0 OR total IS NOT cost + ifnull("
        "(SELECT total FROM budget_charges b WHERE b.account = t.account AND b.ordinal = t.ordinal - 1), 0)",
        _UNSUMMED,
    ),
    ("chio_hitl_consumed_tokens", _CONSUMED, f"WHERE {_NO_RECEIPT}", _UNBOUND),
    (
        "chio_hitl_consumed_tokens",
        _CONSUMED,
        "WHERE NOT EXISTS (SELECT 1 FROM chio_hitl_resolved a WHERE a.approval_id = t.approval_id"
        " AND a.token_id = t.token_id AND a.outcome = 'approved')",
        _UNGIVEN,
    ),
    (
        "chio_hitl_resolved",
        _RESOLVED,
        "WHERE NOT EXISTS (SELECT 1 FROM chio_hitl_pending q WHERE q.approval_id = t.approval_id)",
        _UNASKED,
    ),
)

_PAGE = "rowid BETWEEN ? AND ? ORDER BY rowid LIMIT ?"
_EVERYTHING = range(-(2**63), 2**63)
_QUESTIONS = f"""
SELECT rowid, approval_id, intent_hash, created_at, expires_at, request_json FROM chio_hitl_pending WHERE {_PAGE}
"""  # noqa: S608 - only constants are put together
_QUESTION_MEMBERS = ("approval_id", "governed_intent_hash", "created_at", "expires_at")
_ANSWERS = f"""
SELECT rowid, approval_id, token_id, outcome, approver, expires_at,
       (SELECT intent_hash FROM chio_hitl_pending q WHERE q.approval_id = a.approval_id), token_json
FROM chio_hitl_resolved a WHERE {_PAGE}
"""  # noqa: S608 - only constants are put together
_OTHER_QUESTION = "its columns say something else than the question in it"
_OTHER_ANSWER = "its columns, or the question, say something else than the token in it"
_FORGED = "the signature of its token does not verify"
_CONSUMED_BY = "SELECT 1 FROM chio_hitl_consumed_tokens WHERE approval_id = ? AND request_id = ?"


def check_records(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Yield what does not fit to the receipts, or to itself.

    Raises:
        sqlite3.Error: a table cannot be read.
    """
    for table, select, condition, text in _CHECKS:
        for (about,) in connection.execute(f"{select} {condition}"):
            yield Finding("record", f"{table}, {about}", text)
    for _, approval_id, *columns, text in in_pages(connection, _QUESTIONS, _EVERYTHING):
        document = _parsed(text)
        said = [document.get(name) for name in _QUESTION_MEMBERS]
        if said != [approval_id, *columns] or _hash_of_intent(document) != columns[0]:
            yield Finding("record", f"chio_hitl_pending, {approval_id}", _OTHER_QUESTION)
    for _, approval_id, *columns, text in in_pages(connection, _ANSWERS, _EVERYTHING):
        if (wrong := _judge_answer([approval_id, *columns], text)) is not None:
            yield Finding("record", f"chio_hitl_resolved, {approval_id}", wrong)


def is_use_known(connection: sqlite3.Connection, approval_id: str, request_id: str) -> bool:
    """Tell whether a store records that an approval was used by a request; True when the table cannot be read.

    That table is a finding of its own then, and not one of each receipt.
    """
    try:
        return connection.execute(_CONSUMED_BY, (approval_id, request_id)).fetchone() is not None
    except (sqlite3.Error, UnicodeError):
        return True


def _judge_answer(columns: list[Any], text: object) -> str | None:
    try:
        token = read_token(_parsed(text))
    except Refused as exc:
        return exc.reason
    said = [token.request_id, token.id, token.decision, token.approver, token.expires_at, token.governed_intent_hash]
    if said != columns and columns[-1] is not None:  # a question that is gone was told already
        return _OTHER_ANSWER
    return None if verify_signature(token.approver, token.signed(), token.signature) else _FORGED


def _hash_of_intent(question: dict[str, Any]) -> str | None:
    try:
        return intent_hash(question.get("governed_intent"))
    except InvalidDocument:
        return None


def _parsed(text: object) -> dict[str, Any]:
    try:
        document = parse_json(text) if isinstance(text, str) else None
    except InvalidDocument:
        return {}
    return document if isinstance(document, dict) else {}


UseKnown = Callable[[str, str], bool]
"""Tells whether the store records that an approval (its id) was used by a request (its id)."""

_MOST_KEYS = 16
_APPROVAL_ID = "chio_approval_id"
_UNUSED = "it allowed a request by an approval, and no use of that approval is recorded, so it could be used again"


class ReceiptCheck:
    """Verifies receipts, and compares the columns beside them.

    Args:
        trusted_keys: public keys in hex that may have signed; None: any.
        use_known: looks up the use of an approval; None where the store keeps none.

    Attributes:
        keys: who signed.
    """

    def __init__(self, trusted_keys: Collection[str] | None, use_known: UseKnown | None) -> None:
        self._trusted = trusted_keys
        self._use_known = use_known
        self.keys: list[str] = []

    def row(self, sequence: int, receipt_id: str, text: str, request_id: str) -> Iterator[Finding]:
        """Yield what is wrong with one row."""
        place = f"row {sequence}"
        try:
            receipt = parse_json(text)
            if not isinstance(receipt, dict):
                raise InvalidDocument("it holds no JSON object")
            key = verify_receipt(receipt, trusted_keys=self._trusted).kernel_key
        except (InvalidDocument, ReceiptRejected) as exc:
            yield Finding("signature", place, f"its receipt does not verify: {exc.message}", sequence)
            return
        if key not in self.keys and len(self.keys) < _MOST_KEYS:
            self.keys.append(key)
        for name, column in (("id", receipt_id), ("request_id", request_id)):
            if receipt.get(name) != column:
                yield Finding("column", place, f"its column {name} says something else than its receipt", sequence)
        if self._is_unrecorded(receipt):
            yield Finding("record", place, _UNUSED, sequence)

    def _is_unrecorded(self, receipt: dict[str, Any]) -> bool:
        metadata = receipt.get("metadata")
        used = metadata.get(_APPROVAL_ID) if isinstance(metadata, dict) else None
        if self._use_known is None or not isinstance(used, str) or receipt["verdict"]["verdict"] != "allow":
            return False
        return not self._use_known(used, receipt["request_id"])
