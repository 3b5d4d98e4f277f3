"""A capability out of a cookie, a session or a function counts for its holder, on the application's own pages."""

from __future__ import annotations

from typing import Any

import pytest

from chio_core.capabilities.holder import bound
from chio_core.capabilities.tokens import parse_capability
from chio_core.errors import ConfigurationError
from chio_core.identity import cookies_of
from chio_core.models.caller import CallerIdentity
from chio_core.request import RequestView
from chio_core.settings import ChioSettings
from tests.faces.faces import ALONE, FACES, Face, WSGIFace
from tests.tokens import token

PLACE = "/accounts/7/transfer"
GRANT = {"server_id": "payments", "tool_name": "transfer", "operations": ["invoke"]}
OF_ALICE = token(bound(GRANT, str(CallerIdentity.bearer("alice-token").holder)))
COOKIE = parse_capability(OF_ALICE).to_cookie()

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


def carrying(face: Face, source: str, bearer: str = "alice-token") -> list[tuple[str, str]]:
    cookie = {
        "cookie": f"cap={COOKIE}",
        "function": f"own={COOKIE}",
        "session": face.sessions({"chio_capability": OF_ALICE}) if face.sessions is not None else "",
    }[source]
    return [("Authorization", f"Bearer {bearer}"), ("Cookie", cookie)]


@each_source
def test_the_token_is_evaluated_as_if_the_header_had_it(face: Face, source: str) -> None:
    path = PLACE if face.asks else "/anything"
    with face.governed(**options(source)) as governed:
        found = governed.send("POST", path, [*carrying(face, source), *OWN.items()])
        by_fetch = governed.send("POST", path, [*carrying(face, source), ("Sec-Fetch-Site", "same-origin")])
        read = governed.get("/hello", carrying(face, source))
    assert [found.status, by_fetch.status, read.status] == [200, 200, 200]
    assert {one.capability_text for one in governed.sidecar.asked} == {OF_ALICE}


@each_source
@pytest.mark.parametrize("lines", FOREIGN)
def test_a_write_that_another_site_may_have_sent_is_refused_before_the_sidecar(
    face: Face, source: str, lines: list[tuple[str, str]]
) -> None:
    with face.governed(**options(source)) as governed:
        found = governed.send("POST", "/anything", [*carrying(face, source), *lines])
    assert (found.status, found.code, found.seen) == (403, face.code("chio_cross_site"), [])
    assert governed.asked == []


@each_source
def test_another_caller_cannot_use_it(face: Face, source: str) -> None:
    with face.governed(**options(source)) as governed:
        stolen = governed.send("POST", "/anything", [*carrying(face, source, "bob-token"), *OWN.items()])
    assert (stolen.status, stolen.seen) == (403, [])
    assert stolen.problem["message"] == "capability is bound to another holder"


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
        assert governed.send("POST", PLACE, carrying(face, "cookie")).status == 403


def test_a_framework_without_sessions_says_so_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="there are no sessions here; name a cookie"):
        WSGIFace().opened(sidecar_url="http://127.0.0.1:1", capability_source="session").__enter__()


@each_face
def test_a_cookie_that_is_sent_twice_is_refused(face: Face) -> None:
    with face.governed(**options("cookie")) as governed:
        sent = [("Cookie", f"cap={COOKIE}; cap=e30"), *OWN.items()]
        assert governed.send("POST", "/anything", sent).status == 400


@each_face
def test_a_function_needs_no_origin_where_a_browser_adds_nothing_by_itself(face: Face) -> None:
    with face.governed(capability=lambda view: OF_ALICE) as governed:
        sent = {"Authorization": "Bearer alice-token", "Origin": "https://spa.example"}
        assert governed.send("POST", "/anything", sent).status == 200
        assert governed.send("POST", "/anything", {**sent, "Authorization": "Basic YTpi"}).status == 403


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
