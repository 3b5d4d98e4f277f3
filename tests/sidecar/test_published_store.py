"""The file of the published sidecar (wire protocol, section 10.5) is read by the commands that need no chain."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import compact_json
from chio_core.errors import ConfigurationError
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.viewer import VIEWER_PATH, create_viewer_app
from tests.sidecar.control_tools import CommandLine, fetch
from tests.sidecar.sidecar_tools import vectors

SCHEMA = """
CREATE TABLE http_receipts (id TEXT PRIMARY KEY, receipt_json TEXT NOT NULL);
CREATE TABLE revoked_capabilities (capability_id TEXT PRIMARY KEY);
CREATE TABLE chio_hitl_pending (approval_id TEXT PRIMARY KEY);
INSERT INTO revoked_capabilities VALUES ('cap-revoked');
"""

RECORDED = vectors("real", "evaluate-0.1.0.json")
RECEIPTS: list[dict[str, Any]] = [case["answer"]["receipt"] for case in RECORDED["cases"] if case["status"] == 200]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """All receipts of the recording, the first one stored again as the last row, as `INSERT OR REPLACE` does."""
    path = tmp_path / "published.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA)
        for receipt in [*RECEIPTS, RECEIPTS[0]]:
            row = (receipt["id"], compact_json(receipt))
            connection.execute("INSERT OR REPLACE INTO http_receipts VALUES (?, ?)", row)
    return path


STORED = [*RECEIPTS[1:], RECEIPTS[0]]


def test_list_prints_its_receipts_in_the_order_of_its_rows(store: Path, cli: CommandLine) -> None:
    lines = cli("receipt", "list", "--receipt-db", store, "--limit", 200).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [receipt["id"] for receipt in STORED]


def test_show_and_verify_and_explain_read_it(store: Path, cli: CommandLine) -> None:
    refused = next(receipt for receipt in STORED if receipt["verdict"]["verdict"] == "deny")
    assert json.loads(cli("receipt", "show", refused["id"], "--receipt-db", store))["signature"] == refused["signature"]
    cli("receipt", "verify", "--receipt-db", store, "--trusted-key", RECORDED["kernel_key"])
    assert f"{len(STORED)} receipts: {len(STORED)} valid, 0 invalid" in cli.err
    assert refused["verdict"]["reason"] in cli("explain", refused["id"], "--receipt-store", store)


def test_a_receipt_that_was_changed_in_it_is_invalid(store: Path, cli: CommandLine) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE http_receipts SET receipt_json = replace(receipt_json, '\"deny\"', '\"allow\"')")
    cli("receipt", "verify", "--receipt-db", store, "--trusted-key", RECORDED["kernel_key"], status=1)
    denied = sum(receipt["verdict"]["verdict"] == "deny" for receipt in STORED)
    assert f"{len(STORED) - denied} valid, {denied} invalid" in cli.err


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (ReceiptFilter(), lambda receipt: True),
        (ReceiptFilter(outcome="deny"), lambda receipt: receipt["verdict"]["verdict"] == "deny"),
        (ReceiptFilter(route="ECHO"), lambda receipt: receipt["route_pattern"] == "/echo"),
    ],
)
def test_filters_and_counts_are_right_although_its_row_numbers_have_gaps(
    store: Path, wanted: ReceiptFilter, holds: Callable[[dict[str, Any]], bool]
) -> None:
    with open_archive(store) as archive:
        found = [receipt["id"] for _, receipt in archive.rows(wanted)]
        assert found == [receipt["id"] for receipt in STORED if holds(receipt)]
        assert archive.count(wanted) == len(found)
        assert (archive.archived(), list(archive.after_archived())) == (None, [])


def test_a_gap_between_its_row_numbers_is_passed_at_once(store: Path, cli: CommandLine) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE http_receipts SET rowid = ? WHERE id = ?", (2**63 - 1, STORED[-1]["id"]))
    for order in (False, True):
        with open_archive(store) as archive:
            found = [receipt["id"] for _, receipt in archive.rows(ReceiptFilter(), newest_first=order)]
        assert found == [receipt["id"] for receipt in (STORED[::-1] if order else STORED)]
    assert cli("receipt", "list", "--receipt-db", store, "--limit", 200).count("\n") == len(STORED)


def test_requests_revocations_and_times_are_found_in_it(store: Path) -> None:
    with ReceiptReader(store) as archive:
        receipt = STORED[-1]
        assert archive.get_by_request_id(receipt["request_id"]) == receipt
        assert archive.is_revoked("cap-revoked")
        assert not archive.is_revoked("cap-other")
        assert archive.revocations(5) == [("cap-revoked", 0)]
        assert archive.invocations("cap-revoked", 0) == 0
        stored = archive.stored_text(receipt["id"], most=10)
        assert stored is not None
        assert (stored.created_at[:10], stored.text) == ("2026-11-28", '{"id":"01a')


def test_the_viewer_shows_it(store: Path) -> None:
    app = create_viewer_app(store, keys=frozenset({RECORDED["kernel_key"]}), token=None)
    shown = partial(fetch, app, "GET", headers={"Host": "127.0.0.1"})
    rows = shown(f"{VIEWER_PATH}api/receipts").json()["rows"]
    newest = STORED[: -len(rows) - 1 : -1]
    assert [row["id"] for row in rows] == [receipt["id"] for receipt in newest]
    assert shown(f"{VIEWER_PATH}api/count").json()["matched"] == len(STORED)
    opened = shown(f"{VIEWER_PATH}api/receipt", params={"id": rows[0]["id"]}).json()
    assert json.loads(opened["text"]) == newest[0]


def test_commands_that_need_a_chain_name_those_that_do_not(store: Path, cli: CommandLine, tmp_path: Path) -> None:
    for command in (("receipt", "fsck"), ("receipt", "export", tmp_path / "out")):
        cli(*command, "--receipt-store", store, status=None)
        assert "its rows have no chain" in cli.err
        assert "`receipt verify`" in cli.err


def test_an_open_archive_leaves_the_file_as_it_was(store: Path) -> None:
    before = store.read_bytes()
    with open_archive(store) as archive:
        assert archive.last > 0
    assert store.read_bytes() == before
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_a_table_with_other_columns_is_still_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE http_receipts (id TEXT, body TEXT)")
    with pytest.raises(ConfigurationError, match="no such column"), ReceiptReader(path):
        pass
