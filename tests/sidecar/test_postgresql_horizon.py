"""Lists of a database and the transactions that append to it: neither waits for the other, and no row is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

pytest.importorskip("psycopg")

from chio_sidecar.records.archive import open_archive
from chio_sidecar.store import Stored, StoredReceipt
from chio_sidecar.store.postgresql.connection import Connection, connect
from chio_sidecar.store.postgresql.functions import APPENDING
from chio_sidecar.store.postgresql.log import Head, PostgresqlLog
from chio_sidecar.store.writes import Append, chained
from tests.sidecar.postgres_tools import OWNER, ROLE, PostgresqlKit, Server
from tests.sidecar.store_conformance import entry, opened


@pytest.fixture
def kit(server: Server) -> PostgresqlKit:
    return PostgresqlKit(server)


@contextmanager
def appending(kit: PostgresqlKit, *numbers: int) -> Iterator[Connection]:
    """Give a transaction of another sidecar that has stored receipts and has not ended."""
    with closing(connect(kit.server.place(kit.database), seconds=30)) as connection:
        claim = "SELECT log_id, epoch, seq, digest FROM chio.claim(NULL, NULL, 'test', 30)"
        head = Head(*(connection.execute(claim).fetchone() or ()))
        connection.execute("BEGIN")
        log = PostgresqlLog(connection, head)
        assert log.insert(chained(log.end(), [Append(entry(number), 0.0) for number in numbers]))
        yield connection


# Of the larger positions, the lock that states them has the upper and the lower bits apart, with and without a sign.
@pytest.mark.parametrize("first", [1, 2**31, 2**32, 2**40 - 2])
async def test_a_list_ends_before_what_a_transaction_stores_and_neither_waits(kit: PostgresqlKit, first: int) -> None:
    kit.execute(f"ALTER TABLE chio.http_receipts ALTER COLUMN position RESTART WITH {first}", OWNER)
    place = kit.server.place(kit.database)
    async with opened(kit) as store:
        await store.append(entry(1))
        with appending(kit, 2, 3) as other:
            with kit.server.connect(kit.database, ROLE) as reader:
                reader.execute("SET lock_timeout = '1ms'")
                assert reader.execute("SELECT chio.horizon()").fetchone() == (first,)
            with open_archive(place) as archive:
                assert (archive.newest(), archive.last) == (first, first)
            assert isinstance(await store.append(entry(4)), Stored)
            assert [row.request_id for row in await store.list()] == [entry(1).request_id]
            other.execute("COMMIT")
        assert [row.sequence - first for row in await store.list(after=first)] == [1, 2, 3]
        with open_archive(place) as archive:
            assert archive.last == first + 3


async def test_what_was_rolled_back_hides_nothing(kit: PostgresqlKit) -> None:
    async with opened(kit) as store:
        with appending(kit, 1) as other:
            await store.append(entry(2))
            assert await store.list() == []
            other.execute("ROLLBACK")
            assert [row.request_id for row in await store.list()] == [entry(2).request_id]


async def test_a_reader_that_stays_in_its_transaction_stops_no_append_and_no_revocation(kit: PostgresqlKit) -> None:
    async with opened(kit) as store:
        await store.append(entry(1))
        with kit.server.connect(kit.database, ROLE) as reader:
            reader.execute("BEGIN READ ONLY")
            assert reader.execute("SELECT chio.horizon()").fetchone() == (1,)
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert reader.execute(held).fetchone() == (0,)
            assert kit.fetch(f"SELECT pg_try_advisory_xact_lock({APPENDING})", ROLE) == [(True,)]
            assert isinstance(await store.append(entry(2)), Stored)
            assert await store.revoke("cap-1")
            assert reader.execute("SELECT chio.horizon()").fetchone() == (2,)


async def test_a_reader_behind_a_cursor_meets_every_row_while_three_sidecars_store(kit: PostgresqlKit) -> None:
    async with opened(kit) as one, opened(kit) as two, opened(kit) as three, opened(kit) as reader:
        rows, stores = [entry(number) for number in range(300)], (one, two, three)
        writing = [asyncio.create_task(stores[number % 3].append(row)) for number, row in enumerate(rows)]
        read: list[StoredReceipt] = []
        is_over = False
        while not is_over:
            is_over = all(task.done() for task in writing)
            while page := await reader.list(after=read[-1].sequence if read else 0, limit=7):
                read += page
        assert sorted(row.request_id for row in read) == sorted(row.request_id for row in rows)
        assert all(isinstance(task.result(), Stored) for task in writing)
