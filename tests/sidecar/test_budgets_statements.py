"""What a receipt costs in SQL: nothing more for one that demands nothing."""

from __future__ import annotations

import sqlite3
from itertools import groupby
from pathlib import Path

import pytest

from chio_sidecar.store import Obligation
from chio_sidecar.store.schema import connect, prepare
from chio_sidecar.store.writes import Append, apply
from tests.sidecar.store_conformance import charge, entry


@pytest.fixture
def store(tmp_path: Path) -> Path:
    prepare(tmp_path / "r", journal="persist", busy_seconds=1)
    return tmp_path / "r"


def statements(path: Path, *demands: Obligation) -> list[str]:
    """Return the first word of each statement that three receipts with these demands take."""
    seen: list[str] = []
    connection: sqlite3.Connection = connect(path, journal="persist", busy_seconds=1)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.set_trace_callback(seen.append)
        apply(connection, [Append(entry(n, unless_revoked=("cap-1",), obligations=demands), 0.0) for n in range(3)])
    finally:
        connection.close()
    # SQLite reports a statement once more for each row that a trigger looks at.
    return [statement.split()[0] for statement, _ in groupby(seen)]


def test_receipts_without_demands_take_three_statements_for_all_of_them(store: Path) -> None:
    """The revocations, the end of the hash chain, and all rows."""
    assert statements(store) == ["SELECT", "SELECT", "INSERT"]


def test_a_charge_takes_three_statements_more(store: Path) -> None:
    plain, charged = ["SELECT", "INSERT"], ["SELECT", "SELECT", "INSERT", "SELECT", "INSERT"]
    end_of_the_chain = ["SELECT"]
    assert statements(store, charge()) == [*charged[:2], *end_of_the_chain, *charged[2:], *charged, *charged]
    assert len(charged) == len(plain) + 3
