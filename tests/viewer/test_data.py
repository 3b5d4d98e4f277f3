"""The viewer's endpoints: lists, filters, one receipt, bundles. In process, without a browser."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from chio_core.canonical import compact_json, sha256_hex
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.listing import BARS, ReceiptWindow
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.viewer import VIEWER_PATH, create_viewer_app
from chio_sidecar.viewer.app import INDEX, page_files
from tests.sidecar.control_tools import CommandLine, evaluate, fetch, sidecars
from tests.sidecar.test_rotate import rotate
from tests.viewer.records import KEY, MARKUP, NOW, STRANGER, add, fill, hostile, newer, receipt, unsigned

ANY = ReceiptFilter()


def app_of(path: Path, **options: Any) -> ASGIApp:
    return create_viewer_app(path, keys=frozenset({KEY.public_hex}), token=None, **options)


def get(app: ASGIApp, name: str, **query: Any) -> httpx.Response:
    headers = {"Host": "127.0.0.1"}
    return fetch(app, "GET", f"{VIEWER_PATH}api/{name}", headers=headers, params=query)


def listed(app: ASGIApp, **query: Any) -> list[str]:
    return [row["id"] for row in get(app, "receipts", **query).json()["rows"]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 receipts, the last ones of special kinds."""
    special = [
        receipt(496, verdict={"verdict": "deny", "reason": "no"}, capability_id="cap-A", method="DELETE"),
        receipt(497, verdict={"verdict": "incomplete"}, metadata={"chio_enforcement": {"mode": "observe"}}),
        receipt(498, route_pattern="/Ünicode/100%_'\"", capability_id="cap-B"),
        receipt(499, timestamp=2**64 - 1, key=STRANGER),
        receipt(500, caller_identity_hash="f00d" * 16, metadata={"chio_enforcement": "observe"}),
    ]
    path = tmp_path_factory.mktemp("viewer") / "s.sqlite3"
    return fill(path, [*(receipt(number) for number in range(1, 496)), *special])


def test_a_list_begins_with_the_newest_and_goes_on_to_the_oldest(filled: Path) -> None:
    app, found, before = app_of(filled), [], None
    while True:
        response = get(app, "receipts", **({} if before is None else {"before": before})).json()
        found += [row["seq"] for row in response["rows"]]
        before = response["next"]
        if before is None:
            break
        assert len(response["rows"]) == 200
    assert found == list(range(500, 0, -1))


def test_a_row_has_the_cells_of_the_table(filled: Path) -> None:
    rows = {row["seq"]: row for row in get(app_of(filled), "receipts").json()["rows"]}
    assert rows[496] == {
        "seq": 496,
        "id": "receipt-00496",
        "verdict": "deny",
        "method": "DELETE",
        "route": "/things/6",
        "caller": sha256_hex(b"%d" % (496 % 7)),
        "capability": "cap-A",
        "status": 200,
        "timestamp": NOW + 496,
        "observed": False,
    }
    assert [rows[number]["observed"] for number in (495, 497, 500)] == [False, True, True]
    assert rows[499]["timestamp"] == str(2**64 - 1)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"verdict": "deny"}, [496]),
        ({"verdict": "incomplete"}, [497]),
        ({"verdict": "den"}, []),
        ({"method": "DELETE"}, [496]),
        ({"route": "üNICODE"}, []),
        ({"route": "nicode"}, [498]),
        ({"route": "NICODE/100%_'\""}, [498]),
        ({"route": "100_"}, []),
        ({"route": "/THINGS/6", "capability": "cap"}, [496]),
        ({"caller": "f00df00d"}, [500]),
        ({"caller": " f00df00d "}, [500]),
        ({"capability": "cap-"}, [498, 496]),
        ({"since": NOW + 496, "until": NOW + 497}, [497, 496]),
        ({"since": NOW + 496, "until": NOW + 497, "verdict": "deny"}, [496]),
        ({"route": "' OR 1=1 --"}, []),
        ({"verdict": "", "route": "", "since": "", "capability": "cap-B"}, [498]),
    ],
)
def test_filters_say_which_and_are_meant_together(filled: Path, query: dict[str, Any], numbers: list[int]) -> None:
    app = app_of(filled)
    assert listed(app, **query) == [f"receipt-{number:05d}" for number in numbers]
    assert get(app, "count", **query).json() == {"matched": len(numbers), "scanned": 500, "next": None}


@pytest.mark.parametrize(
    "query",
    [{"since": "-1"}, {"since": "1e3"}, {"until": "soon"}, {"before": "٣"}, {"limit": "9" * 19}, {"route": "x" * 2001}],
)
def test_a_value_that_cannot_be_used_is_named(filled: Path, query: dict[str, str]) -> None:
    response = get(app_of(filled), "receipts", **query)
    (name,) = query
    assert (response.status_code, response.json()["error"]) == (400, "chio_bad_request")
    assert response.json()["message"].startswith(name)


def test_newer_receipts_are_requested_by_the_newest_row(filled: Path) -> None:
    app = app_of(filled)
    assert listed(app, after=498) == ["receipt-00500", "receipt-00499"]
    assert listed(app, after=500) == []
    assert get(app, "receipts", after=100).json()["next"] is not None


def test_one_call_reads_a_bounded_number_of_rows(filled: Path) -> None:
    window, rare = ReceiptWindow(filled, scan=100), ReceiptFilter(route="/things/6", until=NOW + 10)
    found, calls, before = [], 0, None
    while calls == 0 or before is not None:
        listing = window.list(rare, before=before)
        found += [row["seq"] for row in listing.rows]
        before, calls = listing.next, calls + 1
    assert (found, calls) == ([6], 5)


def test_counting_goes_on_in_steps(filled: Path) -> None:
    window, before, steps = ReceiptWindow(filled, scan=120), None, []
    while not steps or before is not None:
        counted = window.count(ANY, before=before)
        steps.append(counted.matched)
        before = counted.next
    assert steps == [120, 120, 120, 120, 20]


def test_a_tally_that_ends_early_says_among_how_many_it_has_counted(filled: Path) -> None:
    rare = ReceiptFilter(route="/things/6", until=NOW + 10)
    found = ReceiptWindow(filled, scan=120).tally(rare)
    assert (found.counted, found.complete, found.scanned) == (0, False, 120)
    found = ReceiptWindow(filled, scan=120).tally(ANY, limit=20)
    assert (found.counted, found.complete, found.scanned) == (20, False, None)
    found = ReceiptWindow(filled).tally(rare)
    assert (found.counted, found.complete, found.scanned) == (1, True, None)


def test_a_tally_counts_the_newest_matches_over_time_and_by_route(tmp_path: Path) -> None:
    denied = {"verdict": "deny"}
    stored = [receipt(number, verdict=denied if number % 3 == 0 else {"verdict": "allow"}) for number in range(1, 31)]
    odd = receipt(31, timestamp=2**64 - 1, route_pattern="/odd"), "{no receipt"
    app = app_of(fill(tmp_path / "s.sqlite3", [*stored, *odd]))
    found, only = get(app, "tally").json(), get(app, "tally", verdict="deny", route="/things/3").json()
    assert (found["counted"], found["complete"], found["start"], found["width"]) == (32, True, NOW + 1, 1)
    assert [sum(bar.values()) for bar in found["bars"]] == [1] * 30
    assert found["routes"][0] == {"method": "GET", "route": "/things/0", "verdicts": {"allow": 2, "deny": 1}}
    assert {"method": "", "route": "", "verdicts": {"damaged": 1}} in found["routes"]
    assert (only["counted"], only["bars"], only["routes"]) == (
        1, [{"deny": 1}], [{"method": "POST", "route": "/things/3", "verdicts": {"deny": 1}}],
    )  # fmt: skip


def test_a_tally_has_a_bounded_number_of_bars_whatever_times_receipts_state(tmp_path: Path) -> None:
    path = fill(
        tmp_path / "s.sqlite3", [receipt(1, timestamp=0), receipt(2, timestamp=2**53 - 1), *map(receipt, range(3, 9))]
    )
    whole, part = ReceiptWindow(path).tally(ANY), ReceiptWindow(path).tally(ANY, limit=3)
    assert len(whole.bars) <= BARS
    assert sum(sum(bar.values()) for bar in whole.bars) == 8
    assert (part.counted, part.complete, len(part.bars)) == (3, False, 3)


def test_an_empty_store_has_an_empty_list(tmp_path: Path) -> None:
    app = app_of(fill(tmp_path / "s.sqlite3", []))
    assert get(app, "receipts").json() == {"rows": [], "next": None, "newest": 0}
    assert get(app, "count").json() == {"matched": 0, "scanned": 0, "next": None}
    assert get(app, "status").json()["newest"] == 0


def test_ten_thousand_receipts_are_listed_and_filtered_with_one_request_each(tmp_path: Path) -> None:
    app = app_of(fill(tmp_path / "s.sqlite3", map(unsigned, range(1, 10_001))))
    first = get(app, "receipts").json()
    assert (len(first["rows"]), first["newest"]) == (200, 10_000)
    assert [row["seq"] for row in get(app, "receipts", route="/things/7777").json()["rows"]] == [7777]
    assert get(app, "receipts", route="/nowhere").json() == {"rows": [], "next": None, "newest": 10_000}
    assert get(app, "count", method="GET").json() == {"matched": 5_000, "scanned": 10_000, "next": None}


def test_a_damaged_row_is_shown_as_one_and_hides_no_other(tmp_path: Path) -> None:
    damaged = ["{not json", '"text"', "[1]", "{}", '{"verdict":{"verdict":"allow"},"method":"\\ud800"}']
    app = app_of(fill(tmp_path / "s.sqlite3", [receipt(1), *damaged, receipt(2)]))
    rows = get(app, "receipts").json()["rows"]
    assert [row.get("damaged", False) for row in rows] == [False, False, True, True, True, True, False]
    assert listed(app, method="GET") == ["receipt-00002"]
    opened = get(app, "receipt", id="damaged-1").json()
    assert opened["text"] == "{not json"
    assert (opened["server"]["valid"], opened["server"]["rule"]) == (False, "shape")
    assert len(get(app, "bundle").json()["receipts"]) == 7


@pytest.mark.parametrize("text", MARKUP)
def test_hostile_texts_arrive_as_they_were_stored(tmp_path: Path, text: str) -> None:
    document = hostile(1, text)
    app = app_of(fill(tmp_path / "s.sqlite3", [document]))
    (row,) = get(app, "receipts").json()["rows"]
    assert (row["route"], row["method"], row["capability"]) == (f"/{text}", text, text)
    opened = get(app, "receipt", id=document["id"]).json()
    assert opened["text"] == compact_json(document)
    assert opened["server"]["valid"]


def test_a_long_text_is_cut_in_the_list_only(tmp_path: Path) -> None:
    document = receipt(1, route_pattern="/" + "x" * 100_000)
    app = app_of(fill(tmp_path / "s.sqlite3", [document]))
    assert len(get(app, "receipts").content) < 2_000
    assert get(app, "receipt", id=document["id"]).json()["text"] == compact_json(document)


def test_an_opened_receipt_is_verified_by_the_server_too(tmp_path: Path) -> None:
    forged = receipt(2) | {"method": "PUT"}
    path = fill(tmp_path / "s.sqlite3", [receipt(1), forged, receipt(3, key=STRANGER), newer(4)])
    app = app_of(path)
    own = {"valid": True, "rule": None, "message": None, "signer": KEY.public_hex, "signer_is_own": True}
    assert _server(app, "receipt-00001") == own
    assert _server(app, "receipt-00002")["rule"] == "signature"
    assert _server(app, "receipt-00003") == own | {"signer": STRANGER.public_hex, "signer_is_own": False}
    assert _server(app, newer(4)["id"])["valid"]
    unknown = create_viewer_app(path, keys=frozenset(), token=None)
    assert _server(unknown, "receipt-00001")["signer_is_own"] is None


def _server(app: ASGIApp, receipt_id: str) -> Any:
    return get(app, "receipt", id=receipt_id).json()["server"]


def test_an_unknown_receipt_is_not_found_and_one_without_id_is_a_bad_request(filled: Path) -> None:
    app = app_of(filled)
    assert get(app, "receipt", id="unknown").status_code == 404
    assert get(app, "receipt").status_code == 400
    assert get(app, "bundle", id="unknown").status_code == 404


def test_a_bundle_of_one_receipt_verifies_with_the_command(filled: Path, tmp_path: Path, cli: CommandLine) -> None:
    response = get(app_of(filled), "bundle", id="receipt-00007")
    assert response.headers["content-disposition"].startswith("attachment")
    bundle = response.json()
    assert bundle["receipts"] == [compact_json(receipt(7))]
    assert bundle["verify"] == f"chio-sidecar receipt verify --trusted-key {KEY.public_hex} FILE"
    file = tmp_path / "bundle.json"
    file.write_bytes(response.content)
    assert cli("receipt", "verify", "--trusted-key", KEY.public_hex, file).splitlines() == [
        f"key       {KEY.public_hex}, 1 from 2026-04-15T17:06:22Z to 2026-04-15T17:06:22Z",
        "allow     1",
    ]
    out = cli("receipt", "verify", "--trusted-key", STRANGER.public_hex, file, status=1)
    assert "receipt-00007 INVALID kernel_key" in out


def test_a_bundle_holds_the_matches_and_says_if_they_are_not_all(
    filled: Path, tmp_path: Path, cli: CommandLine
) -> None:
    bundle = get(app_of(filled), "bundle", route="/things/3").json()
    assert (len(bundle["receipts"]), bundle["complete"]) == (50, True)
    window = ReceiptWindow(filled)
    assert [window.texts(ANY, limit=limit).complete for limit in (499, 500, 501)] == [False, True, True]
    assert not ReceiptWindow(filled, scan=10).texts(ANY, limit=501).complete
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps(bundle))
    cli("receipt", "verify", file)
    assert "50 receipts: 50 valid, 0 invalid" in cli.err


def test_a_bundle_that_is_not_complete_is_refused_unless_a_part_is_wanted(tmp_path: Path, cli: CommandLine) -> None:
    app = app_of(fill(tmp_path / "s.sqlite3", map(receipt, range(1, 1_002))))
    response = get(app, "bundle")
    assert response.headers["x-chio-left-out"] == response.json()["left_out"] == LEFT_OUT
    for text, reason in ((response.text, LEFT_OUT), (response.text.replace("left_out", "x"), "does not state that")):
        (tmp_path / "bundle").write_text(text)
        cli("receipt", "verify", tmp_path / "bundle", status=3)
        assert "1000 receipts: 1000 valid, 0 invalid\nnot complete: " in cli.err
        assert reason in cli.err
        assert "--allow-partial accepts" in cli.err
        cli("receipt", "verify", tmp_path / "bundle", "--allow-partial")
        assert reason in cli.err
    (tmp_path / "bundle").write_text(response.text.replace("deny", "allow").replace("GET", "PUT"))
    cli("receipt", "verify", tmp_path / "bundle", "--allow-partial", status=1)
    assert "x-chio-left-out" not in get(app, "bundle", route="/things/3").headers


def test_a_bundle_of_a_rotated_store_is_complete_for_a_time_after_its_archive(tmp_path: Path) -> None:
    path = fill(tmp_path / "s.sqlite3", map(receipt, range(1, 9)))
    rotate(path, tmp_path / "archive")
    fill(path, map(receipt, range(9, 12)))
    assert not ReceiptWindow(path).texts(ANY, limit=99).complete
    for since, count in ((NOW + 8, 4), (NOW + 9, 3)):
        found = ReceiptWindow(path).texts(ReceiptFilter(since=since), limit=99)
        assert (len(found.texts), found.complete) == (count, since > NOW + 8)


LEFT_OUT = "older receipts that match: these are the newest 1000"


def test_a_bundle_that_was_changed_does_not_verify(filled: Path, tmp_path: Path, cli: CommandLine) -> None:
    text = get(app_of(filled), "bundle", id="receipt-00007").text
    changes = {
        "changed": text.replace("allow", "deny"),
        "cut": json.dumps({"format": "chio-receipt-bundle/1", "receipts": ["{"]}),
        "empty": json.dumps({"format": "chio-receipt-bundle/1"}),
    }
    for name, changed in changes.items():
        file = tmp_path / name
        file.write_text(changed)
        cli("receipt", "verify", file, status=1)


def test_a_sidecar_shows_its_own_receipts_as_they_come(tmp_path: Path) -> None:
    with sidecars() as create:
        app = create(store_path=tmp_path / "s.sqlite3", signing_key=KEY)
        assert get(app, "status").json()["keys"] == [KEY.public_hex]
        assert listed(app) == []
        response = evaluate(app)
        assert listed(app) == [response["receipt"]["id"]]
        assert _server(app, response["receipt"]["id"])["signer_is_own"]


def test_another_kind_of_store_is_said_to_have_no_viewer(tmp_path: Path) -> None:
    with sidecars() as create:
        inner = SqliteReceiptStore(tmp_path / "s.sqlite3")
        app = create(store_path=tmp_path / "s", signing_key=KEY, open_store=lambda _: _Hidden(inner))
        response = get(app, "receipts")
        assert (response.status_code, response.json()["error"]) == (503, "chio_receipts_unreadable")


class _Hidden:
    def __init__(self, inner: SqliteReceiptStore) -> None:
        self.close = inner.close


@pytest.mark.parametrize("content", [b"", b"no database, and longer than a page" * 99])
def test_a_file_that_is_no_store_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    response = get(app_of(path), "receipts")
    assert response.status_code == 503
    assert str(path) in response.json()["message"]


def test_reading_never_writes_and_creates_nothing(tmp_path: Path) -> None:
    path = fill(tmp_path / "s.sqlite3", [receipt(1)])
    before = (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir()))
    app = app_of(path)
    for name in ("status", "receipts", "count", "bundle"):
        assert get(app, name).status_code == 200
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before
    assert get(app_of(tmp_path / "missing"), "receipts").status_code == 503
    assert not (tmp_path / "missing").exists()


def test_nothing_stays_locked_between_two_requests(tmp_path: Path) -> None:
    path = fill(tmp_path / "s.sqlite3", [receipt(number) for number in range(1, 6)])
    app = app_of(path)
    assert len(listed(app, limit=2)) == 2
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("ROLLBACK")


def test_receipts_are_stored_while_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"

    async def both() -> int:
        store, window = SqliteReceiptStore(path), ReceiptWindow(path)
        try:
            for number in range(20):
                writing = add(store, [compact_json(receipt(number))], first=number)
                await asyncio.gather(writing, asyncio.to_thread(window.count, ReceiptFilter(route="/")))
            return window.newest()
        finally:
            await store.close()

    assert asyncio.run(both()) == 20


def test_the_page_needs_its_own_files_only_and_holds_no_script_or_style() -> None:
    content = {name: data.decode() for name, (data, _) in page_files().items()}
    page = content[INDEX]
    assert not re.search(r"<style|<script>|\sstyle=|\son[a-z]+=|javascript:|https?://", page)
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert name in content
    scripts = {name: text for name, text in content.items() if name.endswith(".js")}
    for name, text in scripts.items():
        assert set(re.findall(r'from "\./([^"]+)"', text)) <= set(scripts), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )


def test_an_unchanged_file_is_not_sent_again(filled: Path) -> None:
    app, headers = app_of(filled), {"Host": "localhost"}
    first = fetch(app, "GET", f"{VIEWER_PATH}main.js", headers=headers)
    again = fetch(app, "GET", f"{VIEWER_PATH}main.js", headers=headers | {"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"


def test_the_address_without_its_slash_leads_to_the_page(filled: Path) -> None:
    for path in ("/", "/chio/viewer"):
        response = fetch(app_of(filled), "GET", path, headers={"Host": "localhost"})
        assert (response.status_code, response.headers["location"]) == (307, VIEWER_PATH)
