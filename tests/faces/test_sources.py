"""A capability out of a cookie, a session or a function counts for its holder, on the application's own pages."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import pytest

from chio_core.capabilities.scope import bound
from chio_core.capabilities.tokens import parse_capability
from chio_core.errors import ConfigurationError
from chio_core.identity import cookies_of
from chio_core.models.request import CallerIdentity
from chio_core.request import RequestView
from chio_core.settings import ChioSettings
from tests.faces.faces import ALONE, FACES, Face, WSGIFace
from tests.tokens import token

PLACE = "/accounts/7/transfer"
GRANT = {"server_id": "payments", "tool_name": "transfer", "operations": ["invoke"]}
OF_ALICE = token(bound(GRANT, str(CallerIdentity.bearer("alice-token").holder)))

each_face = pytest.mark.parametrize("face", FACES, ids=str)
each_source = pytest.mark.parametrize(
    ("face", "source"),
    [
        pytest.param(face, source, id=f"{face}-{source}")
        for face in FACES
        for source in ("cookie", "session", "function")
        if face.sessions is not None or source != "session"
    ],
)

OWN = {"Origin": "https://testserver"}
FOREIGN: list[list[tuple[str, str]]] = [
    [],
    [("Origin", "https://evil.example")],
    [("Origin", "null")],
    [("Origin", "https://testserver.evil.example")],
    [("Origin", "https://testserver:8443")],
    [("Origin", "https://testserver"), ("Sec-Fetch-Site", "cross-site")],
    [("Origin", "https://testserver"), ("Sec-Fetch-Site", "same-site")],
]


async def aread(view: RequestView) -> str | None:
    return read(view)


def read(view: RequestView) -> str | None:
    return next(iter(cookies_of(view, "own")), None)


def options(source: str) -> dict[str, Any]:
    if source == "function":
        return {"capability": read}
    return {"capability_source": {"cookie": "cookie:cap", "session": "session"}[source]}


def carrying(face: Face, source: str, bearer: str = "alice-token", text: str = OF_ALICE) -> list[tuple[str, str]]:
    cookie = {
        "cookie": f"cap={encoded(text)}",
        "function": f"own={encoded(text)}",
        "session": face.sessions({"chio_capability": text}) if face.sessions is not None else "",
    }[source]
    return [("Authorization", f"Bearer {bearer}"), ("Cookie", cookie)]


def place(face: Face) -> str:
    return PLACE if face.asks else "/anything"


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_token_has_a_form_for_cookies() -> None:
    assert parse_capability(OF_ALICE).to_cookie() == encoded(OF_ALICE)


@each_source
def test_the_token_is_evaluated_as_if_the_header_had_it(face: Face, source: str) -> None:
    with face.governed(**options(source)) as governed:
        found = governed.send("POST", place(face), [*carrying(face, source), *OWN.items()])
        by_fetch = governed.send("POST", place(face), [*carrying(face, source), ("Sec-Fetch-Site", "same-origin")])
        read = governed.get("/hello", carrying(face, source))
    assert [found.status, by_fetch.status, read.status] == [200, 200, 200]
    assert {one.capability_text for one in governed.sidecar.asked} == {OF_ALICE}


@each_source
@pytest.mark.parametrize("lines", FOREIGN)
def test_in_a_write_that_another_site_may_have_sent_it_counts_as_none(
    face: Face, source: str, lines: list[tuple[str, str]]
) -> None:
    with face.governed(**options(source)) as governed:
        found = governed.send("POST", place(face), [*carrying(face, source), *lines])
    assert (found.status, found.seen) == (401, []) if face.asks else found.status == 200
    assert [one.capability_text for one in governed.sidecar.asked] == [None]


STALE = {
    "of another caller": token(bound(GRANT, str(CallerIdentity.bearer("bob-token").holder))),
    "expired": token(GRANT, now=1_700_000_000),
    "no capability": "{}",
    "no text": "\u00e4",
}


@each_source
@pytest.mark.parametrize("text", STALE.values(), ids=STALE.keys())
def test_one_that_does_not_count_is_as_good_as_none(face: Face, source: str, text: str) -> None:
    with face.governed(**options(source)) as governed:
        read = governed.get("/hello", carrying(face, source, text=text))
        write = governed.send("POST", place(face), [*carrying(face, source, text=text), *OWN.items()])
    assert read.status == 200
    assert (write.status, write.seen) == (401, []) if face.asks else write.status == 200
    assert {one.capability_text for one in governed.sidecar.asked} == {None}


@each_source
def test_the_header_comes_first_and_needs_no_origin(face: Face, source: str) -> None:
    other = token(bound(GRANT, str(CallerIdentity.bearer("bob-token").holder)))
    with face.governed(**options(source)) as governed:
        sent = [*carrying(face, source, "bob-token"), ("X-Chio-Capability", other)]
        assert governed.send("POST", "/anything", sent).status == 200
    assert governed.sidecar.asked[0].capability_text == other


@each_face
def test_without_the_setting_a_cookie_is_no_capability(face: Face) -> None:
    with face.governed() as governed:
        governed.send("POST", "/anything", [*carrying(face, "cookie"), *OWN.items()])
    assert governed.sidecar.asked[0].capability_text is None


@pytest.mark.parametrize("face", ALONE, ids=str)
def test_a_decorator_alone_reads_the_cookie_too(face: Face) -> None:
    with face.governed(**options("cookie")) as governed:
        assert governed.send("POST", PLACE, [*carrying(face, "cookie"), *OWN.items()]).status == 200
        assert governed.send("POST", PLACE, carrying(face, "cookie")).status == 401


def test_a_framework_without_sessions_says_so_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="there are no sessions here; name a cookie"):
        WSGIFace().opened(sidecar_url="http://127.0.0.1:1", capability_source="session").__enter__()


@each_face
def test_a_cookie_that_is_sent_twice_counts_as_none(face: Face) -> None:
    with face.governed(**options("cookie")) as governed:
        governed.send("POST", "/anything", [("Cookie", f"cap={encoded(OF_ALICE)}; cap=e30"), *OWN.items()])
    assert governed.sidecar.asked[0].capability_text is None


@each_face
def test_a_function_needs_no_origin_where_a_browser_adds_nothing_by_itself(face: Face) -> None:
    with face.governed(capability=lambda view: OF_ALICE) as governed:
        sent = {"Authorization": "Bearer alice-token", "Origin": "https://spa.example"}
        governed.send("POST", "/anything", sent)
        governed.send("POST", "/anything", {**sent, "Cookie": "any=1"})
    assert [one.capability_text for one in governed.sidecar.asked] == [OF_ALICE, None]


@each_face
def test_a_function_may_be_asynchronous_in_an_event_loop_and_is_an_error_in_threads(face: Face) -> None:
    with face.governed(capability=aread) as governed:
        found = governed.send("POST", "/anything", [*carrying(face, "function"), *OWN.items()])
    assert found.status == (500 if face.threaded else 200)


@each_face
def test_a_function_that_returns_no_text_is_an_error_of_the_application(face: Face) -> None:
    with face.governed(capability=lambda view: parse_capability(OF_ALICE)) as governed:
        assert governed.send("POST", "/anything", OWN).status == 500
    assert governed.asked == []


@pytest.mark.parametrize("value", ["", "body", "cookie", "cookie:", "cookie:a b", "session:"])
def test_the_setting_says_what_it_may_be(value: str) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=r"(?i)capability_source"):
        ChioSettings(capability_source=value)
