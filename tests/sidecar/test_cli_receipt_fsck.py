"""`receipt fsck`: its output and its exit status."""

from __future__ import annotations

import asyncio
import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import compact_json
from chio_sidecar.store import NewReceipt
from chio_sidecar.store.schema import connect
from chio_sidecar.store.sqlite import SqliteLog, SqliteReceiptStore
from chio_sidecar.store.writes import Append, apply
from tests.sidecar.control_tools import CommandLine, write_store
from tests.sidecar.fsck_tools import alter, inspect, older, select, tamper
from tests.sidecar.sidecar_tools import decision, sidecar
from tests.sidecar.store_conformance import entry
from tests.support import run
from tests.viewer.records import KEY, NOW, STRANGER, receipt

Command = Callable[..., str]


@pytest.fixture
def fsck(cli: CommandLine) -> Command:
    """Check a store with a command that ends with `status`, and return its output."""
    return lambda path, *options, status=0: cli("receipt", "fsck", "--receipt-store", path, *options, status=status)


def genuine(*numbers: int) -> Iterator[dict[str, Any]]:
    return map(receipt, range(*numbers))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "r.sqlite3", genuine(1, 10))


def test_a_clean_store_has_a_summary(store: Path, fsck: Command, cli: CommandLine) -> None:
    lines = fsck(store, "--trusted-key", KEY.public_hex).splitlines()
    ((head,),) = select(store, "SELECT digest FROM receipt_chain_head")
    assert cli.err == ""
    assert lines == [
        "rows      9, from 1 to 9",
        f"signed by {KEY.public_hex}",
        "chain     from row 1",
        f"head      {head}",
        "findings  0",
    ]


def test_without_a_trusted_key_a_note_names_the_limit_of_the_check(
    store: Path, fsck: Command, cli: CommandLine
) -> None:
    fsck(store)
    assert "not who signed" in cli.err
    out = fsck(store, "--trusted-key", STRANGER.public_hex, status=1)
    assert out.count("which is not trusted [signature]") == 9


def test_each_finding_is_a_line_and_the_last_one_the_summary(store: Path, fsck: Command) -> None:
    changed = "UPDATE http_receipts SET created_at = '2026' WHERE seq = 4"
    tamper(store, changed, "DELETE FROM http_receipts WHERE seq = 9")
    out = fsck(store, status=1)
    assert out.startswith("row 4: its digest does not follow from its content")
    assert "\nrow 9: gone: the store names a newer row than the last one in the table [end]\n" in out
    assert out.endswith("findings  2\n")
    first, second, summary = map(json.loads, fsck(store, "--json", status=1).splitlines())
    assert (first["kind"], first["row"], first["place"]) == ("chain", 4, "row 4")
    assert (second["kind"], second["row"]) == ("end", 9)
    assert (summary["rows"], summary["last"], summary["findings"]) == (8, 8, 2)


def test_a_text_of_a_stranger_moves_no_cursor(store: Path, fsck: Command) -> None:
    # The account of a charge is text, and the finding names it.
    tamper(store, "INSERT INTO budget_charges VALUES (char(27) || '[31m' || char(10), 1, 1, 1, 'x')")
    out = fsck(store, status=1)
    assert ("\x1b" in out, "\\u001b[31m\\n charge 1" in out) == (False, True)


def test_a_head_that_was_kept_must_exist(store: Path, fsck: Command) -> None:
    head = json.loads(fsck(store, "--json"))["head"]
    assert "--head    row 9" in fsck(store, "--head", head)
    out = fsck(store, "--head", "0" * 64, status=1)
    assert ("store: no row has the digest 000" in out, "--head    row" in out) == (True, False)
    with pytest.raises(SystemExit, match="2"):
        fsck(store, "--head", "abc")


def test_a_store_from_before_the_chain_has_no_head(tmp_path: Path, fsck: Command) -> None:
    path = older(tmp_path / "r", 2)
    out = fsck(path)
    assert ("chain     none: the store is from before" in out, "head" in out) == (True, False)
    assert json.loads(fsck(path, "--json"))["head"] is None


def test_an_empty_store_is_clean(tmp_path: Path, fsck: Command) -> None:
    path = tmp_path / "r"
    run(SqliteReceiptStore(path).close())
    assert fsck(path).startswith("rows      0\n")


@pytest.mark.parametrize("version", [(3, 40, 1), (3, 51, 3)], ids=["rollback journal", "write-ahead log"])
async def test_the_store_of_a_running_sidecar_is_checked(
    version: tuple[int, ...], tmp_path: Path, fsck: Command
) -> None:
    path = tmp_path / "r"
    store = SqliteReceiptStore(path, version=version)
    await store.append(entry(1))
    out = fsck(path, status=1)
    assert ("signature" in out, out.count("[")) == (True, 1)  # this entry is no real receipt; nothing else is wrong
    await store.append(entry(2))
    await store.close()
    assert fsck(path, status=1).count("[") == 2
    assert [found.name for found in tmp_path.iterdir()] == ["r"]


async def test_rows_that_are_stored_meanwhile_are_no_findings(tmp_path: Path) -> None:
    def check() -> list[int]:
        found = [inspect(tmp_path / "receipts.sqlite3") for _ in range(20)]
        assert [findings for findings, _ in found] == [[]] * 20
        return [summary.rows for _, summary in found]

    async with sidecar(tmp_path) as app:
        await decision(app, request_id="first")
        checking = asyncio.ensure_future(asyncio.to_thread(check))
        number = 0
        while not checking.done():
            await decision(app, request_id=f"meanwhile-{number}")
            number += 1
        rows = await checking
        assert rows == sorted(rows)
        assert rows[-1] <= number + 1


def test_a_file_that_is_no_store_is_named_in_one_sentence(tmp_path: Path, store: Path, cli: CommandLine) -> None:
    alter(tmp_path / "songs", "CREATE TABLE songs (title)")
    alter(Path(shutil.copyfile(store, tmp_path / "newer")), "PRAGMA user_version=9")
    (tmp_path / "text").write_text("a" * 5000)
    reasons = {
        "missing": "No such file or directory",
        "text": "is no SQLite database",
        "songs": "is a database of another program",
        "newer": "has schema version 9, this version reads 1 to 5",
    }
    for name, reason in reasons.items():
        error = cli.fails("receipt", "fsck", "--receipt-store", tmp_path / name)
        assert (cli.out, reason in error, error.count("\n")) == ("", True, 1), error
    assert not (tmp_path / "missing").exists()


def test_a_store_that_was_left_in_the_middle_of_a_commit_is_for_the_sidecar_to_repair(
    store: Path, tmp_path: Path, fsck: Command, cli: CommandLine
) -> None:
    left = tmp_path / "left"
    with closing(connect(store, journal="persist", busy_seconds=1.0)) as connection:
        connection.execute("PRAGMA cache_size=1")  # so that the file is written before the commit
        connection.execute("BEGIN IMMEDIATE")
        news = [NewReceipt(one["id"], one["request_id"], "f", compact_json(one)) for one in genuine(100, 400)]
        apply(connection, SqliteLog(connection), [Append(new, NOW) for new in news])
        for end in ("", "-journal"):
            shutil.copyfile(f"{store}{end}", f"{left}{end}")
    before = left.read_bytes()
    assert fsck(left, status=1) == ""
    assert "start the sidecar, which repairs it" in cli.err
    assert left.read_bytes() == before
    run(SqliteReceiptStore(left).close())
    assert fsck(left).startswith("rows      9, from 1 to 9\n")


def test_a_store_must_be_named(cli: CommandLine) -> None:
    assert "receipt fsck needs a store" in cli.fails("receipt", "fsck")


@pytest.mark.slow
def test_a_long_store_is_checked_in_bounded_memory(tmp_path: Path, fsck: Command, full_size: bool) -> None:
    rows = 100_000 if full_size else 2_000
    path = write_store(tmp_path / "r", genuine(1, rows + 1))
    tracemalloc.start()
    try:
        out = fsck(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out.startswith(f"rows      {rows}, from 1 to {rows}\n")
    assert peak < 16 * 1024 * 1024
