"""The hash chain of a SQLite store: its digests, what its triggers refuse, and stores from before it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.store import Stored, StoreUnavailable
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.hash_chain import FIRST, MEMBERS, earlier_link, link
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.fsck_tools import alter, older, select
from tests.sidecar.store_conformance import entry


async def filled(path: Path, *numbers: int | str) -> Path:
    """Store a receipt for each number."""
    store = SqliteReceiptStore(path)
    try:
        for number in numbers:
            assert isinstance(await store.append(entry(number)), Stored)
    finally:
        await store.close()
    return path


def test_a_digest_is_that_of_the_module_s_definition() -> None:
    def number(value: int) -> bytes:
        return value.to_bytes(8, "big")

    def texts(*parts: str) -> bytes:
        return b"".join(number(len(part.encode())) + part.encode() for part in parts)

    members = ["id", "{}", "request-é", "print", "2026"]
    earlier = b"chio.receipt-store.row.v1\0" + texts(FIRST) + number(7) + texts(*members)
    assert earlier_link(FIRST, 7, members) == hashlib.sha256(earlier).hexdigest()
    content = hashlib.sha256(b"chio.receipt-store.content.v1\0" + texts("{}", "print")).hexdigest()
    own = texts("id", content, "request-é", "2026")
    written = b"chio.receipt-store.row.v2\0" + texts(FIRST) + number(7) + own
    assert link(FIRST, 7, members) == hashlib.sha256(written).hexdigest()
    assert hashlib.sha256(b"chio.receipt-store.first.v1\0").hexdigest() == FIRST


def test_a_digest_depends_on_everything_and_on_where_one_text_ends() -> None:
    members = ["a", "b", "c", "d", "e"]
    same = link(FIRST, 1, members)
    others = [link(same, 1, members), link(FIRST, 2, members), link(FIRST, 1, ["ab", "", "c", "d", "e"])]
    others += [link(FIRST, 1, [*members[:at], "x", *members[at + 1 :]]) for at in range(5)]
    assert len({same, *others}) == 9


REFUSED = [
    "INSERT INTO http_receipts (id, receipt_json, request_id, fingerprint, created_at) VALUES ('i', 't', 'r', 'f', '')",
    "INSERT INTO http_receipts VALUES (3, 'i', 't', 'r', 'f', '', NULL)",
    "INSERT INTO http_receipts VALUES (4, 'i', 't', 'r', 'f', '', 'digest')",
    "UPDATE http_receipts SET chain = NULL",
    "UPDATE receipt_chain_head SET seq = 1",
    "UPDATE receipt_chain_head SET seq = 3, digest = 'digest'",
    "UPDATE receipt_chain_head SET digest = 'digest'",
    "DELETE FROM receipt_chain_head",
    "REPLACE INTO receipt_chain_head VALUES (1, 0, '')",
    "INSERT INTO receipt_chain_head VALUES (2, 0, '')",
    "UPDATE receipt_chain_start SET seq = 1",
    "DELETE FROM receipt_chain_start",
    "INSERT INTO receipt_chain_start VALUES (1, '')",
]


# The first is what a process of an older version does.
@pytest.mark.parametrize("sql", REFUSED)
async def test_plain_sql_does_not_touch_the_chain(sql: str, tmp_path: Path) -> None:
    path = await filled(tmp_path / "r", 1, 2)
    before = select(path, "SELECT * FROM http_receipts, receipt_chain_head, receipt_chain_start")
    with pytest.raises(sqlite3.IntegrityError):
        alter(path, sql)
    assert select(path, "SELECT * FROM http_receipts, receipt_chain_head, receipt_chain_start") == before


async def test_the_head_is_the_newest_row(tmp_path: Path) -> None:
    path = await filled(tmp_path / "r", *range(40))
    newest = select(path, "SELECT 1, seq, chain FROM http_receipts ORDER BY seq DESC LIMIT 1")
    assert select(path, "SELECT * FROM receipt_chain_head") == newest
    assert select(path, "SELECT * FROM receipt_chain_start") == [(0, FIRST)]


async def test_a_store_whose_newest_rows_are_gone_is_not_written_any_more(tmp_path: Path) -> None:
    path = await filled(tmp_path / "r", 1, 2, 3)
    no_delete = select(path, "SELECT sql FROM sqlite_master WHERE name = 'http_receipts_no_delete'")
    alter(path, "DROP TRIGGER http_receipts_no_delete", "DELETE FROM http_receipts WHERE seq > 1", str(no_delete[0][0]))

    store = SqliteReceiptStore(path)
    with pytest.raises(StoreUnavailable, match="newest rows are not those that were stored; see receipt fsck"):
        await store.append(entry(4))
    health = await store.health()
    await store.close()
    assert not health.writable
    assert "newest rows" in health.detail
    assert select(path, "SELECT count(*) FROM http_receipts") == [(1,)]


@pytest.mark.parametrize(("version", "count"), [(1, 1), (2, 3)])
async def test_a_store_from_before_the_chain_keeps_its_rows_and_starts_one_after_them(
    version: int, count: int, tmp_path: Path
) -> None:
    path = older(tmp_path / "r", version)
    columns = f"SELECT seq, {MEMBERS} FROM http_receipts ORDER BY seq"
    before = select(path, columns)
    await filled(path, "new-1", "new-2")
    after = select(path, columns)
    assert after[:count] == before
    digests, digest = [], FIRST
    for sequence, *members in after:
        make = earlier_link if len(digests) < count else link
        digest = make(digest, int(str(sequence)), [str(member) for member in members])
        digests.append(digest)
    assert select(path, "SELECT * FROM receipt_chain_start") == [(count, digests[count - 1])]
    chain = select(path, "SELECT chain FROM http_receipts ORDER BY seq")
    assert chain == [(None,)] * count + [(digest,) for digest in digests[count:]]


def test_an_older_store_with_a_damaged_row_stays_as_it_is(tmp_path: Path) -> None:
    blob = "INSERT INTO http_receipts VALUES (9, 'i', x'00', 'r', 'f', '')"
    path = older(tmp_path / "r", 2, blob)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"row 9 of http_receipts is damaged; .*restore it from a backup"):
        SqliteReceiptStore(path)
    assert path.read_bytes() == before
