"""Rows F22 and F23: declared calls, tags and runs."""

from __future__ import annotations

import asyncio
import operator
from typing import Any

import httpx
import pytest

from chio_core.errors import ConfigurationError
from chio_core.outbound import BaseMiddleware, Calls, CookieJar, FastHTTP
from tests.outbound.test_rows_cookies import setting
from tests.outbound.tools import A, Upstream
from tests.support import serve


async def test_f22_a_run_makes_the_calls_with_its_tags_only_and_the_jar_lives_across_runs() -> None:
    upstream = Upstream(setting("session=s1"))
    calls = Calls(cookie_jar=CookieJar(), transport=upstream.transport)

    @calls.post(url=f"{A}/login", json={"username": "alice"}, tags=["auth"])
    async def login(response: Any) -> int:
        return int(response.status)

    @calls.get(url=f"{A}/profile", tags=["protected", "own"])
    def profile(response: Any) -> str:
        return str(response.text)

    outcomes = await calls.run(tags=["auth"])
    assert [(one.name, one.value) for one in outcomes] == [("login", 200)]
    assert upstream.hits == 1
    outcomes = await calls.run(tags=["protected"])
    assert outcomes["profile"].value == "session=s1"
    assert upstream.hits == 2
    assert [one.name for one in await calls.run()] == ["login", "profile"]
    assert upstream.seen[0].content == b'{"username":"alice"}'
    assert [call.name for call in calls.calls] == ["login", "profile"]


def test_f22_without_a_jar_nothing_is_remembered() -> None:
    upstream = Upstream(setting("session=s1"))
    app = FastHTTP(transport=upstream.transport)
    app.get(f"{A}/login", tags=["auth"])(lambda response: None)
    app.run()
    app.run()
    assert "cookie" not in upstream.last.headers


async def test_f23_the_calls_of_one_run_are_made_at_the_same_time() -> None:
    waiting = asyncio.Event()

    class Meeting(httpx.AsyncBaseTransport):
        """Responds as soon as there are three requests."""

        there = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.there += 1
            if self.there == 3:
                waiting.set()
            await waiting.wait()
            return httpx.Response(200)

    calls = Calls(transport=Meeting())
    for number in range(3):
        calls.get(f"{A}/{number}")(operator.attrgetter("status"))
    assert [outcome.value for outcome in await calls.run()] == [200, 200, 200]


async def test_an_error_is_reported_and_hides_no_other_call(caplog: pytest.LogCaptureFixture) -> None:
    reported: list[Any] = []

    class Reporting(BaseMiddleware):
        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            reported.append((type(error).__name__, route.name, route.method, route.url, config["timeout"]))

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/down":
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200)

    calls = Calls(middleware=Reporting(), transport=Upstream(respond).transport)

    @calls.get(f"{A}/down", timeout=3)
    async def down(response: Any) -> None: ...

    @calls.get(f"{A}/up")
    async def faulty(response: Any) -> None:
        raise ValueError("a handler with a fault")

    @calls.get(f"{A}/up")
    async def good(response: Any) -> str:
        return "good"

    outcomes = await calls.run()
    assert outcomes["good"].value == "good"
    assert [type(error).__name__ for error in outcomes.errors] == ["ConnectError", "ValueError"]
    assert outcomes["down"].response is None
    assert outcomes["faulty"].response is not None
    assert reported == [("ConnectError", "down", "GET", f"{A}/down", 3)]
    assert "outgoing call down failed: ConnectError" in caplog.text
    with pytest.raises(ExceptionGroup, match="2 of 3 calls failed"):
        outcomes.raise_errors()
    with pytest.raises(KeyError):
        outcomes["unknown"]
    assert outcomes[0].name == "down"
    assert len(outcomes[1:]) == 2


def test_every_method_can_be_declared() -> None:
    upstream = Upstream()
    app = FastHTTP(transport=upstream.transport, base_url=A)
    methods = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
    for method in methods:
        getattr(app, method.lower())(url=f"/{method}")(operator.attrgetter("status"))
    assert app.run().raise_errors()
    assert sorted(request.method for request in upstream.seen) == methods


async def test_what_cannot_work_is_said_when_it_is_declared() -> None:
    calls, app = Calls(transport=Upstream().transport), FastHTTP(transport=Upstream().transport)

    @calls.get(f"{A}/x", tags=["one"])
    async def call(response: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="two outgoing calls are named call"):
        calls.get(f"{A}/y")(call)
    with pytest.raises(ConfigurationError, match="no call has the tag 'two'; there are one"):
        await calls.run(tags=["two"])
    for declaring in (calls, app):
        with pytest.raises(ConfigurationError, match="list of texts"):
            declaring.get(f"{A}/y", tags="one")
    with pytest.raises(ConfigurationError, match="list of texts"):
        await calls.run(tags="one")
    with pytest.raises(ConfigurationError, match="base_url"):
        app.get("/y")(call)
    for made in (FastHTTP, Calls):
        with pytest.raises(ConfigurationError, match="mounts would pass the members by"):
            made(mounts={})
        with pytest.raises(ConfigurationError, match="verify is an option of the transport"):
            made(transport=Upstream().transport, verify=False)


def test_options_of_the_transport_reach_it() -> None:
    with pytest.raises(ValueError, match="Unknown scheme for proxy URL"):
        httpx.AsyncHTTPTransport(proxy="ftp://a.example.com")
    app = FastHTTP(proxy="ftp://a.example.com")
    app.get(f"{A}/x")(operator.attrgetter("status"))
    with pytest.raises(ValueError, match="Unknown scheme for proxy URL"):
        app.run()


async def test_a_running_event_loop_needs_calls() -> None:
    with pytest.raises(ConfigurationError, match="use Calls"):
        FastHTTP().run()
    with pytest.raises(ConfigurationError, match="list of texts"):
        FastHTTP().run(tags="one")


def test_a_given_transport_stays_open_and_the_default_one_is_closed() -> None:
    class Closing(httpx.AsyncBaseTransport):
        closed = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200)

        async def aclose(self) -> None:
            self.closed += 1

    inner = Closing()
    app = FastHTTP(transport=inner)
    app.get(f"{A}/x")(lambda response: None)
    app.run().raise_errors()
    assert inner.closed == 0


async def test_without_a_transport_real_connections_are_made() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with serve(application) as port:
        calls = Calls()

        @calls.get(f"http://127.0.0.1:{port}/")
        async def call(response: Any) -> str:
            return str(response.text)

        for _ in range(2):
            assert (await calls.run()).raise_errors()["call"].value == "ok"
