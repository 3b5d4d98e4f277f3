"""Check single receipts, for any engine, and what a store records beside them.

That is uses, charges, approvals and erasures, and statements about archives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_core.signing import verify_signature
from chio_sidecar.policy.approvals import APPROVAL_ID, intent_hash, read_token
from chio_sidecar.policy.rules import Refused
from chio_sidecar.records.file import in_pages
from chio_sidecar.records.fsck_chain import Finding, Summary
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.statements import ArchiveStatement, Erasure, is_erasure
from chio_sidecar.store.tables import ARCHIVED

UNUSED = "it allowed a request by an approval, and no use of that approval is recorded, so it could be used again"
"""The finding about a receipt whose approval has no record of its use."""

_MOST_KEYS = 16


@dataclass(slots=True)
class CheckedReceipt:
    """What a receipt shows.

    Attributes:
        approval: id of the approval that it used, if it did.
        signer: public key (hex) that signed it; None if its signature does not count, or it is erased.
        erasure: the record in its place.
    """

    findings: list[Finding] = field(default_factory=list)
    approval: str | None = None
    signer: str | None = None
    erasure: Erasure | None = None


def check_receipt(
    number: int, receipt_id: str, text: str, request_id: str, *, trusted: Collection[str] | None, keys: list[str]
) -> CheckedReceipt:
    """Verify a receipt, and compare it with its columns.

    Args:
        number: of its row.
        receipt_id: a column.
        text: the receipt.
        request_id: a column.
        trusted: public keys (hex) that may have signed; None trusts any.
        keys: the keys that signed so far, at most 16; the receipt's is added.
    """
    place, found = f"row {number}", CheckedReceipt()
    if is_erasure(text):
        try:
            said = Erasure.read(text)
        except InvalidDocument as exc:
            text = f"its receipt was replaced, and the record of an erasure does not count: {exc.message}"
            found.findings.append(Finding("erasure", place, text, number))
            return found
        if (said.row, said.id, said.request_id) != (number, receipt_id, request_id):
            text = "its receipt was replaced by the record of the erasure of another one"
            found.findings.append(Finding("erasure", place, text, number))
        elif trusted is not None and said.kernel_key not in trusted:
            text = f"its receipt was erased by {said.kernel_key}, which is not trusted"
            found.findings.append(Finding("erasure", place, text, number))
        else:
            found.erasure = said
        return found
    try:
        receipt = parse_json(text)
        if not isinstance(receipt, dict):
            raise InvalidDocument("it holds no JSON object")
        key = verify_receipt(receipt, trusted_keys=trusted).kernel_key
    except (InvalidDocument, ReceiptRejected) as exc:
        found.findings.append(Finding("signature", place, f"its receipt does not verify: {exc.message}", number))
        return found
    found.signer = key
    if key not in keys and len(keys) < _MOST_KEYS:
        keys.append(key)
    for name, column in (("id", receipt_id), ("request_id", request_id)):
        if receipt.get(name) != column:
            text = f"its column {name} contradicts its receipt"
            found.findings.append(Finding("column", place, text, number))
    metadata = receipt.get("metadata")
    used = metadata.get(APPROVAL_ID) if isinstance(metadata, dict) else None
    if isinstance(used, str) and receipt["verdict"]["verdict"] == "allow":
        found.approval = used
    return found


LISTED = 100
"""Most erasures that a summary describes."""

_STRANGE = (
    "its receipt was erased by {key}, which signs no receipt here; name it with --trusted-key if it is the sidecar's"
)
_MOST_SIGNERS = 10_000


@dataclass(slots=True)
class Erasures:
    """The erasures of one chain.

    Attributes:
        rows: numbers of the erased rows.
        listed: what the first `LISTED` records say; `chained` is False if the digest of the row, and so that of each
            row before it, rests on the signature of the record alone.
    """

    rows: set[int] = field(default_factory=set)
    listed: list[dict[str, Any]] = field(default_factory=list)
    _erasers: dict[str, int] = field(default_factory=dict)
    _signers: set[str] = field(default_factory=set)

    def add(self, number: int, found: CheckedReceipt, *, chained: bool) -> None:
        """Note who signed the receipt of a row, or erased it."""
        if found.signer is not None and len(self._signers) < _MOST_SIGNERS:
            self._signers.add(found.signer)
        if (said := found.erasure) is None:
            return
        self.rows.add(number)
        self._erasers.setdefault(said.kernel_key, number)
        if len(self.listed) < LISTED:
            about = {"row": number, "id": said.id, "erased_at": said.erased_at, "reason": said.reason}
            self.listed.append(about | {"kernel_key": said.kernel_key, "chained": chained})

    def findings(self, trusted: Collection[str] | None) -> Iterator[Finding]:
        """Yield an erasure by a stranger; to be called after the last row.

        Args:
            trusted: public keys (hex) that may have signed, which were compared before; None trusts those that signed
                receipts of this chain: none if all of them are erased.
        """
        for key, number in self._erasers.items():
            if trusted is None and key not in self._signers:
                yield Finding("erasure", f"row {number}", _STRANGE.format(key=key), number)


_WINDOW = 2_000

_NO_RECEIPT = "NOT EXISTS (SELECT 1 FROM http_receipts r WHERE r.request_id = t.request_id)"
_UNBOUND = "the request that it names has no receipt: a receipt is gone, or this row was changed"
_UNCOUNTED = "its number does not follow the one before: a row is gone, or this one was changed"

_USE = "capability_id || ' grant ' || grant_index || ' use ' || ordinal"
_CHARGE = "account || ' charge ' || ordinal"
NOT_ARCHIVED = {
    table: f"NOT EXISTS (SELECT 1 FROM archived_state a WHERE a.source = '{table}' AND {which})"  # noqa: S608
    for table, which in {
        "capability_invocations": "a.subject = t.capability_id AND a.part = t.grant_index AND a.ordinal >= t.ordinal",
        "budget_charges": "a.subject = t.account AND a.ordinal >= t.ordinal",
        "chio_hitl_consumed_tokens": "a.subject = t.approval_id",
    }.items()
}
"""For each table: when a row `t` is neither the newest archived one of its account nor an older one."""

CHECKS = (
    (
        "capability_invocations",
        _USE,
        _NO_RECEIPT,
        _UNBOUND,
    ),
    (
        "capability_invocations",
        _USE,
        "ordinal <> 1 AND NOT EXISTS (SELECT 1 FROM capability_invocations b WHERE b.ordinal = t.ordinal - 1"
        " AND b.capability_id = t.capability_id AND b.grant_index = t.grant_index)",
        _UNCOUNTED,
    ),
    ("budget_charges", _CHARGE, _NO_RECEIPT, _UNBOUND),
    (
        "budget_charges",
        _CHARGE,
        "ordinal <> 1 AND NOT EXISTS"
        " (SELECT 1 FROM budget_charges b WHERE b.account = t.account AND b.ordinal = t.ordinal - 1)",
        _UNCOUNTED,
    ),
    (
        "budget_charges",
        _CHARGE,
        "cost < 0 OR total IS NOT cost + ifnull("
        "(SELECT total FROM budget_charges b WHERE b.account = t.account AND b.ordinal = t.ordinal - 1), 0)",
        "its total is not the total before plus its cost: this row was changed, or one before it is gone",
    ),
    ("chio_hitl_consumed_tokens", "approval_id", _NO_RECEIPT, _UNBOUND),
    (
        "chio_hitl_consumed_tokens",
        "approval_id",
        "NOT EXISTS (SELECT 1 FROM chio_hitl_resolved a WHERE a.approval_id = t.approval_id"
        " AND a.token_id = t.token_id AND a.outcome = 'approved')",
        "the use of an approval that this token did not give: the approval is gone, or this row was changed",
    ),
    (
        "chio_hitl_resolved",
        "approval_id",
        "NOT EXISTS (SELECT 1 FROM chio_hitl_pending q WHERE q.approval_id = t.approval_id)",
        "it resolves an approval that was never requested: the approval's row is gone, or this one was changed",
    ),
)
"""Table, subject of a row, condition of a bad one in SQLite's SQL, and the finding about it."""

_EVERY_ROW = range(-(2**63), 2**63)
_PENDING = """
SELECT rowid, approval_id, intent_hash, created_at, expires_at, request_json FROM chio_hitl_pending
WHERE rowid BETWEEN ? AND ? ORDER BY rowid LIMIT ?
"""
_RESOLVED = """
SELECT rowid, approval_id, token_id, outcome, approver, expires_at,
       (SELECT intent_hash FROM chio_hitl_pending q WHERE q.approval_id = a.approval_id), token_json
FROM chio_hitl_resolved a WHERE rowid BETWEEN ? AND ? ORDER BY rowid LIMIT ?
"""


def check_archives(
    statements: Iterable[Sequence[Any]], trusted: Collection[str] | None, summary: Summary
) -> Iterator[Finding]:
    """Check the statements about archives, and put them into the summary; `summary.archived` must be set.

    Args:
        statements: number of the last archived row, statement, and stored digest of that row, None without it.
        trusted: public keys (hex) that may have signed; None trusts any.
        summary: what was checked so far.
    """
    covered = 0
    for number, text, digest in statements:
        place = f"archive of rows up to {number}"
        try:
            found = ArchiveStatement.read(text)
        except InvalidDocument as exc:
            yield Finding("archive", place, f"its statement does not count: {exc.message}")
            continue
        if found.last != number or digest not in (None, found.head):
            yield Finding("archive", place, "its statement is about another row than the one in this store")
        elif trusted is not None and found.kernel_key not in trusted:
            yield Finding("archive", place, f"its statement is signed by {found.kernel_key}, which is not trusted")
        else:
            covered = max(covered, number)
            summary.archives.append(found)
    if summary.archived > covered:
        text = f"gone, and the statements about archives cover rows up to {covered}"
        yield Finding("archive", f"rows up to {summary.archived}", text)


def records(connection: sqlite3.Connection, version: int) -> Iterator[Finding]:
    """Compare uses, charges and approvals with receipts and with each other.

    Args:
        connection: to a store that has these tables.
        version: its schema version.

    Raises:
        sqlite3.Error: the store cannot be read.
    """
    for table, subject, condition, text in CHECKS:
        if version >= ARCHIVED and table in NOT_ARCHIVED:
            condition = f"({condition}) AND {NOT_ARCHIVED[table]}"
        # In windows of rows, like everything: one statement over the whole table would be one lock.
        end = f"SELECT max(rowid) FROM (SELECT rowid FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {_WINDOW})"  # noqa: S608
        bad = f"SELECT {subject} FROM {table} t WHERE t.rowid > ? AND t.rowid <= ? AND ({condition})"  # noqa: S608
        first = -(2**63)
        while (last := connection.execute(end, (first,)).fetchone()[0]) is not None:
            for (about,) in connection.execute(bad, (first, last)).fetchall():
                yield Finding("record", f"{table}, {about}", text)
            first = last
    yield from check_pending(in_pages(connection, _PENDING, _EVERY_ROW))
    yield from check_resolved(in_pages(connection, _RESOLVED, _EVERY_ROW))


def check_pending(rows: Iterable[Sequence[Any]]) -> Iterator[Finding]:
    """Compare approval requests with the columns beside them.

    Args:
        rows: any number, id, hash of the intent, times of creation and expiry, and the approval request.
    """
    for _, *columns, text in rows:
        document = _parsed(text)
        names = ("approval_id", "governed_intent_hash", "created_at", "expires_at")
        try:
            is_same = intent_hash(document.get("governed_intent")) == columns[1]
        except InvalidDocument:
            is_same = False
        if not is_same or [document.get(name) for name in names] != columns:
            place = f"chio_hitl_pending, {columns[0]}"
            yield Finding("record", place, "its columns contradict the approval request in it")


def check_resolved(rows: Iterable[Sequence[Any]]) -> Iterator[Finding]:
    """Compare responses to approval requests with the columns beside them, and verify their tokens.

    Args:
        rows: any number, id of the approval and of the token, outcome, approver, expiry, hash of the intent, and token.
    """
    for _, *columns, text in rows:
        place = f"chio_hitl_resolved, {columns[0]}"
        try:
            token = read_token(_parsed(text))
        except Refused as exc:
            yield Finding("record", place, exc.reason)
            continue
        said = [token.request_id, token.id, token.decision, token.approver, token.expires_at]
        # Without an intent the approval's own row is gone, which is another finding.
        if columns[-1] is not None and [*said, token.governed_intent_hash] != columns:
            yield Finding("record", place, "its columns, or the approval's row, contradict the token in it")
        elif not verify_signature(token.approver, token.signed(), token.signature):
            yield Finding("record", place, "the signature of its token does not verify")


def _parsed(text: object) -> dict[str, Any]:
    try:
        document = parse_json(text) if isinstance(text, str) else None
    except InvalidDocument:
        return {}
    return document if isinstance(document, dict) else {}
