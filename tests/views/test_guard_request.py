"""GuardRequest: the same eleven members, with the same values, over every framework."""

from __future__ import annotations

import inspect
import typing
from types import SimpleNamespace
from typing import Any

import pytest
from django.urls import resolve
from flask import Flask, request
from guard_core.protocols.request_protocol import BoundedBodyReader
from guard_core.protocols.request_protocol import GuardRequest as TheirGuardRequest
from starlette.requests import Request as StarletteRequest

from chio_asgi.view import ASGIGuardRequest
from chio_core import ConfigurationError, GuardRequest
from chio_flask import FlaskGuardRequest
from tests.faces.wire import Wire, scope_of
from tests.support import run
from tests.views.stacks import MAKERS, Stack, all_stacks, flask, once, starlette

MEMBERS = {
    "url_path", "url_scheme", "url_full", "url_replace_scheme", "method", "client_host", "headers", "query_params",
    "body", "state", "scope",
}  # fmt: skip
LOGICAL = Wire("POST", b"/api/x?a=1&b=3", ((b"x-a", b"1"), (b"content-type", b"text/plain")), (b"hello",))

each_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


def members(protocol: Any) -> dict[str, tuple[str, Any]]:
    """Return kind and return annotation of each member."""
    found = {}
    for name in (name for name in vars(protocol) if not name.startswith("_")):
        member = vars(protocol)[name]
        function = member.fget if isinstance(member, property) else member
        kind = "property" if isinstance(member, property) else "async" if inspect.iscoroutinefunction(member) else "def"
        found[name] = (kind, typing.get_type_hints(function)["return"])
    return found


def test_the_protocol_has_the_members_of_guard_core_s() -> None:
    assert members(GuardRequest) == members(TheirGuardRequest)
    assert set(members(GuardRequest)) == MEMBERS
    assert len(MEMBERS) == 11


@each_maker
def test_each_view_is_a_guard_request_by_every_check(make: Any) -> None:
    view = make(LOGICAL).view
    assert isinstance(view, GuardRequest)
    assert isinstance(view, TheirGuardRequest)
    assert isinstance(view, BoundedBodyReader)
    assert {name for name in MEMBERS if hasattr(view, name)} == MEMBERS


def test_a_framework_s_own_request_is_not_a_guard_request() -> None:
    assert not isinstance(StarletteRequest(scope_of(LOGICAL)), TheirGuardRequest)


def test_the_same_request_reads_the_same_over_every_framework() -> None:
    seen = {
        (
            stack.view.url_path,
            stack.view.route_path,
            stack.view.url_scheme,
            stack.view.method,
            stack.view.client_host,
            tuple(stack.view.query_params.items()),
            stack.view.url_full,
            run(stack.view.body()),
            tuple(sorted((name.lower(), value) for name, value in stack.view.headers.items())),
        )
        for stack in all_stacks(LOGICAL)
    }
    assert len(seen) == 1
    assert next(iter(seen))[:5] == ("/api/x", "/api/x", "http", "POST", "10.0.0.9")


@each_maker
def test_only_the_scheme_is_replaced(make: Any) -> None:
    stack = make(Wire(target=b"/a?next=http://a"))
    assert stack.view.url_full == "http://testserver/a?next=http://a"
    assert stack.view.url_replace_scheme("https") == "https://testserver/a?next=http://a"
    assert stack.view.url_scheme == "http"


@each_maker
def test_an_unknown_peer_is_none(make: Any) -> None:
    assert make(Wire(peer=None)).view.client_host is None


@each_maker
def test_headers_are_read_without_regard_to_case(make: Any) -> None:
    wire = Wire("POST", headers=((b"content-type", b"text/plain"), (b"x-a", b"1")), pieces=(b"hello",))
    headers = make(wire).view.headers
    assert headers["content-length"] == headers["Content-Length"] == "5"
    assert headers["CONTENT-TYPE"] == headers.get("Content-type") == "text/plain"
    assert "X-a" in headers
    assert "x-b" not in headers
    assert dict(headers)


@each_maker
def test_repeated_lines_are_one_value_everywhere(make: Any) -> None:
    assert make(Wire(headers=((b"x-a", b"1"), (b"x-a", b"2")))).view.headers["x-a"] == "1,2"


@each_maker
def test_of_repeated_parameters_the_last_counts(make: Any) -> None:
    view = make(Wire(target=b"/?a=1&a=2&b=&c=%20+%C3%BC")).view
    assert dict(view.query_params) == {"a": "2", "b": "", "c": "  ü"}


@each_maker
@pytest.mark.parametrize("pieces", [(b"a=1&b=2",), (b"a=1", b"&b", b"=2")], ids=["plain", "chunked"])
async def test_the_body_is_read_twice_and_still_there_for_the_handler(make: Any, pieces: tuple[bytes, ...]) -> None:
    form = ((b"content-type", b"application/x-www-form-urlencoded"),)
    stack = make(Wire("POST", headers=form, pieces=pieces))
    assert await stack.view.body() == b"a=1&b=2"
    assert await stack.view.body() == b"a=1&b=2"
    assert await _native_body(stack) == b"a=1&b=2"
    assert await stack.view.body() == b"a=1&b=2"


@pytest.mark.parametrize("make", MAKERS[1:], ids=lambda make: make.__name__)
def test_a_form_is_parsed_after_the_body_was_read(make: Any) -> None:
    boundary = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
    wire = Wire("POST", headers=((b"content-type", b"multipart/form-data; boundary=x"),), pieces=(boundary,))
    stack = make(wire)
    assert once(stack.view.body()) == boundary
    fields = stack.native.form if hasattr(stack.native, "form") else stack.native.POST
    assert fields["a"] == "1"
    assert once(stack.view.body()) == boundary


@pytest.mark.parametrize("make", MAKERS[1:], ids=lambda make: make.__name__)
def test_over_synchronous_frameworks_reading_the_body_never_suspends(make: Any) -> None:
    assert once(make(LOGICAL).view.body()) == b"hello"
    assert once(make(LOGICAL).view.read_body_prefix(2)) == b"he"


@each_maker
def test_state_is_shared_by_all_views_of_a_request(make: Any) -> None:
    stack = make(LOGICAL)
    stack.view.state.mine = 1
    again = type(stack.view)(stack.native if stack.name != "starlette" else stack.native.scope)
    assert again.state.mine == 1
    assert not hasattr(again.state, "other")
    natural = {"starlette": lambda: stack.native.state, "flask": lambda: stack.native.environ["chio.chio_state"]}.get(
        stack.name, lambda: stack.native.chio_state
    )()
    assert natural.mine == 1


def test_scope_is_what_the_framework_knows() -> None:
    stacks = {stack.name: stack for stack in all_stacks(Wire(target=b"/hello"))}
    assert stacks["starlette"].view.scope is stacks["starlette"].native.scope
    for name in ("django-wsgi", "django-asgi"):
        before = stacks[name].view.scope
        assert (before["route"].func, before["app"]) == (resolve("/hello").func, "")
        stacks[name].native.resolver_match = match = resolve("/hello")
        assert stacks[name].view.scope == {"route": match, "app": ""}
    app = Flask("tests.views.stacks")
    app.add_url_rule("/hello", "hello", lambda: "")
    with app.test_request_context("/hello"):
        assert FlaskGuardRequest(request).scope == {"app": app, "route": request.url_rule}
        early = app.request_class(request.environ)
        assert FlaskGuardRequest(early, app).scope == {"app": app, "route": request.url_rule}
    assert FlaskGuardRequest(stacks["flask"].native).scope == {}


@each_maker
@pytest.mark.parametrize("pieces", [(b"0123456789",), (b"012", b"3456", b"789")], ids=["plain", "chunked"])
async def test_a_prefix_of_the_body_leaves_the_whole_to_the_handler(make: Any, pieces: tuple[bytes, ...]) -> None:
    stack = make(Wire("POST", pieces=pieces))
    view = stack.view
    assert (await view.read_body_prefix(0), await view.read_body_prefix(-1)) == (b"", b"")
    assert await view.read_body_prefix(4) == b"0123"
    assert await view.read_body_prefix(6) == b"012345"
    assert await _native_body(stack) == b"0123456789"
    if stack.name != "starlette":  # there the messages are the handler's once it has taken them
        assert await view.read_body_prefix(4) == b"0123"
        assert await view.read_body_prefix(100) == b"0123456789"


def test_a_prefix_takes_no_more_from_the_client_than_it_needs() -> None:
    wire = Wire("POST", pieces=(b"0123456789" * 100, b"x"))
    stack = flask(wire)
    once(stack.view.read_body_prefix(7))
    source = stack.native.environ["chio.input"].raw._source
    assert source.given == 7
    given: list[int] = []
    scope = starlette(wire)

    async def receive() -> dict[str, Any]:
        given.append(1)
        return {"type": "http.request", "body": b"01234", "more_body": True}

    view = type(scope.view)(scope.native.scope, receive)
    assert run(view.read_body_prefix(7)) == b"0123401"
    assert len(given) == 2


HOSTILE = [
    Wire(headers=((b"host", b"bad host/\xff"),)),
    Wire(headers=((b"host", b""),)),
    Wire(headers=((b"x-a", b"\xff\xfe"), (b"cookie", b"\xff=\xff"), (b"authorization", b"Bearer \xff"))),
    Wire(target=b"/%ff%fe/%00/%"),
    Wire(target=b"/a?%ff=%fe&&&=;x"),
    Wire(target=b"//a/../b/./c"),
    Wire("WEIRD METHOD", b"/" + b"a" * 5000),
    Wire(headers=((b"content-type", b"\xff; charset=\xff"), (b"content-length", b"x"))),
]


@each_maker
@pytest.mark.parametrize("wire", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_input_does_not_break_a_view(make: Any, wire: Wire) -> None:
    view = make(wire).view
    assert isinstance(view, GuardRequest)
    assert isinstance(view, TheirGuardRequest)
    for name in MEMBERS - {"url_replace_scheme", "body"}:
        getattr(view, name)
    assert view.url_replace_scheme("https").startswith("https://")
    assert list(view.headers.items())
    assert isinstance(view.query_string, str)
    assert all(view.header_values(name) is not None for name in view.headers)


@each_maker
def test_a_request_without_anything_has_a_view(make: Any) -> None:
    if make is MAKERS[1] or make is MAKERS[2]:
        from django.http import HttpRequest

        from chio_django import DjangoGuardRequest

        view: Any = DjangoGuardRequest(HttpRequest())
    elif make is MAKERS[0]:
        view = type(make(LOGICAL).view)({"type": "http", "path": "/"})
    else:
        view = FlaskGuardRequest(make(Wire()).native)
    assert isinstance(view, TheirGuardRequest)
    assert run(view.body()) == b""


def test_the_state_of_a_view_is_a_plain_namespace_where_the_framework_has_none() -> None:
    for stack in all_stacks(LOGICAL)[1:]:
        assert isinstance(stack.view.state, SimpleNamespace)


async def _native_body(stack: Stack) -> bytes:
    """Read the body as a handler of the framework does."""
    if stack.name == "starlette":
        return await StarletteRequest(stack.native.scope, stack.view.replay()).body()
    return bytes(stack.native.get_data() if stack.name == "flask" else stack.native.body)


@each_maker
async def test_a_guard_can_change_headers_and_body_until_the_decision(make: Any) -> None:
    stack = make(Wire("POST", headers=((b"X-Old", b"1"),), pieces=(b"first",)))
    stack.view.set_header("X-Old", "2")
    stack.view.set_header("Content-Type", "text/plain")
    stack.view.replace_body(b"second")
    assert stack.view.path == stack.view.url_path
    assert (stack.view.headers["x-old"], stack.view.headers["content-length"]) == ("2", "6")
    assert await stack.view.body() == b"second"
    assert await _native_body(stack) == b"second"
    stack.view.seal()
    with pytest.raises(ConfigurationError, match="cannot be replaced"):
        stack.view.replace_body(b"third")


async def test_a_starlette_request_is_taken_for_its_scope_and_its_body() -> None:
    stack = starlette(Wire("POST", pieces=(b"12", b"34")))
    view = ASGIGuardRequest(stack.native)
    assert (view.method, await view.read_body_prefix(3), await view.body()) == ("POST", b"123", b"1234")
    assert await stack.native.body() == b"1234"
