"""Lists for people: a table that fits the terminal, and the form that `receipt list` chooses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chio_sidecar.cli.table import columns_of, shortened
from tests.sidecar.control_tools import ROOT, CommandLine, on_terminal, write_store
from tests.sidecar.fsck_tools import tamper
from tests.viewer.records import MARKUP, NOW, hostile, receipt

COLOUR = re.compile(r"\x1b\[[0-9]*m")
REASON = "side-effect route requires a capability token"
DENY = {"verdict": "deny", "reason": REASON, "guard": "CapabilityGuard", "http_status": 403}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An allow, a deny, and an incomplete, with ids and reasons of the usual length."""
    return write_store(
        tmp_path / "r.sqlite3",
        [
            receipt(1, id="0" * 35 + "1"),
            receipt(2, id="0" * 35 + "2", verdict=DENY),
            receipt(3, id="0" * 35 + "3", verdict={"verdict": "incomplete"}),
        ],
    )


def test_a_terminal_gets_a_table_of_the_newest_receipts_first(store: Path) -> None:
    shown = on_terminal("receipt", "list", "--receipt-store", store, columns=160)
    heading, *rows = COLOUR.sub("", shown).splitlines()
    assert heading.split() == ["TIME", "VERDICT", "METHOD", "ROUTE", "REASON", "ID"]
    assert [row.split()[:4] for row in rows] == [
        ["2026-04-15T17:06:18Z", "incomplete", "POST", "/things/3"],
        ["2026-04-15T17:06:17Z", "deny", "GET", "/things/2"],
        ["2026-04-15T17:06:16Z", "allow", "POST", "/things/1"],
    ]
    assert [row.split()[-1][-1] for row in rows] == ["3", "2", "1"]
    assert REASON in rows[1]
    assert {row.index(" 0000") for row in rows} == {heading.index(" ID")}
    assert [one in shown for one in ("\x1b[32mallow\x1b[0m", "\x1b[31mdeny\x1b[0m", "\x1b[33mincomplete\x1b[0m")] == [
        True
    ] * 3


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_narrow_terminal_without_colours_gets_whole_ids_and_no_line_that_is_too_long(
    store: Path, variables: dict[str, str]
) -> None:
    shown = on_terminal("receipt", "list", "--receipt-store", store, columns=74, **variables)
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 74
    assert all("0" * 35 + number in shown for number in "123")
    assert "\n    side-effect route requires a ca…  000" in shown


def test_the_table_elsewhere_has_no_colours_and_cuts_nothing(store: Path, cli: CommandLine) -> None:
    out = cli("receipt", "list", "--format", "human", "--receipt-store", store)
    assert "\x1b" not in out
    assert out.count(REASON) == 1
    assert [line.split()[1] for line in out.splitlines()] == ["VERDICT", "incomplete", "deny", "allow"]
    oldest = cli("receipt", "list", "--format", "human", "--oldest-first", "--receipt-store", store)
    assert [line.split()[1] for line in oldest.splitlines()[1:]] == ["allow", "deny", "incomplete"]


def test_programs_get_json_lines_oldest_first_also_on_a_terminal_if_they_ask(store: Path, cli: CommandLine) -> None:
    piped = cli("receipt", "list", "--receipt-store", store)
    assert [json.loads(line)["timestamp"] - NOW for line in piped.splitlines()] == [1, 2, 3]
    assert on_terminal("receipt", "list", "--json", "--receipt-store", store) == piped
    assert "--raw" in cli.fails("receipt", "list", "--raw", "--format", "human", "--receipt-store", store)


def test_the_cursor_of_the_table_leads_to_older_receipts(store: Path, cli: CommandLine) -> None:
    table = ("receipt", "list", "--format", "human", "--limit", "2", "--receipt-store", store)
    cli(*table)
    assert cli.err == "next_cursor=2 total_count=3\n"
    assert cli(*table, "--cursor", 2).splitlines()[1].split()[1] == "allow"
    assert cli(*table, "--cursor", 1) == ""
    assert cli.err == "no receipts\n"


def test_what_strangers_wrote_moves_no_cursor_and_breaks_no_line(tmp_path: Path) -> None:
    store = write_store(tmp_path / "r.sqlite3", [hostile(number, text) for number, text in enumerate(MARKUP)])
    shown = COLOUR.sub("", on_terminal("receipt", "list", "--receipt-store", store, columns=200))
    lines = shown.splitlines()
    assert len(lines) == 1 + len(MARKUP)
    assert all(char.isprintable() for line in lines for char in line)
    assert "receipt-00004a\\x00b\\x1b[31m\\r\\n\\tc" in shown


def test_the_rows_before_a_damaged_one_are_printed(store: Path, cli: CommandLine) -> None:
    tamper(store, "UPDATE http_receipts SET receipt_json = '{' WHERE seq = 2")
    assert "row 2 of" in cli.fails("receipt", "list", "--format", "human", "--receipt-store", store)
    assert [line.split()[1] for line in cli.out.splitlines()] == ["VERDICT", "incomplete"]


def test_the_table_says_what_observe_mode_let_pass(tmp_path: Path, cli: CommandLine) -> None:
    seen = {"mode": "observe", "requires": "orders:write"}
    store = write_store(tmp_path / "r.sqlite3", [receipt(1, metadata={"chio_enforcement": seen})])
    assert "only observed: no valid capability for orders:write" in cli(
        "receipt", "list", "--format", "human", "--receipt-store", store
    )


def test_findings_have_a_coloured_severity_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("from starlette.applications import Starlette\n\napp = Starlette()\n")
    shown = on_terminal("check", "bare:app", status=1, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert shown.startswith("\x1b[31mERROR \x1b[0mnot_governed: ")


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("한a", 3)])
def test_wide_characters_take_two_columns_and_combining_ones_none(text: str, columns: int) -> None:
    assert columns_of(text) == columns


@pytest.mark.parametrize(
    ("text", "width", "shown"), [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abcde…"), ("日本語です", 6, "日本…")]
)
def test_a_text_that_is_cut_never_takes_more_columns_than_it_has(text: str, width: int, shown: str) -> None:
    assert shortened(text, width) == shown
    assert columns_of(shown) <= width
