"""`receipt erase` and archives, and which bytes of an erased receipt stay in files; who may erase in a database."""

from __future__ import annotations

import json
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.store import Stored
from chio_sidecar.store import erase as erasing
from chio_sidecar.store.backup import Copied, backup
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.rewriting import rewriting
from chio_sidecar.store.rotate import archive, trim
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.store.statements import ERASURE, ArchiveStatement
from tests.sidecar.control_tools import CommandLine, key_file, write_store
from tests.sidecar.erase_tools import DatabaseWorld, FileWorld, fill, kill_while_erasing
from tests.sidecar.fsck_tools import alter, older, select
from tests.sidecar.sidecar_tools import KERNEL, NOW, STRANGER
from tests.sidecar.store_conformance import entry
from tests.sidecar.test_backup import VERSIONS
from tests.sidecar.test_erase import REASON, TRUSTED, erase, record
from tests.sidecar.test_rotate import NAMES
from tests.support import run
from tests.viewer.records import KEY, receipt

LATER = 2**32
"""A time after every receipt."""


def sign(key: Any = KERNEL) -> erasing.Sign:
    return erasing.signer(key, reason=REASON, now=NOW)


@NAMES
def test_a_receipt_is_erased_from_an_archive_which_stays_read_only(name: str, tmp_path: Path, cli: CommandLine) -> None:
    world, target = FileWorld(tmp_path), tmp_path / name
    ids = fill(world)
    key = tmp_path / "receipts.sqlite3.key"
    cli("receipt", "rotate", "--receipt-store", world.store, "--to", target, "--keep", str(LATER))
    error = cli.fails("receipt", "erase", "--receipt-store", world.store, ids["plain-1"], "--reason", "r", "--yes")
    assert f"older ones are in archives such as {name}: name one with --receipt-store" in error
    own = ("--authority-seed-file", key, "receipt", "erase", "--receipt-store", target)
    cli(*own, ids["plain-1"], "--reason", REASON, "--yes")
    assert stat.S_IMODE(target.stat().st_mode) == 0o400
    assert sorted(file.name for file in tmp_path.glob("*archive*")) == [name]
    out = cli("receipt", "fsck", "--receipt-store", world.store, "--archive", target, *TRUSTED)
    assert out.count("findings  0\n") == 2
    assert out.count("erased    row ") == 1


@NAMES
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_erasure_of_an_archive_that_is_killed_is_repeated(
    steps: int, name: str, tmp_path: Path, cli: CommandLine
) -> None:
    world, target = FileWorld(tmp_path), tmp_path / name
    ids = fill(world)
    some = [ids["plain-0"], ids["plain-1"]]
    cli("receipt", "rotate", "--receipt-store", world.store, "--to", target, "--keep", "0")
    before = select(target, "SELECT * FROM http_receipts")
    kill_while_erasing(lambda ids, sign: erasing.erase(target, ids, sign)[0], some, steps)
    key = ("--authority-seed-file", tmp_path / "receipts.sqlite3.key")
    cli(*key, "receipt", "erase", "--receipt-store", target, *some, "--reason", REASON)
    assert (select(target, "SELECT * FROM http_receipts") == before) is (steps < 2)
    out = cli(*key, "receipt", "erase", "--receipt-store", target, *some, "--reason", REASON, "--yes")
    assert out.startswith("erased    " if steps < 2 else "before    ")
    assert cli("receipt", "fsck", "--receipt-store", target, *TRUSTED).count("erased    row ") == 2
    assert sorted(file.name for file in tmp_path.glob("*archive*")) == [name]


def test_a_file_of_another_program_stays_as_it_is(tmp_path: Path, cli: CommandLine) -> None:
    path = tmp_path / "songs"
    alter(path, "CREATE TABLE http_receipts (id TEXT PRIMARY KEY, receipt_json TEXT NOT NULL)")
    before = path.read_bytes()
    error = cli.fails("receipt", "erase", "--receipt-store", path, "a", "--reason", "r", "--yes")
    assert "is a database of another program" in error
    assert path.read_bytes() == before


def test_an_erasure_names_the_archives_that_have_the_receipt_too(tmp_path: Path, cli: CommandLine) -> None:
    world, target = FileWorld(tmp_path), tmp_path / "archive"
    ids = fill(world)
    cli("receipt", "rotate", "--receipt-store", world.store, "--to", target, "--keep", "0")
    assert "also in   archive: erase it there too, with --receipt-store\n" in erase(cli, world.store, ids["plain-3"])


def test_a_receipt_that_is_erased_between_the_copy_and_the_removal_of_a_rotation_stops_it(tmp_path: Path) -> None:
    world, target = FileWorld(tmp_path), tmp_path / "archive"
    ids = fill(world)
    world.erase([ids["plain-0"]], sign())
    made = archive(world.path, target, KERNEL, now=NOW)
    world.erase([ids["plain-1"]], sign())
    earlier, later = (next(row[0] for row in world.rows() if row[3] == name) for name in ("plain-0", "plain-1"))
    before = world.rows()
    removal = trim(world.path, made, made.signed_by(KERNEL), before=LATER, erased={earlier})
    with pytest.raises(
        ConfigurationError, match=f"row {later} of .* was erased after archive was copied, which still has the receipt"
    ):
        list(removal)
    assert world.rows() == before
    target.unlink()
    made = archive(world.path, target, KERNEL, now=NOW)
    list(trim(world.path, made, made.signed_by(KERNEL), before=LATER, erased={earlier, later}))
    assert len(world.rows()) == 1


def test_an_archive_is_erased_from_by_a_key_that_signed_in_it_and_by_no_other(tmp_path: Path, cli: CommandLine) -> None:
    path, target = older(tmp_path / "r", 4), tmp_path / "archive"
    archive(path, target, KERNEL, now=NOW)
    (first,) = select(target, "SELECT id FROM http_receipts WHERE seq = 1")[0]
    stranger = key_file(tmp_path / "stranger.key", STRANGER)
    signer = key_file(tmp_path / "signer.key")
    before = target.read_bytes()
    own = ("receipt", "erase", "--receipt-store", target, first, "--reason", REASON, "--yes")
    error = cli.fails("--authority-seed-file", stranger, *own)
    assert f"nothing in {target} is signed by {STRANGER.public_hex}, the key in {stranger}" in error
    assert "delete the whole archive" in error
    assert target.read_bytes() == before
    assert "also in" not in cli("--authority-seed-file", signer, *own)
    # An erasure is no proof of the right to erase.
    erasing.erase(
        target, [str(name) for (name,) in select(target, "SELECT id FROM http_receipts WHERE seq = 2")], sign(STRANGER)
    )
    assert "nothing in" in cli.fails("--authority-seed-file", stranger, *own)
    check = ("receipt", "fsck", "--receipt-store", target, *TRUSTED)
    cli(*check, "--trusted-key", STRANGER.public_hex)
    assert f"erased by {STRANGER.public_hex}, which is not trusted" in cli(*check, status=1)
    assert "signs no receipt here; name it with --trusted-key if it is the sidecar's" in cli(*check[:4], status=1)


def test_an_archive_without_any_receipt_left_is_erased_from_by_the_key_of_its_statement(
    tmp_path: Path, cli: CommandLine
) -> None:
    path, target = write_store(tmp_path / "r", map(receipt, range(1, 4))), tmp_path / "archive"
    archive(path, target, KERNEL, now=NOW)
    own = ("--authority-seed-file", key_file(tmp_path / "signer.key"), "receipt", "erase", "--receipt-store", target)
    ids = [str(name) for (name,) in select(target, "SELECT id FROM http_receipts")]
    for one in ids:
        assert cli(*own, one, "--reason", REASON, "--yes").startswith("erased    ")
    assert cli(*own, *ids, "--reason", REASON, "--yes").count("before    ") == 3


def test_a_log_of_a_database_is_archived_and_erased_from(tmp_path: Path, cli: CommandLine, server: Any) -> None:
    from tests.sidecar.postgres_tools import ARCHIVE_ROLE

    world, folder = DatabaseWorld(tmp_path, server), tmp_path / "archives"
    ids = fill(world)
    world.erase([ids["plain-0"]], sign())
    url = f"{server.url(world.kit.database, ARCHIVE_ROLE)}&key={tmp_path / 'own.key'}"
    cli("receipt", "rotate", "--receipt-store", url, "--to", folder, "--keep", "0")
    (file,) = folder.iterdir()
    key = ("--authority-seed-file", tmp_path / "own.key")
    cli(*key, "receipt", "erase", "--receipt-store", file, ids["plain-1"], "--reason", REASON, "--yes")
    assert f"also in   archives/{file.name}" in erase(cli, world.store, ids["plain-1"])
    out = cli("receipt", "fsck", "--receipt-store", url, "--archive", folder, *TRUSTED)
    assert out.count("findings  0\n") == 3
    assert out.count("erased    row ") == 4


def test_an_erasure_between_the_copy_and_the_removal_stops_the_rotation_of_a_database(
    tmp_path: Path, server: Any
) -> None:
    from chio_sidecar.store.postgresql import rotate
    from tests.sidecar.postgres_tools import ARCHIVE_ROLE

    world = DatabaseWorld(tmp_path, server)
    ids = fill(world)
    place = server.place(world.kit.database, ARCHIVE_ROLE)
    made = rotate.archive(place, tmp_path / "a", KERNEL, now=NOW)
    world.erase([ids["plain-1"]], sign())
    signed = {log: said.signed_by(KERNEL) for log, said in made.items()}
    before = world.rows()
    with pytest.raises(
        ConfigurationError, match=r"was erased after a/log-1\.xz was copied, which still has the receipt"
    ):
        list(rotate.trim(place, made, signed, before=LATER))
    assert world.rows() == before


def content(path: Path) -> bytes:
    """Read a store and the files beside it; in another process, because closing one of them drops SQLite's locks."""
    files = [file for file in path.parent.glob(f"{path.name}*") if file.suffix != ".key"]
    return subprocess.run(["cat", *files], stdout=subprocess.PIPE, check=True).stdout


@VERSIONS
def test_no_file_of_a_store_has_an_erased_receipt_while_a_sidecar_has_it_open(
    version: tuple[int, ...], tmp_path: Path
) -> None:
    # Longer than their records, so that no record covers what was there; some are longer than a page.
    routes = [f"/people/{number}/" + f"ada-{number}" * (400 * (number % 3) + 100) for number in range(1, 200)]
    path = write_store(tmp_path / "r", (receipt(number, route_pattern=one) for number, one in enumerate(routes, 1)))
    some = [str(name) for (name,) in select(path, "SELECT id FROM http_receipts WHERE seq % 7 = 0 AND seq > 20")]
    marks = [f"ada-{number}ada-{number}".encode() for number in range(21, 200, 7)]
    store = SqliteReceiptStore(path, version=version)
    assert isinstance(run(store.append(entry("open"))), Stored)  # its journal, or its write-ahead log, is there now
    assert all(mark in content(path) for mark in marks[1:])
    assert erasing.erase(path, some, sign(), version=version)[1]
    found = content(path)
    assert not [mark for mark in marks[1:] if mark in found]
    assert isinstance(run(store.append(entry("then"))), Stored)
    run(store.close())


def test_a_copy_in_room_that_sqlite_gave_up_before_is_found_and_goes_with_vacuum(
    tmp_path: Path, cli: CommandLine
) -> None:
    world = FileWorld(tmp_path)
    ids = fill(world)
    (first,) = select(world.path, "SELECT id FROM http_receipts WHERE seq = 1")[0]
    (text,) = select(world.path, "SELECT receipt_json FROM http_receipts WHERE seq = 1")[0]
    signature = json.loads(str(text))["signature"].encode()
    out = erase(cli, world.store, str(first))
    assert f"left in   {world.path}, in room that is not used: --vacuum rewrites it\n" in out
    assert signature in content(world.path)
    again = erase(cli, world.store, str(first))
    not_searched = "perhaps: it cannot be searched for a receipt that was erased before; --vacuum rewrites it"
    assert f"left in   {world.path}, {not_searched}\n" in again
    own = ("receipt", "erase", "--receipt-store", world.store, ids["plain-1"], "--reason", REASON, "--yes", "--vacuum")
    assert "left in" not in cli(*own)
    assert "left in" not in cli(*own)  # erased before
    assert signature not in content(world.path)
    cli("receipt", "fsck", "--receipt-store", world.store, *TRUSTED)


def test_a_rotation_leaves_no_receipt_in_the_free_pages_of_the_store(tmp_path: Path) -> None:
    path, target = write_store(tmp_path / "r", map(receipt, range(1, 400))), tmp_path / "a"
    texts = select(path, "SELECT receipt_json FROM http_receipts WHERE seq BETWEEN 100 AND 300")
    made = archive(path, target, KEY, now=NOW)
    list(trim(path, made, made.signed_by(KEY), before=LATER))
    found = content(path)
    assert not [text for (text,) in texts if json.loads(str(text))["signature"].encode() in found]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_is_not_rewritten_while_it_is_copied_or_archived_and_neither_is_begun_meanwhile(
    tmp_path: Path, is_link: bool
) -> None:
    path = named = write_store(tmp_path / "r", map(receipt, range(1, 9)))
    if is_link:
        named = tmp_path / "links" / "r"
        named.parent.mkdir()
        named.symlink_to(path)
    ids = [str(name) for (name,) in select(path, "SELECT id FROM http_receipts")]
    refusals = []

    def try_it() -> None:
        with pytest.raises(ConfigurationError) as raised:
            erasing.erase(path, ids[:1], sign(KEY), vacuum=True)
        refusals.append(raised.value.message)

    def in_the_middle(copied: Copied) -> str:
        try_it()
        return ArchiveStatement("c", 1, copied.last, str(copied.head), NOW, KEY.public_hex).signed_by(KEY)

    backup(named, tmp_path / "c", state=in_the_middle)
    made = archive(path, tmp_path / "a", KEY, now=NOW)
    for _ in trim(path, made, made.signed_by(KEY), before=LATER):
        try_it()
    assert len(refusals) > 2
    assert all(text.startswith(f"a backup or a rotation runs in {tmp_path}") for text in refusals)
    assert select(path, f"SELECT count(*) FROM http_receipts WHERE receipt_json GLOB '*{ERASURE}*'") == [(0,)]
    with rewriting(path):
        for begin in (
            lambda: backup(named, tmp_path / "d"),
            lambda: next(trim(path, made, made.signed_by(KEY), before=LATER)),
        ):
            with pytest.raises(ConfigurationError, match="is being rewritten by receipt erase --vacuum"):
                begin()
    erasing.erase(path, ids[-1:], sign(KEY), vacuum=True)
    assert select(path, f"SELECT count(*) FROM http_receipts WHERE receipt_json GLOB '*{ERASURE}*'") == [(1,)]


def test_a_write_ahead_log_that_a_reader_holds_is_named(tmp_path: Path) -> None:
    path = write_store(tmp_path / "r", map(receipt, range(1, 9)))
    ids = [str(name) for (name,) in select(path, "SELECT id FROM http_receipts")]
    alter(path, "PRAGMA journal_mode=wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM http_receipts").fetchone()
        assert not erasing.erase(path, ids[:1], sign(KEY), busy_seconds=0.0, version=(3, 51, 3))[1]


ROLES = {
    "ROLE": ["UPDATE http_receipts SET receipt_json = '', fingerprint = ''"],
    "ARCHIVE_ROLE": ["UPDATE http_receipts SET receipt_json = '', fingerprint = ''"],
    "ERASE_ROLE": [
        "UPDATE http_receipts SET chain = ''",
        "UPDATE http_receipts SET request_id = ''",
        "DELETE FROM http_receipts",
        "TRUNCATE http_receipts",
        "INSERT INTO revoked_capabilities VALUES ('x', 1)",
        "DELETE FROM budget_charges",
        "UPDATE receipt_chain_base SET seq = 1",
        "INSERT INTO kernel_keys (log_id, seq, kernel_key) VALUES (1, 1, '')",
        "SELECT chio.append(1, 1, 1, '', 1, '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
        "ALTER TABLE http_receipts DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
    ],
}


@pytest.mark.parametrize(("role", "sql"), [(role, sql) for role, some in ROLES.items() for sql in some])
def test_only_the_role_of_erasures_may_erase_and_it_may_do_nothing_else(
    role: str, sql: str, tmp_path: Path, server: Any
) -> None:
    import psycopg

    from tests.sidecar import postgres_tools

    world = DatabaseWorld(tmp_path, server)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        world.kit.execute(sql, getattr(postgres_tools, role))


def test_the_role_of_a_sidecar_cannot_store_a_receipt_that_looks_erased(tmp_path: Path, server: Any) -> None:
    import psycopg

    world = DatabaseWorld(tmp_path, server)
    fill(world)
    before = world.rows()
    ((log, epoch, last, digest),) = world.kit.fetch("SELECT log_id, epoch, seq, digest FROM chio.logs")
    text = record(before[0], KERNEL.public_hex).signed_by(KERNEL)
    rest = f"'{{i}}', ARRAY['{text}'], '{{r}}', ARRAY[''], '{{t}}', '{{d}}'"
    with pytest.raises(psycopg.Error, match="a sidecar stores receipts"):
        world.kit.execute(f"SELECT chio.append({log}, {epoch}, {last}, '{digest}', 1, '{{}}', {rest})")
    assert world.rows() == before


def test_the_role_of_a_sidecar_is_told_which_role_may_erase(tmp_path: Path, cli: CommandLine, server: Any) -> None:
    from tests.sidecar.postgres_tools import ERASE_ROLE, OWNER

    world = DatabaseWorld(tmp_path, server)
    ids = fill(world)
    own = f"{world.kit.url}&key={tmp_path / 'own.key'}"
    error = cli.fails("receipt", "erase", "--receipt-store", own, ids["plain-1"], "--reason", "r", "--yes")
    assert "this role may not erase receipts of" in error
    assert "chio-sidecar store migrate --erase-role" in error
    migrated = cli(
        "store", "migrate", "--receipt-store", server.url(world.kit.database, OWNER), "--erase-role", ERASE_ROLE
    )
    assert f"role      {ERASE_ROLE} may read, and erase receipts\n" in migrated
    assert "VACUUM chio.http_receipts" in erase(cli, world.store, ids["plain-1"])
    vacuum = ("receipt", "erase", "--receipt-store", world.store, ids["plain-1"], "--reason", "r", "--yes", "--vacuum")
    assert "--vacuum is about a file" in cli.fails(*vacuum)
