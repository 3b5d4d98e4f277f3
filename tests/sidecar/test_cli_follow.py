"""`receipt list --follow`: receipts are printed as they are stored, until Ctrl-C or until their reader ends."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import compact_json
from chio_core.errors import ConfigurationError
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store import NewReceipt
from chio_sidecar.store.driver import Unavailable, sqlite3
from chio_sidecar.store.place import Place, open_store
from chio_sidecar.store.rotate import archive, trim
from tests import prefork
from tests.sidecar.control_tools import DEADLINE, CommandLine, environment
from tests.support import run
from tests.viewer.records import KEY, NOW, receipt


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store with three receipts."""
    if request.param == "file":
        found: Place = tmp_path / "s.sqlite3"
    else:
        pytest.importorskip("psycopg")
        server = request.getfixturevalue("server")
        found = server.place(server.new_database())
    store(found, 1, 2, 3)
    return found


def store(place: Place, *numbers: int) -> None:
    async def append() -> None:
        opened = open_store(place, clock=lambda: NOW)
        for number in numbers:
            one = receipt(number)
            await opened.append(NewReceipt(one["id"], one["request_id"], "f", compact_json(one)))
        await opened.close()

    run(append())


@contextmanager
def following(place: Place, *options: str) -> Iterator[tuple[prefork.Process, queue.Queue[str]]]:
    """Run the command until the block ends; give its process and the lines that it prints."""
    named = str(place) if isinstance(place, Path) else place.url
    process = prefork.Process(
        "chio_sidecar",
        ["receipt", "list", "--follow", *options, "--receipt-store", named],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED=""),
    )
    stdout = process.stdout
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in stdout], daemon=True)
    reader.start()
    try:
        yield process, lines
    finally:
        process.kill()
        with process:
            reader.join()


def number(line: str) -> int:
    return int(json.loads(line)["timestamp"]) - NOW


def test_receipts_are_printed_as_they_are_stored_until_ctrl_c(place: Place) -> None:
    with following(place, "--limit", "2") as (process, lines):
        assert [number(lines.get(timeout=DEADLINE)) for _ in range(2)] == [2, 3]
        store(place, 4, 5)
        assert [number(lines.get(timeout=DEADLINE)) for _ in range(2)] == [4, 5]
        store(place, 6)
        assert number(lines.get(timeout=DEADLINE)) == 6
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        assert process.stderr.read() == ""


def test_a_database_that_was_away_is_followed_further_and_no_receipt_is_lost_or_printed_twice(server: Any) -> None:
    place = server.place(server.new_database())
    store(place, 1, 2)
    with following(place) as (process, lines):
        assert [number(lines.get(timeout=DEADLINE)) for _ in range(2)] == [1, 2]
        server.stop()
        try:
            assert "; trying again until it is back" in process.stderr.readline()
        finally:
            server.start()
        store(place, 3, 4)
        assert [number(lines.get(timeout=DEADLINE)) for _ in range(2)] == [3, 4]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        assert process.stderr.read() == ""


def test_an_interrupt_ends_a_read_of_a_paused_database_at_once(server: Any) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with open_archive(server.place(server.new_database())) as records, server.paused():
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            began = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                records.refresh()
            assert time.monotonic() - began < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_database_in_the_place_of_the_one_before_ends_it(server: Any) -> None:
    name = server.new_database()
    store(server.place(name), 1)
    with following(server.place(name)) as (process, lines):
        assert number(lines.get(timeout=DEADLINE)) == 1
        other = server.new_database()
        store(server.place(other), 2)
        with server.connect("postgres") as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            admin.execute(f"ALTER DATABASE {other} RENAME TO {name}")
        assert process.wait(DEADLINE) == 1
        assert "is another store than before: its row 1 is not receipt receipt-00001" in process.stderr.read()


def test_a_file_in_the_place_of_the_one_before_ends_it(tmp_path: Path) -> None:
    place, other = tmp_path / "s.sqlite3", tmp_path / "other.sqlite3"
    store(place, 1)
    store(other, 2)
    with following(place) as (process, lines):
        assert number(lines.get(timeout=DEADLINE)) == 1
        os.replace(other, place)
        assert process.wait(DEADLINE) == 1
        assert "was replaced or removed while it was read" in process.stderr.read()


def test_a_store_that_was_archived_and_then_restored_ends_it(tmp_path: Path) -> None:
    place, older = tmp_path / "s.sqlite3", tmp_path / "older.sqlite3"
    store(place, 1, 2, 3)
    made = archive(place, tmp_path / "archive", KEY, now=NOW)
    for _ in trim(place, made, made.signed_by(KEY), before=NOW + 86_400):
        pass
    shutil.copyfile(place, older)
    store(older, 6, 7, 8)
    with following(place, "--limit", "1") as (process, lines):
        assert number(lines.get(timeout=DEADLINE)) == 3
        store(place, 4, 5)
        assert [number(lines.get(timeout=DEADLINE)) for _ in range(2)] == [4, 5]
        with closing(sqlite3.connect(older)) as source, closing(sqlite3.connect(place)) as target:
            source.backup(target)
        assert process.wait(DEADLINE) == 1
        assert process.stderr is not None
        assert "is another store than before: its row 5 is not receipt receipt-00005" in process.stderr.read()


def test_a_store_whose_receipts_are_archived_meanwhile_is_followed_further(tmp_path: Path) -> None:
    place = tmp_path / "s.sqlite3"
    store(place, 1)
    with following(place) as (_, lines):
        assert number(lines.get(timeout=DEADLINE)) == 1
        store(place, 2, 3)
        made = archive(place, tmp_path / "archive", KEY, now=NOW)
        for _ in trim(place, made, made.signed_by(KEY), before=NOW + 86_400):
            pass
        store(place, 4)
        while number(lines.get(timeout=DEADLINE)) != 4:
            pass


def test_a_file_that_another_process_holds_is_unavailable_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    place = tmp_path / "s.sqlite3"
    with closing(sqlite3.connect(place, isolation_level=None)) as holder:
        holder.executescript("CREATE TABLE http_receipts (seq INTEGER PRIMARY KEY, id TEXT, receipt_json TEXT)")
        reader = ReceiptReader(place, busy_seconds=0)
        holder.execute("BEGIN EXCLUSIVE")
        with reader, pytest.raises(Unavailable):
            reader.refresh()
    place.write_bytes(b"no store")
    with pytest.raises(ConfigurationError) as raised:
        ReceiptReader(place).count(ReceiptFilter())
    assert type(raised.value) is ConfigurationError


def test_a_table_goes_on_below_its_heading(tmp_path: Path) -> None:
    place = tmp_path / "s.sqlite3"
    store(place, 1)
    with following(place, "--cursor", "0", "--format", "human", "--outcome", "allow") as (_, lines):
        assert lines.get(timeout=DEADLINE).split()[:2] == ["TIME", "VERDICT"]
        assert lines.get(timeout=DEADLINE).split()[-1] == "receipt-00001"
        store(place, 2)
        assert lines.get(timeout=DEADLINE).split()[-1] == "receipt-00002"


def test_it_ends_when_its_reader_ends_though_nothing_is_stored(tmp_path: Path) -> None:
    store(tmp_path / "s.sqlite3", 1)
    command = f"'{sys.executable}' -m chio_sidecar receipt list --follow --receipt-store s.sqlite3 | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(),
        cwd=tmp_path,
        check=False,
    )
    line, status = done.stdout.splitlines()
    assert (number(line), status, done.stderr) == (1, "141", "")


@pytest.mark.parametrize(
    "options",
    [["--newest-first"], ["--until", "0"], ["--count"], ["--limit", "1", "--cursor", "1"]],
    ids=lambda options: " ".join(options),
)
def test_an_option_without_effect_on_what_comes_is_an_error(
    tmp_path: Path, cli: CommandLine, options: list[str]
) -> None:
    store(tmp_path / "s.sqlite3", 1)
    assert options[-2 if len(options) > 1 else -1] in cli.fails(
        "receipt", "list", "--follow", *options, "--receipt-store", tmp_path / "s.sqlite3"
    )


def test_a_trust_service_is_not_followed(cli: CommandLine) -> None:
    error = cli.fails("receipt", "list", "--follow", "--control-url", "http://127.0.0.1:1", "--control-token", "t")
    assert "--receipt-store" in error
