"""A copy in the place of a store whose sidecar was killed: the log of the former file is beside it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.doctor.store import check_store
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store import erase
from chio_sidecar.store.backup import backup
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.control_tools import CommandLine, write_store
from tests.viewer.records import receipt


@pytest.fixture(params=["a backup", "a copy of an open file"])
def replaced(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a store of two receipts, beside the log of a file that a killed process left."""
    folder = tmp_path / "killed"
    folder.mkdir()
    former, path = (
        write_store(folder / "r.sqlite3", [receipt(number) for number in range(1, 40)]),
        tmp_path / "r.sqlite3",
    )
    backup(write_store(folder / "b", [receipt(1), receipt(2)]), path)
    with closing(sqlite3.connect(former, isolation_level=None)) as killed:
        killed.execute("PRAGMA journal_mode=wal")
        killed.execute("CREATE TABLE others (x)")
        shutil.copy(f"{former}-wal", f"{path}-wal")
    if request.param == "a copy of an open file":
        raw = bytearray(path.read_bytes())
        raw[18:20] = b"\x02\x02"
        path.write_bytes(raw)
    return path


def remedy(path: Path) -> str:
    return f"if a copy replaced {path}, remove {path}-wal and {path}-shm, which the former file left"


def test_no_start_applies_the_log_of_another_file_or_loses_it(replaced: Path) -> None:
    log = Path(f"{replaced}-wal")
    before = log.read_bytes(), replaced.read_bytes()
    with pytest.raises(ConfigurationError) as caught:
        SqliteReceiptStore(replaced, version=(3, 51, 3))
    assert remedy(replaced) in caught.value.message
    assert (log.read_bytes(), replaced.read_bytes()) == before


def test_commands_that_read_say_what_to_remove(replaced: Path, cli: CommandLine) -> None:
    for command in ("list", "fsck"):
        assert remedy(replaced) in cli.fails("receipt", command, "--receipt-store", replaced)
    assert remedy(replaced) in cli.fails("receipt", "backup", replaced.with_name("new"), "--receipt-store", replaced)
    with pytest.raises(ConfigurationError) as caught:
        erase.check(replaced)
    assert remedy(replaced) in caught.value.message
    assert any(remedy(replaced) in (check.remedy or "") for check in check_store(replaced))


def test_without_the_log_the_copy_is_the_store(replaced: Path) -> None:
    for end in ("-wal", "-shm"):
        Path(f"{replaced}{end}").unlink(missing_ok=True)
    with closing(ReceiptReader(replaced)) as reader:
        assert reader.last == 2


def test_the_log_that_a_killed_sidecar_left_is_applied(tmp_path: Path) -> None:
    path = write_store(tmp_path / "r.sqlite3", [receipt(1), receipt(2)])
    with closing(sqlite3.connect(path, isolation_level=None)) as killed:
        killed.execute("PRAGMA journal_mode=wal")
        killed.execute("INSERT INTO revoked_capabilities VALUES ('cap-1', 1)")
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{tmp_path / 'left'}{end}")
    (tmp_path / "left").chmod(0o600)
    store = SqliteReceiptStore(tmp_path / "left", version=(3, 51, 3))
    del store
    with closing(ReceiptReader(tmp_path / "left")) as reader:
        assert reader.is_revoked("cap-1")
