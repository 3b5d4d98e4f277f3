"""The page's verification in a real Chromium, compared with that of the command."""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

from chio_core.canonical import canonical_json, compact_json, parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store.erase import erase, signer
from tests.viewer.browser import ENTER, LISTED, Browser, checks, open_row
from tests.viewer.records import KEY, MARKUP, STORE, STRANGER, hostile, newer, receipt


def test_the_browser_writes_the_canonical_form_of_any_document(browser: Browser, show: Any) -> None:
    show([])
    texts = _documents()
    script = """
        const { parse, canonical } = await import('./canonical.js');
        return args[0].map((text) => { try { return canonical(parse(text)); } catch { return null; } });
    """
    for text, found in zip(texts, browser.wait(script, texts), strict=True):
        assert found == _canonical(text), text


def _canonical(text: str) -> str | None:
    try:
        return canonical_json(parse_json(text)).decode()
    except InvalidDocument:
        return None


def _documents() -> list[str]:
    chance = random.Random(8785)
    doubles = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(300)]
    numbers = [repr(number) for number in doubles if math.isfinite(number)]
    around = [2**power + step for power in (0, 53, 63, 64, 70) for step in (-1, 0, 1)]
    numbers += [str(sign * number) for number in around for sign in (1, -1)]
    numbers += ["0", "-0", "-0.0", "1.0", "1e2", "1E+2", "1e400", "-1e400", "1e-400", "9" * 400]
    numbers += ["01", "1.", ".5", "+1", "1e", "-"]
    names = ["a", "\u20ac", "\U0001f600", "\ufb33", "__proto__", "constructor", "1", "\u0080", "", "\r"]
    chosen = [dict.fromkeys(chance.sample(names, 6), 1) for _ in range(20)]
    objects = [json.dumps(members, ensure_ascii=chance.random() < 0.5) for members in chosen]
    texts = [
        '"\\u0000\\b\\f\\n\\r\\t\\"\\\\\\/\\u007f\\u2028"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\udc00x"',
        '"\t"', '"\\x"', "'a'",
    ]  # fmt: skip
    odd = [
        "", " ", "nul", "true false", '{"a":1,"a":2}', '{"a":1,}', "[1,]", "[", "]", '{"a"}', "{1:2}", "[NaN]",
        "\ufeff1", "1\u00a0",
    ]  # fmt: skip
    deep = ["[" * depth + "]" * depth for depth in (127, 128, 129)]
    return [*numbers, *objects, *texts, *odd, *deep, ' {"b" : [ null , true , { } ] , "a" : "x" } \n']


def test_the_browser_accepts_exactly_what_the_command_accepts(browser: Browser, show: Any) -> None:
    show([])
    documents = _receipts()
    script = """
        const { verify } = await import('./verify.js');
        return Promise.all(args[0].map(async (text) => (await verify(text)).state === 'valid'));
    """
    found = browser.wait(script, [json.dumps(document) for document in documents])
    for document, valid in zip(documents, found, strict=True):
        assert valid == _accepted(document), document


def _accepted(document: dict[str, Any]) -> bool:
    try:
        verify_receipt(document)
    except ReceiptRejected:
        return False
    return True


_ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"


def _receipts() -> list[dict[str, Any]]:
    good, new = receipt(1, session_id="s", capability_id="c"), newer(2)
    weak = ("00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "ed" + "ff" * 31, _ORDER_8)
    signature = good["signature"]
    order = 2**252 + 27742317777372353535851937790883648493
    unreduced = int.from_bytes(bytes.fromhex(signature[64:]), "little") + order
    changes: list[dict[str, Any]] = [
        {},
        {"metadata": None},
        {"unknown": 1},
        {"observation_outcome": None, "actor_chain": [], "trust_level": None},
        {"verdict": {"verdict": "allow", "outcome": "allow"}},
        {"verdict": {"verdict": "allow", "outcome": "deny"}},
        {"kernel_key": STRANGER.public_hex},
        {"kernel_key": good["kernel_key"].upper()},
        {"kernel_key": f" 0x{good['kernel_key']}"},
        {"kernel_key": "p256:00"},
        *({"kernel_key": key, "signature": key + "00" * 32} for key in weak),
        {"signature": signature.upper()},
        {"signature": signature[:-2]},
        {"signature": signature[:64] + unreduced.to_bytes(32, "little").hex()},
    ]
    newer_changes = [
        {}, {"id": "0" * 64}, {"trust_level": "advisory"}, {"observation_outcome": "seen"}, {"tool_origin": "x"},
    ]  # fmt: skip
    old = [good, *({**good, **change} for change in changes), *_of_another_shape()]
    return [*old, receipt(3, evidence=None, metadata=None), *({**new, **change} for change in newer_changes)]


def _of_another_shape() -> list[dict[str, Any]]:
    """Receipts whose signatures are genuine, and texts of another shape."""
    members: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("method", "policy_hash", "request_id"), (None, 5)),
        **dict.fromkeys(("capability_id", "session_id", "tool_origin"), (2**70, [])),
        "timestamp": (1.0, 1.5, -1, 2**64, 2**64 - 1, "1", True),
        "response_status": (70_000, 65_535, 200.0, None),
        "verdict": (
            ["allow"],
            {"verdict": 5},
            *({"verdict": "deny", "details": details} for details in (None, [], {})),
            *({"verdict": "deny", "http_status": status} for status in (None, 403, -1, 1.0)),
        ),
        "evidence": (
            {},
            [1],
            [{"guard_name": "g", "verdict": 1}],
            *([{"guard_name": "g", "verdict": True, "details": text}] for text in (None, "x", 7)),
        ),
        "actor_chain": ([1], [{}], {}),
    }
    return [receipt(4, **{name: value}) for name, values in members.items() for value in values]


def test_a_receipt_with_a_number_beyond_every_double_is_shown_as_damaged(browser: Browser, show: Any) -> None:
    text = compact_json(receipt(2)).replace('"metadata":{', '"metadata":{"x":1e400,')
    show([receipt(1), text])
    open_row(browser, 2)
    open_row(browser, 1)
    assert all("Refused" in said for said in checks(browser))
    assert "1e400" in browser.text("#raw")


def test_a_receipt_that_cannot_be_opened_leaves_none_in_its_place(browser: Browser, show: Any) -> None:
    show([receipt(1)])
    open_row(browser)
    browser.run("location.hash = 'no-such-receipt'")
    assert browser.until("document.querySelector('#detail').hidden")
    assert any("404" in said for said in browser.complaints())


def test_an_erased_receipt_is_shown_as_such_and_its_record_verified(
    browser: Browser, show: Any, tmp_path: Path
) -> None:
    one = receipt(1)
    address = show([one, receipt(2)])
    erase(tmp_path / STORE, [one["id"]], signer(KEY, reason="Art. 17, request 4711", now=one["timestamp"] + 60))
    browser.open(address)
    browser.until(LISTED.format(2))
    assert "erased" in browser.run("return document.querySelector('#rows tr:nth-child(2)').innerText")
    open_row(browser, 2)
    assert [check.splitlines()[1] for check in checks(browser)] == [
        "Verified by this browser under key",
        "Verified by the sidecar, under its own key",
    ]
    shown = browser.run("return document.querySelector('#detail').innerText")
    assert "Art. 17, request 4711" in shown
    assert one["route_pattern"] not in shown
    assert "(missing)" not in shown
    text = "const { verify } = await import('./verify.js'); return (await verify(args[0])).state;"
    with ReceiptReader(tmp_path / STORE) as reader:
        found = reader.stored_text(one["id"], most=10_000)
    assert found is not None
    assert browser.wait(text, found.text) == "valid"
    assert browser.wait(text, found.text.replace("4711", "4712")) == "invalid"


# What the page in a real Chromium denies to receipts and to other sites, and how its users sign in


def test_no_receipt_can_inject_markup(browser: Browser, show: Any) -> None:
    show([hostile(number, text) for number, text in enumerate(MARKUP)])
    own = "return ['script', 'img', 'iframe', 'b', 'table'].map((tag) => document.querySelectorAll(tag).length)"
    elements, title = browser.run(own), browser.run("return document.title")
    for position, text in enumerate(reversed(MARKUP), 1):
        open_row(browser, position)
        browser.until(f"document.querySelector('#detail h2').textContent.includes({json.dumps(_shown(text))})")
        assert checks(browser)[0].split("\n")[1].startswith("Verified by this browser")
        browser.click(".toggle[aria-pressed=false]")
        assert _shown(text) in browser.text("#evidence")
        assert browser.run(own) == elements
    assert browser.run("return document.title") == title
    seen = browser.run("return document.body.innerText")
    assert not any(character in seen for character in "\u202e\u2066\u0000\u001b")


def _shown(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if c in "\u202e\u2066" or ord(c) < 32 else c for c in text)


def test_the_page_may_not_run_foreign_content(browser: Browser, show: Any) -> None:
    show([])
    browser.until("!document.querySelector('#main').hidden")
    attempts = """
        const blocked = [];
        addEventListener('securitypolicyviolation', (event) => blocked.push(event.effectiveDirective));
        try { document.body.innerHTML = '<img src=x>'; } catch { blocked.push('innerHTML'); }
        const style = document.createElement('style'); style.textContent = '*{color:red}'; document.head.append(style);
        await fetch('https://attacker.example/').catch(() => blocked.push('fetch'));
        await new Promise((go) => setTimeout(go));
        return blocked;
    """
    blocked = browser.wait(attempts)
    assert {"innerHTML", "fetch", "style-src-elem", "connect-src"} <= set(blocked)
    assert len(browser.complaints()) >= 3  # provoked here, so the fixture must not see them


def test_a_token_is_requested_kept_for_the_tab_and_forgotten(browser: Browser, show: Any) -> None:
    address = show([receipt(1)], token="s3cret-canary")
    browser.until("!document.querySelector('#sign-in').hidden")
    assert browser.number_of("#rows tr") == 0
    browser.type("#token", "wrong" + ENTER)
    browser.until("!document.querySelector('#sign-in-failed').hidden")
    browser.type("#token", "s3cret-canary" + ENTER)
    browser.until(LISTED.format(1))
    open_row(browser)
    assert "canary" not in browser.run("return location.href + document.documentElement.outerHTML + document.cookie")
    assert browser.run("return document.querySelector('#token').value + Object.keys(localStorage).length") == "0"
    browser.open("about:blank")
    browser.open(address)
    browser.until(LISTED.format(1))
    browser.click("#sign-out")
    browser.until("!document.querySelector('#sign-in').hidden")
    assert browser.run("return sessionStorage.length") == 0
    assert browser.number_of("#rows tr") == 0
    refused = [text for text in browser.complaints() if "403" not in text]  # the expected refusals
    assert refused == []
