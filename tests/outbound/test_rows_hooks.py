"""Rows F1 to F11: hook classes, order, filters and errors. The classes are the documented examples, word for word."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
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
from tests.outbound.tools import A, B, Upstream, redirect_to, run


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
        self.told: list[tuple[str, str, str]] = []

    async def on_error(self, error, route, config) -> None:  # type: ignore[no-untyped-def]
        self.error_count += 1
        self.told.append((type(error).__name__, route.method, route.url))
        assert "timeout" in config


class Tracing(BaseMiddleware):
    """Notes when it is passed."""

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
    async with upstream.client(member) as client:
        for _ in range(2):
            await client.get(f"{A}/x", headers={"X-Own": "1"})
    assert [request.headers["authorization"] for request in upstream.seen] == ["Bearer t0ken"] * 2
    assert all(request.headers["x-own"] == "1" and request.headers["host"] for request in upstream.seen)


async def test_f1_the_token_stays_with_the_origin_that_was_called() -> None:
    upstream = Upstream(redirect_to(f"{B}/end"))
    members = (BearerAuthMiddleware("hook"), BearerAuth("ready"))
    async with upstream.client(*members, follow_redirects=True) as client:
        await client.get(f"{A}/start", headers={"x-api-key": "k"})
    first, second = upstream.seen
    assert first.headers["authorization"] == "Bearer ready"
    assert first.headers["x-api-key"] == "k"
    assert "authorization" not in second.headers
    assert "x-api-key" not in second.headers


async def test_f1_the_token_goes_along_when_the_same_host_redirects_to_https() -> None:
    upstream = Upstream(redirect_to("https://a.example.com/end"))
    async with upstream.client(BearerAuth("t"), follow_redirects=True) as client:
        await client.get("http://a.example.com/start")
    assert [request.headers.get("authorization") for request in upstream.seen] == ["Bearer t", "Bearer t"]


def test_f2_the_documented_logging_class_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    run(Upstream().fetch(LoggingMiddleware()))
    assert capsys.readouterr().out == f"→ GET {A}/x\n← 200\n"


def test_f2_one_line_out_one_line_back_also_on_error_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="chio")
    run(Upstream().fetch(Logging(), url="https://user:pass@a.example.com/x?key=secret#part"))
    with pytest.raises(httpx.ConnectError):
        run(Upstream(refusing).fetch(Logging()))
    assert [record.message for record in caplog.records if record.name == "chio"] == [
        f"→ GET {A}/x",
        f"← 200 GET {A}/x",
        f"→ GET {A}/x",
        f"✗ ConnectError GET {A}/x",
    ]


def test_f3_overlapping_requests_report_their_own_times() -> None:
    order: list[str] = []
    gates = {str(n): asyncio.Event() for n in range(10)}
    times: dict[str, float] = {}
    documented = TimingMiddleware()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            name = request.url.path[1:]
            await gates[name].wait()
            order.append(name)
            return httpx.Response(200, headers={"x-name": name})

    async def main() -> None:
        ready = Timing(lambda request, seconds: times.setdefault(request.url.path[1:], seconds))
        async with httpx.AsyncClient(transport=ChioTransport(Slow(), documented, ready)) as client:
            calls = [asyncio.create_task(client.get(f"{A}/{name}")) for name in gates]
            for name in reversed(gates):  # last in, first out: nobody has the time of another
                gates[name].set()
                assert (await calls[int(name)]).extensions["chio_seconds"] > 0

    run(main())
    assert order == [str(n) for n in reversed(range(10))]
    for measured in (times, documented.seconds):
        assert [measured[name] for name in order] == sorted(measured.values())


def test_f4_each_request_has_another_trace_id_that_inner_members_see() -> None:
    seen: list[str] = []

    async def inner(request: Any, following: Callable[[Any], Awaitable[Any]]) -> Any:
        seen.append(request.headers["x-trace-id"])
        return await following(request)

    for outer in (TraceMiddleware(), TraceId()):
        upstream = Upstream()
        for _ in range(3):
            run(upstream.fetch(outer, inner))
        ids = [request.headers["x-trace-id"] for request in upstream.seen]
        assert len(set(ids)) == 3
        assert ids == seen[-3:]


def test_f4_a_traceparent_is_made_or_continued() -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    upstream = Upstream()
    run(upstream.fetch(TraceId()))
    run(upstream.fetch(TraceId(), headers={"traceparent": given}))
    run(upstream.fetch(TraceId(), headers={"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-00"}))
    made, continued, replaced = (request.headers["traceparent"] for request in upstream.seen)
    assert len(made) == len(given)
    assert made.endswith("-01")
    assert continued[:36] == given[:36]
    assert continued[36:52] != given[36:52]
    assert continued.endswith("-00")
    assert "0" * 32 not in replaced


def test_f5_methods_are_filtered_in_any_case() -> None:
    upstream = Upstream()
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
        run(upstream.fetch(WriteOpMiddleware(), method=method))
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


def test_f7_pipes_make_one_chain_and_keep_the_order() -> None:
    trace: list[str] = []
    a, b, c, d = (Tracing(name, trace) for name in "ABCD")
    assert isinstance(a | b, MiddlewareChain)
    for chain in ((a | b | c | d), ((a | b) | (c | d)), (a | (b | c) | d)):
        trace.clear()
        run(Upstream().fetch(chain))
        assert trace == ["A>", "B>", "C>", "D>", "<D", "<C", "<B", "<A"]


def test_f7_functions_can_be_piped_too() -> None:
    trace: list[str] = []

    async def plain(request: Any, following: Callable[[Any], Awaitable[Any]]) -> Any:
        trace.append("plain")
        return await following(request)

    run(Upstream().fetch(plain | Tracing("A", trace, 10) | plain))
    assert trace == ["plain", "A>", "plain", "<A"]


def test_f8_a_single_member_a_list_and_a_chain_give_the_same_trace() -> None:
    traces = []
    for wrap in (lambda one: one, lambda one: [one], lambda one: MiddlewareChain(one)):
        trace: list[str] = []
        app = FastHTTP(middleware=wrap(Tracing("A", trace)), transport=Upstream().transport)

        @app.get(url=f"{A}/x")
        async def call(response: Any) -> int:
            return int(response.status)

        assert app.run()["call"].value == 200
        traces.append(trace)
    assert traces == [["A>", "<A"]] * 3


def test_f9_requests_run_inwards_and_responses_outwards() -> None:
    trace: list[str] = []

    def network(request: httpx.Request) -> httpx.Response:
        trace.append("network")
        return httpx.Response(200)

    run(Upstream(network).fetch([Tracing(name, trace) for name in "ABC"]))
    assert trace == ["A>", "B>", "C>", "network", "<C", "<B", "<A"]


def test_f10_lower_priority_is_further_out_and_equals_keep_their_order() -> None:
    trace: list[str] = []
    members = [Tracing("last", trace, 99), Tracing("b", trace, 5), Tracing("a", trace, 5), Tracing("first", trace, -5)]
    run(Upstream().fetch(members))
    assert [step for step in trace if step.endswith(">")] == ["first>", "b>", "a>", "last>"]


def test_f10_ninety_nine_sees_the_final_request_and_the_raw_response() -> None:
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

    response = run(Upstream(lambda r: httpx.Response(404)).fetch(Last(), Softening(), BearerAuthMiddleware("t")))
    assert seen == ["Bearer t", 404]
    assert response.text == "was 404"


def test_f11_every_active_member_is_told_of_an_error_once_and_the_caller_gets_it() -> None:
    first, second, off = ErrorTrackingMiddleware(), ErrorTrackingMiddleware(), ErrorTrackingMiddleware()
    off.__enabled__ = False
    counting = ErrorTracking()
    with pytest.raises(httpx.ConnectError):
        run(Upstream(refusing).fetch(first, second, off, counting))
    assert first.told == second.told == [("ConnectError", "GET", f"{A}/x")]
    assert off.error_count == 0
    assert counting.error_count == 1


def test_f11_inner_members_are_told_first_and_a_failing_hook_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    class Telling(BaseMiddleware):
        def __init__(self, name: str) -> None:
            self.name = name

        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            told.append(self.name)
            raise RuntimeError("a hook with a fault")

    with pytest.raises(httpx.ConnectError):
        run(Upstream(refusing).fetch(Telling("outer"), Telling("inner")))
    assert told == ["inner", "outer"]
    assert "on_error of Telling failed" in caplog.text


def test_hooks_can_change_query_body_and_timeout() -> None:
    class Changing(BaseMiddleware):
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            return {"headers": {"X-New": "1"}, "params": {"b": "2"}, "json": {"n": 1}, "timeout": 3.0}

    upstream = Upstream()
    run(upstream.fetch(Changing(), method="POST", url=f"{A}/x?a=1", content=b"old", headers={"X-Old": "1"}))
    sent = upstream.last
    assert sent.url.query == b"a=1&b=2"
    assert sent.content == b'{"n":1}'
    assert (sent.headers["content-length"], sent.headers["content-type"]) == ("7", "application/json")
    assert (sent.headers["x-new"], sent.headers["x-old"]) == ("1", "1")
    assert sent.extensions["timeout"]["read"] == 3.0


def test_a_changed_query_keeps_the_body() -> None:
    class Changing(BaseMiddleware):
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs["params"] = {"b": "2"}
            return kwargs

    upstream = Upstream()
    run(upstream.fetch(Changing(), method="POST", content=b"kept"))
    assert upstream.last.content == b"kept"


@pytest.mark.parametrize("returned", [None, {"cookies": {}}])
def test_a_hook_that_returns_something_else_is_named(returned: Any) -> None:
    class Faulty(BaseMiddleware):
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> Any:
            return returned

    with pytest.raises(ConfigurationError, match=r"Faulty\.request\(\)"):
        run(Upstream().fetch(Faulty()))


def test_a_response_hook_must_return_a_response() -> None:
    class Faulty(BaseMiddleware):
        async def response(self, response: Any) -> Any:
            return None

    with pytest.raises(ConfigurationError, match=r"Faulty\.response\(\) must return a response"):
        run(Upstream().fetch(Faulty()))


def test_a_hook_can_read_the_body_and_the_caller_still_gets_it() -> None:
    class Reading(BaseMiddleware):
        async def response(self, response: Any) -> Any:
            assert await response.aread() == b'{"path":"/x"}'
            response.headers["X-Length"] = str(len(response.content))
            return response

    response = run(Upstream().fetch(Reading()))
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


def test_a_flow_may_answer_by_itself_and_may_send_again() -> None:
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

    answers = iter([httpx.ConnectError("once"), httpx.Response(200)])

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    assert run(Upstream(answer).fetch(Retry())).status_code == 200
    upstream = Upstream()
    assert run(upstream.fetch(Offline())).text == "by itself"
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


def test_a_member_that_forgets_to_return_the_response_is_named() -> None:
    async def forgetful(request: Any, following: Callable[[Any], Awaitable[Any]]) -> Any:
        await following(request)

    with pytest.raises(ConfigurationError, match="forgetful returned NoneType"):
        run(Upstream().fetch(forgetful))
