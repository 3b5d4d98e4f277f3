"""The transactions of one sidecar: receipts into its log, and what is shared with other sidecars under locks.

* The receipts of a batch are one call of `chio.append`, or of `chio.spend` if they charge accounts, use grants or
  approvals. Each is its own transaction: one round trip. If something in the batch is refused or repeated, or asks for
  an approval, a call of `chio.decide` stores the rest.
* Revocations, and approval requests and responses without a receipt, run `writes.apply` in a transaction that locks, in
  one order, what they read.

The log is claimed by epoch. A later claim raises the epoch, and this sidecar then takes another log.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from chio_sidecar.store import (
    AppendOutcome,
    ApprovalRequest,
    ApprovalResponse,
    ApprovalUse,
    Charge,
    Invocation,
    Stored,
    StoreUnavailable,
)
from chio_sidecar.store.driver import Trouble
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import Connection, connect, trouble
from chio_sidecar.store.postgresql.decide import obligations_of
from chio_sidecar.store.postgresql.functions import APPENDING
from chio_sidecar.store.postgresql.log import (
    LEASE_SECONDS,
    RENEW,
    Dialect,
    Head,
    LogMovedError,
    PostgresqlLog,
    Spending,
)
from chio_sidecar.store.writes import Append, Revoke, Write, apply, chained

_PAUSE_SECONDS = 0.002

_CLAIM = "SELECT log_id, epoch, seq, digest FROM chio.claim(%s, %s, %s, %s)"
_LOCK = "SELECT pg_advisory_xact_lock(k) FROM unnest(%s::bigint[]) AS k"
BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL search_path = chio, pg_catalog, pg_temp;
SET LOCAL lock_timeout = {wait:d}; SET LOCAL idle_in_transaction_session_timeout = {wait:d};
SELECT pg_advisory_xact_lock{shared}({key:d})
"""


class PostgresqlWriter:
    """The `Writer` of a `GroupCommitter`.

    Args:
        place: the database.
        wait_seconds: how long one transaction may take, from connecting to its commit.
    """

    def __init__(self, place: DatabasePlace, *, wait_seconds: float) -> None:
        self._place = place
        self._seconds = wait_seconds
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._head: Head | None = None
        self._log: PostgresqlLog | None = None

    def open(self) -> Connection:
        """Connect, and claim the log of before or another one."""
        connection = connect(self._place, seconds=self._seconds)
        try:
            self._claim(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def has_ended(self, connection: Connection) -> bool:
        """Return True if the database has closed the connection since its last use; it is not waited for."""
        try:
            for _ in range(2):  # its last words, then the end
                connection.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return connection.closed

    def begin(self, connection: Connection) -> None:
        """Begin the time of a transaction; `apply` begins the transaction itself, if one statement is not enough."""
        connection.limit(self._seconds)
        self._log = None

    def apply(self, connection: Connection, works: Sequence[Write]) -> Sequence[Any]:
        """Do the work; receipts are committed with their statement."""
        # In one order, so that two sidecars with the same ids do not wait for each other.
        appends = sorted(
            ((index, work) for index, work in enumerate(works) if isinstance(work, Append)),
            key=lambda one: one[1].entry.request_id,
        )
        others = [(index, work) for index, work in enumerate(works) if not isinstance(work, Append)]
        results: dict[int, Any] = {}
        while True:
            try:
                if appends and not results:
                    stored = self._append(connection, [work for _, work in appends])
                    results.update(zip((index for index, _ in appends), stored, strict=True))
                if others:
                    done = self._in_transaction(connection, [work for _, work in others])
                    results.update(zip((index for index, _ in others), done, strict=True))
                return [results[index] for index in range(len(works))]
            except LogMovedError:
                self.rollback(connection)
                self._claim(connection)
            except psycopg.Error as exc:
                found = trouble(exc)
                if found is None or found.kind != "busy":
                    raise
                self.rollback(connection)
                time.sleep(_PAUSE_SECONDS)
            if time.monotonic() >= connection.until:
                raise psycopg.OperationalError("other sidecars held the rows for too long")

    def commit(self, connection: Connection) -> None:
        """Commit durably, unless `apply` has."""
        if self._log is None:
            return
        if connection.info.transaction_status != TransactionStatus.INTRANS:
            raise psycopg.OperationalError("the transaction has ended before its commit")
        connection.execute("COMMIT")
        self._head, self._log = self._log.head, None

    def rollback(self, connection: Connection) -> None:
        """Undo an open transaction, if there is one."""
        self._log = None
        # While a statement is under way nothing can be sent: the connection is about to be closed.
        if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            connection.execute("ROLLBACK")

    def trouble(self, exc: Exception) -> Trouble | None:
        """Return what an exception says about the database; None if it is about one piece of work."""
        return trouble(exc)

    def discard(self, connection: Connection) -> None:
        """Close the connection at once; the database is not waited for."""
        self._log = None
        connection.close()

    def release(self, connection: Connection) -> None:
        """Let another sidecar have the log, and close the connection."""
        try:
            connection.limit(self._seconds)
            if self._head is not None:
                connection.execute(RENEW, (self._head.log_id, self._head.epoch, -1.0))
        except psycopg.Error:
            pass  # the lease ends by itself
        finally:
            connection.close()

    def _claim(self, connection: Connection) -> None:
        own = (None, None) if self._head is None else (self._head.log_id, self._head.epoch)
        found = connection.execute(_CLAIM, (*own, self._holder, LEASE_SECONDS)).fetchone()
        assert found is not None  # noqa: S101 - the function returns one row
        self._head = Head(*found)

    def _append(self, connection: Connection, appends: Sequence[Append]) -> Sequence[AppendOutcome]:
        """Store receipts with what they spend in one statement or, if not all of them can be, in a second one."""
        assert self._head is not None  # noqa: S101 - `open` has claimed a log
        log = PostgresqlLog(connection, self._head, {name for one in appends for name in one.entry.unless_revoked})
        spending, keys = Spending(), _keys(appends)
        outcomes: Sequence[AppendOutcome] | None = None
        if all(spending.add(one, work.entry.request_id) for work in appends for one in obligations_of(work.entry)):
            rows = chained(log.end(), appends)
            if log.spend(rows, spending, keys, self._seconds) if spending else log.insert(rows):
                outcomes = [Stored(work.entry.receipt_json, fresh=True) for work in appends]
        if outcomes is None:
            try:
                outcomes = log.decide(appends, keys, self._seconds)
            except psycopg.errors.UniqueViolation:
                # The committer gives each receipt of this batch a transaction of its own.
                names = ", ".join(work.entry.receipt_id for work in appends)
                raise StoreUnavailable(f"receipt id {names} is taken by another request") from None
        self._head = log.head
        return outcomes

    def _in_transaction(self, connection: Connection, works: Sequence[Write]) -> list[Any]:
        """Do work that stores no receipt; `commit` ends its transaction."""
        assert self._head is not None  # noqa: S101 - `open` has claimed a log
        shared = "" if any(isinstance(work, Revoke) for work in works) else "_shared"
        begin = BEGIN.format(wait=max(1, int(self._seconds * 1000)), shared=shared, key=APPENDING)
        connection.execute(begin.encode())
        if keys := _keys(works):
            connection.execute(_LOCK, (keys,))
        self._log = log = PostgresqlLog(connection, self._head)
        return apply(Dialect(connection), log, works)


def _shared_things(work: Write) -> Iterator[tuple[str, ...]]:
    """Yield what a piece of work reads and then changes, and other sidecars could change in between."""
    if isinstance(work, Append):
        for one in obligations_of(work.entry):
            if isinstance(one, Charge):
                yield "account", one.account
            elif isinstance(one, Invocation):
                yield "grant", one.capability_id, str(one.grant_index)
            elif isinstance(one, ApprovalUse):
                yield "approval", one.approval_id
                if one.token is not None:
                    yield "token", one.token.token_id
            else:
                yield ("pending",)
    elif isinstance(work, ApprovalRequest):
        yield ("pending",)  # their number is limited
    elif isinstance(work, ApprovalResponse):
        yield "approval", work.approval_id
        yield "token", work.token_id


def _keys(works: Sequence[Write]) -> list[int]:
    """Return the keys of the locks that works need, in the one order in which they are taken."""
    return sorted({_key(name) for work in works for name in _shared_things(work)})


def _key(name: tuple[str, ...]) -> int:
    """Return the key of an advisory lock; two things that share one only wait for each other."""
    try:
        raw = "\0".join(name).encode()
    except UnicodeEncodeError as exc:
        raise StoreUnavailable(f"{name[0]} has no UTF-8: {exc.reason}") from None
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big", signed=True)
