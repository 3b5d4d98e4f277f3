"""What a browser gets for a refusal, on every face; other clients get the document that is published."""

from __future__ import annotations

from typing import Any

import pytest

from chio_core import Denial, GuardRequest
from chio_core.testing import behaviours
from tests.faces.faces import ALONE, FACES, Face

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Accept-Language": "de"}

each_face = pytest.mark.parametrize("face", FACES, ids=str)


async def blocks(request: GuardRequest) -> Denial:
    return Denial(message="no <entry>", guard="blocks")


async def wraps(request: GuardRequest, next: Any) -> Any:
    return await next(request)


def own(request: GuardRequest, refusal: Denial) -> str:
    return f"<p lang={request.headers['accept-language']}>{refusal.status} {request.url_path}</p>"


def fails(request: GuardRequest, refusal: Denial) -> str:
    raise RuntimeError("no template")


@each_face
@pytest.mark.parametrize("guards", [(), (wraps,)], ids=["plain", "wrapped"])
def test_a_browser_gets_a_page_with_the_status_and_receipt_of_the_refusal(face: Face, guards: Any) -> None:
    with face.governed(behaviours.DENY, guards=guards) as governed:
        page = governed.send("POST", "/anything", BROWSER)
        document = governed.send("POST", "/anything", {"Accept": "*/*"})
    assert (page.status, page.seen) == (403, [])
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<code>{page.receipt}</code>".encode() in page.body
    assert b"side-effect route requires a capability token" in page.body
    assert (document.headers["content-type"], document.code) == ("application/json", face.code("chio_access_denied"))
    assert page.headers["vary"] == document.headers["vary"] == "Accept"


@pytest.mark.parametrize("face", [*FACES, *(one for one in ALONE if one.name != "fastapi-alone")], ids=str)
def test_so_does_one_that_lacks_the_capability_of_a_route(face: Face) -> None:
    script = behaviours.ALLOW if face.asks else behaviours.DENY
    with face.governed(script, refusal_page=own) as governed:
        page = governed.send("POST", "/accounts/7/transfer", BROWSER)
    assert page.body == f"<p lang=de>{page.status} /accounts/7/transfer</p>".encode()
    assert page.receipt


@each_face
def test_a_refusal_of_a_guard_or_without_an_evaluation_is_a_page_too(face: Face) -> None:
    with face.governed(guards=[blocks]) as governed:
        assert b"no &lt;entry&gt;" in governed.send("GET", "/hello", BROWSER).body
    with face.governed(refusal_page=own) as governed:
        found = governed.send("NONSENSE", "/hello", BROWSER)
    assert found.body == b"<p lang=de>405 /hello</p>"


@each_face
def test_an_application_makes_its_own_page_and_a_failing_one_is_replaced(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    with face.governed(behaviours.DENY, refusal_page=own) as governed:
        found = governed.send("POST", "/anything", BROWSER)
        assert governed.send("POST", "/anything").code == face.code("chio_access_denied")
    assert (found.status, found.body) == (403, b"<p lang=de>403 /anything</p>")
    assert "content-security-policy" not in found.headers
    with face.governed(behaviours.DENY, refusal_page=fails) as governed:
        found = governed.send("POST", "/anything", BROWSER)
    assert (found.status, found.body[:15]) == (403, b"<!doctype html>")
    assert "refusal_page failed" in caplog.text
