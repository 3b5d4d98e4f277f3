"""A flipped bit in the file: `receipt fsck` reports it, or the content that can be read is the same (B2)."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.fsck_tools import fill, inspect, select

UNCHECKED = {
    ("chio_hitl_consumed_tokens", "consumed_at"),
    ("chio_hitl_pending", "request_json"),
    ("chio_hitl_pending", "requester"),
    ("chio_hitl_resolved", "reason"),
    ("chio_hitl_resolved", "resolved_at"),
    ("revoked_capabilities", "revoked_at"),
    ("write_probe", "probes"),
}
"""Columns that no other value in the store confirms, or not in full."""


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("store"), 30)


def content(path: Path) -> object:
    """Return everything that can be read from a store, but for the columns that cannot be checked."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        tables = connection.execute("SELECT name, type, sql FROM sqlite_master ORDER BY name").fetchall()
        rows = {}
        for name in (name.decode() for name, kind, _ in tables if kind == b"table"):
            columns = [column[1].decode() for column in connection.execute(f"PRAGMA table_info({name})")]
            read = [f"{column}, typeof({column})" for column in columns if (name, column) not in UNCHECKED]
            rows[name] = connection.execute(f"SELECT {', '.join(read)} FROM {name} ORDER BY rowid").fetchall()
        versions = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")]
        return tables, rows, versions


def is_reported(path: Path) -> bool:
    try:
        return bool(inspect(path)[0])
    except ConfigurationError:
        return True


def flipped(raw: bytes, bit: int) -> bytes:
    at, mask = bit // 8, 1 << bit % 8
    return raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]


@pytest.mark.slow
def test_a_flipped_bit_is_reported_or_changes_nothing(genuine: Path, tmp_path: Path, full_size: bool) -> None:
    raw, path, before = genuine.read_bytes(), tmp_path / "r", content(genuine)
    places = random.Random("bits").sample(range(8 * len(raw)), 1_000 if full_size else 200)
    reported = 0
    for bit in places:
        path.write_bytes(flipped(raw, bit))
        if is_reported(path):
            reported += 1
        else:
            assert content(path) == before, f"bit {bit % 8} of byte {bit // 8}"
    assert reported > len(places) // 4


def test_a_flipped_bit_of_any_byte_of_a_receipt_is_reported(genuine: Path, tmp_path: Path) -> None:
    raw, path = genuine.read_bytes(), tmp_path / "r"
    start = raw.index(b'"request_id":"plain-7"')
    for number, at in enumerate(range(start, start + 400, 4)):
        path.write_bytes(flipped(raw, 8 * at + number % 8))
        assert is_reported(path), at


def test_numbers_that_are_out_of_order_in_the_tree_of_rows_come_to_an_end(genuine: Path, tmp_path: Path) -> None:
    raw, path = genuine.read_bytes(), tmp_path / "r"
    ((root,),) = select(genuine, "SELECT rootpage FROM sqlite_master WHERE name = 'http_receipts'")
    page = 4096 * (int(str(root)) - 1)
    assert raw[page] == 5, "a page that only has numbers and pages"
    first = page + int.from_bytes(raw[page + 5 : page + 7], "big")
    for bit in range(8 * first, 8 * (page + 4096), 7):
        path.write_bytes(flipped(raw, bit))
        assert is_reported(path), bit


@pytest.mark.parametrize("pages", [1, 3, 10])
def test_a_file_that_was_cut_off_is_reported(pages: int, genuine: Path, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(genuine.read_bytes()[: -4096 * pages])
    assert is_reported(path)


def test_nothing_is_written_and_no_file_is_made(genuine: Path) -> None:
    before = genuine.read_bytes(), genuine.stat().st_mtime_ns, sorted(genuine.parent.iterdir())
    assert not is_reported(genuine)
    assert (genuine.read_bytes(), genuine.stat().st_mtime_ns, sorted(genuine.parent.iterdir())) == before
