"""`receipt backup`: a consistent copy of a store whose sidecar goes on."""

from __future__ import annotations

import asyncio
import json
import stat
from contextlib import closing
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.store import Stored
from chio_sidecar.store.backup import ROWS, backup
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.control_tools import CommandLine, write_store
from tests.sidecar.fsck_tools import alter, fill, inspect, older, select
from tests.sidecar.store_conformance import entry
from tests.support import run
from tests.viewer.records import KEY, receipt

TABLES = (
    "http_receipts",
    "revoked_capabilities",
    "capability_invocations",
    "budget_charges",
    "chio_hitl_pending",
    "chio_hitl_resolved",
    "chio_hitl_consumed_tokens",
    "receipt_chain_start",
    "receipt_chain_head",
    "receipt_chain_base",
    "receipt_archives",
    "archived_state",
)
VERSIONS = pytest.mark.parametrize("version", [(3, 40, 1), (3, 51, 3)], ids=["rollback journal", "write-ahead log"])


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return {table: select(path, f"SELECT * FROM {table}") for table in TABLES}


def test_a_copy_has_every_row_of_every_table_and_is_a_store(tmp_path: Path, cli: CommandLine) -> None:
    path, target = fill(tmp_path, 5), tmp_path / "copy.sqlite3"
    (head,) = select(path, "SELECT digest FROM receipt_chain_head")[0]
    out = cli("receipt", "backup", target, "--receipt-store", path)
    assert out == f"rows      {len(content(path)['http_receipts'])}\nhead      {head}\n"
    assert content(target) == content(path)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert inspect(target)[0] == []

    async def go_on() -> None:
        store = SqliteReceiptStore(target)
        assert await store.is_revoked("cap-revoked")
        assert isinstance(await store.append(entry("new")), Stored)
        await store.close()

    run(go_on())
    names = ["copy.sqlite3", "copy.sqlite3.state", "receipts.sqlite3", "receipts.sqlite3.state"]
    assert sorted(one.name for one in tmp_path.iterdir()) == names


@VERSIONS
def test_a_sidecar_stores_in_the_middle_of_a_copy_and_the_copy_ends_where_it_began(
    version: tuple[int, ...], tmp_path: Path
) -> None:
    path, target = write_store(tmp_path / "r", map(receipt, range(1, 3 * ROWS))), tmp_path / "copy"

    async def main() -> None:
        # It does not wait at all for a file that is locked, so it fails if the copy holds a lock between its windows.
        store = SqliteReceiptStore(path, version=version, busy_seconds=30)
        copying = asyncio.ensure_future(asyncio.to_thread(backup, path, target))
        number = 0
        while not copying.done():
            number += 1
            assert isinstance(await store.append(entry(f"meanwhile-{number}")), Stored)
        assert (await copying).rows in range(3 * ROWS - 1, 3 * ROWS + number)
        await store.close()

    run(main())
    copied = select(target, "SELECT seq, chain FROM http_receipts ORDER BY seq")
    assert copied == select(path, f"SELECT seq, chain FROM http_receipts ORDER BY seq LIMIT {len(copied)}")
    with closing(Inspection(target, trusted_keys=[KEY.public_hex])) as inspection:
        # The entries of the store's own tests are no receipts; nothing else is wrong.
        assert {finding.kind for finding in inspection.findings()} <= {"signature"}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_store_of_an_older_version_is_copied_as_it_is(version: int, tmp_path: Path) -> None:
    path = older(tmp_path / "r", version)
    backup(path, tmp_path / "copy")
    assert select(tmp_path / "copy", "PRAGMA user_version") == [(version,)]
    assert select(tmp_path / "copy", "SELECT * FROM http_receipts") == select(path, "SELECT * FROM http_receipts")
    schema = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    assert select(tmp_path / "copy", schema) == select(path, schema)


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path: Path, cli: CommandLine) -> None:
    path = write_store(tmp_path / "r", [receipt(1)])
    (tmp_path / "taken").write_text("mine")
    before = {*tmp_path.iterdir(), tmp_path / "link", tmp_path / "songs"}
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("taken", "link"):
        assert "it exists; name a new file" in cli.fails("receipt", "backup", tmp_path / name, "--receipt-store", path)
    assert "No such file" in cli.fails("receipt", "backup", tmp_path / "x" / "y", "--receipt-store", path)
    alter(tmp_path / "songs", "CREATE TABLE songs (title)")
    with pytest.raises(ConfigurationError, match="is no receipt store"):
        backup(tmp_path / "songs", tmp_path / "copy")
    assert "there is no receipt store" in cli.fails("receipt", "backup", tmp_path / "c", "--receipt-store", "none")
    assert set(tmp_path.iterdir()) == before
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_backup_is_one_object_for_programs(tmp_path: Path, cli: CommandLine) -> None:
    path = write_store(tmp_path / "r", [receipt(1)])
    found = json.loads(cli("receipt", "backup", tmp_path / "c", "--receipt-store", path, "--json"))
    assert found == {"target": str(tmp_path / "c"), "rows": 1, "head": inspect(path, trusted=set())[1].head}


def test_a_check_of_a_running_sidecar_s_file_holds_no_lock_for_long(tmp_path: Path, cli: CommandLine) -> None:
    path = write_store(tmp_path / "r", map(receipt, range(1, 2_000)))
    (tmp_path / "r-journal").unlink()
    assert json.loads(cli("receipt", "fsck", "--receipt-store", path, "--json"))["pages"] == "all"
    with closing(sqlite3.connect(path, isolation_level=None)) as sidecar:
        sidecar.execute("PRAGMA journal_mode=persist")
        sidecar.execute("BEGIN IMMEDIATE")
        sidecar.execute("UPDATE write_probe SET probes = probes + 1")
        sidecar.execute("COMMIT")  # the journal stays, and says that a sidecar is there
        with closing(Inspection(path, page_seconds=0)) as inspection:
            assert list(inspection.findings()) == []
        assert (inspection.summary.pages, inspection.summary.rows) == ("part", 1_999)
        whole = json.loads(cli("receipt", "fsck", "--receipt-store", path, "--json", "--all-pages"))
        assert whole["pages"] == "all"
