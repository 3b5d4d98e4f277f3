"""`receipt rotate`: old receipts go into an archive, and everything that a decision depends on stays."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import compact_json
from chio_core.errors import ConfigurationError
from chio_sidecar.cli import main
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store import NewReceipt, Stored
from chio_sidecar.store.backup import backup
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.rotate import ROWS, archive, trim
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.store.statements import ArchiveStatement
from tests import prefork
from tests.sidecar.approval_tools import pay, verdict
from tests.sidecar.control_tools import CommandLine, key_file, write_store
from tests.sidecar.fsck_tools import alter, fill, inspect, older, select, tamper
from tests.sidecar.sidecar_tools import KERNEL, NOW, SERVER, STRANGER, TOOL, Clock, capability, decision, grant, sidecar
from tests.sidecar.store_conformance import entry
from tests.sidecar.test_backup import VERSIONS
from tests.sidecar.test_budgets import demand, spend
from tests.support import run
from tests.viewer.records import receipt

APPROVALS = ("chio_hitl_pending", "chio_hitl_resolved", "chio_hitl_consumed_tokens")
LATER = 2**32
"""A time after every receipt."""

NAMES = pytest.mark.parametrize("name", ["archive", "archive.xz"])


def keyed(path: Path) -> Path:
    """Put the key of the sidecar beside its store."""
    key_file(path.with_name(path.name + ".key"))
    return path


def rotate(
    store: Path, target: Path, *, before: int = LATER, steps: int | None = None, **options: Any
) -> ArchiveStatement:
    """Rotate a store; with `steps`, end the removal after so many transactions."""
    made = archive(store, target, KERNEL, now=NOW)
    removal = trim(store, made, made.signed_by(KERNEL), before=before, **options)
    with closing(removal):  # type: ignore[type-var]
        list(islice(removal, steps))
    return made


async def append(path: Path, name: str) -> None:
    store = SqliteReceiptStore(path)
    await store.append(entry(name))
    await store.close()


def decide(folder: Path, *requests: str) -> None:
    async def main_() -> None:
        async with sidecar(folder) as app:
            for name in requests:
                await decision(app, request_id=name)

    run(main_())


def fsck(cli: CommandLine, store: Path, *archives: Path, status: int = 0) -> str:
    options = [option for one in archives for option in ("--archive", one)]
    return cli("receipt", "fsck", "--receipt-store", store, *options, "--trusted-key", KERNEL.public_hex, status=status)


@NAMES
def test_everything_is_in_the_archive_and_the_live_state_stays(name: str, tmp_path: Path, cli: CommandLine) -> None:
    path, target = keyed(fill(tmp_path, 5)), tmp_path / name
    before = {table: select(path, f"SELECT * FROM {table}") for table in ("http_receipts", "budget_charges")}
    kept = {table: select(path, f"SELECT * FROM {table}") for table in ("revoked_capabilities", *APPROVALS)}
    (approval,) = select(path, "SELECT approval_id FROM chio_hitl_consumed_tokens")[0]
    last = len(before["http_receipts"])

    out = cli("receipt", "rotate", "--receipt-store", path, "--to", target, "--keep", str(LATER))
    (head,) = select(path, "SELECT digest FROM receipt_chain_head")[0]
    assert out == f"archive   {target}, rows 1 to {last}\nhead      {head}\nremoved   {last - 1} receipts\n"
    assert {table: select(target, f"SELECT * FROM {table}") for table in before} == before
    assert stat.S_IMODE(target.stat().st_mode) == 0o400
    assert select(path, "SELECT seq FROM http_receipts") == [(last,)]
    assert {table: select(path, f"SELECT * FROM {table}") for table in kept} == kept
    assert [row[1:4] for row in select(path, "SELECT * FROM budget_charges")] == [(3, 4, 9)]
    assert {row[2] for row in select(path, "SELECT * FROM capability_invocations")} == {2}

    async def go_on() -> None:
        async with sidecar(tmp_path) as app:
            refused = await decision(app, capability(name="cap-revoked"), tool_server=SERVER, tool_name=TOOL)
            assert refused["verdict"]["reason"] == "capability token has been revoked"
            limited = capability(name="cap-limited", grants=[grant(max_invocations=3)])
            for verdict_ in ("allow", "deny"):  # two of three uses are spent
                used = await decision(app, limited, tool_server=SERVER, tool_name=TOOL, request_id=f"then-{verdict_}")
                assert verdict(used) == verdict_
            assert verdict(await spend(app, "more", demand(1, max_invocations=3))) == "deny"  # of three charges, three
            assert verdict(await pay(app, "twice", approval)) == "deny"

    run(go_on())
    assert "findings  0\n" in fsck(cli, path)
    both = fsck(cli, path, target)
    assert both.count("findings  0\n") == 2
    assert f"archived  rows 1 to {last - 1}; the newest archive is {name}\n" in both


def test_what_was_stored_since_a_time_stays_and_a_repeated_request_gets_its_receipt(tmp_path: Path) -> None:
    path = tmp_path / "r"
    clock = Clock()

    async def main_() -> None:
        store = SqliteReceiptStore(path, clock=clock)
        for number in range(4):
            await store.append(entry(number))
            clock.now += 10
        await store.close()
        rotate(path, tmp_path / "a", before=NOW + 20)
        store = SqliteReceiptStore(path, clock=clock)
        assert [row.sequence for row in await store.list()] == [3, 4]
        assert await store.append(entry(3)) == Stored(entry(3).receipt_json, fresh=False)
        assert await store.append(entry(4)) == Stored(entry(4).receipt_json, fresh=True)
        await store.close()

    run(main_())
    # What was not archived before a rotation is not removed by it, and what an earlier one archived is: once.
    rotate(path, tmp_path / "b", before=NOW + 30)
    assert select(path, "SELECT seq FROM http_receipts") == [(4,), (5,)]
    assert select(tmp_path / "b", "SELECT seq FROM http_receipts") == [(3,), (4,), (5,)]


@VERSIONS
def test_a_sidecar_stores_while_its_store_is_rotated_and_no_receipt_is_missing_between_the_files(
    version: tuple[int, ...], tmp_path: Path, cli: CommandLine
) -> None:
    path, targets = write_store(tmp_path / "r", map(receipt, range(1, 4 * ROWS))), [tmp_path / "a", tmp_path / "b"]

    async def main_() -> None:
        store = SqliteReceiptStore(path, version=version, busy_seconds=30)
        number = 4 * ROWS
        for target in targets:
            rotating = asyncio.ensure_future(asyncio.to_thread(rotate, path, target, version=version))
            while not rotating.done():
                new = receipt(number)
                row = NewReceipt(new["id"], new["request_id"], "f", compact_json(new))
                assert isinstance(await store.append(row), Stored)
                number += 1
            await rotating
        await store.close()

    run(main_())
    out = fsck(cli, path, *reversed(targets))
    assert out.count("findings  0\n") == 3
    texts = [text for file in (*targets, path) for text in receipts_of(file)]
    assert sorted(set(texts)) == [f"request-{number:05d}" for number in range(1, len(set(texts)) + 1)]
    assert len(receipts_of(path)) < len(set(texts)) / 2


def receipts_of(path: Path) -> list[str]:
    with ReceiptReader(path) as reader:
        return [found["request_id"] for _, found in reader.rows(ReceiptFilter())]


def test_a_rotation_that_ends_after_any_step_leaves_a_store_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    full = fill(tmp_path / "full", 5)
    last = select(full, "SELECT max(seq) FROM http_receipts")[0][0]
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        path = Path(shutil.copyfile(full, folder / "receipts.sqlite3"))
        path.chmod(0o600)
        rotate(path, folder / "a", steps=steps)
        assert inspect(path)[0] == inspect(folder / "a")[0] == []
        if steps in (0, 2, 4):

            async def go_on(folder: Path = folder) -> None:
                async with sidecar(folder) as app:
                    assert verdict(await spend(app, "more", demand(1, max_invocations=3))) == "deny"

            run(go_on())
            rotate(path, folder / "b")
            assert inspect(path)[0] == inspect(folder / "b")[0] == []
            assert select(path, "SELECT count(*) FROM http_receipts") == [(1,)]
        elif select(path, "SELECT min(seq) FROM http_receipts") == [(last,)]:
            break
        steps += 1
    assert steps == 1 + 3 + 2 + 1  # statement; marks of three tables; removal from two; receipts


@NAMES
def test_a_rotation_that_is_killed_leaves_a_store_that_goes_on(name: str, tmp_path: Path, cli: CommandLine) -> None:
    path, target = keyed(write_store(tmp_path / "r", map(receipt, range(1, 6 * ROWS)))), tmp_path / name
    command = ["receipt", "rotate", "--receipt-store", path, "--to", target]
    with prefork.Process("chio_sidecar", command, env=os.environ) as process:
        while select(path, "SELECT count(*) FROM receipt_archives") == [(0,)]:
            assert process.poll() is None
        process.kill()
    run(SqliteReceiptStore(path).close())  # a sidecar's start rolls back what was not committed
    assert fsck(cli, path, target).count("findings  0\n") == 2


def test_nothing_is_removed_without_an_archive_that_is_in_order(tmp_path: Path, cli: CommandLine) -> None:
    path = fill(tmp_path, 3)
    command = ("receipt", "rotate", "--receipt-store", path, "--keep", str(LATER), "--to")
    assert "there is no key at" in cli.fails(*command, tmp_path / "a")
    keyed(path)
    wrong = key_file(tmp_path / "wrong.key", STRANGER)
    error = cli.fails("--authority-seed-file", wrong, *command, tmp_path / "a")
    assert f"the newest receipt is not signed by {STRANGER.public_hex}, the key in {wrong}" in error
    (tmp_path / "taken").touch()
    assert "it exists; name a new file" in cli.fails(*command, tmp_path / "taken")
    tamper(path, "UPDATE http_receipts SET created_at = 'x' WHERE seq = 2")
    before = select(path, "SELECT * FROM http_receipts")
    error = cli.fails(*command, tmp_path / "a")
    assert "is complete, but receipt fsck has 1 findings; nothing was removed" in error
    assert select(path, "SELECT * FROM http_receipts") == before

    empty = tmp_path / "empty"
    run(SqliteReceiptStore(empty).close())
    with pytest.raises(ConfigurationError, match="has no receipts to archive"):
        archive(empty, tmp_path / "e", KERNEL, now=NOW)
    with pytest.raises(ConfigurationError, match="start the sidecar of this version once"):
        archive(older(tmp_path / "v3", 3), tmp_path / "e", KERNEL, now=NOW)
    other = write_store(tmp_path / "other", map(receipt, range(1, 3)))
    made = archive(other, tmp_path / "other-archive", KERNEL, now=NOW)
    with pytest.raises(ConfigurationError, match="is not the store that was archived"):
        list(trim(path, made, made.signed_by(KERNEL), before=LATER))
    assert not (tmp_path / "e").exists()


REFUSED = [
    "DELETE FROM http_receipts",
    "UPDATE receipt_chain_base SET seq = 3, digest = (SELECT digest FROM receipt_chain_head)",
    "UPDATE receipt_chain_base SET seq = 1",
    "UPDATE receipt_chain_base SET seq = 2, digest = 'other'",
    "DELETE FROM receipt_chain_base",
    "REPLACE INTO receipt_chain_base VALUES (1, 2, '')",
    "DELETE FROM budget_charges",
    "DELETE FROM capability_invocations",
    "DELETE FROM revoked_capabilities",
    "DELETE FROM chio_hitl_consumed_tokens",
    "DELETE FROM archived_state",
    "DELETE FROM receipt_archives",
    "UPDATE receipt_archives SET statement = ''",
    "INSERT INTO archived_state VALUES ('budget_charges', 'x', 0, 9)",
    "INSERT INTO archived_state SELECT 'budget_charges', account, 0, ordinal FROM budget_charges",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_plain_sql_removes_nothing_that_no_archive_holds_and_no_live_state(sql: str, tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    rotate(path, tmp_path / "a", steps=7)
    decide(tmp_path, "more")
    with pytest.raises(sqlite3.IntegrityError):
        alter(path, sql)
    assert inspect(path)[0] == []


def test_a_store_of_version_3_is_rotated_after_its_upgrade(tmp_path: Path) -> None:
    path = older(tmp_path / "r", 3)
    count = len(select(path, "SELECT * FROM http_receipts"))
    run(append(path, "new"))
    rotate(path, tmp_path / "a")  # its first rows are older than the chain
    assert select(path, "SELECT seq FROM receipt_chain_base") == [(count,)]
    for file in (path, tmp_path / "a"):
        assert {finding.kind for finding in inspect(file)[0]} <= {"signature"}


FORGED = {
    "rows are gone without an archive": (
        ("UPDATE receipt_chain_base SET seq = 2, digest = (SELECT chain FROM http_receipts WHERE seq = 2)",),
        "gone, and the statements about archives cover rows up to 0",
    ),
    "a statement that was changed": (
        ("UPDATE receipt_archives SET statement = replace(statement, 'archive\"', 'other\"')",),
        "its statement does not count: its signature does not verify",
    ),
    "no statement": (("UPDATE receipt_archives SET statement = '{}'",), "it is no statement about an archive"),
    "another row": (("UPDATE receipt_archives SET seq = seq - 1",), "about another row than the one in this store"),
    "a row that was archived": (
        ("UPDATE http_receipts SET seq = 1 WHERE seq = (SELECT max(seq) FROM http_receipts)",),
        "the store says that it was archived and removed",
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_fsck_finds_what_no_rotation_leaves(kind: str, tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    statements, text = FORGED[kind]
    if kind.startswith("rows are gone"):
        tamper(path, *statements, "DELETE FROM http_receipts WHERE seq <= 2")
    else:
        rotate(path, tmp_path / "archive")
        tamper(path, *statements)
    assert text in "\n".join(finding.text for finding in inspect(path)[0])


def test_fsck_trusts_no_statement_of_another_key(tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    made = archive(path, tmp_path / "a", STRANGER, now=NOW)
    list(trim(path, made, made.signed_by(STRANGER), before=LATER))
    assert "which is not trusted" in "\n".join(finding.text for finding in inspect(path)[0])


def test_fsck_finds_that_an_archive_is_missing_or_of_another_store(tmp_path: Path, cli: CommandLine) -> None:
    path = fill(tmp_path, 3)
    heads = []
    for name in ("a", "b", "c"):
        heads.append(rotate(path, tmp_path / name).head)
        decide(tmp_path, f"after-{name}", f"later-{name}")
    a, b, c, other = (tmp_path / name for name in ("a", "b", "c", "other"))
    assert fsck(cli, path, c, a, b).count("findings  0\n") == 4
    missing = "it is missing here, or another one than the row that the next file goes on from [archive]"
    assert missing in fsck(cli, path, a, c, status=1)
    archive(write_store(tmp_path / "o", map(receipt, range(1, 50))), other, KERNEL, now=NOW)
    assert missing in fsck(cli, path, other, status=1)
    options = ("receipt", "fsck", "--receipt-store", path, "--trusted-key", KERNEL.public_hex, "--head", heads[0])
    assert "but rows up to" in cli(*options, status=1)  # the row with this head was archived
    assert "findings  0" in cli(*options, "--archive", c, "--archive", b, "--archive", a)
    lines = cli(*options, "--json", "--archive", b, "--archive", c, "--archive", a).splitlines()
    assert [Path(json.loads(line)["file"]).name for line in lines] == ["a", "b", "c", path.name]


def test_a_copy_or_a_check_during_a_rotation_says_so(tmp_path: Path) -> None:
    path = write_store(tmp_path / "r", map(receipt, range(1, 3 * ROWS)))
    with closing(Inspection(path, trusted_keys=["0" * 64])) as inspection:
        findings = inspection.findings()
        next(findings)  # each row is one: no key is trusted
        rotate(path, tmp_path / "a")
        list(findings)
    assert inspection.summary.unfinished == "rows: receipts were archived meanwhile; run the check again"

    def meanwhile(_: object) -> str:
        rotate(path, tmp_path / "c")
        return ""

    run(append(path, "more"))
    with pytest.raises(ConfigurationError, match="were archived during the copy; copy it again"):
        backup(path, tmp_path / "b", state=meanwhile)


def test_list_show_and_verify_say_where_the_older_receipts_are(tmp_path: Path, cli: CommandLine) -> None:
    path, target = keyed(fill(tmp_path, 3)), tmp_path / "archive"
    place = ("--receipt-store", path)
    first = json.loads(cli("receipt", "list", *place).splitlines()[0])["id"]
    found = json.loads(cli("receipt", "rotate", *place, "--to", target, "--keep", str(LATER), "--json"))
    assert found == {"archive": str(target), "first": 1, "last": 12, "head": found["head"], "removed": 11}
    for command in (["list"], ["list", "--format", "human"], ["verify"]):
        cli("receipt", *command, *place)
        assert "note: 11 earlier receipts are archived, the newest of them in archive\n" in cli.err
    assert "older ones are in archives such as archive" in cli.fails("receipt", "show", first, *place)
    assert json.loads(cli("receipt", "show", first, "--receipt-store", target))["id"] == first
    cli("receipt", "verify", "--receipt-store", target)
    assert "12 receipts: 12 valid" in cli.err
    assert "archived" not in cli.err


def test_a_copy_of_a_rotated_store_is_a_rotated_store(tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    rotate(path, tmp_path / "a")
    backup(path, tmp_path / "copy")
    assert inspect(tmp_path / "copy") == inspect(path)
    assert main(["receipt", "backup", str(tmp_path / "d"), "--receipt-store", str(tmp_path / "a")]) == 0
    assert inspect(tmp_path / "d") == inspect(tmp_path / "a")
