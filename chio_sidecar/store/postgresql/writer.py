"""The transactions of one sidecar: receipts into its log, and what is shared with other sidecars under locks.

* A batch of receipts without conditions is one call of `chio.append`, which is its own transaction: one round trip. If
  they charge accounts, use grants or approvals, and all of that may be spent, it is one call of `chio.spend`.
* Everything else runs `writes.apply` in a transaction that locks, in one order, all accounts, grants, approvals and
  tokens of the batch. So it reads what no other sidecar changes before the commit, and reads and adds once for all.
  Other sidecars wait for these locks: what needs none of them is read before, and what is added is one statement.

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
    ApprovalRequest,
    ApprovalResponse,
    ApprovalUse,
    Charge,
    Conflict,
    Invocation,
    Obligation,
    Stored,
    StoreUnavailable,
)
from chio_sidecar.store.driver import Trouble
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import Connection, connect, trouble
from chio_sidecar.store.postgresql.functions import APPENDING
from chio_sidecar.store.postgresql.log import (
    LEASE_SECONDS,
    RENEW,
    Batch,
    Dialect,
    Head,
    LogMovedError,
    PostgresqlLog,
    Spending,
    TakenError,
    known,
)
from chio_sidecar.store.writes import Append, Revoke, Write, apply, chained

_PAUSE_SECONDS = 0.002

_CLAIM = "SELECT log_id, epoch, seq, digest FROM chio.claim(%s, %s, %s, %s)"
_REVOKED = "SELECT capability_id FROM revoked_capabilities WHERE capability_id = ANY(%s)"
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
        self._row_by_row = False

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
        self._log, self._row_by_row = None, False

    def apply(self, connection: Connection, works: Sequence[Write]) -> Sequence[Any]:
        """Do the work; what is one statement is committed with it."""
        while True:
            try:
                results = self._append_at_once(connection, works)
                return self._in_transaction(connection, works) if results is None else results
            except TakenError:
                self.rollback(connection)
                self._row_by_row = True
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

    def _append_at_once(self, connection: Connection, works: Sequence[Write]) -> list[Any] | None:
        """Store a batch in one statement if it is receipts whose conditions all hold; None if that is not enough."""
        assert self._head is not None  # noqa: S101 - `open` has claimed a log
        appends = [work for work in works if isinstance(work, Append)]
        if self._row_by_row or len(appends) != len(works):
            return None
        # In one order, so that two sidecars with the same ids do not wait for each other.
        appends.sort(key=lambda one: one.entry.request_id)
        spending = Spending()
        for entry in (work.entry for work in appends):
            own = () if entry.invocation is None else (entry.invocation,)
            if not all(spending.add(one, entry.request_id) for one in (*own, *entry.obligations)):
                return None
        log = PostgresqlLog(connection, self._head, {name for one in appends for name in one.entry.unless_revoked})
        rows = chained(log.end(), appends)
        if not (log.spend(rows, spending, _keys(works), self._seconds) if spending else log.insert(rows)):
            return None
        self._head = log.head
        return [Stored(work.entry.receipt_json, fresh=True) for work in works if isinstance(work, Append)]

    def _apply(
        self, connection: Connection, log: PostgresqlLog, works: Sequence[Write], revoked: set[str]
    ) -> list[Any]:
        if self._row_by_row or any(isinstance(work, Revoke) for work in works):
            return apply(Dialect(connection), log, works)
        batch = Batch(connection, log, works, revoked)
        results = apply(batch, batch, works)
        batch.flush(self._seconds)
        return results

    def _in_transaction(self, connection: Connection, works: Sequence[Write]) -> list[Any]:
        assert self._head is not None  # noqa: S101 - `open` has claimed a log
        shared = "" if any(isinstance(work, Revoke) for work in works) else "_shared"
        begin = BEGIN.format(wait=max(1, int(self._seconds * 1000)), shared=shared, key=APPENDING)
        connection.execute(begin.encode())
        # Before the locks. A request that another sidecar stores until they are held is found when it is refused or
        # inserted, and a revocation waits for the lock of everything that appends.
        earlier = known(connection, works)
        names = sorted({name for work in works if isinstance(work, Append) for name in work.entry.unless_revoked})
        revoked = {name for (name,) in connection.execute(_REVOKED, (names,))} if names else set()
        if keys := _keys(works):
            connection.execute(_LOCK, (keys,))
        self._log = log = PostgresqlLog(connection, self._head)

        results: dict[int, Any] = {}
        waiting = sorted(enumerate(works), key=lambda pair: _request_id(pair[1]))
        while waiting:
            # Repeated requests were looked up once for all; of two with one id in this batch, the second comes later.
            now: dict[str, tuple[int, Write]] = {}
            later = []
            for index, work in waiting:
                found = earlier.get(work.entry.request_id) if isinstance(work, Append) else None
                if found is not None and isinstance(work, Append):
                    same = found[0] == work.entry.fingerprint
                    results[index] = Stored(found[1], fresh=False) if same else Conflict()
                elif (name := _request_id(work) or f"\0{index}") in now:
                    later.append((index, work))
                else:
                    now[name] = (index, work)
            done = self._apply(connection, log, [work for _, work in now.values()], revoked)
            results.update((index, result) for (index, _), result in zip(now.values(), done, strict=True))
            waiting, earlier = later, known(connection, [work for _, work in later])
        return [results[index] for index in range(len(works))]


def _request_id(work: Write) -> str:
    return work.entry.request_id if isinstance(work, Append) else ""


def _shared_things(work: Write) -> Iterator[tuple[str, ...]]:
    """Yield what a piece of work reads and then changes, and other sidecars could change in between."""
    if isinstance(work, Append):
        obligations: tuple[Obligation, ...] = work.entry.obligations
        for one in obligations if work.entry.invocation is None else (work.entry.invocation, *obligations):
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
