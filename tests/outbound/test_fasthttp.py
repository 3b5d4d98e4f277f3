"""FastHTTP under governance, and hooks in a `ChioTransport`; tests/interop compares the rest with the original."""

from __future__ import annotations

import logging
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core.errors import ConfigurationError
from chio_core.outbound import (
    BaseMiddleware,
    BearerAuth,
    Cache,
    CacheMiddleware,
    Calls,
    ChioTransport,
    CookieJar,
    FastHTTP,
    MiddlewareChain,
    OutboundDenied,
    Response,
    Session,
    SessionMiddleware,
    SyncChioTransport,
    fasthttp,
    receipt_of,
)
from chio_core.outbound.fasthttp.exceptions import FastHTTPBadStatusError
from chio_core.outbound.fasthttp.middleware import RetryMiddleware
from chio_core.testing import ScriptedSidecar, behaviours
from tests.outbound.test_rows_cookies import setting
from tests.outbound.tools import A, B, Changing, Upstream, governed, redirect_to

ROOT = Path(__file__).resolve().parents[2]


def app_for(upstream: Upstream, *middleware: Any, **options: Any) -> FastHTTP:
    return FastHTTP(middleware=list(middleware), transport=upstream.transport, **options)


class Noting(BaseMiddleware):
    """Keeps what its hooks are given."""

    def __init__(self) -> None:
        self.trace: list[Any] = []

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        self.trace.append(("request", url))
        return kwargs

    async def response(self, response: Any) -> Any:
        self.trace.append(("response", response.status))
        return response

    async def on_error(self, error: Exception, route: Any, config: Any) -> None:
        self.trace.append(("error", type(error).__name__, route.name))


def test_what_the_hooks_make_is_evaluated_whatever_the_order_and_leaves_a_receipt() -> None:
    for place in (0, 1):
        sidecar, upstream = ScriptedSidecar(), Upstream()
        middleware = [Changing(0, headers={"Content-Type": "text/x"}, params={"b": "2"})]
        middleware.insert(place, governed(sidecar))
        app = app_for(upstream, *middleware)
        app.post(f"{A}/x", data="1")(attrgetter("text"))
        (outcome,) = app.run()
        assert sidecar.asked[0].document["query"] == {"b": "2"}
        assert sidecar.asked[0].document["headers"]["content-type"] == "text/x"
        assert receipt_of(outcome.response).id


def test_a_denied_call_reaches_the_hooks_and_no_network() -> None:
    upstream, noting = Upstream(), Noting()
    app = app_for(upstream, noting, governed(ScriptedSidecar(behaviours.DENY)))
    app.post(f"{A}/x")(noting.trace.append)
    (outcome,) = app.run()
    assert isinstance(outcome.error, OutboundDenied)
    assert noting.trace == [("request", f"{A}/x"), ("error", "OutboundDenied", "append")]
    assert upstream.hits == 0


def test_a_hit_of_the_cache_has_a_decision_of_its_own_whatever_its_priority() -> None:
    sidecar, upstream = ScriptedSidecar(), Upstream()
    app = app_for(upstream, CacheMiddleware(), governed(sidecar))
    app.get(f"{A}/x")(attrgetter("status"))
    ids = {receipt_of(app.run()[0].response).id for _ in range(3)}
    assert (len(ids), len(sidecar.asked), upstream.hits) == (3, 3, 1)


def test_each_repetition_is_evaluated_and_a_refusal_is_not_repeated() -> None:
    busy, retry = Upstream(lambda request: httpx.Response(503)), RetryMiddleware(2, backoff_factor=0)
    for script, asked, kind in ((behaviours.ALLOW, 3, FastHTTPBadStatusError), (behaviours.DENY, 1, OutboundDenied)):
        sidecar = ScriptedSidecar(script)
        app = app_for(busy, governed(sidecar), retry)
        app.get(f"{A}/x")(attrgetter("status"))
        (outcome,) = app.run()
        assert type(outcome.error) is kind
        assert len(sidecar.asked) == asked


def test_a_pause_asked_for_is_bounded() -> None:
    retry = RetryMiddleware(max_delay=7.0)
    assert retry.pause("GET", 0, httpx.Response(503, headers={"retry-after": "900"})) == 7.0
    assert retry.pause("GET", 1, httpx.Response(503)) == 1.0
    assert retry.pause("GET", 0, httpx.ConnectError("")) == 0.5
    assert retry.pause("GET", 3, httpx.Response(503)) is None
    assert retry.pause("PATCH", 0, httpx.Response(503)) is None


def test_one_transport_serves_run_after_run() -> None:
    """Its connections belong to the loop of a run; before, every second run failed."""
    script = """
import asyncio, httpx, sys
from chio_core.outbound.fasthttp import FastHTTP
async def main(port):
    app = FastHTTP(transport=httpx.AsyncHTTPTransport())
    app.get(f"http://127.0.0.1:{port}/")(lambda response: response.status)
    return [(await asyncio.to_thread(app.run))[0].value for _ in range(4)]
async def serve(reader, writer):
    while await reader.readline():
        while (await reader.readline()) not in (b"\\r\\n", b""): pass
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    writer.close()
async def whole():
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        print(await main(server.sockets[0].getsockname()[1]))
asyncio.run(whole())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("[200, 200, 200, 200]\n"), done.stderr
    assert "ResourceWarning" not in done.stderr


def test_errors_that_run_raises_wait_for_the_other_calls() -> None:
    upstream = Upstream(lambda request: httpx.Response(404 if request.url.path == "/missing" else 200))
    app, found = app_for(upstream, raise_for_status=True), []
    app.get(f"{A}/missing")(attrgetter("status"))
    app.get(f"{A}/there")(lambda response: found.append(response.status))
    with pytest.raises(FastHTTPBadStatusError, match="HTTP 404"):
        app.run()
    assert found == [200]


def test_addresses_of_this_machine_are_refused_if_wanted() -> None:
    upstream, noting = Upstream(), Noting()
    app = app_for(upstream, noting, security=True)
    for host in ("127.0.0.1", "10.1.2.3", "[::1]", "localhost", "db.internal", "169.254.169.254", "a.example.com"):
        app.get(f"http://{host}/x")(attrgetter("status"))
    outcomes = app.run()
    assert [outcome.error is None for outcome in outcomes] == [False] * 6 + [True]
    assert upstream.hits == 1


def test_redirects_are_followed_if_wanted_and_their_cookies_are_kept() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/login":
            return httpx.Response(302, headers={"location": "/home", "set-cookie": "s=1; Path=/"})
        return httpx.Response(200, text=request.headers.get("cookie", ""))

    upstream = Upstream(respond)
    app = app_for(upstream, cookie_jar=CookieJar({"t": "x"}), follow_redirects=True)
    app.get(f"{A}/login")(attrgetter("text"))
    assert [app.run()[0].value for _ in range(2)] == ["t=x; s=1", "t=x; s=1"]
    assert upstream.seen[0].headers["cookie"] == "t=x"


def test_a_session_keeps_to_its_host_under_hooks() -> None:
    upstream = Upstream(setting("s=1; Path=/"))
    session = SessionMiddleware()
    app = app_for(upstream, session)
    for number, url in enumerate((f"{A}/login", f"{A}/x", f"{B}/x")):
        app.get(url, tags=[str(number)])(attrgetter("text"))
        app.run([str(number)])
    assert [request.headers.get("cookie") for request in upstream.seen] == [None, "s=1", None]
    assert session.get_cookies() == {"s": "1"}


def test_calls_are_printed_unless_the_application_logs() -> None:
    script = (
        "import httpx\nfrom chio_core.outbound.fasthttp import FastHTTP\n"
        "app = FastHTTP(transport=httpx.MockTransport(lambda r: httpx.Response(200, text='secret')))\n"
        "app.get('https://a.example.com/x', params={'key': 'secret'})(lambda response: response.text)\n"
        "app.run()\n"
    )
    printed = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    assert printed.startswith("GET https://a.example.com/x 200 ")
    assert "secret" not in printed
    quiet = subprocess.check_output(
        [sys.executable, "-c", f"import logging; logging.basicConfig()\n{script}"], cwd=ROOT
    )
    assert quiet == b""


def test_debug_logs_results(caplog: pytest.LogCaptureFixture) -> None:
    app = app_for(Upstream(), debug=True)
    app.get(f"{A}/x")(lambda response: "the result")
    try:
        app.run()
    finally:
        logging.getLogger("chio.fasthttp").setLevel(logging.NOTSET)
    assert "the result" in caplog.text


def test_what_is_no_middleware_is_named() -> None:
    for wrong in (5, "text", object()):
        with pytest.raises(ConfigurationError, match="no middleware"):
            FastHTTP(middleware=[wrong])


def test_the_package_gives_the_names_of_the_parent_too() -> None:
    assert fasthttp.FastHTTP is FastHTTP
    assert fasthttp.BaseMiddleware is BaseMiddleware
    assert fasthttp.status.HTTP_404_NOT_FOUND == 404
    assert fasthttp.BearerAuth is not BearerAuth  # an argument there, a member here


# Hooks in a `ChioTransport`: once for each hop


class Edited(BaseMiddleware):
    """Changes headers in the ways that a dictionary knows."""

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs["headers"] = kwargs["headers"] | {"X-New": "1"}
        kwargs["headers"].pop("X-Gone")
        kwargs["_mine"] = object()
        assert "x-kept" in kwargs["headers"]
        assert {"X-Own": "2"} | kwargs["headers"]
        return kwargs


async def test_headers_are_a_dictionary_and_what_a_hook_takes_out_is_not_sent() -> None:
    upstream = Upstream()
    await upstream.fetch(Edited(), headers={"X-Gone": "1", "X-Kept": "1"})
    assert "x-gone" not in upstream.last.headers
    assert (upstream.last.headers["x-new"], upstream.last.headers["x-kept"]) == ("1", "1")
    assert upstream.last.headers["host"] == "a.example.com"


def test_the_synchronous_transport_does_the_same() -> None:
    upstream = Upstream()
    with httpx.Client(transport=SyncChioTransport(upstream.transport, Edited())) as client:
        client.get(f"{A}/x", headers={"X-Gone": "1", "X-Kept": "1"})
    assert "x-gone" not in upstream.last.headers


async def test_replaced_headers_replace_all_but_those_of_the_library() -> None:
    class Replacing(BaseMiddleware):
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            return {"headers": {"X-Only": "1"}}

    upstream = Upstream()
    await upstream.fetch(Replacing(), method="POST", content=b"1", headers={"X-Other": "1"})
    assert "x-other" not in upstream.last.headers
    assert (upstream.last.headers["x-only"], upstream.last.headers["content-length"]) == ("1", "1")


async def test_the_response_hook_of_a_declared_call_reads_the_body() -> None:
    class Reading(BaseMiddleware):
        async def response(self, response: Any) -> Any:
            read.append(response.json()["path"])
            response.text = "changed"
            return response

    read: list[str] = []
    calls = Calls(middleware=Reading(), transport=Upstream().transport)
    calls.get(f"{A}/x")(attrgetter("text"))
    assert (await calls.run())[0].value == "changed"
    assert read == ["/x"]


async def test_a_response_hook_may_return_one_that_it_made() -> None:
    class Making(BaseMiddleware):
        async def response(self, response: Any) -> Any:
            return Response(status=203, text="made", headers={"X-Own": "1"})

    response = await Upstream().fetch(Making())
    assert (response.status_code, response.text, response.headers["x-own"]) == (203, "made", "1")


async def test_priorities_and_methods_count_as_they_are() -> None:
    first, second, upstream = Noting(), Noting(), Upstream()
    second.trace = first.trace
    order: list[Any] = []
    for one, name in ((first, "first"), (second, "second")):
        one.request = lambda method, url, kwargs, name=name: _noted(order, name, kwargs)  # type: ignore[method-assign,assignment]
    async with upstream.client(first, second) as client:
        await client.get(f"{A}/x")
        first.__priority__ = 5
        await client.get(f"{A}/x")
        second.__methods__ = ["POST"]
        await client.get(f"{A}/x")
    assert order == ["first", "second", "second", "first", "first"]


async def _noted(order: list[Any], name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    order.append(name)
    return kwargs


async def test_a_changed_priority_cannot_move_a_cache_out_of_the_decision() -> None:
    cache, upstream = Cache(), Upstream()
    async with upstream.client(governed(ScriptedSidecar()), cache) as client:
        await client.get(f"{A}/x")
        cache.__priority__ = -5
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="requires 'decision'"):
                await client.get(f"{A}/x")


async def test_an_explicit_place_in_a_chain_stays() -> None:
    one = Noting()
    chain = MiddlewareChain().add(one, priority=7, methods=["POST"])
    upstream = Upstream()
    async with upstream.client(chain) as client:
        await client.get(f"{A}/x")
        one.__priority__ = 1
        await client.get(f"{A}/x")
    assert one.trace == []


@pytest.mark.parametrize("base", [Cache, Session, CacheMiddleware, SessionMiddleware])
async def test_hooks_of_a_subclass_of_cache_and_session_run(base: type[Any]) -> None:
    class Own(base):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs = await super().request(method, url, kwargs)
            kwargs["headers"]["Authorization"] = "Bearer t"
            return kwargs

        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            errors.append(type(error).__name__)

    errors: list[str] = []
    upstream = Upstream(redirect_to("/end"))
    await upstream.fetch(Own(), url=f"{A}/start")
    assert [request.headers.get("authorization") for request in upstream.seen] == ["Bearer t", "Bearer t"]

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(httpx.ConnectError):
        await Upstream(refuse).fetch(Own())
    assert errors == ["ConnectError"]


async def test_a_client_with_its_own_transport_ignores_nothing_silently() -> None:
    with pytest.raises(ConfigurationError, match="cert is an option of the transport"):
        Calls(transport=ChioTransport(Upstream().transport), cert="x")
