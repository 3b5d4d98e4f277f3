"""The PostgreSQL store: the suite of all stores, and what only several sidecars on one database can do wrong."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

pytest.importorskip("psycopg")

import httpx
import psycopg
from fastapi import FastAPI

from chio_core.errors import ConfigurationError
from chio_fastapi import add_chio
from chio_sidecar.cli.options import store_of_url
from chio_sidecar.embedded import own_key
from chio_sidecar.store import (
    AlreadyRequested,
    BudgetExceeded,
    Conflict,
    Exhausted,
    Invocation,
    NewReceipt,
    Revoked,
    Stored,
    StoreUnavailable,
)
from chio_sidecar.store.place import DatabasePlace, open_store, read_place
from chio_sidecar.store.postgresql.connection import Connection, connect
from chio_sidecar.store.postgresql.schema import Migrated, migrate
from chio_sidecar.store.postgresql.tables import SCHEMA_VERSION
from chio_sidecar.store.postgresql.writer import PostgresqlWriter
from chio_sidecar.store.writes import Append, Probe, Revoke, Write
from tests import prefork
from tests.sidecar.postgres_tools import OWNER, ROLE, PostgresqlKit, Server
from tests.sidecar.store_conformance import (
    Kit,
    StoreConformance,
    assert_chained,
    charge,
    entry,
    opened,
    refused,
    reply,
    use,
    wait,
)


@pytest.fixture
def kit(server: Server) -> PostgresqlKit:
    return PostgresqlKit(server)


class TestPostgresql(StoreConformance):
    @pytest.fixture
    def kit(self, server: Server) -> Kit:
        return PostgresqlKit(server)


def racer(kit: PostgresqlKit, name: str, number: int, shared: str) -> prefork.Process:
    arguments = [kit.url, name, number, shared]
    return prefork.Process("tests.sidecar.racing_store", arguments, stdout=subprocess.PIPE, env=os.environ)


@pytest.mark.parametrize(
    ("shared", "number", "stored"),
    [("budget", 200, 100), ("uses", 200, 100), ("approvals", 200, 200), ("ids", 200, 200)],
)
def test_four_processes_store_together_exactly_what_one_would(
    kit: PostgresqlKit, shared: str, number: int, stored: int
) -> None:
    async def approve() -> None:
        async with opened(kit) as store:
            waiting = [wait(n, max_open=number, max_open_each=number) for n in range(number)]
            assert await asyncio.gather(*map(store.request_approval, waiting)) == [None] * number
            assert await asyncio.gather(*(store.respond(reply(n)) for n in range(number))) == ["recorded"] * number

    if shared == "approvals":
        asyncio.run(approve())
    racers = [racer(kit, name, number, shared) for name in "abcd"]
    told = Counter(line for one in racers for line in one.communicate(timeout=120)[0].split())
    assert [one.returncode for one in racers] == [0] * 4
    assert set(told.values()) == {1}
    assert sorted(told) == sorted(row[0] for row in kit.fetch("SELECT request_id FROM chio.http_receipts"))
    assert len(told) == stored
    assert_chained(kit)


def test_what_a_killed_process_acknowledged_is_stored(kit: PostgresqlKit) -> None:
    with racer(kit, "a", 100_000, "nothing") as one:
        told = [one.stdout.readline() for _ in range(200)]
        one.kill()
        told += one.stdout.readlines()
    stored = {row[0] for row in kit.fetch("SELECT request_id FROM chio.http_receipts")}
    assert {line.strip() for line in told if line.endswith("\n")} <= stored
    assert_chained(kit)


async def test_what_was_acknowledged_before_the_database_crashed_is_stored_and_the_store_recovers(
    server: Server,
) -> None:
    own = Server(fsync="on")
    try:
        kit = PostgresqlKit(own)
        async with opened(kit) as store:
            first = [asyncio.ensure_future(store.append(entry(number))) for number in range(3000)]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(own.stop)
            outcomes = await asyncio.gather(*first, return_exceptions=True)
            told = {f"request-{n}" for n, outcome in enumerate(outcomes) if isinstance(outcome, Stored)}
            assert all(isinstance(outcome, Stored | StoreUnavailable) for outcome in outcomes)
            assert not (await store.health()).writable
            await asyncio.to_thread(own.start)
            assert told
            assert told <= {row[0] for row in kit.fetch("SELECT request_id FROM chio.http_receipts")}
            assert isinstance(await store.append(entry("later")), Stored)
            assert await store.get("receipt-later-a") is not None
            assert (await store.health()).detail.endswith("every commit synced")
        assert_chained(kit)
    finally:
        own.close()


async def test_the_health_of_the_store_claims_no_synced_commits_where_the_server_syncs_none(kit: PostgresqlKit) -> None:
    assert kit.fetch("SHOW fsync") == [("off",)]
    async with opened(kit) as store:
        assert (await store.health()).detail.endswith("commits are not synced: the server runs with fsync = off")


async def test_a_paused_database_is_an_error_in_time_and_the_store_recovers(kit: PostgresqlKit) -> None:
    async with opened(kit, busy_seconds=1.0) as store:
        await store.append(entry(1))
        with kit.server.paused():
            async with asyncio.timeout(10):
                with pytest.raises(StoreUnavailable, match="in time"):
                    await store.append(entry(2))
                with pytest.raises(StoreUnavailable):
                    await store.get("receipt-1-a")
                assert not (await store.health()).writable
        # The database may have stored it meanwhile: the id decides, as for every repeated request.
        assert isinstance(await store.append(entry(2)), Stored)
        assert isinstance(await store.append(entry(3)), Stored)
    assert_chained(kit)


async def test_requests_are_refused_in_time_while_the_database_is_paused_and_served_afterwards(
    kit: PostgresqlKit, tmp_path: Path
) -> None:
    app = FastAPI()
    app.get("/")(lambda: 1)
    add_chio(app, sidecar_url=f"embedded:{kit.url}&key={tmp_path / 'own.key'}", timeout=1.5)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        assert (await client.get("/")).status_code == 200
        with kit.server.paused():
            async with asyncio.timeout(20):
                refusals = await asyncio.gather(*(client.get("/") for _ in range(20)))
        # 502: the sidecar said that it could not store the receipt; 503: it had no time left to say so.
        assert {response.status_code for response in refusals} <= {502, 503}
        while (await client.get("/")).status_code != 200:
            pass
    await app.state.chio_client.aclose()


async def test_on_a_full_disk_the_store_raises_and_what_it_acknowledged_is_there_later() -> None:
    own = Server(room="80m", max_wal_size="32MB", min_wal_size="32MB")
    try:
        kit = PostgresqlKit(own)
        told, failure = [], None
        async with opened(kit) as store:
            while failure is None:
                row = replace(entry(len(told)), receipt_json=token_hex(50_000))
                try:
                    assert isinstance(await store.append(row), Stored)
                    told.append(row.request_id)
                except StoreUnavailable as exc:
                    failure = exc.message
        # PostgreSQL words it in two ways: the second if half of a page still had room.
        said = failure + (own.folder / "log").read_text()
        assert re.search(r"No space left on device|wrote only \d+ of \d+ bytes", said)
        assert told
        own.give_room("200m")
        own.restart()
        async with opened(kit) as store:
            assert set(told) <= {row[0] for row in kit.fetch("SELECT request_id FROM chio.http_receipts")}
            assert isinstance(await store.append(entry("later")), Stored)
        assert_chained(kit)
    finally:
        own.close()


async def test_a_read_only_database_is_an_error_with_its_remedy(kit: PostgresqlKit) -> None:
    async with opened(kit) as store:
        await store.append(entry(1))
        kit.execute(f"ALTER DATABASE {kit.database} SET default_transaction_read_only = on", OWNER)
        kit.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chio-sidecar'")
        with pytest.raises(StoreUnavailable):  # the connection is gone
            await store.append(entry(2))
        with pytest.raises(StoreUnavailable, match=r"read-only.*name the primary"):
            await store.append(entry(2))


@pytest.mark.parametrize("more", [{}, {"invocation": Invocation("cap-1", 0, 10_000)}], ids=["plain", "with a use"])
async def test_no_receipt_is_stored_after_another_sidecar_has_acknowledged_a_revocation(
    kit: PostgresqlKit, more: dict[str, Any]
) -> None:
    async with opened(kit) as one, opened(kit) as two, opened(kit) as three:

        async def spend(name: str, store: object) -> list[bool]:
            late = []
            for number in range(200):
                was_over = revoked.is_set()
                outcome = await store.append(entry(f"{name}-{number}", unless_revoked=("cap-1",), **more))  # type: ignore[attr-defined]
                if was_over:
                    late.append(isinstance(outcome, Revoked))
            return late

        revoked = asyncio.Event()
        spending = [asyncio.ensure_future(spend(str(n), store)) for n, store in enumerate((one, two))]
        while not await three.list(limit=1):
            pass
        assert await three.revoke("cap-1")
        revoked.set()
        late = [is_refused for some in await asyncio.gather(*spending) for is_refused in some]
    assert late
    assert all(late)


async def test_a_sidecar_whose_log_another_has_claimed_goes_on_in_a_log_of_its_own(kit: PostgresqlKit) -> None:
    async with opened(kit) as one:
        await one.append(entry(1))
        kit.execute("UPDATE logs SET leased_until = now() - interval '1 hour'", OWNER)
        async with opened(kit) as two:
            await two.append(entry(2))
            for number, more in ((3, {}), (4, {"obligations": (charge(),)})):
                assert isinstance(await one.append(entry(number, **more)), Stored)
            await two.append(entry(5))
            assert (await one.health()).writable
        assert [row.request_id for row in await one.list()] == [f"request-{number}" for number in range(1, 6)]
    logs = kit.fetch("SELECT log_id, request_id FROM chio.http_receipts ORDER BY position")
    assert logs == [(1, "request-1"), (1, "request-2"), (2, "request-3"), (2, "request-4"), (1, "request-5")]
    assert_chained(kit)


def statements(kit: PostgresqlKit, since: int) -> list[str]:
    """Return what the database was sent after that size of its log; each is at most one round trip."""
    lines = (kit.server.folder / "log").read_bytes()[since:].decode().splitlines()
    return [line for line in lines if re.search(r"LOG:  (statement|execute .*?):", line)]


SPENDING: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("nothing", {}, {}),
    ("a charge", {"obligations": (charge(count=1),)}, {}),
    ("a use", {"invocation": Invocation("cap-1", 0, 1)}, {}),
    ("an approval", {"obligations": (use(1),)}, {"reply": reply(1)}),
    ("a presented approval", {"obligations": (use(1, token=reply(1)),)}, {}),
    ("an approval that was recorded and is presented", {"obligations": (use(1, token=reply(1)),)}, {"reply": reply(1)}),
    (
        "an approval that was recorded with another token",
        {"obligations": (use(1, token=reply(1, token="other")),)},
        {"reply": reply(1)},
    ),
    (
        "all of them",
        {
            "invocation": Invocation("cap-1", 0, 1),
            "obligations": (Invocation("cap-1", -1, 1), charge(), use(1, token=reply(1))),
            "unless_revoked": ("cap-1",),
        },
        {},
    ),
]


@pytest.mark.parametrize(("spending", "before"), [one[1:] for one in SPENDING], ids=[one[0] for one in SPENDING])
async def test_a_receipt_with_everything_that_it_spends_is_one_round_trip(
    kit: PostgresqlKit, spending: dict[str, Any], before: dict[str, Any]
) -> None:
    kit.execute(f"ALTER DATABASE {kit.database} SET log_statement = 'all'", OWNER)
    async with opened(kit) as store:
        await store.request_approval(wait(1))
        if before:
            assert await store.respond(before["reply"]) == "recorded"
        since = (kit.server.folder / "log").stat().st_size
        assert isinstance(await store.append(entry(1, **spending)), Stored)
        assert len(statements(kit, since)) == 1
    used = kit.fetch("SELECT token_id, request_id FROM chio.chio_hitl_consumed_tokens")
    assert used in ([], [("apt-1", "request-1")])


def written(writer: PostgresqlWriter, connection: Connection, *works: Write) -> Sequence[Any]:
    """Write one batch, as the committer does."""
    writer.begin(connection)
    results = writer.apply(connection, works)
    writer.commit(connection)
    return results


CHARGED, USED, APPROVED = {"obligations": (charge(count=1),)}, {"invocation": Invocation("cap-1", 0, 1)}, (use(1),)
NOT_STORED: list[tuple[str, list[NewReceipt], list[Any], int]] = [
    ("a refused charge", [entry(2, **CHARGED)], [BudgetExceeded(charge(count=1), "invocations", 0)], 2),
    ("a refused use", [entry(2, **USED)], [Exhausted(USED["invocation"])], 2),
    ("a used approval", [entry(2, obligations=APPROVED)], [refused(1, "used")], 2),
    ("a revoked capability", [entry(2, unless_revoked=("cap-r",))], [Revoked("cap-r")], 2),
    ("a repeated request", [entry(1)], [Stored(entry(1).receipt_json, fresh=False)], 2),
    ("other content of a request", [entry(1, content="b")], [Conflict()], 2),
    ("an approval request", [entry(2, obligations=(wait(2),))], [Stored(entry(2).receipt_json, fresh=True)], 1),
    (
        "two requests for one approval",
        [entry(number, obligations=(wait(number, intent="i"),)) for number in (2, 3)],
        [Stored(entry(2).receipt_json, fresh=True), AlreadyRequested("apr-2", denied=False)],
        1,
    ),
    (
        "one refused of 32",
        [*(entry(number, obligations=(charge(account="other"),)) for number in range(10, 41)), entry(9, **CHARGED)],
        [
            *(Stored(entry(number).receipt_json, fresh=True) for number in range(10, 41)),
            BudgetExceeded(charge(count=1), "invocations", 0),
        ],
        2,
    ),
    (
        "each kind once",
        [
            *(entry(2, **CHARGED), entry(3, **USED), entry(4, obligations=APPROVED), entry(5, obligations=(wait(5),))),
            *(entry(1), entry(6, unless_revoked=("cap-r",)), entry(7), entry(7)),
        ],
        [
            *(BudgetExceeded(charge(count=1), "invocations", 0), Exhausted(USED["invocation"]), refused(1, "used")),
            *(Stored(entry(5).receipt_json, fresh=True), Stored(entry(1).receipt_json, fresh=False), Revoked("cap-r")),
            *(Stored(entry(7).receipt_json, fresh=fresh) for fresh in (True, False)),
        ],
        1,
    ),
]


@pytest.mark.parametrize(
    ("batch", "outcomes", "most"), [one[1:] for one in NOT_STORED], ids=[one[0] for one in NOT_STORED]
)
def test_a_batch_of_which_something_is_refused_repeated_or_asks_is_two_round_trips_at_most(
    kit: PostgresqlKit, batch: list[NewReceipt], outcomes: list[Any], most: int
) -> None:
    kit.execute(f"ALTER DATABASE {kit.database} SET log_statement = 'all'", OWNER)
    writer = PostgresqlWriter(kit.server.place(kit.database), wait_seconds=20)
    with closing(writer.open()) as connection:
        before = entry(1, **USED, obligations=(*CHARGED["obligations"], use(1, token=reply(1))))
        written(writer, connection, wait(1), Revoke("cap-r", 0.0))
        assert written(writer, connection, Append(before, 0.0)) == [Stored(before.receipt_json, fresh=True)]
        since = (kit.server.folder / "log").stat().st_size
        assert written(writer, connection, *(Append(one, 0.0) for one in batch)) == outcomes
        assert len(statements(kit, since)) == most
        assert isinstance(*written(writer, connection, Append(entry("later"), 0.0)), Stored)
    fresh = [one.request_id for one, found in zip(batch, outcomes, strict=True) if getattr(found, "fresh", False)]
    rows = kit.fetch("SELECT request_id FROM chio.http_receipts ORDER BY position")
    assert [name for (name,) in rows] == ["request-1", *fresh, "request-later"]
    assert_chained(kit)


def test_a_batch_does_what_is_no_receipt_too_and_returns_each_result_in_its_place(kit: PostgresqlKit) -> None:
    writer = PostgresqlWriter(kit.server.place(kit.database), wait_seconds=20)
    with closing(writer.open()) as connection:
        works = (Probe(), Append(entry(2), 0.0), wait(1), Append(entry(1), 0.0), reply(1), Revoke("cap-r", 0.0))
        stored = [Stored(entry(number).receipt_json, fresh=True) for number in (2, 1)]
        assert written(writer, connection, *works) == [None, stored[0], None, stored[1], "recorded", True]
        again = [Stored(one.receipt_json, fresh=False) for one in stored]
        requested = AlreadyRequested("apr-1", denied=False)
        assert written(writer, connection, *works) == [None, again[0], requested, again[1], "replayed", False]
    assert_chained(kit)


async def test_a_receipt_beside_a_failed_revocation_is_an_error_though_stored_and_repeating_it_returns_it(
    kit: PostgresqlKit,
) -> None:
    revoking = "INSERT ON chio.revoked_capabilities"
    async with opened(kit) as store:
        kit.execute(f"REVOKE {revoking} FROM {ROLE}", OWNER)
        batch = (store.append(entry(1)), store.revoke("cap-r"))  # one turn of the loop, so one batch
        outcomes = await asyncio.gather(*batch, return_exceptions=True)
        assert [type(one) for one in outcomes] == [StoreUnavailable, StoreUnavailable]
        assert kit.fetch("SELECT request_id FROM chio.http_receipts") == [("request-1",)]
        kit.execute(f"GRANT {revoking} TO {ROLE}", OWNER)
        assert await store.append(entry(1)) == Stored(entry(1).receipt_json, fresh=False)
        assert await store.revoke("cap-r")
    assert_chained(kit)


def test_a_batch_with_a_refusal_finds_what_another_sidecar_stores_meanwhile_and_spends_nothing_twice(
    kit: PostgresqlKit,
) -> None:
    kit.execute(f"ALTER DATABASE {kit.database} SET log_statement = 'all'", OWNER)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    over, other = charge(2, most=1), {"obligations": (charge(account="other"),)}
    batch = [entry(1, obligations=(over,)), entry(2, **other), entry(3), entry(4, **other)]
    one, two = (PostgresqlWriter(kit.server.place(kit.database), wait_seconds=20) for _ in range(2))
    with closing(one.open()) as first, closing(two.open()) as second, ThreadPoolExecutor(1) as thread:
        first.execute("BEGIN")
        one.begin(first)
        assert isinstance(*one.apply(first, [Append(entry(3), 0.0)]), Stored)  # not committed
        since = (kit.server.folder / "log").stat().st_size
        outcomes = thread.submit(written, two, second, *(Append(row, 0.0) for row in batch))
        # It waits for the request id that the other transaction has inserted, with its charges recorded.
        while kit.fetch(waiting) != [(1,)]:
            assert not outcomes.done()
        sent = statements(kit, since)
        first.execute("COMMIT")
        assert outcomes.result() == [
            BudgetExceeded(over, "total", 1),
            *(Stored(row.receipt_json, fresh=row != batch[2]) for row in batch[1:]),
        ]
    assert len([line for line in sent if "pg_stat_activity" not in line]) == 2
    charged = kit.fetch("SELECT account, ordinal, total, request_id FROM chio.budget_charges ORDER BY ordinal")
    assert charged == [("other", 1, 1, "request-2"), ("other", 2, 2, "request-4")]
    assert_chained(kit)


async def test_in_a_batch_only_what_cannot_be_spent_is_refused(kit: PostgresqlKit) -> None:
    grant, account = Invocation("cap-1", 0, 2), charge(count=2)
    async with opened(kit) as store:
        await asyncio.gather(*(store.request_approval(wait(number)) for number in range(6)))
        await asyncio.gather(*(store.respond(reply(number)) for number in range(3)))
        await store.revoke("cap-r")
        batch = [
            *(entry(f"a{number}", invocation=grant) for number in range(4)),
            *(entry(f"b{number}", obligations=(account,)) for number in range(4)),
            *(entry(f"c{number}", obligations=(use(0),)) for number in range(2)),
            entry("d", obligations=(use(1, intent="another"),)),
            entry("e", obligations=(use(2, at=1101),)),
            entry("f", obligations=(use(3),)),
            # Two requests present one token, each for an approval of its own.
            *(entry(f"g{number}", obligations=(use(number, token=reply(number, token="t")),)) for number in (4, 5)),
            entry("h", unless_revoked=("cap-r",)),
            entry("i"),
        ]
        outcomes = await asyncio.gather(*map(store.append, batch))
        stored = [row.request_id for row, one in zip(batch, outcomes, strict=True) if isinstance(one, Stored)]
        names = ("a0", "a1", "b0", "b1", "c0", "g4", "i")
        assert stored == [f"request-{name}" for name in names]
        assert [one for one in outcomes if not isinstance(one, Stored)] == [
            *[Exhausted(grant)] * 2,
            *[BudgetExceeded(account, "invocations", 0)] * 2,
            refused(0, "used"),
            refused(1, "another request"),
            refused(2, "expired"),
            refused(3, "waiting"),
            refused(5, "replayed"),
            Revoked("cap-r"),
        ]
    uses = "SELECT ordinal, request_id FROM chio.capability_invocations ORDER BY ordinal"
    assert kit.fetch(uses) == [(1, "request-a0"), (2, "request-a1")]
    used = "SELECT approval_id, token_id, request_id FROM chio.chio_hitl_consumed_tokens ORDER BY approval_id"
    assert kit.fetch(used) == [("apr-0", "apt-0", "request-c0"), ("apr-4", "t", "request-g4")]
    assert_chained(kit)


async def test_receipts_whose_charges_fit_are_one_statement_so_no_account_waits_for_a_sidecar(
    kit: PostgresqlKit,
) -> None:
    async with opened(kit) as store:
        row = entry(1, obligations=(charge(3, most=7), charge(4, account="account-2")))
        assert isinstance(await store.append(row), Stored)
        asked = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%chio.spend%'"
        assert len(kit.fetch(f"{asked} AND pid <> pg_backend_pid()")) == 1
        over = [entry(number, obligations=(charge(3, most=7),)) for number in (2, 3)]
        first, second = await asyncio.gather(*map(store.append, over))
        assert isinstance(first, Stored)
        assert second == BudgetExceeded(over[1].obligations[0], "total", 1)
    rows = "SELECT account, ordinal, cost, total, request_id FROM chio.budget_charges ORDER BY account, ordinal"
    assert kit.fetch(rows) == [
        ("account-1", 1, 3, 3, "request-1"),
        ("account-1", 2, 3, 6, "request-2"),
        ("account-2", 1, 4, 4, "request-1"),
    ]


@pytest.mark.parametrize(
    "spending",
    [{"obligations": (charge(count=1),)}, {"invocation": Invocation("cap-1", 0, 1)}, {"obligations": (use(1),)}],
    ids=["charge", "use", "approval"],
)
async def test_a_request_that_two_sidecars_got_at_once_is_spent_once_and_both_return_its_receipt(
    spending: dict[str, Any], kit: PostgresqlKit
) -> None:
    last = entry(1, **spending)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with opened(kit) as one, opened(kit) as two:
        assert await one.request_approval(wait(1)) is None
        assert await two.respond(reply(1)) == "recorded"
        with kit.server.connect(kit.database, OWNER) as other:
            other.execute("BEGIN")
            other.execute("SELECT FROM chio.logs FOR UPDATE")
            both = []
            for number, store in enumerate((one, two), 1):  # the first has the account's lock, the second waits for it
                both.append(asyncio.ensure_future(store.append(last)))
                while await asyncio.to_thread(kit.fetch, waiting) != [(number,)]:
                    pass
            other.execute("COMMIT")
        first, second = await asyncio.gather(*both)
        assert first == Stored(last.receipt_json, fresh=True)
        assert second == Stored(last.receipt_json, fresh=False)
    tables = ("budget_charges", "capability_invocations", "chio_hitl_consumed_tokens")
    spent = " UNION ALL ".join(f"SELECT request_id FROM chio.{table}" for table in tables)
    assert kit.fetch(spent) == [(last.request_id,)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("default_transaction_isolation = 'repeatable read'", r"stored after the revocation.*'read committed'"),
        ("default_transaction_isolation = 'serializable'", r"stored after the revocation.*'read committed'"),
        ("synchronous_commit = off", r"synchronous_commit is off.*ALTER ROLE"),
    ],
)
async def test_no_receipt_is_stored_with_settings_that_could_lose_it_or_miss_a_revocation(
    kit: PostgresqlKit, setting: str, message: str
) -> None:
    async with opened(kit) as store:
        assert isinstance(await store.append(entry(1)), Stored)
        # A setting that a running sidecar gets with its next connection.
        kit.execute(f"ALTER ROLE {ROLE} IN DATABASE {kit.database} SET {setting}", OWNER)
        kit.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chio-sidecar'")
        with pytest.raises(StoreUnavailable):  # the connection is gone
            await store.append(entry(2))
        with pytest.raises(StoreUnavailable, match=r"ALTER ROLE"):
            await store.append(entry(2))
    assert kit.fetch("SELECT request_id FROM chio.http_receipts") == [("request-1",)]
    with pytest.raises(ConfigurationError, match=message):
        kit.open()


@pytest.mark.parametrize("setting", ["array_nulls", "standard_conforming_strings"])
def test_a_role_for_which_the_database_would_misread_statements_is_refused(kit: PostgresqlKit, setting: str) -> None:
    for role in (ROLE, OWNER):
        kit.execute(f"ALTER ROLE {role} IN DATABASE {kit.database} SET {setting} = off", OWNER)
    with pytest.raises(ConfigurationError, match=rf"^{setting} is off .*ALTER ROLE … SET {setting} = on"):
        kit.open()
    with (
        closing(connect(kit.server.place(kit.database, OWNER), seconds=10)) as owner,
        pytest.raises(ConfigurationError, match=rf"^{setting} is off .*ALTER ROLE … SET {setting} = on"),
    ):
        migrate(owner, ROLE)


async def test_no_request_is_refused_because_the_database_has_closed_an_idle_connection(kit: PostgresqlKit) -> None:
    # As idle_session_timeout does, a restart of the database, or a firewall between.
    end = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    async with opened(kit) as store:
        for number in range(3):
            assert isinstance(await store.append(entry(number)), Stored)
            ended = kit.fetch(f"{end} AND application_name = 'chio-sidecar'")
            assert ended
            await until_gone([pid for pid, _ in ended])
    assert len(kit.fetch("SELECT FROM chio.logs")) == 1


async def until_gone(pids: list[int]) -> None:
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        await asyncio.to_thread(os.sched_yield)


async def test_a_pool_of_transactions_may_be_between(kit: PostgresqlKit) -> None:
    with kit.server.pooled(kit.database) as place:
        one, two, three = (open_store(place, busy_seconds=20) for _ in range(3))
        stores = (one, two, three)
        rows = [entry(number, obligations=(charge(1, most=50),)) for number in range(300)]
        outcomes = await asyncio.gather(*(stores[n % 3].append(row) for n, row in enumerate(rows)))
        assert sum(isinstance(outcome, Stored) for outcome in outcomes) == 50
        plain = [entry(f"plain-{number}", unless_revoked=("cap-1",)) for number in range(300)]
        outcomes = await asyncio.gather(*(stores[n % 3].append(row) for n, row in enumerate(plain * 2)))
        assert sum(isinstance(outcome, Stored) and outcome.fresh for outcome in outcomes) == 300
        assert await one.revoke("cap-1")
        assert await two.append(entry("late", unless_revoked=("cap-1",))) == Revoked("cap-1")
        assert len(await three.list(limit=1000)) == 350
        await asyncio.gather(*(store.close() for store in stores))
    assert_chained(kit)


FORBIDDEN = [
    "INSERT INTO http_receipts (log_id, seq, id, receipt_json, request_id, fingerprint, created_at, chain)"
    " VALUES (1, 9, 'x', '{}', 'x', 'x', 'x', 'x')",
    "UPDATE logs SET seq = 0",
    "DELETE FROM logs",
    "TRUNCATE http_receipts",
    "TRUNCATE revoked_capabilities",
    "DROP TABLE http_receipts",
    "DROP TRIGGER http_receipts_append_only ON http_receipts",
    "ALTER TABLE http_receipts DISABLE TRIGGER ALL",
    "SET session_replication_role = replica",
    "CREATE OR REPLACE FUNCTION chio.horizon() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
    "UPDATE schema_version SET oldest = 0",
    "DROP SCHEMA chio CASCADE",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_the_role_of_a_sidecar_may_only_add(kit: PostgresqlKit, sql: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        kit.execute(sql)


def test_a_migration_takes_from_roles_what_they_have_too_much_of(kit: PostgresqlKit) -> None:
    rights = "SELECT relname FROM pg_class WHERE relnamespace = 'chio'::regnamespace AND relkind = 'r'"
    rights += " AND has_table_privilege('{}', oid, '{}') ORDER BY relname"
    asked = [(role, right) for role in (ROLE, "chio_erase") for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE")]
    before = [kit.fetch(rights.format(*one)) for one in asked]
    # As default privileges of the owner give them, which many teams have for their applications.
    kit.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA chio TO PUBLIC, {ROLE}, chio_erase", OWNER)
    kit.execute(f"GRANT USAGE ON SCHEMA chio_trust TO PUBLIC; GRANT ALL ON chio_trust.authority_state TO {ROLE}", OWNER)
    with closing(connect(kit.server.place(kit.database, OWNER), seconds=5)) as owner:
        migrate(owner, ROLE, erase_role="chio_erase")
        assert [kit.fetch(rights.format(*one)) for one in asked] == before
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            kit.execute("SELECT FROM chio_trust.authority_state")
        kit.execute(f"GRANT pg_write_all_data TO {ROLE}", OWNER)
        try:
            with pytest.raises(ConfigurationError, match=f'"{ROLE}" is a member of a role that may change chio'):
                migrate(owner, ROLE)
        finally:
            kit.execute(f"REVOKE pg_write_all_data FROM {ROLE}", OWNER)


@pytest.mark.parametrize("change", ["UPDATE {} SET request_id = ''", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("table", ["http_receipts", "budget_charges", "capability_invocations"])
async def test_triggers_refuse_the_owner_too(kit: PostgresqlKit, change: str, table: str) -> None:
    async with opened(kit) as store:
        await store.append(entry(obligations=(charge(), Invocation("cap-1", 0, 5))))
    with pytest.raises(psycopg.Error, match="append-only"):
        kit.execute(change.format(table), OWNER)


async def test_text_of_a_caller_is_never_sql(kit: PostgresqlKit) -> None:
    text = "'; DROP TABLE chio.http_receipts; -- %s ? $1"
    async with opened(kit) as store:
        row = entry(text, obligations=(charge(account=text),), unless_revoked=(text,))
        assert isinstance(await store.append(row), Stored)
        assert [one.request_id for one in await store.list()] == [row.request_id]
        assert await store.revoke(text)
        assert await store.append(entry(2, unless_revoked=(text,))) == Revoked(text)


@pytest.mark.parametrize(
    ("version", "oldest", "message"),
    [(SCHEMA_VERSION + 1, SCHEMA_VERSION, None), (SCHEMA_VERSION + 1, SCHEMA_VERSION + 1, "install a newer")],
)
def test_a_sidecar_works_with_the_next_schema_as_far_as_that_says(
    kit: PostgresqlKit, version: int, oldest: int, message: str | None
) -> None:
    kit.execute(f"INSERT INTO schema_version VALUES ({version}, {oldest})", OWNER)
    if message is None:
        asyncio.run(kit.open().close())
        return
    with pytest.raises(ConfigurationError, match=message):
        kit.open()


def test_a_database_of_an_earlier_version_is_refused_until_it_is_migrated(server: Server) -> None:
    kit = PostgresqlKit(server, "earlier")
    with server.connect("postgres") as admin:
        admin.execute("CREATE DATABASE earlier")
    with closing(connect(server.place("earlier", OWNER), seconds=5)) as owner:
        for before in range(1, SCHEMA_VERSION):
            assert migrate(owner, ROLE, to=before) == Migrated(before - 1, before)
            with pytest.raises(ConfigurationError, match=rf"version {before}, this version needs .*store migrate"):
                kit.open()
        assert migrate(owner, ROLE).after == SCHEMA_VERSION
        asyncio.run(kit.open().close())


def test_a_database_without_tables_or_rights_names_the_command(server: Server) -> None:
    name = server.new_database()
    kit = PostgresqlKit(server, name)
    kit.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA chio FROM {ROLE}", OWNER)
    with pytest.raises(ConfigurationError, match=r"--role .*store migrate"):
        kit.open()
    with closing(connect(server.place(name, OWNER), seconds=5)) as owner:
        assert migrate(owner, ROLE) == Migrated(SCHEMA_VERSION, SCHEMA_VERSION)
        asyncio.run(kit.open().close())
        with pytest.raises(ConfigurationError, match="another one for the sidecars"):
            migrate(owner, OWNER)
        with pytest.raises(ConfigurationError, match='CREATE ROLE "missing"'):
            migrate(owner, "missing")
    with pytest.raises(ConfigurationError, match=r"no receipt store yet.*store migrate"):
        PostgresqlKit(server, "postgres").open()


SECRET_URLS = {
    "postgresql://chio:secret@db/x": "PGPASSWORD",
    "POSTGRESQL://chio:secret@db/x": "PGPASSWORD",
    "postgresql:///x?password=secret": "PGPASSWORD",
    "postgresql:///x?sslpassword=secret": "PGPASSWORD",
    "postgresql:///x?%73cram_client_key=secret": "PGPASSWORD",
    "postgresql://chio:secret/x": "cannot be read",
    "postgresql://chio@db:5432,chio:secret/x": "cannot be read",
    "postgresql+psycopg://chio:secret@db/x": r"postgresql\+psycopg:// is neither",
    "mysql://chio:secret@db/x": "mysql:// is neither",
}


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_url_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    for read in (read_place, lambda text: store_of_url(f"embedded:{text}"), own_key):
        with pytest.raises(ConfigurationError, match=SECRET_URLS[url]) as caught:
            read(url)
        assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["postgresql://[::1]:5432/x", "postgresql://a,b:5432,[::1]/x", "postgresql:///x"])
def test_a_url_may_have_several_hosts_and_addresses(url: str) -> None:
    assert DatabasePlace.parse(url).shown == url


def test_own_options_of_a_url_do_not_reach_the_database() -> None:
    place = DatabasePlace.parse("postgresql://chio@127.0.0.1:1/db?key=a%20b.key&spec=x&sslmode=require")
    assert (place.shown, str(place.key_path)) == ("postgresql://127.0.0.1:1/db", "a b.key")
    assert place.url == "postgresql://chio@127.0.0.1:1/db?sslmode=require"
    with pytest.raises(ConfigurationError, match=r"cannot use postgresql://127.0.0.1:1/db as .*refused"):
        open_store(place)
