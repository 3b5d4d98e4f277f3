"""The log of one sidecar, and the statements that store receipts in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chio_sidecar.store import AppendOutcome, ApprovalUse, Charge, Invocation, Obligation
from chio_sidecar.store.hash_chain import content_of
from chio_sidecar.store.postgresql.connection import Connection, Texts
from chio_sidecar.store.postgresql.decide import DECIDE_CALL, conditions_of, outcome_of
from chio_sidecar.store.writes import Append, Row, members_of

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
RENEW = "SELECT chio.renew(%s, %s, %s)"


class LogMovedError(Exception):
    """Another process has claimed the log, or an earlier transaction of this one has reached the database late."""


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
            keys: of the locks that exclude other sidecars from it, sorted.
            seconds: how long each lock may be waited for.
        """
        accounts, costs, counts, mosts, spenders = _columns(spending.charges, 5)
        capabilities, grants, limits, users = _columns(spending.uses, 4)
        return self._store(
            _SPEND,
            rows,
            *(_numbers(keys), _milliseconds(seconds)),
            *(Texts(accounts), _numbers(costs), _numbers(counts), _numbers(mosts), Texts(spenders)),
            *(Texts(capabilities), _numbers(grants), _numbers(limits), Texts(users)),
            json.dumps(spending.approvals),
        )

    def decide(self, appends: Sequence[Append], keys: list[int], seconds: float) -> list[AppendOutcome]:
        """Insert those of these receipts whose conditions hold, with what they spend; return the outcome of each.

        Args:
            appends: the receipts; those before count for those behind.
            keys: of the locks that exclude other sidecars from what they spend, sorted.
            seconds: how long each lock may be waited for.

        Raises:
            LogMovedError: the log is not this sidecar's any more; nothing was stored.
            psycopg.errors.UniqueViolation: another request has a receipt of this id; nothing was stored.
        """
        head, members = self.head, [members_of(one) for one in appends]
        found = self._connection.only.execute(
            DECIDE_CALL,
            (
                *(head.log_id, head.epoch, head.sequence, head.digest, LEASE_SECONDS),
                *(_numbers(keys), _milliseconds(seconds)),
                *map(Texts, zip(*members, strict=True)),
                Texts(content_of(text, fingerprint) for _, text, _, fingerprint, _ in members),
                json.dumps([conditions_of(one.entry) for one in appends]),
            ),
        ).fetchone()
        if found is None or found[0] is None:
            raise LogMovedError
        said = found[0]
        self.head = Head(head.log_id, head.epoch, said["sequence"], said["digest"])
        return [outcome_of(one.entry, of_it) for one, of_it in zip(appends, said["outcomes"], strict=True)]

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


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _milliseconds(seconds: float) -> str:
    return f"{max(1, int(seconds * 1000))}ms"


def _numbers(values: Sequence[int | None]) -> str:
    """Return an array as the database reads it; psycopg would choose a type for each list by its largest number."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


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
