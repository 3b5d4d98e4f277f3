"""What is not governed is exactly what was excluded."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from tests.asgi.routes import govern, govern_inside
from tests.support import Reply, call, run


def app() -> Starlette:
    async def seen(request: Request) -> JSONResponse:
        return JSONResponse({"path": request.scope["path"], "state": sorted(request.scope["state"])})

    return Starlette(routes=[Route("/{rest:path}", seen, methods=["GET", "POST", "OPTIONS", "PURGE", "get"])])


def ask(method: str, path: str, **options: Any) -> tuple[Reply, bool]:
    governed, judge = govern(app(), **{"exclude_methods": frozenset(), **options})
    reply = run(call(governed, method, path))
    return reply, bool(judge.questions)


@pytest.mark.parametrize(
    ("path", "governed"),
    [
        ("/healthz", False),
        ("/healthz/", True),
        ("/healthz/x", True),
        ("/healthzz", True),
        ("/HEALTHZ", True),
        ("//healthz", True),
        ("/./healthz", True),
        ("/x/../healthz", True),
        ("/healthz;x", True),
        ("/healthz%00", True),
        ("/healthz\x00", True),
        ("/healthz ", True),
        ("/healthz?", True),
        ("/healthz#", True),
        ("/%68ealthz", True),
        ("healthz", True),
        ("http://evil/healthz", True),
        ("", True),
    ],
)
def test_an_excluded_path_is_exactly_that_path(path: str, governed: bool) -> None:
    reply, asked = ask("POST", path, exclude_paths=frozenset({"/healthz"}))
    assert asked is governed
    assert (reply.receipt is not None) is governed


@pytest.mark.parametrize(
    ("path", "governed"),
    [
        ("/static", False),
        ("/static/", False),
        ("/static/a/b", False),
        ("/static/../admin", False),  # the router does not resolve dots either: it runs what stands below /static
        ("/statics", True),
        ("/static.", True),
        ("/Static/a", True),
        ("/a/static/b", True),
        ("//static/a", True),
        ("/static\x00/a", True),
    ],
)
@pytest.mark.parametrize("prefix", ["/static", "/static/"])
def test_an_excluded_prefix_ends_at_a_slash(path: str, governed: bool, prefix: str) -> None:
    _, asked = ask("GET", path, exclude_prefixes=frozenset({prefix}))
    assert asked is governed


@pytest.mark.parametrize(
    ("method", "governed"), [("OPTIONS", False), ("GET", True), ("POST", True), ("options", True), ("OPTIONSX", True)]
)
def test_excluded_methods_are_compared_as_they_were_sent(method: str, governed: bool) -> None:
    reply, asked = ask(method, "/a", exclude_methods=frozenset({"OPTIONS"}))
    if method.isupper() and method != "OPTIONSX":
        assert asked is governed
    else:
        assert (reply.status, asked) == (405, False)  # no method of the protocol, and not excluded


def test_the_body_of_an_excluded_request_is_not_touched() -> None:
    messages = []

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        messages.append(await receive())
        await PlainTextResponse("ok")(scope, receive, send)

    governed, _ = govern(raw, exclude_paths=frozenset({"/up"}), max_body_bytes=1)
    assert run(call(governed, "POST", "/up", body=[b"first", b"second"])).status == 200
    assert [message["body"] for message in messages] == [b"first", b"second"]


def test_a_header_twice_is_no_concern_on_an_excluded_path() -> None:
    governed, _ = govern(app(), exclude_paths=frozenset({"/healthz"}))
    headers = [("x-chio-capability", "a"), ("x-chio-capability", "b")]
    assert run(call(governed, "GET", "/healthz", headers=headers)).status == 200


def test_an_excluded_request_has_nothing_on_its_state() -> None:
    governed, _ = govern(app(), exclude_paths=frozenset({"/healthz"}))
    assert run(call(governed, "GET", "/healthz")).json()["state"] == []


def test_inside_a_mount_the_whole_path_is_compared() -> None:
    sub, judge = govern_inside(app(), exclude_paths=frozenset({"/sub/healthz"}))
    outer = Starlette(routes=[Mount("/sub", app=sub)])
    assert run(call(outer, "GET", "/sub/healthz")).receipt is None
    assert run(call(outer, "GET", "/sub/other")).receipt is not None
    assert len(judge.questions) == 1
