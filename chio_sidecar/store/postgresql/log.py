"""The log of one sidecar, and a batch of work on it in few round trips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chio_sidecar.store import ApprovalUse, Charge, Invocation, Obligation
from chio_sidecar.store.postgresql.connection import Connection, Texts
from chio_sidecar.store.writes import (
    ACCOUNT,
    ADD_CHARGE,
    ADD_USE,
    EARLIER,
    REVOKED,
    SPENT,
    Append,
    Row,
    Write,
)

LEASE_SECONDS = 30.0
"""How long a silent sidecar keeps its log; losing it costs one more log, nothing else."""

_APPEND = "SELECT chio.append(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_SPEND = """
SELECT chio.spend(
    %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
    %s::bigint[], %s, %s, %s::bigint[], %s::bigint[], %s::bigint[], %s,
    %s, %s::bigint[], %s::bigint[], %s, %s::json
)
"""
_KNOWN = "SELECT request_id, fingerprint, receipt_json FROM http_receipts WHERE request_id = ANY(%s)"
RENEW = "SELECT chio.renew(%s, %s, %s)"

_ACCOUNTS = """
SELECT a, c.ordinal, c.total FROM unnest(%s::text[]) AS a CROSS JOIN LATERAL
    (SELECT ordinal, total FROM budget_charges WHERE account = a ORDER BY ordinal DESC LIMIT 1) AS c
"""
_SPENT_OF = """
SELECT g.id, g.part, u.ordinal FROM unnest(%s::text[], %s::bigint[]) AS g (id, part) CROSS JOIN LATERAL (
    SELECT ordinal FROM capability_invocations WHERE capability_id = g.id AND grant_index = g.part
    ORDER BY ordinal DESC LIMIT 1
) AS u
"""


class LogMovedError(Exception):
    """Another process has claimed the log, or an earlier transaction of this one has reached the database late."""


class TakenError(Exception):
    """A receipt of the batch cannot be inserted; which one is found row by row."""


@dataclass(slots=True)
class Spending:
    """What receipts spend, as rows for `chio.spend`.

    Attributes:
        charges: account, cost, the largest number of charges and their largest sum, and request id.
        uses: capability id, index of the grant, the largest number of uses, and request id.
        approvals: the use of each, as an object with its request id and what it presents.
    """

    charges: list[Sequence[Any]] = field(default_factory=list)
    uses: list[Sequence[Any]] = field(default_factory=list)
    approvals: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.charges or self.uses or self.approvals)

    def add(self, one: Obligation, request_id: str) -> bool:
        """Add an obligation of a receipt; return False if it is of another kind."""
        if isinstance(one, Charge):
            self.charges.append((one.account, one.cost, one.max_invocations, one.max_total, request_id))
        elif isinstance(one, Invocation):
            self.uses.append((one.capability_id, one.grant_index, one.limit, request_id))
        elif isinstance(one, ApprovalUse):
            response = {} if one.token is None else asdict(one.token)
            use = {"approval_id": one.approval_id, "intent_hash": one.intent_hash, "at": one.at}
            self.approvals.append(response | use | {"request_id": request_id})
        else:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row of a log, and the epoch of the claim."""

    log_id: int
    epoch: int
    sequence: int
    digest: str


class PostgresqlLog:
    """The chain of one sidecar, for `writes.apply`.

    Args:
        connection: the writer's.
        head: its newest row.
        unless: capabilities of which none may be revoked.

    Attributes:
        head: the newest row, with those that this transaction has inserted.
    """

    def __init__(self, connection: Connection, head: Head, unless: set[str] | None = None) -> None:
        self._connection = connection
        self._unless = Texts(sorted(unless or ()))
        self.head = head

    def end(self) -> tuple[int, str]:
        """Return sequence and digest of the newest row."""
        return self.head.sequence, self.head.digest

    def insert(self, rows: Sequence[Row]) -> bool:
        """Insert all of these rows or, if an id is taken or a capability revoked, none; return True for all."""
        return self._store(_APPEND, rows)

    def spend(self, rows: Sequence[Row], spending: Spending, keys: list[int], seconds: float) -> bool:
        """Insert rows and what they spend in one statement; return False if not all of it can be.

        Args:
            rows: receipts, at least one.
            spending: what goes with them.
            keys: of the locks that exclude other sidecars from it, sorted; empty in a transaction that has them.
            seconds: how long each lock may be waited for.
        """
        accounts, costs, counts, mosts, spenders = _columns(spending.charges, 5)
        capabilities, grants, limits, users = _columns(spending.uses, 4)
        return self._store(
            _SPEND,
            rows,
            *(_numbers(keys), f"{max(1, int(seconds * 1000))}ms"),
            *(Texts(accounts), _numbers(costs), _numbers(counts), _numbers(mosts), Texts(spenders)),
            *(Texts(capabilities), _numbers(grants), _numbers(limits), Texts(users)),
            json.dumps(spending.approvals),
        )

    def _store(self, sql: str, rows: Sequence[Row], *more: Any) -> bool:
        head = self.head
        found = self._connection.only.execute(
            sql,
            (
                *(head.log_id, head.epoch, head.sequence, head.digest, LEASE_SECONDS, self._unless),
                *map(Texts, zip(*((*row.members, row.digest) for row in rows), strict=True)),
                *more,
            ),
        ).fetchone()
        if found == ("moved",):
            raise LogMovedError
        if found != ("stored",):
            return False
        self.head = Head(head.log_id, head.epoch, rows[-1].sequence, rows[-1].digest)
        return True

    def probe(self) -> None:
        """Write a row of no meaning: the lease."""
        head = self.head
        if self._connection.execute(RENEW, (head.log_id, head.epoch, LEASE_SECONDS)).fetchone() != (True,):
            raise LogMovedError


def known(connection: Connection, works: Sequence[Write]) -> dict[str, tuple[str, str]]:
    """Return fingerprint and receipt of each request that is stored already, by its id."""
    ids = [work.entry.request_id for work in works if isinstance(work, Append)]
    return {row[0]: (row[1], row[2]) for row in connection.execute(_KNOWN, (ids,))} if ids else {}


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _numbers(values: Sequence[int | None]) -> str:
    """Return an array as the database reads it; psycopg would choose a type for each list by its largest number."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


class Batch:
    """The log and the connection of `writes.apply`, for a batch whose shared things are locked.

    What the batch may read of accounts and grants is read once, because no other sidecar changes it. What it adds is
    inserted by `flush`.

    Args:
        connection: in a transaction, with the locks of these works.
        log: this sidecar's.
        works: none of them revokes, and no request id is stored, or twice among them.
        revoked: the revoked ones of their capabilities.
    """

    def __init__(self, connection: Connection, log: PostgresqlLog, works: Sequence[Write], revoked: set[str]) -> None:
        self._connection = connection
        self._log = log
        self._works = works
        self._earlier: dict[str, tuple[str, str]] | None = None
        self._end = log.end()
        self._rows: list[Row] = []
        self._spending = Spending()
        entries = [work.entry for work in works if isinstance(work, Append)]
        spending = [one for entry in entries for one in (entry.invocation, *entry.obligations)]
        accounts = sorted({one.account for one in spending if isinstance(one, Charge)})
        grants = sorted({(one.capability_id, one.grant_index) for one in spending if isinstance(one, Invocation)})
        self._revoked = revoked
        found = connection.execute(_ACCOUNTS, (accounts,)) if accounts else ()
        self._accounts = {account: (ordinal, total) for account, ordinal, total in found}
        columns = [list(column) for column in zip(*grants, strict=True)]
        used = connection.execute(_SPENT_OF, columns) if grants else ()
        self._spent = {(name, grant): ordinal for name, grant, ordinal in used}

    def end(self) -> tuple[int, str]:
        """Return sequence and digest of the newest row, with those that wait for `flush`."""
        return self._end

    def insert(self, rows: Sequence[Row]) -> bool:
        """Keep rows for `flush`."""
        self._rows += rows
        self._end = rows[-1].sequence, rows[-1].digest
        return True

    def probe(self) -> None:
        """Write a row of no meaning."""
        self._log.probe()

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Answer from what was read, keep what is added, or run a statement about approvals."""
        if sql.startswith(REVOKED):
            return _Found((name,) for name in parameters if name in self._revoked)
        if sql == ACCOUNT:
            state = self._accounts.get(parameters[0])
            return _Found(() if state is None else (state,))
        if sql == SPENT:
            return _Found([(self._spent.get(tuple(parameters), 0),)])
        if sql == EARLIER:
            # A receipt is refused, unless another sidecar has stored its request while this one waited for the locks.
            if self._earlier is None:
                self._earlier = known(self._connection, self._works)
            found = self._earlier.get(parameters[0])
            return _Found(() if found is None else (found,))
        if sql == ADD_CHARGE:
            account, ordinal, cost, total, request_id = parameters
            self._spending.charges.append((account, cost, None, None, request_id))
            self._accounts[account] = (ordinal, total)
        elif sql == ADD_USE:
            capability_id, grant, ordinal, request_id = parameters
            self._spending.uses.append((capability_id, grant, None, request_id))
            self._spent[capability_id, grant] = ordinal
        else:
            return Dialect(self._connection).execute(sql, parameters)
        return None

    def flush(self, seconds: float) -> None:
        """Insert what was kept; a lock that is missing still may be waited for so long.

        Raises:
            TakenError: another sidecar has stored a request meanwhile, or a receipt id is taken.
            LogMovedError: the log is not this sidecar's any more.
        """
        # The limits were met above, and the transaction has the locks.
        if self._rows and not self._log.spend(self._rows, self._spending, [], seconds):
            raise TakenError


class _Found:
    """Rows, as a cursor gives them."""

    def __init__(self, rows: Iterator[Any] | Sequence[Any]) -> None:
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return next(self._rows, None)


class Dialect:
    """The connection with SQLite's marks for parameters, which `writes` has."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Run a statement."""
        return self._connection.execute(marks(sql), parameters)


def marks(sql: str) -> bytes:
    """Return a statement of `writes` with the marks of psycopg; its texts have neither mark in them."""
    return sql.replace("?", "%s").encode()
