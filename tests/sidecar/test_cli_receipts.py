"""`receipt list`, `show` and `verify` (wire protocol, section 10.3)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import compact_json
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.control_tools import (
    DEADLINE,
    GRANT,
    ZEROS,
    CommandLine,
    environment,
    evaluate,
    fetch,
    run_command,
    sidecars,
)
from tests.sidecar.sidecar_tools import KERNEL, NOW
from tests.viewer import records


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three receipts: an allow, a deny, and an allow with a capability, one second apart."""
    path, now = tmp_path / "receipts.sqlite3", [NOW]
    with sidecars() as create:
        app = create(store_path=path, signing_key=KERNEL, clock=lambda: now[0])
        body = {"subject": ZEROS, "scope": {"grants": [GRANT]}}
        token = fetch(app, "POST", "/v1/capabilities", json=body).json()
        for request_id, method, capability in (("a", "GET", None), ("b", "POST", None), ("c", "POST", token)):
            evaluate(app, capability, request_id=request_id, method=method)
            now[0] += 1
    return path


Run = Callable[..., Any]


@pytest.fixture
def listed(store: Path, cli: CommandLine) -> Run:
    """List receipts; return them and standard error."""

    def run(*arguments: object) -> tuple[list[dict[str, Any]], str]:
        lines = cli("receipt", "list", "--receipt-db", store, *arguments).splitlines()
        return [json.loads(line) for line in lines], cli.err

    return run


def ids(receipts: list[dict[str, Any]]) -> list[str]:
    return [receipt["request_id"] for receipt in receipts]


def test_list_prints_all_receipts_oldest_first_with_their_outcome(listed: Run) -> None:
    receipts, error = listed()
    assert ids(receipts) == ["a", "b", "c"]
    assert [receipt["verdict"]["outcome"] for receipt in receipts] == ["allow", "deny", "allow"]
    assert error == ""


@pytest.mark.parametrize("command", [("list",), ("show", "ID"), ("verify", "--each")])
def test_a_store_may_be_named_as_the_sidecar_names_it(
    listed: Run, store: Path, cli: CommandLine, command: tuple[str, ...]
) -> None:
    receipt = listed()[0][0]["id"]
    arguments = [receipt if part == "ID" else part for part in command]
    assert receipt in cli("receipt", *arguments, "--receipt-store", store)


def test_times_are_written_as_for_the_report_of_observe_mode(listed: Run) -> None:
    assert ids(listed("--since", "2026-04-15T17:06:16Z")[0]) == ["b", "c"]
    assert ids(listed("--until", "2026-04-15T17:06:15Z")[0]) == ["a"]


def test_list_adds_nothing_but_the_outcome(listed: Run, store: Path) -> None:
    with sqlite3.connect(store) as connection:
        rows = connection.execute("SELECT receipt_json FROM http_receipts ORDER BY rowid").fetchall()
    connection.close()
    receipts, _ = listed()
    for receipt, (text,) in zip(receipts, rows, strict=True):
        del receipt["verdict"]["outcome"]
        assert json.dumps(receipt, separators=(",", ":"), ensure_ascii=False) == text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--outcome", "allow"], ["a", "c"]),
        (["--outcome", "deny"], ["b"]),
        (["--outcome", "cancel"], []),
        (["--outcome", "cancelled"], []),
        (["--since", NOW + 1], ["b", "c"]),
        (["--until", NOW + 1], ["a", "b"]),
        (["--since", NOW + 1, "--until", NOW + 1], ["b"]),
        (["--capability", "cap-unknown"], []),
        (["--tool-server", "http"], ["a", "b", "c"]),
        (["--tool-server", "other"], []),
        (["--tool-name", "POST /echo"], ["b", "c"]),
        (["--min-cost", 0], []),
        (["--cursor", 2], ["c"]),
        (["--cursor", 1, "--outcome", "allow"], ["c"]),
        (["--cursor", 99], []),
    ],
)
def test_list_takes_the_filters_of_the_protocol(listed: Run, arguments: list[object], expected: list[str]) -> None:
    receipts, error = listed(*arguments)
    assert ids(receipts) == expected
    assert error == ""


def test_list_finds_the_receipts_of_a_capability(listed: Run) -> None:
    used = listed()[0][2]["capability_id"]
    assert ids(listed("--capability", used)[0]) == ["c"]


def test_list_names_the_cursor_only_if_more_rows_follow(listed: Run) -> None:
    receipts, error = listed("--limit", 2)
    assert (ids(receipts), error) == (["a", "b"], "next_cursor=2 total_count=3\n")
    receipts, error = listed("--limit", 2, "--cursor", 2)
    assert (ids(receipts), error) == (["c"], "")
    assert listed("--limit", 3)[1] == ""
    receipts, error = listed("--limit", 1, "--outcome", "allow")
    assert (ids(receipts), error) == (["a"], "next_cursor=1 total_count=2\n")


def test_list_changes_nothing_in_the_store(listed: Run, store: Path) -> None:
    before = store.read_bytes()
    listed()
    assert store.read_bytes() == before


def test_list_continues_while_the_store_is_written(store: Path) -> None:
    with sidecars() as create:
        app = create(store_path=store, signing_key=KERNEL)
        reader = ReceiptReader(store, option="--receipt-db")
        rows = reader.rows(ReceiptFilter())
        assert next(rows)[1]["request_id"] == "a"
        evaluate(app, request_id="d", method="GET")
        assert [receipt["request_id"] for _, receipt in rows] == ["b", "c"]
        reader.close()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "there is no receipt store at"), (b"no database " * 100, "cannot read")]
)
def test_a_file_that_is_no_store_is_named(
    tmp_path: Path, cli: CommandLine, content: bytes | None, message: str
) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    error = cli.fails("receipt", "list", "--receipt-db", path)
    assert message in error
    assert "other.db (--receipt-db)" in error
    assert not path.exists() or content is not None


def test_a_database_without_receipts_lists_none(tmp_path: Path, cli: CommandLine) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    assert cli("receipt", "list", "--receipt-db", tmp_path / "empty.db") == ""


def test_list_without_a_place_names_the_options(cli: CommandLine) -> None:
    assert "receipt commands require --receipt-db <path> or --control-url" in cli.fails("receipt", "list")


def test_list_ends_quietly_when_its_reader_has_ended(store: Path) -> None:
    command = f"'{sys.executable}' -m chio_sidecar receipt list --receipt-db '{store}' | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=DEADLINE, env=environment(), check=False
    )
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "141"}


def test_raw_prints_the_stored_text_byte_for_byte(tmp_path: Path) -> None:
    texts = [
        compact_json(records.receipt(number, route_pattern=pattern))
        for number, pattern in enumerate(("/ü\u2028\x7f", "/b"))
    ]
    path = records.fill(tmp_path / "s", texts)
    done = run_command("receipt", "list", "--raw", "--newest-first", "--receipt-store", path, PYTHONIOENCODING="ascii")
    assert done.stdout.encode() == "".join(f"{text}\n" for text in reversed(texts)).encode()
    assert run_command("receipt", "verify", "-", stdin=done.stdout).returncode == 0
    done = run_command("receipt", "list", "--raw", "--control-url", "http://127.0.0.1:1")
    assert "a trust service does not send the stored text" in done.stderr


def test_show_prints_one_receipt_and_verifies_it(listed: Run, store: Path, cli: CommandLine) -> None:
    name = listed()[0][1]["id"]
    place = ("--receipt-db", store)
    receipt = json.loads(cli("receipt", "show", name, "--verify", *place, "--trusted-key", KERNEL.public_hex))
    assert receipt["id"] == name
    about = f"{receipt['method']} {receipt['route_pattern']}, request {receipt['request_id']}"
    assert cli.err == f"{name} valid\nsigned by {KERNEL.public_hex}, about {about}\n"
    cli("receipt", "show", name, "--verify", *place, "--trusted-key", ZEROS, status=1)
    assert "about" not in cli.err
    cli.fails("receipt", "show", "unknown", *place)


def test_verify_accepts_the_output_of_list(listed: Run, tmp_path: Path, cli: CommandLine) -> None:
    receipts, _ = listed()
    file = tmp_path / "receipts.ndjson"
    file.write_text("".join(json.dumps(receipt) + "\n" for receipt in receipts) + "\n")
    lines = cli("receipt", "verify", file, "--trusted-key", KERNEL.public_hex, "--each").splitlines()
    assert lines[:3] == [f"{receipt['id']} valid" for receipt in receipts]
    assert lines[3:] == [
        f"key       {KERNEL.public_hex}, 3 from 2026-04-15T17:06:15Z to 2026-04-15T17:06:17Z",
        "allow     2",
        "deny      1",
    ]
    assert cli.err == "3 receipts: 3 valid, 0 invalid\n"


def test_verify_accepts_the_output_of_show(listed: Run, store: Path, tmp_path: Path, cli: CommandLine) -> None:
    receipts, _ = listed()
    shown = [cli("receipt", "show", receipt["id"], "--receipt-db", store) for receipt in receipts[:2]]
    (tmp_path / "two.json").write_text("".join(shown) + json.dumps(receipts[2]))
    out = cli("receipt", "verify", tmp_path / "two.json", "--each")
    assert out.startswith("".join(f"{receipt['id']} valid\n" for receipt in receipts))


def test_verify_reads_a_store_too(store: Path, cli: CommandLine) -> None:
    cli("receipt", "verify", "--receipt-db", store)
    assert "note: no --trusted-key was given" in cli.err


def test_verify_ends_with_1_if_one_receipt_is_invalid(listed: Run, tmp_path: Path, cli: CommandLine) -> None:
    good, forged, _ = listed()[0]
    forged["verdict"] = {"verdict": "allow", "outcome": "allow"}
    lines = [json.dumps(good), json.dumps(forged), "{", "[]", '{"id":"x","id":"y"}', '{"id":"z"}']
    file = tmp_path / "receipts.ndjson"
    file.write_text("\n".join(lines))
    *found, total = map(json.loads, cli("--json", "receipt", "verify", file, "--each", status=1).splitlines())
    assert total == {
        "receipts": 6,
        "valid": 1,
        "invalid": 5,
        "keys": [{"kernel_key": KERNEL.public_hex, "receipts": 1, "since": NOW, "until": NOW}],
        "verdicts": {"allow": 1},
        "problems": [],
        "left_out": [],
    }
    assert [one["valid"] for one in found] == [True, False, False, False, False, False]
    assert [one.get("rule") for one in found[1:]] == ["signature", "shape", "shape", "shape", "shape"]
    assert "6 receipts: 1 valid, 5 invalid" in cli.err


def test_an_outcome_that_contradicts_the_verdict_is_a_forgery(listed: Run) -> None:
    denied = listed()[0][1]
    denied["verdict"]["outcome"] = "allow"
    done = run_command("receipt", "verify", "-", stdin=json.dumps(denied))
    assert done.returncode == 1
    assert "INVALID signature" in done.stdout


def test_verifying_nothing_is_no_success(tmp_path: Path, cli: CommandLine) -> None:
    """The list before it in a pipeline may have failed."""
    (tmp_path / "none").touch()
    assert "there was no receipt to verify" in cli.fails("receipt", "verify", tmp_path / "none")


def test_verify_refuses_a_foreign_signer(store: Path, cli: CommandLine) -> None:
    out = cli("receipt", "verify", "--receipt-db", store, "--trusted-key", ZEROS, status=1)
    assert "INVALID kernel_key" in out


def test_a_missing_file_is_named(cli: CommandLine) -> None:
    assert "cannot read /nowhere.ndjson" in cli.fails("receipt", "verify", "/nowhere.ndjson")


def test_list_and_verify_work_as_processes_in_a_pipeline(store: Path) -> None:
    done = run_command("receipt", "list", "--receipt-db", store)
    assert done.returncode == 0
    verified = run_command("receipt", "verify", "-", "--trusted-key", KERNEL.public_hex, stdin=done.stdout)
    assert (verified.returncode, verified.stdout.splitlines()[1:]) == (0, ["allow     2", "deny      1"])
