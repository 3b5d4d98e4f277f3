"""The page in a real Chromium: listing, filtering, opening and saving receipts."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from chio_core.canonical import compact_json, sha256_hex
from chio_sidecar.cli import main
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.listing import ReceiptWindow
from tests.viewer.browser import (
    DEADLINE,
    DOWN,
    ENTER,
    ESCAPE,
    LISTED,
    LOOK_NOW,
    SUMMARY,
    TAB,
    Browser,
    Shown,
    arrived,
    checks,
    open_row,
)  # fmt: skip
from tests.viewer.records import KEY, MARKUP, NOW, STORE, STRANGER, fill, newer, receipt, unsigned


def test_ten_thousand_receipts_are_listed_and_filtered(browser: Browser, show: Any) -> None:
    show([*map(unsigned, range(10_000))])
    browser.until(SUMMARY.format("200 of 10,000 receipts, newest first"))
    assert browser.text("#rows tr:first-child .c-id") == "r9999"
    browser.click("#more")
    browser.until(SUMMARY.format("400 of 10,000 receipts, newest first"))
    browser.type("#f-route", "/things/99")
    browser.until(SUMMARY.format("111 of 111 that match, among 10,000 receipts"))
    assert browser.number_of("#rows tr") == 111
    browser.choose("#f-verdict", "deny")
    browser.until("!document.querySelector('#empty').hidden")
    assert browser.text("#empty") == "No receipt matches these filters."
    browser.click("#clear")
    browser.until(SUMMARY.format("200 of 10,000 receipts, newest first"))
    script = "return performance.getEntriesByType('resource').filter((e) => e.name.includes('/receipts?')).length"
    assert browser.run(script) <= 4 + 10 + 8  # each filter at most once a keystroke; the rest polls for new ones


def test_a_rare_match_is_looked_for_to_the_end_and_the_page_says_how_far_it_is(
    browser: Browser, show: Any, served: tuple[Shown, str], tmp_path: Path
) -> None:
    show([receipt(number, route_pattern=f"/{'rare' if number in (450, 50) else 'usual'}") for number in range(1, 501)])
    viewer, window, go_on = served[0].app, ReceiptWindow(tmp_path / STORE, scan=100), threading.Event()

    async def stepwise(scope: Any, receive: Any, send: Any) -> None:
        query = Request(scope).query_params if scope["type"] == "http" else {}
        if not str(scope.get("path")).endswith("/receipts") or query.get("route") != "rare" or "after" in query:
            await viewer(scope, receive, send)
            return
        before = int(query["before"]) if "before" in query else None
        if before == 301:
            await asyncio.to_thread(go_on.wait, DEADLINE)
        found = window.list(ReceiptFilter(route="rare"), before=before, limit=int(query["limit"]))
        await JSONResponse(asdict(found))(scope, receive, send)

    served[0].app = stepwise
    browser.choose("#f-route", "rare")
    browser.until(SUMMARY.format("1 found so far, looked through 200 of 500 receipts"))
    assert browser.number_of("#rows tr") == 1
    assert browser.run("return document.querySelector('#more').hidden")
    go_on.set()
    browser.until(SUMMARY.format("2 of 2 that match, among 500 receipts"))
    assert browser.number_of("#rows tr") == 2


def test_every_filter_narrows_the_list(browser: Browser, show: Any) -> None:
    special = receipt(31, verdict={"verdict": "deny"}, capability_id="cap-A", method="DELETE", timestamp=NOW + 9_000)
    show([*(receipt(number) for number in range(1, 31)), special])
    local = f"const d = new Date({NOW + 9_000} * 1000); d.setMinutes(d.getMinutes() - d.getTimezoneOffset());"
    since = browser.run(f"{local} return d.toISOString().slice(0, 19)")
    values = {"verdict": "deny", "method": "DELETE", "capability": "cap-", "since": since}
    for name, value in values.items():
        browser.choose(f"#f-{name}", value)
        browser.until(LISTED.format(1))
        assert browser.text("#rows .c-id") == "receipt-00031"
        browser.click("#clear")
        browser.until(LISTED.format(31))
    browser.choose("#f-until", since)
    browser.choose("#f-caller", sha256_hex(b"3")[:20])
    browser.until(LISTED.format(5))


def test_receipts_appear_as_they_come(browser: Browser, show: Any, tmp_path: Path) -> None:
    show([receipt(1)])
    fill(tmp_path / STORE, [receipt(2), receipt(3)])
    browser.until(LISTED.format(3))
    assert browser.text("#rows tr:first-child .c-id") == "receipt-00003"
    browser.choose("#f-verdict", "deny")
    browser.until(LISTED.format(0))
    fill(tmp_path / STORE, [receipt(4), receipt(5, verdict={"verdict": "deny", "reason": "no"})])
    browser.run(LOOK_NOW)
    browser.until(SUMMARY.format("1 of 1 that match, among 5 receipts"))


def test_an_untouched_page_keeps_a_bounded_number_of_rows(browser: Browser, show: Any) -> None:
    show([receipt(number) for number in range(1, 11)])
    script = """
        const { ReceiptList } = await import('./list.js');
        const list = { room: args[0], next: null };
        ReceiptList.prototype.makeRoom.call(list);
        return list.next;
    """
    assert (browser.wait(script, 10), browser.number_of("#rows tr")) == (None, 10)
    assert (browser.wait(script, 4), browser.number_of("#rows tr")) == (7, 4)  # going on below row 7 brings the others


def test_a_paused_page_stays_as_it_is_and_then_catches_up(browser: Browser, show: Any, tmp_path: Path) -> None:
    show([receipt(1)])
    browser.click("#live")
    fill(tmp_path / STORE, [receipt(number) for number in range(2, 402)])
    browser.run(LOOK_NOW)
    assert (browser.text("#live"), browser.number_of("#rows tr")) == ("Paused", 1)
    browser.click("#live")
    browser.until(SUMMARY.format("200 of 401 receipts, newest first"))  # more than one listing holds: a new list


def test_a_receipt_is_verified_by_browser_and_server_under_the_sidecars_own_key(browser: Browser, show: Any) -> None:
    show([receipt(1, metadata={"big": 2**64 - 1, "small": -(2**63), "ratio": 1e21, "ü": "\u20ac"})])
    open_row(browser)
    first, second = checks(browser)
    title = "Verified by this browser under key"
    assert first.split("\n")[1:] == [title, KEY.public_hex, "It is this sidecar's own key."]
    assert "Verified by the sidecar, under its own key" in second
    assert "nothing against it" in browser.text("#evidence")
    assert "18446744073709551615" in browser.text("#raw")


def test_forged_foreign_and_newer_receipts_differ_in_their_verifications(browser: Browser, show: Any) -> None:
    stored = [
        receipt(1) | {"verdict": {"verdict": "allow", "reason": "forged"}},
        receipt(2, key=STRANGER),
        newer(3),
        newer(4) | {"id": "0" * 64},
        "{no receipt",
    ]
    show(stored)
    expected = {
        1: ("Refused by this browser", "Refused by the sidecar"),
        2: ("Refused by this browser", "Refused by the sidecar"),
        3: ("It is this sidecar's own key.", "under its own key"),
        4: ("It is NOT this sidecar's own key.", "under a key that is not its own"),
        5: ("the signature does not verify", "rule signature"),
    }
    for position, texts in expected.items():
        open_row(browser, position)
        for shown, text in zip(checks(browser), texts, strict=True):
            assert text in shown


def test_without_a_known_key_nothing_is_called_own(browser: Browser, show: Any) -> None:
    show([receipt(1)], keys=())
    open_row(browser)
    assert "No key of the sidecar is known here" in checks(browser)[0]


def test_an_observed_decision_is_marked_in_list_and_receipt(browser: Browser, show: Any) -> None:
    denied = {"verdict": "deny", "reason": "no capability", "details": {"hint": "ask for one"}}
    show([receipt(1, verdict=denied, metadata={"chio_enforcement": {"mode": "observe"}})])
    assert browser.text("#rows .tag") == "observed"
    open_row(browser)
    shown = browser.text("#detail")
    assert all(text in shown for text in ("Observed, not enforced", "no capability", "ask for one"))


def test_a_receipt_has_an_address_of_its_own(browser: Browser, show: Any) -> None:
    address = show([receipt(1), receipt(2)], hash="#receipt-00001")
    browser.until("document.querySelector('#checks') && document.querySelector('#rows tr[aria-current]')")
    assert browser.text("#rows tr[aria-current] .c-id") == "receipt-00001"
    browser.press(ESCAPE)
    browser.until("document.querySelector('#detail').hidden")
    assert browser.run("return location.href") == address
    browser.run("history.back()")
    browser.until("document.querySelector('#checks')")


def test_the_keyboard_is_enough(browser: Browser, show: Any) -> None:
    show([receipt(1), receipt(2)])
    browser.run("document.querySelector('#clear').disabled || document.querySelector('#clear').focus()")
    browser.run("document.querySelector('#f-until').focus()")
    for _ in range(30):  # through the parts of the field of date and time, and the heads of the columns
        browser.press(TAB)
        if browser.run("return document.activeElement.closest('#rows') !== null"):
            break
    browser.press(DOWN)
    browser.press(ENTER)
    browser.until("document.querySelector('#checks')")
    assert browser.text("#detail h2 .route") == "POST /things/1"
    assert browser.run("return document.querySelector('#detail').contains(document.activeElement)")
    browser.press(ESCAPE)
    browser.until("document.activeElement.textContent === 'receipt-00001'")


def test_a_downloaded_bundle_verifies_with_the_command(
    browser: Browser, show: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = receipt(1, id="id with <markup> / and .. in it", metadata={"big": 2**64 - 1, "text": MARKUP[3]})
    show([wide, receipt(2)])
    open_row(browser, 2)
    browser.click("#bundle")
    one = arrived(browser.downloads, browser, "chio-receipt-*.json")
    assert json.loads(one.read_text())["receipts"] == [compact_json(wide)]
    browser.click("#download")
    both = arrived(browser.downloads, browser, "chio-receipts.json")
    for file, count in ((one, 1), (both, 2)):
        assert main(["receipt", "verify", "--trusted-key", KEY.public_hex, str(file)]) == 0
        assert f": {count} valid, 0 invalid" in capsys.readouterr().err
        file.unlink()


def test_the_download_of_a_part_says_what_it_leaves_out(browser: Browser, show: Any) -> None:
    show([*map(unsigned, range(1_001))])
    browser.click("#download")
    browser.until("!document.querySelector('#problem').hidden")
    said = "The file leaves out older receipts that match: these are the newest 1000; narrow the filters, or use"
    assert browser.text("#problem-text").startswith(said)
    assert json.loads(arrived(browser.downloads, browser, "chio-receipts.json").read_text())["complete"] is False


def test_fields_have_names_and_the_table_stays_a_table_in_a_narrow_window(browser: Browser, show: Any) -> None:
    show([receipt(1, route_pattern="/" + "long" * 200)])
    unnamed = "return [...document.querySelectorAll('input, select')].filter((f) => !f.labels.length).map((f) => f.id)"
    assert browser.run(unnamed) == []
    for width in (1400, 700, 360):
        browser.resize(width, 800)
        assert browser.run("return document.scrollingElement.scrollWidth <= innerWidth"), width
        roles = _roles(browser)
        assert [roles.count(role) for role in ("table", "row", "columnheader", "cell")] == [1, 2, 7, 7]
    open_row(browser)
    assert browser.run("return document.scrollingElement.scrollWidth <= innerWidth")


def _roles(browser: Browser) -> list[str]:
    nodes = browser.cdp("Accessibility.getFullAXTree")["nodes"]
    return [node["role"]["value"] for node in nodes if not node["ignored"] and "role" in node]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(browser: Browser, show: Any, scheme: str) -> None:
    denied = receipt(2, verdict={"verdict": "deny", "reason": "no"}, metadata={"chio_enforcement": "observe"})
    show([receipt(1, verdict={"verdict": "incomplete"}), denied])
    browser.scheme(scheme)
    open_row(browser)
    browser.click("#tally summary")
    browser.until("document.querySelector('#chart svg')")
    texts = ".badge, .tag, td, th, dt, dd, h3, label, .summary, .checks strong, button:enabled, #store, pre, .notice"
    low = browser.run(_CONTRAST, texts)
    assert low == []


_CONTRAST = """
const parts = (color) => color.match(/[0-9.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = parts(getComputedStyle(at).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const seen = (element) => element.offsetParent && element.textContent.trim();
return [...document.querySelectorAll(arguments[0])].filter(seen).map((element) => {
  const [a, b] = [light(parts(getComputedStyle(element).color)), light(ground(element))];
  return [element.className || element.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
}).filter(([, ratio]) => ratio < 4.5);
"""


def test_the_page_recovers_when_the_sidecar_was_away(
    browser: Browser, show: Any, served: tuple[Shown, str], tmp_path: Path
) -> None:
    show([receipt(1)])
    viewer, served[0].app = served[0].app, JSONResponse({"message": "away"}, 502)
    browser.run(LOOK_NOW)
    browser.until("document.querySelector('#away-text').textContent.startsWith('Away. Next attempt in ')")
    fill(tmp_path / STORE, [receipt(2)])
    served[0].app = viewer
    browser.run(LOOK_NOW)
    browser.until(LISTED.format(2))
    browser.until("document.querySelector('#away').hidden")
    assert all("502" in text for text in browser.complaints())


def test_attempts_become_rare_while_the_sidecar_is_away(browser: Browser, show: Any) -> None:
    show([receipt(1)])
    script = """
        const { ReceiptList } = await import('./list.js');
        const pause = Object.getOwnPropertyDescriptor(ReceiptList.prototype, 'pause').get;
        return args[0].map((failures) => pause.call({ failures }));
    """
    assert browser.wait(script, [0, 1, 2, 3, 9]) == [1_000, 2_000, 4_000, 8_000, 30_000]


def test_a_page_that_opens_while_the_sidecar_is_away_starts_when_it_is_back(
    browser: Browser, show: Any, served: tuple[Shown, str]
) -> None:
    address = show([receipt(1)])
    viewer = served[0].app

    async def without_data(scope: Any, receive: Any, send: Any) -> None:
        away = JSONResponse({"message": "away"}, 502) if "/api/" in scope["path"] else viewer
        await away(scope, receive, send)

    served[0].app = without_data
    browser.open(address)
    browser.until("!document.querySelector('#away').hidden")
    served[0].app = viewer
    browser.click("#retry")
    browser.until(LISTED.format(1))
    assert browser.run("return document.querySelector('#away').hidden")
    assert all("502" in text for text in browser.complaints())


def test_an_error_stays_until_it_is_dismissed(browser: Browser, show: Any, tmp_path: Path) -> None:
    show([receipt(1)], hash="#unknown")
    browser.until("!document.querySelector('#problem').hidden")
    assert browser.text("#problem-text") == "The store holds no receipt with this id."
    fill(tmp_path / STORE, [receipt(2)])
    browser.run(LOOK_NOW)
    browser.until(LISTED.format(2))  # a later success is about something else
    assert browser.run("return !document.querySelector('#problem').hidden")
    browser.click("#dismiss")
    assert browser.run("return document.querySelector('#problem').hidden")
    assert all("404" in text for text in browser.complaints())


def test_filters_are_in_the_address(browser: Browser, show: Any) -> None:
    address = show([*(receipt(number) for number in range(1, 10)), receipt(10, verdict={"verdict": "deny"})])
    browser.choose("#f-verdict", "allow")
    browser.choose("#f-route", "/things/7")
    browser.until(LISTED.format(1))
    open_row(browser)
    link = browser.run("return location.href")
    assert link == f"{address}?verdict=allow&route=%2Fthings%2F7#receipt-00007"
    browser.open("about:blank")
    browser.open(link)
    browser.until(LISTED.format(1))
    browser.until("document.querySelector('#checks')")
    assert browser.run("return document.querySelector('#f-route').value") == "/things/7"
    browser.press(ESCAPE)
    browser.until("document.querySelector('#detail').hidden")
    browser.click("#clear")
    browser.until(LISTED.format(10))
    assert browser.run("return location.href") == address


def test_times_are_local_or_utc_in_rows_and_fields(browser: Browser, show: Any) -> None:
    browser.cdp("Emulation.setTimezoneOverride", timezoneId="Asia/Kolkata")
    try:
        address = show([receipt(1), receipt(2)])
        browser.open(f"{address}?since={NOW + 2}")
        browser.until(LISTED.format(1))
        assert browser.text("#rows time") == "2026-04-15 22:36:17"
        browser.choose("#zone", "utc")
        browser.run("document.querySelector('#zone').dispatchEvent(new Event('change'))")
        assert browser.text("#rows time") == "2026-04-15 17:06:17"
        assert browser.run("return document.querySelector('#f-since').value") == "2026-04-15T17:06:17"
    finally:
        browser.run("localStorage.clear()")
        browser.cdp("Emulation.setTimezoneOverride", timezoneId="")


def test_rows_are_sorted_by_a_column_and_back(browser: Browser, show: Any, tmp_path: Path) -> None:
    show([receipt(number) for number in (12, 25, 31)])
    ids = "return [...document.querySelectorAll('#rows .c-route')].map((cell) => cell.textContent)"
    assert browser.run(ids) == ["/things/1", "/things/5", "/things/2"]
    browser.click("[data-sort=route]")
    assert browser.run(ids) == ["/things/1", "/things/2", "/things/5"]
    fill(tmp_path / STORE, [receipt(44)])
    browser.run(LOOK_NOW)
    browser.until(LISTED.format(4))
    browser.click("[data-sort=route]")
    assert browser.run(ids) == ["/things/5", "/things/4", "/things/2", "/things/1"]
    assert browser.run("return document.querySelector('th.c-route').getAttribute('aria-sort')") == "descending"
    browser.click("[data-sort=route]")
    assert browser.run(ids) == ["/things/4", "/things/1", "/things/5", "/things/2"]


def test_verdicts_are_counted_over_time_and_by_route(browser: Browser, show: Any) -> None:
    denied = {"verdict": "deny", "reason": "no"}
    show([*(receipt(number) for number in range(1, 6)), receipt(6, verdict=denied), receipt(600, verdict=denied)])
    browser.click("#tally summary")
    browser.until("document.querySelectorAll('#routes tbody tr').length === 7")
    assert browser.run("return document.querySelector('#chart svg').getAttribute('aria-label')") == (
        "allow: 5, deny: 2, other: 0"
    )
    assert browser.number_of("#chart rect") == 3
    assert browser.text("#tally-text").endswith("one bar is 15 seconds.")
    browser.click("#routes tbody tr:nth-child(1) button")
    browser.until(LISTED.format(1))
    browser.until("document.querySelectorAll('#routes tbody tr').length === 1")


def test_the_skip_link_leads_to_the_rows(browser: Browser, show: Any) -> None:
    show([receipt(1), receipt(2)])
    browser.run("document.querySelector('#skip').click()")
    assert browser.run("return document.activeElement.textContent") == "receipt-00002"
