"""`receipt rotate` on a database: each log goes into an archive, and everything that a decision depends on stays."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

import psycopg

from chio_core.canonical import compact_json
from chio_core.errors import ConfigurationError
from chio_sidecar.config import options_of_place
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.fsck_postgresql import DatabaseInspection
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.store import NewReceipt, Stored
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.rotate import archive, trim
from chio_sidecar.store.rotate import ROWS
from chio_sidecar.store.statements import ArchiveStatement
from tests import prefork
from tests.sidecar.approval_tools import approved, pay, verdict
from tests.sidecar.control_tools import CommandLine, key_file, sidecars
from tests.sidecar.fsck_tools import inspect, select
from tests.sidecar.postgres_tools import ARCHIVE_ROLE, OWNER, ROLE, PostgresqlKit, Server
from tests.sidecar.sidecar_tools import (
    AUTHORITY,
    KERNEL,
    NOW,
    SERVER,
    STRANGER,
    TOOL,
    Clock,
    capability,
    decision,
    grant,
)
from tests.sidecar.store_conformance import charge, entry, opened
from tests.sidecar.test_budgets import demand, spend
from tests.support import run
from tests.viewer.records import receipt

LATER = 2**32
"""A time after every receipt."""

TRUSTED = {KERNEL.public_hex, STRANGER.public_hex}
LIMITED = capability(name="cap-limited", grants=[grant(max_invocations=3)])


@pytest.fixture
def kit(server: Server) -> PostgresqlKit:
    return PostgresqlKit(server)


@pytest.fixture
def url(kit: PostgresqlKit, tmp_path: Path) -> str:
    """The URL of the role that rotates, with the key of a sidecar."""
    return f"{kit.server.url(kit.database, ARCHIVE_ROLE)}&key={key_file(tmp_path / 'own.key')}"


def fill(kit: PostgresqlKit) -> str:
    """Let two sidecars decide requests that leave a row in each table, and return the id of a used approval."""

    async def decide(one: Any, two: Any) -> str:
        approval = await approved(one)
        await pay(two, "paid", approval)
        for number, app in enumerate((one, two, one)):
            await spend(app, f"spent-{number}", demand(2 + number, max_invocations=9))
        for number, app in enumerate((two, one)):
            await decision(app, LIMITED, tool_server=SERVER, tool_name=TOOL, request_id=f"limited-{number}")
        for number in range(3):
            await decision(two, request_id=f"plain-{number}")
        await one.state.sidecar.store.revoke("cap-revoked")
        return approval

    with both(kit) as (one, two):
        return run(decide(one, two))


@contextmanager
def both(kit: PostgresqlKit) -> Iterator[tuple[Any, Any]]:
    """Two sidecars on one database."""
    own = {**options_of_place(place_of(kit, ROLE)), "trusted_issuers": {AUTHORITY.public_hex}, "clock": Clock()}
    with sidecars() as create:
        yield create(**own, signing_key=KERNEL), create(**own, signing_key=STRANGER)


def place_of(kit: PostgresqlKit, role: str = ARCHIVE_ROLE) -> DatabasePlace:
    return kit.server.place(kit.database, role)


def rotate(
    kit: PostgresqlKit, folder: Path, *, before: int = LATER, steps: int | None = None
) -> dict[int, ArchiveStatement]:
    """Rotate a database; with `steps`, end the removal after so many transactions."""
    made = archive(place_of(kit), folder, KERNEL, now=NOW)
    signed = {log: said.signed_by(KERNEL) for log, said in made.items()}
    removal = trim(place_of(kit), made, signed, before=before)
    with closing(removal):  # type: ignore[type-var]
        list(islice(removal, steps))
    return made


def findings(kit: PostgresqlKit, *folders: Path) -> list[str]:
    """Return what fsck finds in a database, and in the archives of these rotations."""
    found = [
        finding.text for folder in folders for file in folder.iterdir() for finding in inspect(file, trusted=TRUSTED)[0]
    ]
    with closing(DatabaseInspection(place_of(kit), trusted_keys=TRUSTED)) as database:
        return found + [finding.text for part in database.parts() for finding in part.findings()]


def rows_of(folder: Path) -> list[tuple[object, ...]]:
    """Return digest and request id of each receipt in the archives of a rotation."""
    return [row for file in folder.iterdir() for row in select(file, "SELECT chain, request_id FROM http_receipts")]


def archived(*folders: Path) -> list[str]:
    """Return the request ids in the archives of these rotations."""
    return [str(name) for folder in folders for _, name in rows_of(folder)]


def test_each_log_is_in_an_archive_and_the_live_state_stays(
    kit: PostgresqlKit, url: str, tmp_path: Path, cli: CommandLine
) -> None:
    approval, folder = fill(kit), tmp_path / "2026-11"
    requests = [row[0] for row in kit.fetch("SELECT request_id FROM chio.http_receipts")]
    kept = ("revoked_capabilities", "chio_hitl_pending", "chio_hitl_resolved", "chio_hitl_consumed_tokens")
    before = {table: kit.fetch(f"SELECT * FROM chio.{table}") for table in kept}
    logs = kit.fetch("SELECT seq, digest FROM chio.logs ORDER BY log_id")

    out = cli("receipt", "rotate", "--receipt-store", url, "--to", folder, "--keep", str(LATER))
    files = [folder / "log-1.xz", folder / "log-2.xz"]
    lines = [
        f"archive   {file}, rows 1 to {last}\nhead      {head}\n"
        for file, (last, head) in zip(files, logs, strict=True)
    ]
    assert out == "".join(lines) + f"removed   {len(requests) - 2} receipts\n"
    assert sorted(archived(folder)) == sorted(requests)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o400}
    charges = [row for file in files for row in select(file, "SELECT ordinal, cost, total FROM budget_charges")]
    assert sorted(charges) == [(1, 2, 2), (2, 3, 5), (3, 4, 9)]
    assert kit.fetch("SELECT log_id, seq FROM chio.http_receipts ORDER BY 1") == [
        (n, s) for n, (s, _) in enumerate(logs, 1)
    ]
    assert kit.fetch("SELECT ordinal, cost, total FROM chio.budget_charges") == [(3, 4, 9)]
    assert set(kit.fetch("SELECT ordinal FROM chio.capability_invocations")) == {(2,)}
    assert {table: kit.fetch(f"SELECT * FROM chio.{table}") for table in kept} == before

    async def go_on(one: Any, two: Any) -> None:
        refused = await decision(two, capability(name="cap-revoked"), tool_server=SERVER, tool_name=TOOL)
        assert refused["verdict"]["reason"] == "capability token has been revoked"
        for verdict_ in ("allow", "deny"):  # two of three uses are spent
            used = await decision(one, LIMITED, tool_server=SERVER, tool_name=TOOL, request_id=f"then-{verdict_}")
            assert verdict(used) == verdict_
        assert verdict(await spend(two, "more", demand(1, max_invocations=3))) == "deny"  # of three charges, three
        assert verdict(await pay(one, "twice", approval)) == "deny"

    with open_archive(place_of(kit)) as reader:
        assert reader.invocations("cap-limited", 0) == 2
    with both(kit) as (one, two):
        run(go_on(one, two))
    trust = [option for key in sorted(TRUSTED) for option in ("--trusted-key", key)]
    assert "archived  rows 1 to " in cli("receipt", "fsck", "--receipt-store", url, *trust)
    whole = cli("receipt", "fsck", "--receipt-store", url, "--archive", folder, *trust)
    assert whole.count("findings  0\n") == 5  # two archives, two logs, and what they share
    assert f"rows 1 to {logs[0][0] - 1}; the newest archive is 2026-11/log-1.xz\n" in whole


def test_what_reads_a_database_says_that_older_receipts_are_archived(
    kit: PostgresqlKit, url: str, tmp_path: Path, cli: CommandLine
) -> None:
    fill(kit)
    folder = tmp_path / "a"
    first = json.loads(cli("receipt", "list", "--receipt-store", url).splitlines()[0])["id"]
    found = json.loads(cli("receipt", "rotate", "--receipt-store", url, "--to", folder, "--keep", str(LATER), "--json"))
    assert [one["archive"] for one in found["archives"]] == [str(folder / "log-1.xz"), str(folder / "log-2.xz")]
    assert len(cli("receipt", "list", "--receipt-store", url).splitlines()) == 2
    assert f"note: {found['removed']} earlier receipts are archived, the newest of them in a/log-2.xz\n" in cli.err
    assert "older ones are in archives such as a/log-2.xz" in cli.fails(
        "receipt", "show", first, "--receipt-store", url
    )
    cli("receipt", "verify", "--receipt-store", url)
    assert "2 receipts: 2 valid" in cli.err
    shown = [file for file in folder.iterdir() if first in cli("receipt", "list", "--receipt-store", file)]
    assert len(shown) == 1
    assert json.loads(cli("receipt", "show", first, "--json", "--receipt-store", shown[0]))["id"] == first
    cli("receipt", "export", tmp_path / "export", "--receipt-store", url)
    assert "log-1 not complete: receipts 1 to" in cli.err
    cli("receipt", "verify", tmp_path / "export", status=3)
    last = found["archives"][0]["last"]
    rows = [line.split()[1:3] for line in cli("store", "status", "--receipt-store", url).splitlines()[2:]]
    assert [str(last), str(last - 1)] in rows
    window = ReceiptWindow(place_of(kit))
    assert [len(window.list(ReceiptFilter(), limit=limit).rows) for limit in (1, 5)] == [1, 2]
    assert window.list(ReceiptFilter(), limit=5).next is None
    assert window.tally(ReceiptFilter()).complete
    assert [window.texts(ReceiptFilter(since=since), limit=5).complete for since in (NOW, NOW + 1)] == [False, True]
    assert "has no receipts to archive" in cli.fails(
        "receipt", "rotate", "--receipt-store", url, "--to", tmp_path / "b"
    )


def test_what_was_stored_since_a_time_stays_and_a_repeated_request_gets_its_receipt(
    kit: PostgresqlKit, tmp_path: Path
) -> None:
    clock = Clock()

    async def main() -> None:
        async with opened(kit, clock=clock) as one, opened(kit, clock=clock) as two:
            for number in range(6):
                await (one, two)[number % 2].append(entry(number, obligations=(charge(1, most=9),)))
                clock.now += 10
            rotate(kit, tmp_path / "a", before=NOW + 20)
            assert [row.request_id for row in await one.list()] == [f"request-{number}" for number in range(2, 6)]
            assert await two.append(entry(2)) == Stored(entry(2).receipt_json, fresh=False)
            assert await one.append(entry(1)) == Stored(entry(1).receipt_json, fresh=True)
            for number in range(6, 20):
                await one.append(entry(number, obligations=(charge(1, most=9),)))

    run(main())
    assert kit.fetch("SELECT max(total) FROM chio.budget_charges") == [(9,)]
    rotate(kit, tmp_path / "b", before=NOW + 30)
    # What stayed in the database is in both archives, so that the second goes on from the first.
    first, second = (set(rows_of(tmp_path / name)) for name in "ab")
    assert {row[1] for row in first & second} == {f"request-{n}" for n in range(2, 6)}


def test_sidecars_store_while_their_database_is_rotated_and_no_receipt_is_missing_between_the_files(
    kit: PostgresqlKit, url: str, tmp_path: Path, cli: CommandLine
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]

    async def main() -> int:
        async with opened(kit, busy_seconds=30) as one, opened(kit, busy_seconds=30) as two:

            async def store(number: int) -> None:
                new = receipt(number)
                row = NewReceipt(
                    new["id"], new["request_id"], "f", compact_json(new), obligations=(charge(account=f"{number % 7}"),)
                )
                assert isinstance(await (one, two)[number % 2].append(row), Stored)

            number = 2 * ROWS
            await asyncio.gather(*(store(n) for n in range(number)))
            for folder in folders:
                rotating = asyncio.ensure_future(asyncio.to_thread(rotate, kit, folder))
                while not rotating.done():
                    await asyncio.gather(*(store(n) for n in range(number, number + 20)))
                    number += 20
                await rotating
            return number

    number = run(main())
    own = [option for folder in folders for option in ("--archive", folder)]
    out = cli(
        "receipt",
        "fsck",
        "--receipt-store",
        url,
        "--trusted-key",
        STRANGER.public_hex,
        "--trusted-key",
        KERNEL.public_hex,
        *own,
    )
    assert out.count("findings  0\n") == 7
    hot = [row[0] for row in kit.fetch("SELECT request_id FROM chio.http_receipts")]
    assert {*archived(*folders), *hot} == {receipt(n)["request_id"] for n in range(number)}
    # How many were stored while the rotations ran is up to the machine; those of before have left the database.
    assert not {receipt(n)["request_id"] for n in range(2 * ROWS)} & {*hot}
    assert kit.fetch(
        "SELECT sum(n) FROM (SELECT max(ordinal) AS n FROM chio.budget_charges GROUP BY account) AS a"
    ) == [(number,)]


def copy(kit: PostgresqlKit, number: int) -> PostgresqlKit:
    """Return a copy of a database that has no open connection."""
    own = PostgresqlKit(kit.server, f"{kit.database}_{number}")
    with kit.server.connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {own.database} TEMPLATE {kit.database}")
    return own


def test_a_rotation_that_ends_after_any_step_leaves_a_database_that_goes_on(kit: PostgresqlKit, tmp_path: Path) -> None:
    fill(kit)
    copies = {steps: copy(kit, steps) for steps in (1 + 3, 1 + 3 + 2 + 1)}  # after the marks; of two logs the first
    made = archive(place_of(kit), tmp_path / "a", KERNEL, now=NOW)
    signed = {log: said.signed_by(KERNEL) for log, said in made.items()}
    steps = 0
    for _ in trim(place_of(kit), made, signed, before=LATER):
        steps += 1
        assert findings(kit) == []
    assert steps == 1 + 3 + 2 + 2  # statements; marks of three tables; removal from two; receipts of two logs

    async def go_on(app: Any) -> None:
        assert verdict(await spend(app, "more", demand(1, max_invocations=3))) == "deny"

    for steps, own in copies.items():
        folders = [tmp_path / f"{steps}-a", tmp_path / f"{steps}-b"]
        rotate(own, folders[0], steps=steps)
        with both(own) as (one, _two):
            run(go_on(one))
        rotate(own, folders[1])
        assert findings(own, *folders) == []
        assert own.fetch("SELECT count(*) FROM chio.http_receipts") == [(2,)]


def test_a_rotation_that_is_killed_leaves_a_database_that_goes_on(kit: PostgresqlKit, url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(kit) as store:
            rows = (receipt(number) for number in range(3 * ROWS))
            await asyncio.gather(
                *(store.append(NewReceipt(new["id"], new["request_id"], "f", compact_json(new))) for new in rows)
            )

    run(main())
    key_file(tmp_path / "own.key", KERNEL)
    command = ["receipt", "rotate", "--receipt-store", url, "--keep", str(LATER), "--to", tmp_path / "a"]
    with prefork.Process("chio_sidecar", command, env=os.environ) as process:
        has_ended = None
        while not kit.fetch("SELECT 1 FROM chio.receipt_chain_base"):
            assert has_ended is None
            has_ended = process.poll()  # if it has, the next look is after its end
        process.kill()
    assert findings(kit, tmp_path / "a") == []
    rotate(kit, tmp_path / "b")
    assert findings(kit, tmp_path / "a", tmp_path / "b") == []
    assert kit.fetch("SELECT count(*) FROM chio.http_receipts") == [(1,)]


REFUSED = [
    "DELETE FROM http_receipts",
    "INSERT INTO receipt_chain_base VALUES (9, 1, 'x')",
    "UPDATE receipt_chain_base SET seq = 1",
    "UPDATE receipt_chain_base SET seq = seq + 1, digest = 'other'",
    "UPDATE receipt_chain_base SET seq = l.seq, digest = l.digest FROM logs l WHERE l.log_id = 1",
    "DELETE FROM budget_charges",
    "DELETE FROM capability_invocations",
    "INSERT INTO archived_state VALUES ('budget_charges', 'x', 0, 9)",
    "INSERT INTO archived_state SELECT 'budget_charges', account, 0, max(ordinal) FROM budget_charges GROUP BY account",
    "DELETE FROM revoked_capabilities",
    "DELETE FROM chio_hitl_consumed_tokens",
    "DELETE FROM receipt_chain_base",
    "DELETE FROM archived_state",
    "DELETE FROM receipt_archives",
    "UPDATE receipt_archives SET statement = ''",
    "INSERT INTO revoked_capabilities VALUES ('x', 1)",
    "SELECT chio.claim(1, 1, 'x', 1)",
    "SET session_replication_role = replica",
    "DROP TABLE http_receipts",
]


@pytest.fixture(scope="module")
def rotated(server: Server, tmp_path_factory: pytest.TempPathFactory) -> PostgresqlKit:
    """A database with receipts, charges and uses, some of which are archived; nothing changes it."""
    kit = PostgresqlKit(server)
    fill(kit)
    rotate(kit, tmp_path_factory.mktemp("rotated") / "a")

    async def more(one: Any, two: Any) -> None:
        await spend(one, "later", demand(1, max_invocations=9))
        await decision(two, LIMITED, tool_server=SERVER, tool_name=TOOL, request_id="limited-later")
        await decision(one, request_id="plain-later")

    with both(kit) as (one, two):
        run(more(one, two))
    return kit


@pytest.mark.parametrize("sql", REFUSED)
def test_the_role_of_rotations_removes_nothing_that_no_archive_holds(rotated: PostgresqlKit, sql: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        rotated.execute(sql, ARCHIVE_ROLE)
    assert caught.value.sqlstate in ("42501", "CH002")


@pytest.mark.parametrize("sql", REFUSED[:10])
def test_the_role_of_sidecars_and_the_owner_remove_nothing_that_no_archive_holds(
    rotated: PostgresqlKit, sql: str
) -> None:
    for role in (ROLE, OWNER):
        with pytest.raises(psycopg.Error) as caught:
            rotated.execute(sql, role)
        assert caught.value.sqlstate in ("42501", "CH002")


def test_a_rotation_that_cannot_be_done_removes_nothing(
    kit: PostgresqlKit, url: str, tmp_path: Path, cli: CommandLine
) -> None:
    assert "has no receipts to archive" in cli.fails(
        "receipt", "rotate", "--receipt-store", url, "--to", tmp_path / "e"
    )
    assert not (tmp_path / "e").exists()
    fill(kit)
    before = kit.fetch("SELECT * FROM chio.http_receipts")
    own = kit.server.url(kit.database)
    command = ("receipt", "rotate", "--keep", str(LATER), "--receipt-store")
    assert "names no signing key" in cli.fails(*command, own, "--to", tmp_path / "a")
    error = cli.fails(*command, f"{own}&key={tmp_path / 'own.key'}", "--to", tmp_path / "a")
    assert "this role may not remove receipts" in error
    assert "store migrate --archive-role" in error
    assert "it exists; name a new folder" in cli.fails(*command, url, "--to", tmp_path / "a")
    key_file(tmp_path / "own.key", AUTHORITY)
    assert f"no receipt is signed by {AUTHORITY.public_hex}" in cli.fails(*command, url, "--to", tmp_path / "b")
    key_file(tmp_path / "own.key")
    other = PostgresqlKit(kit.server)
    fill(other)
    made = archive(place_of(other), tmp_path / "other", KERNEL, now=NOW)
    signed = {log: said.signed_by(KERNEL) for log, said in made.items()}
    with pytest.raises(ConfigurationError, match="is not the database that was archived"):
        list(trim(place_of(kit), made, signed, before=LATER))
    with kit.server.connect(kit.database) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("UPDATE chio.http_receipts SET created_at = 'x' WHERE log_id = 1 AND seq = 1")
    before = kit.fetch("SELECT * FROM chio.http_receipts")
    assert "receipt fsck has 1 findings; nothing was removed" in cli.fails(*command, url, "--to", tmp_path / "c")
    assert kit.fetch("SELECT * FROM chio.http_receipts") == before
    assert "names the archive" in cli.fails("receipt", "fsck", "--receipt-store", url, "--archive", tmp_path / "c")


FORGED = {
    "UPDATE receipt_archives SET statement = replace(statement, '/log-1.', '/log-2.')": "its signature does not verify",
    "UPDATE receipt_archives SET seq = seq - 1": "about another row than the one in this store",
    "DELETE FROM receipt_archives": "gone, and the statements about archives cover rows up to 0",
    "UPDATE receipt_chain_base SET digest = 'x'": "its digest",
    "DELETE FROM receipt_chain_base WHERE log_id = 1": "missing before it",
    "DELETE FROM archived_state": "the request that it names has no receipt",
    "DELETE FROM budget_charges WHERE ordinal = 3": "its number does not follow the one before",
    "ALTER TABLE http_receipts DISABLE TRIGGER http_receipts_only_archived": "missing or disabled",
}


@pytest.mark.parametrize("edit", FORGED)
def test_fsck_finds_what_no_rotation_leaves(rotated: PostgresqlKit, edit: str) -> None:
    kit = copy(rotated, list(FORGED).index(edit))
    assert findings(kit) == []
    with kit.server.connect(kit.database) as owner:
        owner.execute("SET session_replication_role = replica; SET search_path = chio")
        owner.execute(edit)
    assert FORGED[edit] in "\n".join(findings(kit))


def test_fsck_trusts_no_statement_of_another_key_and_finds_that_an_archive_is_missing(
    kit: PostgresqlKit, url: str, tmp_path: Path, cli: CommandLine
) -> None:
    fill(kit)
    heads = []
    for name in "abc":
        heads.append(rotate(kit, tmp_path / name)[1].head)
        with both(kit) as (one, two):
            for app in (one, two):
                run(decision(app, request_id=f"{name}-{app is one}"))
                run(decision(app, request_id=f"{name}-{app is one}-more"))
    trust = [option for key in sorted(TRUSTED) for option in ("--trusted-key", key)]
    fsck = ("receipt", "fsck", "--receipt-store", url, *trust)
    given = {name: ("--archive", tmp_path / name) for name in "abc"}
    assert cli(*fsck, *given["c"], *given["a"], *given["b"]).count("findings  0\n") == 9
    assert cli(*fsck, *given["c"], *given["a"], status=1).count("it is missing here, or another one than the row") == 2
    assert "no log has a row with the digest" in cli(*fsck, "--head", heads[0], status=1)
    assert "findings  0" in cli(*fsck, "--head", heads[0], *given["c"], *given["a"], *given["b"])
    with closing(DatabaseInspection(place_of(kit), trusted_keys={STRANGER.public_hex})) as database:
        texts = "\n".join(finding.text for part in database.parts() for finding in part.findings())
    assert "its statement is signed by" in texts
