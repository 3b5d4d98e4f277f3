"""A sidecar of an earlier version beside one of this version, on one store, while it is upgraded.

The earlier one is what it sends to its store: statements that a database has logged, and those of the SQLite store of
version 3.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

from chio_core.errors import ConfigurationError
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.store import (
    AppendOutcome,
    BudgetExceeded,
    Exhausted,
    Invocation,
    NewReceipt,
    ReceiptStore,
    Revoked,
    Stored,
)
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.hash_chain import FIRST, earlier_link, link
from chio_sidecar.store.postgresql.connection import connect
from chio_sidecar.store.postgresql.schema import Migrated, migrate
from chio_sidecar.store.postgresql.tables import SCHEMA_VERSION
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.fsck_tools import older, select
from tests.sidecar.postgres_tools import OWNER, ROLE, PostgresqlKit, Server
from tests.sidecar.store_conformance import assert_chained, charge, entry
from tests.support import run

RECORDED = Path(__file__).with_name("sidecar_version_5.sql")
VERSION = 5


def recorded() -> list[list[str]]:
    """Return the statements of each part of the record; a comment begins a part."""
    parts: list[list[str]] = [[]]
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--"):
            parts[-1].append(line)
        elif parts[-1]:
            parts.append([])
    return parts


def test_a_sidecar_of_an_earlier_version_goes_on_while_its_database_is_migrated(server: Server) -> None:
    kit = PostgresqlKit(server, "beside")
    with server.connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {kit.database}")
    started, goes_on, beside = recorded()
    with (
        closing(connect(server.place(kit.database, OWNER), seconds=30)) as owner,
        server.connect(kit.database, ROLE) as earlier,
    ):

        def results(statements: list[str]) -> list[tuple[Any, ...]]:
            """Let the earlier sidecar send these; return its rows."""
            cursors = [earlier.execute(statement.encode()) for statement in statements]
            return [row for cursor in cursors if cursor.description is not None for row in cursor.fetchall()]

        migrate(owner, ROLE, to=VERSION)
        assert results(started)[2:] == [(1, 1, 0, FIRST), ("stored",)]
        assert migrate(owner, ROLE) == Migrated(VERSION, SCHEMA_VERSION)
        store = kit.open()
        assert results(goes_on).count(("stored",)) == 2
        # What the earlier one has charged counts for this one.
        over = charge(account="acct", count=1)
        assert run(store.append(entry(4, obligations=(over,)))) == BudgetExceeded(over, "invocations", 0)
        assert isinstance(run(store.append(entry(4, obligations=(charge(account="acct"),)))), Stored)
        answers = results(beside)
        assert [row for row in answers if row in (("revoked",), ("taken",))] == [("revoked",), ("taken",)]
        assert [row[1] for row in answers if len(row) == 5] == ["a", "b", "c"]
        assert (4,) in answers  # the position up to which it lists
        assert run(store.append(entry(5, unless_revoked=("cap-r",)))) == Revoked("cap-r")
        assert len(run(store.list())) == 4
        run(store.close())
    assert_chained(kit, earlier=True)


def test_a_sidecar_of_version_8_charges_by_the_function_that_takes_the_place_of_its_own(server: Server) -> None:
    kit = PostgresqlKit(server, "charging")
    with server.connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {kit.database}")
    argument = (
        "bigint, bigint, bigint, text, double precision, text[], text[], text[], text[], text[], text[], text[],"
        " bigint[], text, text[], bigint[], bigint[], bigint[], text[]"
    )
    call = (
        "SELECT chio.spend(1, 1, 0, (SELECT digest FROM chio.logs), 30, '{}', '{receipt-1}', '{\"{}\"}', '{request-1}',"
        " '{f}', '{2026-11-01T00:00:00Z}', %s, '{7}', '5000ms', '{acct}', '{3}', '{2}', '{9}', '{request-1}')"
    )
    with (
        closing(connect(server.place(kit.database, OWNER), seconds=30)) as owner,
        server.connect(kit.database, ROLE) as earlier,
    ):
        migrate(owner, ROLE, to=8)
        owner.execute("DROP FUNCTION chio.spend")
        owner.execute(
            f"CREATE FUNCTION chio.spend({argument}) RETURNS text LANGUAGE sql AS $$ SELECT 'of 8' $$".encode()
        )
        owner.execute(f"GRANT EXECUTE ON FUNCTION chio.spend TO {ROLE}".encode())
        earlier.execute("SELECT chio.claim(NULL, NULL, 'host:1', 30)")
        digests = [earlier_link(FIRST, 1, ("receipt-1", "{}", "request-1", "f", "2026-11-01T00:00:00Z"))]
        assert earlier.execute(call, (digests,)).fetchone() == ("of 8",)
        assert migrate(owner, ROLE) == Migrated(8, SCHEMA_VERSION)
        assert earlier.execute(call, (digests,)).fetchone() == ("stored",)
        store = kit.open()
        over = charge(account="acct", count=1)
        assert run(store.append(entry(4, obligations=(over,)))) == BudgetExceeded(over, "invocations", 0)
        run(store.close())


def test_a_sidecar_of_version_9_goes_on_beside_one_that_decides_in_the_database(server: Server) -> None:
    kit = PostgresqlKit(server, "deciding")
    with server.connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {kit.database}")
    call = (
        "SELECT chio.spend(1, 1, %s, %s, 30, '{}', %s, '{\"{}\"}', %s, '{f}', '{2026-11-01T00:00:00Z}', %s,"
        " '{7}', '5000ms', '{acct}', '{1}', '{3}', '{NULL}', %s, '{cap-1}', '{0}', '{3}', %s, '[]')"
    )
    with (
        closing(connect(server.place(kit.database, OWNER), seconds=30)) as owner,
        server.connect(kit.database, ROLE) as earlier,
    ):
        migrate(owner, ROLE, to=9)
        owner.execute("DROP FUNCTION chio.decide, chio.obstacle, chio.record")
        with pytest.raises(ConfigurationError, match=r"version 9, this version needs 10; .*store migrate"):
            kit.open()
        earlier.execute("SELECT chio.claim(NULL, NULL, 'host:1', 30)")
        digest = FIRST

        def spend(number: int) -> str:
            """Let the sidecar of version 9 store one receipt with a charge and a use."""
            nonlocal digest
            name = [f"request-{number}"]
            members = (f"receipt-{number}", "{}", f"request-{number}", "f", "2026-11-01T00:00:00Z")
            linked = link(digest, number, members)
            said = earlier.execute(call, (number - 1, digest, [members[0]], name, [linked], name, name)).fetchone()
            digest = linked if said == ("stored",) else digest
            return str((said or ("",))[0])

        assert spend(1) == "stored"
        assert migrate(owner, ROLE) == Migrated(9, SCHEMA_VERSION)
        store = kit.open()
        assert spend(2) == "stored"
        # What the earlier one has spent counts for this one, which stores the last of it and refuses more.
        more = {"invocation": Invocation("cap-1", 0, 3), "obligations": (charge(account="acct", count=3),)}
        refused, last = entry(8, obligations=(charge(account="acct", count=2),)), entry(9, **more)
        outcomes = run(gathered(store, refused, last))
        assert outcomes == [
            BudgetExceeded(refused.obligations[0], "invocations", 0),
            Stored(last.receipt_json, fresh=True),
        ]
        assert spend(3) == "over"
        assert run(store.append(entry(10, **more))) == Exhausted(Invocation("cap-1", 0, 3))
        run(store.close())
    assert_chained(kit)


async def gathered(store: ReceiptStore, *entries: NewReceipt) -> list[AppendOutcome]:
    return await asyncio.gather(*map(store.append, entries))


def test_a_process_of_an_earlier_version_goes_on_in_a_file_that_is_upgraded(tmp_path: Path) -> None:
    path = older(tmp_path / "r", 3)
    statement = (
        "INSERT INTO http_receipts (seq, id, receipt_json, request_id, fingerprint, created_at, chain)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as earlier:

        def append(name: str) -> None:
            earlier.execute("BEGIN IMMEDIATE")
            sequence, digest = earlier.execute("SELECT seq, digest FROM receipt_chain_head").fetchone()
            members = (f"receipt-{name}", "{}", name, "f", "2026-11-01T00:00:00.000000Z")
            earlier.execute(statement, (sequence + 1, *members, earlier_link(digest, sequence + 1, members)))
            earlier.execute("COMMIT")

        append("before")
        store = SqliteReceiptStore(path)
        assert isinstance(run(store.append(entry(7))), Stored)
        append("after")
        earlier.execute("INSERT INTO revoked_capabilities VALUES ('cap-r', 0)")
        assert run(store.append(entry(8, unless_revoked=("cap-r",)))) == Revoked("cap-r")
        assert isinstance(run(store.append(entry(9))), Stored)
        run(store.close())
    assert select(path, "SELECT count(*) FROM http_receipts") == [(7,)]
    with closing(Inspection(path)) as inspection:
        assert [one for one in inspection.findings() if one.kind == "chain"] == []
