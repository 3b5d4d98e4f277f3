"""Connections whose every wait has a deadline, and what exceptions say about the database."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import cached_property
from struct import Struct
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

from chio_sidecar.store.driver import Trouble
from chio_sidecar.store.place import DatabasePlace

_BUSY = {"40001", "40P01", "55P03"}
"""Serialization failure, deadlock, lock timeout: the same transaction can succeed a moment later."""
_OF_THE_WORK = ("22", "23", "54")
"""Classes of SQLSTATE about values: data exception, integrity constraint, program limit."""


ISOLATED, NOT_DURABLE = "CH003", "CH004"
"""What `chio.append` raises if its transaction would not see what other sidecars committed, or could be lost."""

UNISOLATED = ("read committed", "read uncommitted")
"""Isolation levels in which each statement sees what was committed before it; the second is the first in PostgreSQL."""
SETTINGS = {
    ISOLATED: "run: ALTER ROLE … SET default_transaction_isolation = 'read committed'",
    NOT_DURABLE: "run: ALTER ROLE … SET synchronous_commit = on",
}
"""What to do about settings of the role with which no receipt is stored; a transaction needs both as they are here."""

DatabaseError = psycopg.Error

_CANCEL_SECONDS = 1.0

_ARRAY = Struct("!iiIii")  # dimensions, whether one is NULL, type of the elements, their number, index of the first
_LENGTH = Struct("!i")


class Texts(tuple[str, ...]):
    """An array of texts. For a list psycopg looks for the type in each statement, which takes longer than the dump."""

    __slots__ = ()


class _TextsDumper(Dumper):
    format = Format.BINARY  # in text form each quotation mark would be escaped
    oid = types["text"].array_oid

    def dump(self, obj: Texts) -> bytes:
        parts = [_ARRAY.pack(1, 0, types["text"].oid, len(obj), 1)]
        for text in obj:
            raw = text.encode()
            parts += (_LENGTH.pack(len(raw)), raw)
        return b"".join(parts)


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that fails as soon as `until` has passed while the database does not respond.

    Without this, a database that is paused or unreachable would hold the thread, and with it every caller.
    """

    until = float("inf")
    _is_cancelled = False

    @cached_property
    def only(self) -> psycopg.Cursor[tuple[Any, ...]]:
        """A cursor for statements whose rows are read before the next; it keeps what it has found out of parameters."""
        return self.cursor()

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        """Wait for the database, in steps of psycopg's interval, until the deadline."""
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and time.monotonic() >= self.until:
                    if self._is_cancelled:
                        raise KeyboardInterrupt
                    raise psycopg.OperationalError("the database did not respond in time")
                state = gen.send(ready)
        except StopIteration as stop:
            return stop.value

    def cancel_safe(self, *, timeout: float = _CANCEL_SECONDS) -> None:
        """Cancel what runs; psycopg does it at an interrupt, and then waits for the result.

        Both may take a second together, so that Ctrl-C ends a command although the database is paused.
        """
        self._is_cancelled = True
        self.limit(_CANCEL_SECONDS)
        super().cancel_safe(timeout=min(timeout, _CANCEL_SECONDS))

    def limit(self, seconds: float) -> None:
        """Let everything from now on take this long together."""
        self.until = time.monotonic() + seconds


def connect(place: DatabasePlace, *, seconds: float) -> Connection:
    """Connect without state of a session: no prepared statements, and every statement its own transaction.

    Args:
        place: the database.
        seconds: how long connecting may take, and what follows until `limit`.

    Raises:
        psycopg.Error: the database cannot be reached, or refuses.
    """
    connection = Connection.connect(
        place.url,
        autocommit=True,
        prepare_threshold=None,
        client_encoding="UTF8",
        connect_timeout=max(2, int(seconds)),  # libpq's shortest is 2
        application_name="chio-sidecar",
    )
    connection.adapters.register_dumper(Texts, _TextsDumper)
    connection.limit(seconds)
    return connection


def is_passing(exc: psycopg.Error) -> bool:
    """Return True for an exception about the connection or the state of the server, which may end by itself."""
    return isinstance(exc, psycopg.OperationalError)


def trouble(exc: Exception) -> Trouble | None:
    """Return what an exception says about the database; None if it is about one piece of work."""
    if not isinstance(exc, psycopg.Error):
        return None
    state = exc.sqlstate or ""
    if isinstance(exc, psycopg.DataError | psycopg.IntegrityError) or state[:2] in _OF_THE_WORK:
        return None
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if state in _BUSY:
        return Trouble("busy", text, "other sidecars hold the rows; try again")
    if state == "42501":
        return Trouble("machine", text, "grant the rights of a sidecar: chio-sidecar store migrate --role")
    if state == "25006":
        return Trouble("machine", text, "this is a standby: name the primary, or add target_session_attrs=read-write")
    if state in SETTINGS:
        return Trouble("machine", text, SETTINGS[state])
    if state[:2] == "53":
        return Trouble("machine", text, "free space, memory or connections of the database")
    return Trouble("machine", text, "check the database, and the way to it")
