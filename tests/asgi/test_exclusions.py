"""What is not governed is exactly what was excluded."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from tests.asgi.routes import govern, govern_inside
from tests.support import call, run


def app() -> Starlette:
    async def seen(request: Request) -> JSONResponse:
        return JSONResponse({"path": request.scope["path"], "state": sorted(request.scope["state"])})

    return Starlette(routes=[Route("/{rest:path}", seen, methods=["GET", "POST", "OPTIONS", "PURGE", "get"])])


def receipt_of(method: str, path: str, **options: Any) -> str | None:
    """Return the receipt that the response names; without one, nothing was evaluated."""
    governed, judge = govern(app(), **options)
    found = run(call(governed, method, path)).receipt
    assert (found is not None) is bool(judge.questions)
    return found


OTHER_PATHS = [
    "/healthz/", "/healthz/x", "/healthzz", "/HEALTHZ", "//healthz", "/./healthz", "/x/../healthz", "/healthz;x", "",
    "/healthz%00", "/healthz\x00", "/healthz ", "/healthz?", "/healthz#", "/%68ealthz", "healthz", "http://evil/healthz",
]  # fmt: skip


def test_an_excluded_path_is_exactly_that_path() -> None:
    for path in ("/healthz", *OTHER_PATHS):
        found = receipt_of("POST", path, exclude_paths=frozenset({"/healthz"}))
        assert (found is None) is (path == "/healthz"), path


@pytest.mark.parametrize("prefix", ["/static", "/static/"])
def test_an_excluded_prefix_ends_at_a_slash(prefix: str) -> None:
    # The router does not resolve dots either: it runs what is below /static.
    for path in ("/static", "/static/", "/static/a/b", "/static/../admin"):
        assert receipt_of("GET", path, exclude_prefixes=frozenset({prefix})) is None, path
    for path in ("/statics", "/static.", "/Static/a", "/a/static/b", "//static/a", "/static\x00/a"):
        assert receipt_of("GET", path, exclude_prefixes=frozenset({prefix})) is not None, path


def test_excluded_methods_are_compared_as_they_were_sent() -> None:
    for method, governed, status in (
        ("OPTIONS", False, 200), ("GET", True, 200), ("POST", True, 200),
        ("options", False, 405), ("OPTIONSX", False, 405),
    ):  # fmt: skip
        reply = run(call(govern(app(), exclude_methods=frozenset({"OPTIONS"}))[0], method, "/a"))
        assert (reply.receipt is not None, reply.status) == (governed, status), method


def test_the_body_of_an_excluded_request_is_not_touched() -> None:
    messages = []

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        messages.append(await receive())
        await PlainTextResponse("ok")(scope, receive, send)

    governed, _ = govern(raw, exclude_paths=frozenset({"/up"}), max_body_bytes=1)
    assert run(call(governed, "POST", "/up", body=[b"first", b"second"])).status == 200
    assert [message["body"] for message in messages] == [b"first", b"second"]


def test_an_excluded_request_has_nothing_on_its_state() -> None:
    governed, _ = govern(app(), exclude_paths=frozenset({"/healthz"}))
    assert run(call(governed, "GET", "/healthz")).json()["state"] == []


def test_inside_a_mount_the_whole_path_is_compared() -> None:
    sub, judge = govern_inside(app(), exclude_paths=frozenset({"/sub/healthz"}))
    outer = Starlette(routes=[Mount("/sub", app=sub)])
    assert run(call(outer, "GET", "/sub/healthz")).receipt is None
    assert run(call(outer, "GET", "/sub/other")).receipt is not None
    assert len(judge.questions) == 1
