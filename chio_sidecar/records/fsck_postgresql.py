"""Check a store in PostgreSQL: the chain of each log, its receipts, and what is recorded beside them.

All of it is read as of one moment. Nothing is locked meanwhile: sidecars go on writing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from chio_core.errors import ConfigurationError
from chio_sidecar.records.fsck_chain import ChainCheck, Finding, Heads, Marks, Row, Summary
from chio_sidecar.records.fsck_records import (
    CHECKS,
    NOT_ARCHIVED,
    UNUSED,
    Erasures,
    check_archives,
    check_pending,
    check_receipt,
    check_resolved,
)
from chio_sidecar.store.hash_chain import FIRST, MEMBERS
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import Connection, DatabaseError, connect, trouble
from chio_sidecar.store.postgresql.schema import check
from chio_sidecar.store.postgresql.tables import TRIGGERS

_BEGIN = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = chio, pg_catalog, pg_temp"
_LOGS = f"""
SELECT l.log_id, l.seq, l.digest, coalesce(b.seq, 0), coalesce(b.digest, '{FIRST}')
FROM logs l LEFT JOIN receipt_chain_base b USING (log_id) ORDER BY l.log_id
"""  # noqa: S608 - only constants
_STATEMENTS = """
SELECT a.seq, a.statement, r.chain FROM receipt_archives a LEFT JOIN http_receipts r USING (log_id, seq)
WHERE log_id = %s ORDER BY number
"""
_KEYS = "SELECT seq, kernel_key FROM kernel_keys WHERE log_id = %s ORDER BY seq"
_ARCHIVE = "SELECT log_id FROM receipt_archives WHERE statement = %s"
_ROWS = f"SELECT seq, {MEMBERS}, chain FROM http_receipts WHERE log_id = %s AND seq > %s ORDER BY seq LIMIT 500"  # noqa: S608
_STRAY = """
SELECT 'position ' || position, log_id FROM http_receipts r
WHERE NOT EXISTS (SELECT FROM logs l WHERE l.log_id = r.log_id)
UNION ALL SELECT 'base', log_id FROM receipt_chain_base b
WHERE NOT EXISTS (SELECT FROM logs l WHERE l.log_id = b.log_id)
"""
_CONSUMED = "SELECT 1 FROM chio_hitl_consumed_tokens WHERE approval_id = %s AND request_id = %s"
_TRIGGERS = """
SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'chio' AND t.tgenabled IN ('O', 'A')
"""
_PENDING = """
SELECT seq, approval_id, intent_hash, created_at, expires_at, request_json FROM chio_hitl_pending ORDER BY seq
"""
_RESOLVED = """
SELECT 0, approval_id, token_id, outcome, approver, expires_at,
       (SELECT intent_hash FROM chio_hitl_pending q WHERE q.approval_id = a.approval_id), token_json
FROM chio_hitl_resolved a ORDER BY resolved_at
"""
_SECONDS = 600.0  # how long one statement may take


class DatabaseInspection:
    """Reads the store of a database once, in bounded memory but for its approvals.

    Args:
        place: the database.
        trusted_keys: public keys (hex) that may have signed; None trusts any.
        heads: digests that were kept elsewhere, the same object for the archives of this database.

    Raises:
        ConfigurationError: there is no such store, or it cannot be read now.
    """

    def __init__(
        self,
        place: DatabasePlace,
        *,
        trusted_keys: Collection[str] | None = None,
        heads: Heads | None = None,
    ) -> None:
        self._place = place
        self._trusted = trusted_keys
        self._heads = heads or Heads()
        try:
            self._connection: Connection = connect(place, seconds=30.0)
            check(self._connection, place.shown)
            self._connection.execute(_BEGIN)
            self._logs = self._connection.execute(_LOGS.encode()).fetchall()
        except DatabaseError as exc:
            raise ConfigurationError(f"cannot read {place.shown}: {trouble(exc) or exc}") from None

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def parts(self) -> list[LogInspection]:
        """Return the checks: of each log, then of what the logs share, which is the part without a log."""
        logs = [LogInspection(self, number, Marks(0, FIRST, *marks)) for number, *marks in self._logs]
        return [*logs, LogInspection(self, None, Marks())]

    def log_of(self, statement: str | None) -> int | None:
        """Return the log that has recorded this statement about its archive; None if none has.

        Raises:
            ConfigurationError: the database cannot be read.
        """
        try:
            found = self.fetch(_ARCHIVE, statement)
        except DatabaseError as exc:
            raise ConfigurationError(f"cannot read {self._place.shown}: {trouble(exc) or exc}") from None
        return int(str(found[0][0])) if found else None

    def fetch(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """Return all rows of a statement.

        Raises:
            DatabaseError: the database cannot be read.
        """
        self._connection.limit(_SECONDS)
        return self._connection.execute(sql.encode(), parameters or None).fetchall()


class LogInspection:
    """One part of the check, with the members of `Inspection` that a report needs.

    Attributes:
        log: number of the log; None for what all logs share.
        name: for people.
        base: number and digest of the last row that was archived and removed, (0, `FIRST`) without one.
        unlinked: `ChainCheck.unlinked`, the same object for this log and its archives. For the caller to set.
        summary: complete after the last finding.
    """

    def __init__(self, whole: DatabaseInspection, log: int | None, marks: Marks) -> None:
        self.summary = Summary(pages="all")
        self.name = f"{whole._place.shown}, " + ("what the logs share" if log is None else f"log {log}")
        self._whole = whole
        self.log = log
        self.unlinked: set[int] = set()
        self._keys: list[tuple[int, str]] = []
        self._erasures = Erasures()
        self._marks = marks
        self.base = (marks.base, marks.base_digest)

    def findings(self) -> Iterator[Finding]:
        """Yield everything that no sidecar would have left like this."""
        try:
            for finding in self._shared() if self.log is None else self._rows():
                self.summary.findings += 1
                yield finding
        except DatabaseError as exc:
            self.summary.unfinished = str(trouble(exc) or exc)

    def _rows(self) -> Iterator[Finding]:
        summary = self.summary
        chain = ChainCheck(self._marks, self._whole._heads, self.unlinked)
        summary.archived = self._marks.base
        self._keys = [(int(str(first)), str(key)) for first, key in self._whole.fetch(_KEYS, self.log)]
        while rows := self._whole.fetch(_ROWS, self.log, summary.last):
            for number, *members, digest in rows:
                row = Row(int(str(number)), members, digest)
                summary.count(row)
                yield from chain.row(row)
                if (texts := row.texts) is not None:
                    yield from self._receipt(row.sequence, *texts[:3], chained=not chain.by_signature)
        # Another log may have a head that was kept: the last part says so if none has.
        yield from (one for one in chain.finish() if one.kind != "head")
        yield from self._erasures.findings(self._whole._trusted)
        summary.erased, summary.erasures = len(self._erasures.rows), self._erasures.listed
        summary.conclude(chain)
        yield from check_archives(self._whole.fetch(_STATEMENTS, self.log), self._whole._trusted, summary)

    def _receipt(self, number: int, receipt_id: str, text: str, request_id: str, *, chained: bool) -> Iterator[Finding]:
        whole = self._whole
        found = check_receipt(number, receipt_id, text, request_id, trusted=whole._trusted, keys=self.summary.keys)
        self._erasures.add(number, found, chained=chained)
        yield from found.findings
        key = next((key for first, key in reversed(self._keys) if first <= number), None)
        if found.signer is not None and key not in (found.signer, None):
            text = f"it is signed by {found.signer}, and the history of keys has {key} for this row"
            yield Finding("record", f"row {number}", text, number)
        if found.approval is not None and not whole.fetch(_CONSUMED, found.approval, request_id):
            yield Finding("record", f"row {number}", UNUSED, number)

    def _shared(self) -> Iterator[Finding]:
        whole = self._whole
        there = {name for (name,) in whole.fetch(_TRIGGERS)}
        for name in TRIGGERS:
            if name not in there:
                yield Finding("schema", f"trigger {name}", "missing or disabled, so rows can be changed")
        for place, log in whole.fetch(_STRAY):
            yield Finding("gap", str(place), f"its log {log} is missing")
        for table, subject, condition, text in CHECKS:
            own = condition.replace(" IS NOT ", " IS DISTINCT FROM ").replace("ifnull(", "coalesce(")
            if table in NOT_ARCHIVED:
                own = f"({own}) AND {NOT_ARCHIVED[table]}"
            for (about,) in whole.fetch(f"SELECT {subject} FROM {table} t WHERE {own}"):  # noqa: S608 - constants
                yield Finding("record", f"{table}, {about}", text)
        yield from check_pending(whole.fetch(_PENDING))
        yield from check_resolved(whole.fetch(_RESOLVED))
        for head in sorted(whole._heads.missing):
            text = f"no log has a row with the digest {head}: rows were changed or removed, or it is another store"
            yield Finding("head", "store", text)
