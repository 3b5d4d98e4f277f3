"""What the page in a real Chromium denies to receipts and to other sites, and how its users sign in."""

from __future__ import annotations

import json
from typing import Any

from tests.viewer.browser import ENTER, LISTED, Browser, checks, open_row
from tests.viewer.records import MARKUP, hostile, receipt


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
