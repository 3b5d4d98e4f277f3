"""Rows F1 to F11: hook classes, order, filters and errors. The classes are the documented examples, word for word."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextvars import ContextVar
from typing import Any

import httpx
import httpx2
import pytest

from chio_core.errors import ConfigurationError
from chio_core.outbound import (
    BaseMiddleware,
    BearerAuth,
    ChioTransport,
    ErrorTracking,
    FastHTTP,
    Flow,
    Logging,
    MiddlewareChain,
    Timing,
    TraceId,
)
from tests.outbound.tools import A, B, Changing, Next, Upstream, redirect_to


class BearerAuthMiddleware(BaseMiddleware):
    __return_type__ = bool
    __priority__ = 0
    __methods__ = None
    __enabled__ = True

    def __init__(self, token: str) -> None:
        self.token = token

    async def request(self, method, url, kwargs):  # type: ignore[no-untyped-def]
        kwargs["headers"] = kwargs.get("headers") or {}
        kwargs["headers"]["Authorization"] = f"Bearer {self.token}"
        return kwargs


class LoggingMiddleware(BaseMiddleware):
    __priority__ = 99

    async def request(self, method, url, kwargs):  # type: ignore[no-untyped-def]
        print(f"→ {method} {url}")
        return kwargs

    async def response(self, response):  # type: ignore[no-untyped-def]
        print(f"← {response.status}")
        return response


class TimingMiddleware(BaseMiddleware):
    __priority__ = 0

    def __init__(self) -> None:
        self._start: ContextVar[float] = ContextVar("timing_start", default=0.0)
        self.seconds: dict[str, float] = {}

    async def request(self, method, url, kwargs):  # type: ignore[no-untyped-def]
        self._start.set(time.monotonic())
        return kwargs

    async def response(self, response):  # type: ignore[no-untyped-def]
        self.seconds[response.headers["x-name"]] = time.monotonic() - self._start.get()
        return response


class TraceMiddleware(BaseMiddleware):
    __priority__ = 0

    async def request(self, method, url, kwargs):  # type: ignore[no-untyped-def]
        kwargs["headers"] = kwargs.get("headers") or {}
        kwargs["headers"]["X-Trace-ID"] = str(uuid.uuid4())
        return kwargs


class WriteOpMiddleware(BaseMiddleware):
    __priority__ = 1
    __methods__ = ["POST", "put", "Patch", "DELETE"]  # noqa: RUF012 - as users write it

    async def request(self, method, url, kwargs):  # type: ignore[no-untyped-def]
        kwargs["headers"] = kwargs.get("headers") or {}
        kwargs["headers"]["X-Write-Op"] = "true"
        return kwargs


class ErrorTrackingMiddleware(BaseMiddleware):
    __priority__ = 0

    def __init__(self) -> None:
        self.error_count = 0
        self.reported: list[tuple[str, str, str]] = []

    async def on_error(self, error, route, config) -> None:  # type: ignore[no-untyped-def]
        self.error_count += 1
        self.reported.append((type(error).__name__, route.method, route.url))
        assert "timeout" in config


class Tracing(BaseMiddleware):
    """Records that its hooks have run."""

    def __init__(self, name: str, trace: list[str], priority: int = 0) -> None:
        self.name = name
        self.trace = trace
        self.__priority__ = priority

    async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        self.trace.append(f"{self.name}>")
        return kwargs

    async def response(self, response: Any) -> Any:
        self.trace.append(f"<{self.name}")
        return response


def refusing(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@pytest.mark.parametrize("member", [BearerAuthMiddleware("t0ken"), BearerAuth("t0ken"), BearerAuth(lambda r: "t0ken")])
async def test_f1_every_request_carries_the_bearer_token_and_keeps_its_other_headers(member: Any) -> None:
    upstream = Upstream()
    for _ in range(2):
        await upstream.fetch(member, headers={"X-Own": "1"})
    assert [request.headers["authorization"] for request in upstream.seen] == ["Bearer t0ken"] * 2
    assert all(request.headers["x-own"] == "1" and request.headers["host"] for request in upstream.seen)


async def test_f1_the_token_stays_with_the_origin_that_was_called() -> None:
    upstream = Upstream(redirect_to(f"{B}/end"))
    members = (BearerAuthMiddleware("hook"), BearerAuth("ready"))
    await upstream.fetch(*members, url=f"{A}/start", headers={"x-api-key": "k"})
    first, second = upstream.seen
    assert (first.headers["authorization"], first.headers["x-api-key"]) == ("Bearer ready", "k")
    assert {"authorization", "x-api-key"}.isdisjoint(second.headers)


async def test_f1_the_token_goes_along_when_the_same_host_redirects_to_https() -> None:
    upstream = Upstream(redirect_to("https://a.example.com/end"))
    await upstream.fetch(BearerAuth("t"), url="http://a.example.com/start")
    assert [request.headers.get("authorization") for request in upstream.seen] == ["Bearer t", "Bearer t"]


async def test_f2_the_documented_logging_class_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    await Upstream().fetch(LoggingMiddleware())
    assert capsys.readouterr().out == f"→ GET {A}/x\n← 200\n"


async def test_f2_one_line_out_one_line_back_also_on_error_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="chio")
    await Upstream().fetch(Logging(), url="https://user:pass@a.example.com/x?key=secret#part")
    with pytest.raises(httpx.ConnectError):
        await Upstream(refusing).fetch(Logging())
    assert [record.message for record in caplog.records if record.name == "chio"] == [
        f"→ GET {A}/x",
        f"← 200 GET {A}/x",
        f"→ GET {A}/x",
        f"✗ ConnectError GET {A}/x",
    ]


async def test_f2_the_lines_are_visible_where_no_logging_is_set_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    await Upstream().fetch(Logging())
    await Upstream().fetch(Logging(level=logging.DEBUG))
    assert capsys.readouterr().err == f"→ GET {A}/x\n← 200 GET {A}/x\n"
    monkeypatch.setattr(logging.getLogger("chio"), "level", logging.ERROR)
    await Upstream().fetch(Logging())
    assert capsys.readouterr().err == ""


async def test_f3_overlapping_requests_report_their_own_times() -> None:
    order: list[str] = []
    gates = {str(n): asyncio.Event() for n in range(10)}
    times: dict[str, float] = {}
    documented = TimingMiddleware()
    ready = Timing(lambda request, seconds: times.setdefault(request.url.path[1:], seconds))

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            name = request.url.path[1:]
            await gates[name].wait()
            order.append(name)
            return httpx.Response(200, headers={"x-name": name})

    async with httpx.AsyncClient(transport=ChioTransport(Slow(), documented, ready)) as client:
        calls = [asyncio.create_task(client.get(f"{A}/{name}")) for name in gates]
        for name in reversed(gates):  # the last request ends first: a mixed-up start time would show
            gates[name].set()
            assert (await calls[int(name)]).extensions["chio_seconds"] > 0
    assert order == [str(n) for n in reversed(range(10))]
    for measured in (times, documented.seconds):
        assert [measured[name] for name in order] == sorted(measured.values())


@pytest.mark.parametrize("outer", [TraceMiddleware(), TraceId()])
async def test_f4_each_request_has_another_trace_id_that_inner_members_see(outer: Any) -> None:
    upstream, seen = Upstream(), []

    async def inner(request: Any, following: Next) -> Any:
        seen.append(request.headers["x-trace-id"])
        return await following(request)

    for _ in range(3):
        await upstream.fetch(outer, inner)
    assert seen == [request.headers["x-trace-id"] for request in upstream.seen]
    assert len(set(seen)) == 3


async def test_f4_a_traceparent_is_made_or_continued() -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    upstream = Upstream()
    await upstream.fetch(TraceId())
    await upstream.fetch(TraceId(), headers={"traceparent": given})
    await upstream.fetch(TraceId(), headers={"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-00"})
    made, continued, replaced = (request.headers["traceparent"] for request in upstream.seen)
    assert (len(made), made[-3:]) == (len(given), "-01")
    assert (continued[:36], continued[-3:]) == (given[:36], "-00")
    assert continued[36:52] != given[36:52]
    assert "0" * 32 not in replaced


async def test_f5_methods_are_filtered_in_any_case() -> None:
    upstream = Upstream()
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
        await upstream.fetch(WriteOpMiddleware(), method=method)
    marked = [request.method for request in upstream.seen if "x-write-op" in request.headers]
    assert marked == ["POST", "PUT", "PATCH", "DELETE"]


@pytest.mark.parametrize("member", [BearerAuthMiddleware("t"), BearerAuth("t")])
async def test_f6_a_member_is_switched_off_and_on_while_the_client_lives(member: Any) -> None:
    upstream = Upstream()
    async with upstream.client(member) as client:
        for enabled in (True, False, True):
            member.__enabled__ = enabled
            await client.get(f"{A}/x")
    assert ["authorization" in request.headers for request in upstream.seen] == [True, False, True]


def test_f6_a_disabled_member_is_named_in_the_check() -> None:
    member = BearerAuthMiddleware("t")
    member.__enabled__ = False
    (finding,) = ChioTransport(Upstream().transport, member).check()
    assert finding.message == "BearerAuthMiddleware (0, disabled)"


async def test_f7_pipes_make_one_chain_and_keep_the_order() -> None:
    trace: list[str] = []
    a, b, c, d = (Tracing(name, trace, 10) for name in "ABCD")

    async def plain(request: Any, following: Next) -> Any:
        trace.append("plain")
        return await following(request)

    assert isinstance(a | b, MiddlewareChain)
    for chain in ((a | b | c | d), ((a | b) | (c | d)), (a | (b | c) | d)):
        trace.clear()
        await Upstream().fetch(chain)
        assert trace == ["A>", "B>", "C>", "D>", "<D", "<C", "<B", "<A"]
    trace.clear()
    await Upstream().fetch(plain | a | plain)
    assert trace == ["plain", "A>", "plain", "<A"]


def test_f8_a_single_member_a_list_and_a_chain_give_the_same_trace() -> None:
    trace: list[str] = []
    member = Tracing("A", trace)
    for middleware in (member, [member], MiddlewareChain(member)):
        app = FastHTTP(middleware=middleware, transport=Upstream().transport)
        app.get(url=f"{A}/x")(lambda response: response.status)
        assert app.run()[0].value == 200
    assert trace == ["A>", "<A"] * 3


async def test_f9_requests_run_inwards_and_responses_outwards() -> None:
    trace: list[str] = []
    network = Upstream(lambda request: trace.append("network") or httpx.Response(200))  # type: ignore[func-returns-value]
    await network.fetch([Tracing(name, trace) for name in "ABC"])
    assert trace == ["A>", "B>", "C>", "network", "<C", "<B", "<A"]


async def test_f10_lower_priority_is_outer_and_equals_keep_their_order() -> None:
    trace: list[str] = []
    members = [Tracing("last", trace, 99), Tracing("b", trace, 5), Tracing("a", trace, 5), Tracing("first", trace, -5)]
    await Upstream().fetch(members)
    assert [step for step in trace if step.endswith(">")] == ["first>", "b>", "a>", "last>"]


async def test_f10_ninety_nine_sees_the_final_request_and_the_raw_response() -> None:
    seen: list[Any] = []

    class Last(BaseMiddleware):
        __priority__ = 99

        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            seen.append(dict(kwargs["headers"])["authorization"])
            return kwargs

        async def response(self, response: Any) -> Any:
            seen.append(response.status)
            return response

    class Softening(BaseMiddleware):
        __priority__ = 1

        async def response(self, response: Any) -> Any:
            return httpx.Response(200, text=f"was {response.status}")

    response = await Upstream(lambda r: httpx.Response(404)).fetch(Last(), Softening(), BearerAuthMiddleware("t"))
    assert seen == ["Bearer t", 404]
    assert response.text == "was 404"


async def test_f11_on_error_of_every_active_member_runs_once_and_the_caller_gets_the_error() -> None:
    first, second, off = (ErrorTrackingMiddleware() for _ in range(3))
    off.__enabled__ = False
    counting = ErrorTracking()
    with pytest.raises(httpx.ConnectError):
        await Upstream(refusing).fetch(first, second, off, counting)
    assert first.reported == second.reported == [("ConnectError", "GET", f"{A}/x")]
    assert off.error_count == 0
    assert counting.error_count == 1


async def test_f11_hooks_of_inner_members_run_first_and_a_failing_one_hides_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trace: list[str] = []

    class Failing(Tracing):
        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            self.trace.append(self.name)
            raise RuntimeError("a hook with a fault")

    with pytest.raises(httpx.ConnectError):
        await Upstream(refusing).fetch(Failing("outer", trace), Failing("inner", trace))
    assert trace == ["outer>", "inner>", "inner", "outer"]
    assert "on_error of Failing failed" in caplog.text


async def test_hooks_can_change_query_body_and_timeout() -> None:
    member = Changing(0, headers={"X-New": "1"}, params={"b": "2"}, json={"n": 1}, timeout=3.0)
    upstream = Upstream()
    await upstream.fetch(member, method="POST", url=f"{A}/x?a=1", content=b"old", headers={"X-Old": "1"})
    sent = upstream.last
    assert sent.url.query == b"a=1&b=2"
    assert sent.content == b'{"n":1}'
    assert (sent.headers["content-length"], sent.headers["content-type"]) == ("7", "application/json")
    assert (sent.headers["x-new"], sent.headers["x-old"]) == ("1", "1")
    assert sent.extensions["timeout"]["read"] == 3.0


async def test_a_changed_query_keeps_the_body() -> None:
    upstream = Upstream()
    await upstream.fetch(Changing(0, params={"b": "2"}), method="POST", content=b"kept")
    assert upstream.last.content == b"kept"


async def test_a_hook_that_returns_something_else_is_named() -> None:
    class Nothing(BaseMiddleware):
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> Any:
            return None

    class NoResponse(BaseMiddleware):
        async def response(self, response: Any) -> Any:
            return None

    for member, words in (
        (Nothing(), r"Nothing\.request\(\) must return kwargs"),
        (Changing(0, cookies={}), r"Changing\.request\(\) gave 'cookies'"),
        (NoResponse(), r"NoResponse\.response\(\) must return a response"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            await Upstream().fetch(member)


async def test_a_hook_can_read_the_body_and_the_caller_still_gets_it() -> None:
    class Reading(BaseMiddleware):
        async def response(self, response: Any) -> Any:
            assert await response.aread() == b'{"path":"/x"}'
            response.headers["X-Length"] = str(len(response.content))
            return response

    response = await Upstream().fetch(Reading())
    assert response.headers["x-length"] == "13"
    assert response.json() == {"path": "/x"}


async def test_all_of_it_runs_on_httpx2_as_well() -> None:
    trace: list[str] = []
    upstream = Upstream(library=httpx2)
    transport = ChioTransport(upstream.transport, Tracing("A", trace), BearerAuth("t"), Timing(), TraceId())
    async with httpx2.AsyncClient(transport=transport) as client:
        response = await client.get(f"{A}/x")
    assert isinstance(response, httpx2.Response)
    assert trace == ["A>", "<A"]
    assert upstream.last.headers["authorization"] == "Bearer t"


async def test_the_callers_own_request_is_left_as_it_was() -> None:
    async with Upstream().client(BearerAuth("secret")) as client:
        request = client.build_request("GET", f"{A}/x")
        response = await client.send(request)
        assert "authorization" not in request.headers
        assert response.request is request


async def test_a_flow_may_respond_without_a_send_and_may_send_again() -> None:
    class Retry(Flow):
        def flow(self, request: Any) -> Any:
            try:
                return (yield request)
            except httpx.ConnectError:
                return (yield request)

    class Offline(Flow):
        def flow(self, request: Any) -> Any:
            return httpx.Response(200, text="by itself")
            yield

    responders = iter([refusing, lambda request: httpx.Response(200)])
    assert (await Upstream(lambda request: next(responders)(request)).fetch(Retry())).status_code == 200
    upstream = Upstream()
    assert (await upstream.fetch(Offline())).text == "by itself"
    assert upstream.hits == 0
    with upstream.sync_client(Offline()) as client:
        assert client.get(f"{A}/x").text == "by itself"


def test_members_of_a_wrong_shape_are_refused_with_the_remedy() -> None:
    inner = Upstream().transport

    async def alone(request: Any) -> None: ...

    def blocking(request: Any, following: Any) -> Any: ...

    for member, words in (
        (alone, "alone must take"),
        (lambda request: request, "must take"),
        (blocking, "blocking must be `async def`"),
        (BearerAuth, "BearerAuth is no member"),
        (42, "int is no member"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            ChioTransport(inner, member)
    with pytest.raises(ConfigurationError, match="needs a transport first"):
        ChioTransport(BearerAuth("t"), inner)


async def test_a_member_that_forgets_to_return_the_response_is_named() -> None:
    async def forgetful(request: Any, following: Next) -> Any:
        await following(request)

    with pytest.raises(ConfigurationError, match="forgetful returned NoneType"):
        await Upstream().fetch(forgetful)
