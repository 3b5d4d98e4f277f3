"""Lists of a long store: a page costs what it prints, a walk over all pages reads each row once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_sidecar.cli.receipts import COUNTED
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app
from tests.sidecar.control_tools import CommandLine, fetch, write_store
from tests.sidecar.fsck_tools import tamper
from tests.viewer.records import receipt

UNREADABLE = "UPDATE http_receipts SET receipt_json = '{' WHERE seq = {row}"
"""A filter is evaluated on each row that is read, and fails on this one."""


def numbered(count: int) -> Iterator[dict[str, Any]]:
    one = receipt()
    return (one | {"id": f"receipt-{number}", "request_id": f"request-{number}"} for number in range(1, count + 1))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "r.sqlite3", numbered(9))


def page(cli: CommandLine, store: Path, *options: object) -> tuple[list[str], str]:
    out = cli("receipt", "list", "--receipt-store", store, *options)
    return [json.loads(line)["id"] for line in out.splitlines()], cli.err


def test_the_newest_receipts_come_first_if_wanted_and_the_cursor_leads_to_older_ones(
    store: Path, cli: CommandLine
) -> None:
    cursor: list[object] = []
    walked = []
    for _ in range(3):
        ids, err = page(cli, store, "--newest-first", "--limit", 4, *cursor)
        walked += ids
        cursor = ["--cursor", err.split("=")[1].split()[0]] if err else []
    assert walked == [f"receipt-{number}" for number in range(9, 0, -1)]
    assert cursor == []
    assert page(cli, store, "--newest-first", "--cursor", 1) == ([], "")
    ids, err = page(cli, store, "--newest-first", "--limit", 1, "--outcome", "allow")
    assert (ids, err) == (["receipt-9"], "next_cursor=9 total_count=9\n")


def test_the_count_without_a_filter_needs_no_row(store: Path, cli: CommandLine) -> None:
    tamper(store, UNREADABLE.replace("{row}", "9"))
    assert page(cli, store, "--limit", 2) == (["receipt-1", "receipt-2"], "next_cursor=2 total_count=9\n")


def test_a_page_of_a_long_store_reads_only_the_rows_before_its_end(tmp_path: Path, cli: CommandLine) -> None:
    store = write_store(tmp_path / "long.sqlite3", numbered(COUNTED + 1))
    tamper(store, UNREADABLE.replace("{row}", str(COUNTED)))
    assert page(cli, store, "--limit", 1, "--outcome", "allow") == (["receipt-1"], "next_cursor=1\n")
    assert page(cli, store, "--limit", 1)[1] == f"next_cursor=1 total_count={COUNTED + 1}\n"
    error = cli.fails("receipt", "list", "--receipt-store", store, "--limit", 1, "--outcome", "allow", "--count")
    assert "malformed JSON" in error


def test_the_pages_of_a_trust_service_count_each_row_once(store: Path) -> None:
    service = TrustService(TrustConfig(service_token=SecretStr("token"), receipt_db=store))
    app = create_trust_app(service)

    def query(cursor: int) -> httpx.Response:
        path = f"/v1/receipts/query?limit=3&outcome=allow&cursor={cursor}"
        return fetch(app, "GET", path, headers={"Authorization": "Bearer token"})

    first = query(0).json()
    assert (first["totalCount"], first["nextCursor"]) == (9, 3)
    tamper(store, UNREADABLE.replace("{row}", "1"))
    second = query(3).json()
    assert (second["totalCount"], [one["id"] for one in second["receipts"]]) == (
        9,
        ["receipt-4", "receipt-5", "receipt-6"],
    )
    service.close()


def test_a_trust_service_cannot_list_newest_first(cli: CommandLine) -> None:
    assert "oldest receipts first" in cli.fails(
        "receipt", "list", "--newest-first", "--control-url", "http://127.0.0.1:1"
    )
