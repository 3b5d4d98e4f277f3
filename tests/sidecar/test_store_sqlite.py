"""The SQLite store: the suite of all stores, on both journals, and what only SQLite can do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import stat
import threading
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.store import AppendOutcome, Stored, StoreUnavailable
from chio_sidecar.store.driver import FIRST_SAFE_WAL, sqlite3
from chio_sidecar.store.hash_chain import MEMBERS
from chio_sidecar.store.schema import JOURNAL_BYTES, journal_for
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.store.tables import SCHEMA_VERSION
from tests.sidecar.store_conformance import Kit, StoreConformance, charge, entry, wait
from tests.support import run

OLD, NEW = (3, 40, 1), (3, 51, 3)


class SqliteKit:
    refusal: type[Exception] = sqlite3.IntegrityError

    def __init__(self, path: Path, version: tuple[int, ...]) -> None:
        self.path = path
        self.version = version

    def open(self, **options: Any) -> SqliteReceiptStore:
        return SqliteReceiptStore(self.path, version=self.version, **options)

    def execute(self, sql: str) -> None:
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            with connection:
                connection.execute(sql)
        finally:
            connection.close()

    def chained(self) -> list[tuple[int, list[str], str]]:
        connection = sqlite3.connect(self.path, timeout=10)
        rows = connection.execute(f"SELECT seq, {MEMBERS}, chain FROM http_receipts ORDER BY seq").fetchall()
        connection.close()
        return [(sequence, members, digest) for sequence, *members, digest in rows]


class TestWithARollbackJournal(StoreConformance):
    @pytest.fixture
    def kit(self, tmp_path: Path) -> Kit:
        return SqliteKit(tmp_path / "r.sqlite3", OLD)


class TestWithAWriteAheadLog(StoreConformance):
    # The log is not safe on every version that the tests run on; each test has the file for itself.
    @pytest.fixture
    def kit(self, tmp_path: Path) -> Kit:
        return SqliteKit(tmp_path / "r.sqlite3", NEW)


@pytest.mark.parametrize(
    ("version", "journal"),
    [((3, 40, 1), "persist"), ((3, 51, 2), "persist"), ((3, 51, 3), "wal"), ((3, 52, 0), "wal"), ((4, 0), "wal")],
)
def test_the_write_ahead_log_is_used_only_where_it_is_safe(version: tuple[int, ...], journal: str) -> None:
    assert journal_for(version) == journal
    assert FIRST_SAFE_WAL == (3, 51, 3)


def test_the_library_whose_write_ahead_log_is_safe_is_used_if_one_is_installed() -> None:
    installed = [importlib.import_module("sqlite3")]
    with contextlib.suppress(ImportError):
        installed.append(importlib.import_module("pysqlite3.dbapi2"))
    best = max(library.sqlite_version_info for library in installed)
    assert (journal_for(sqlite3.sqlite_version_info) == "wal") == (best >= FIRST_SAFE_WAL)
    assert sqlite3.sqlite_version_info in [library.sqlite_version_info for library in installed]


async def test_a_log_that_a_reader_let_grow_shrinks_again(tmp_path: Path) -> None:
    path = tmp_path / "r"
    store = SqliteReceiptStore(path, version=NEW)
    await store.append(entry(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM http_receipts").fetchone()
        for number in range(1, 25):
            await store.append(entry(number, content="x" * 2**20))
        log = path.with_name("r-wal")
        assert log.stat().st_size > 1.3 * JOURNAL_BYTES
        reader.execute("ROLLBACK")
    for number in range(25, 28):  # a checkpoint, and the commit that starts the log again
        await store.append(entry(number, content="x" * 2**20))
    assert log.stat().st_size <= JOURNAL_BYTES
    await store.close()


@pytest.mark.parametrize(("version", "word"), [(OLD, "rollback journal"), (NEW, "write-ahead log")])
async def test_the_store_reports_how_it_writes(version: tuple[int, ...], word: str, tmp_path: Path) -> None:
    store = SqliteReceiptStore(tmp_path / "r", version=version)
    assert word in (await store.health()).detail
    await store.close()


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_the_file_is_private_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    modes: dict[str, int] = {}
    store = SqliteReceiptStore(tmp_path / "r")
    await store.append(entry())
    modes.update(_modes(tmp_path))
    await store.close()
    assert modes.pop("r") == 0o600
    assert set(modes.values()) <= {0o600}
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_store_that_was_open_to_others_is_closed_to_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r"
    path.touch(mode=0o644)
    path.chmod(0o644)
    run(SqliteReceiptStore(path).close())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "was open to other users; its mode is now 0600" in caplog.text


INSPECTION = "select id, substr(verdict_outcome,1,8) from receipts order by created_at desc limit 5;"


def test_the_view_serves_the_inspection_command(tmp_path: Path) -> None:
    path = tmp_path / "r"

    async def fill() -> None:
        ticks = iter(range(100))
        store = SqliteReceiptStore(path, clock=lambda: 1_000_000 + next(ticks) / 1000)
        for number in range(7):
            await store.append(entry(number))
        await store.close()

    run(fill())
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    rows = connection.execute(INSPECTION).fetchall()
    connection.close()
    assert rows == [(f"receipt-{number}-a", "allow") for number in (6, 5, 4, 3, 2)]


REPLACEMENTS = [
    "INSERT OR REPLACE INTO http_receipts (id, receipt_json, request_id, fingerprint, created_at)"
    " VALUES ('receipt-1-a', '{}', 'request-1', '', '')",
    "REPLACE INTO http_receipts (id, receipt_json, request_id, fingerprint, created_at)"
    " VALUES ('new', '{}', 'request-1', '', '')",
    "INSERT OR REPLACE INTO http_receipts (seq, id, receipt_json, request_id, fingerprint, created_at)"
    " VALUES (1, 'new', '{}', 'new', '', '')",
    "UPDATE OR REPLACE http_receipts SET seq = 2",
    "INSERT INTO http_receipts (id, receipt_json, request_id, fingerprint, created_at)"
    " VALUES ('new', '{}', 'request-1', '', '') ON CONFLICT (request_id) DO UPDATE SET receipt_json = '{}'",
    "REPLACE INTO revoked_capabilities VALUES ('cap-1', 0)",
]


@pytest.mark.parametrize("sql", REPLACEMENTS)
async def test_nothing_is_replaced(sql: str, tmp_path: Path) -> None:
    kit = SqliteKit(tmp_path / "r", OLD)
    store = kit.open()
    await store.append(entry())
    await store.revoke("cap-1")
    with pytest.raises(sqlite3.IntegrityError):
        kit.execute(sql)
    (row,) = await store.list()
    assert row.receipt_json == entry().receipt_json
    await store.close()


def foreign(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


APPLICATION = "PRAGMA application_id=1130916207"
UNUSABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "another program": (("CREATE TABLE songs (title)",), "is a database of another program"),
    "another sidecar": (
        ("CREATE TABLE http_receipts (id TEXT PRIMARY KEY, receipt_json TEXT NOT NULL)",),
        "is a database of another program",
    ),
    "a version to come": ((APPLICATION, "PRAGMA user_version=6", "CREATE TABLE t (x)"), "has schema version 6"),
    "a missing table": ((APPLICATION, "PRAGMA user_version=1", "CREATE TABLE t (x)"), "was altered: "),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_database_that_is_not_ours_is_refused(kind: str, tmp_path: Path) -> None:
    statements, message = UNUSABLE[kind]
    path = foreign(tmp_path / "r", *statements)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=message) as caught:
        SqliteReceiptStore(path)
    assert str(path) in caught.value.message
    assert path.read_bytes() == before


def test_a_database_of_another_program_keeps_its_journal(tmp_path: Path) -> None:
    path = foreign(tmp_path / "r", "PRAGMA journal_mode=wal", "CREATE TABLE songs (title)")
    with pytest.raises(ConfigurationError, match="another program"):
        SqliteReceiptStore(path, version=OLD)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_an_older_version_takes_a_store_back_from_the_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "r"
    newer = SqliteReceiptStore(path, version=NEW)
    await newer.append(entry(1))
    with pytest.raises(ConfigurationError, match=r"locked.*another process holds it"):
        SqliteReceiptStore(path, version=OLD, busy_seconds=0.1)
    await newer.close()
    older = SqliteReceiptStore(path, version=OLD)
    await older.append(entry(2))
    assert [row.request_id for row in await older.list()] == ["request-1", "request-2"]
    await older.close()
    assert [found.name for found in tmp_path.iterdir()] == ["r"]


def test_a_store_without_one_of_its_triggers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    run(SqliteReceiptStore(path).close())
    foreign(path, "DROP TRIGGER http_receipts_no_delete")
    with pytest.raises(ConfigurationError, match="was altered: http_receipts_no_delete is missing"):
        SqliteReceiptStore(path)


def store_of_version_1(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(Path(__file__).with_name("store_version_1.sql").read_text(encoding="utf-8"))
    connection.close()
    path.chmod(0o600)
    return path


async def test_a_store_of_the_first_version_is_brought_up_to_date_and_keeps_everything(tmp_path: Path) -> None:
    path = store_of_version_1(tmp_path / "r")
    for _ in range(2):
        store = SqliteReceiptStore(path)
        assert [row.receipt_json for row in await store.list()] == [entry(1).receipt_json]
        assert await store.is_revoked("cap-2")
        await store.close()
    store = SqliteReceiptStore(path)
    assert await store.request_approval(wait()) is None
    assert isinstance(await store.append(entry(2, obligations=(charge(),))), Stored)
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()


def test_an_altered_store_of_the_first_version_stays_as_it_is(tmp_path: Path) -> None:
    path = store_of_version_1(tmp_path / "r")
    foreign(path, "DROP TRIGGER http_receipts_no_delete")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="was altered: http_receipts_no_delete is missing"):
        SqliteReceiptStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database " * 500, b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
def test_a_damaged_file_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="it is damaged or no receipt store; restore it") as caught:
        SqliteReceiptStore(path)
    assert "\n" not in caught.value.message
    assert path.read_bytes() == content


def test_places_where_no_store_can_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/missing/r: No such file or directory; its folder must"):
        SqliteReceiptStore(tmp_path / "missing" / "r")
    with pytest.raises(ConfigurationError, match="is no regular file"):
        SqliteReceiptStore(tmp_path)


@pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%20b", "é", "a'b"])
async def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    store = SqliteReceiptStore(tmp_path / name)
    await store.append(entry())
    assert len(await store.list()) == 1
    await store.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


async def _outcome(appending: Awaitable[AppendOutcome]) -> str:
    try:
        outcome = await appending
    except StoreUnavailable as exc:
        return "full" if "database or disk is full" in exc.message else exc.message
    return type(outcome).__name__


def test_a_full_store_refuses_and_recovers_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "r"

    async def fill() -> int:
        store = SqliteReceiptStore(path, max_pages=56)
        try:
            rows = [entry(number, content="x" * 2000) for number in range(200)]
            outcomes = [await _outcome(store.append(row)) for row in rows]
            stored = outcomes.index("full")
            assert set(outcomes[:stored]) == {"Stored"}
            assert set(outcomes[stored:]) == {"full"}
            assert len(await store.list(limit=1000)) == stored
        finally:
            await store.close()
        return stored

    stored = run(fill())
    assert stored > 5

    async def go_on() -> None:
        store = SqliteReceiptStore(path)
        assert isinstance(await store.append(entry("after")), Stored)
        assert len(await store.list(limit=1000)) == stored + 1
        await store.close()

    run(go_on())


async def test_a_disk_with_little_room_is_no_healthy_place(tmp_path: Path) -> None:
    store = SqliteReceiptStore(tmp_path / "r", spare_bytes=2**62)
    health = await store.health()
    assert not health.writable
    assert "bytes left" in health.detail
    await store.close()


async def test_space_that_comes_back_is_used_by_the_running_store(tmp_path: Path) -> None:
    store = SqliteReceiptStore(tmp_path / "r", max_pages=56)
    big = entry("big", content="x" * 400_000)
    with pytest.raises(StoreUnavailable, match="full"):
        await store.append(big)
    assert isinstance(await store.append(entry("small")), Stored)
    assert [row.request_id for row in await store.list()] == ["request-small"]
    await store.close()


async def test_a_full_batch_fails_as_a_whole_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    store = SqliteReceiptStore(tmp_path / "r", max_pages=56)
    rows = [entry(number, content="x" * 20_000) for number in range(64)]
    outcomes = await asyncio.gather(*map(store.append, rows), return_exceptions=True)
    stored = {row.request_id for row in await store.list(limit=1000)}
    for row, outcome in zip(rows, outcomes, strict=True):
        assert isinstance(outcome, Stored | StoreUnavailable)
        assert isinstance(outcome, Stored) == (row.request_id in stored)
    await store.close()


@pytest.mark.parametrize("version", [OLD, NEW])
async def test_a_file_that_is_moved_away_is_noticed_and_not_replaced(version: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "r"
    store = SqliteReceiptStore(path, version=version)
    await store.append(entry(1))
    path.rename(tmp_path / "elsewhere")
    for number in range(2):
        with pytest.raises(StoreUnavailable):
            await store.append(entry(f"lost-{number}"))
    assert not (await store.health()).writable
    assert not path.exists()
    (tmp_path / "elsewhere").rename(path)
    assert isinstance(await store.append(entry(2)), Stored)
    assert [row.request_id for row in await store.list()] == ["request-1", "request-2"]
    await store.close()


def hold(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


async def test_a_store_that_another_holds_for_long_refuses_and_works_again(tmp_path: Path) -> None:
    path = tmp_path / "r"
    store = SqliteReceiptStore(path, busy_seconds=0.2, version=OLD)  # with a write-ahead log reading would go on
    await store.append(entry(0))
    other = hold(path)
    outcomes = await asyncio.gather(*(store.append(entry(n)) for n in range(1, 50)), return_exceptions=True)
    assert {str(outcome) for outcome in outcomes} == {"the receipt store is locked by another process"}
    assert (await store.health()).detail == "the receipt store is locked by another process"
    with pytest.raises(StoreUnavailable, match="cannot be read: database is locked"):
        await store.list()
    other.execute("ROLLBACK")
    other.close()
    assert isinstance(await store.append(entry("after")), Stored)
    assert len(await store.list()) == 2
    await store.close()


async def test_a_store_that_another_holds_for_a_moment_waits(tmp_path: Path) -> None:
    path = tmp_path / "r"
    store = SqliteReceiptStore(path, busy_seconds=30)
    other = hold(path)
    waiting = asyncio.ensure_future(store.append(entry()))
    for _ in range(20):
        await asyncio.sleep(0)
        assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    assert isinstance(await waiting, Stored)
    await store.close()


async def test_a_reader_that_takes_its_time_delays_and_does_not_break_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "r"
    store = SqliteReceiptStore(path, busy_seconds=30, version=OLD)
    await store.append(entry(0))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM http_receipts").fetchone()
    waiting = asyncio.ensure_future(store.append(entry(1)))
    assert (await asyncio.wait([waiting], timeout=0.05))[0] == set()
    reader.execute("ROLLBACK")
    reader.close()
    assert isinstance(await waiting, Stored)
    await store.close()


def test_opening_a_locked_store_raises_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "r"
    run(SqliteReceiptStore(path).close())
    other = hold(path)
    with pytest.raises(ConfigurationError, match="another process holds it; try again"):
        SqliteReceiptStore(path, busy_seconds=0.1)
    other.close()


def test_what_a_loop_has_submitted_when_it_ends_is_written_when_the_store_is_closed(tmp_path: Path) -> None:
    store, loop = SqliteReceiptStore(tmp_path / "r"), asyncio.new_event_loop()
    append = store.append(entry())
    loop.call_soon(append.send, None)  # type: ignore[attr-defined]
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()

    async def close() -> None:
        await store.close()

    run(close())
    append.close()  # type: ignore[attr-defined]
    with closing(sqlite3.connect(tmp_path / "r")) as connection:
        assert connection.execute("SELECT count(*) FROM http_receipts").fetchone() == (1,)


def test_a_store_that_was_not_closed_still_writes_what_waits(tmp_path: Path) -> None:
    path, others = tmp_path / "r", set(threading.enumerate())

    async def fill_and_forget() -> None:
        store = SqliteReceiptStore(path)
        for number in range(50):
            asyncio.ensure_future(store.append(entry(number))).add_done_callback(lambda _: None)
        await asyncio.sleep(0)

    asyncio.run(fill_and_forget())  # its tasks are left behind
    gc.collect()
    for writer in set(threading.enumerate()) - others:
        writer.join(timeout=30)

    async def count() -> int:
        store = SqliteReceiptStore(path)
        rows = await store.list(limit=100)
        await store.close()
        return len(rows)

    assert run(count()) == 50
