"""Rows F12 to F15: the cache, by RFC 9111."""

from __future__ import annotations

import gzip
import time
from email.utils import formatdate
from typing import Any

import httpx
import httpx2
import pytest

from chio_core.errors import ConfigurationError
from chio_core.outbound import BearerAuth, Cache, CacheMiddleware, ChioTransport, SyncChioTransport, TraceId
from tests.outbound.tools import A, Responder, Upstream


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def fetch(upstream: Upstream, cache: Cache, *calls: dict[str, Any]) -> list[httpx.Response]:
    """Make these calls, GET /x unless they say otherwise, one after the other."""
    return [await upstream.fetch(cache, **call) for call in calls]


async def hits(respond: Responder | None, cache: Cache, *calls: dict[str, Any]) -> int:
    """Return how many of these calls reach the upstream."""
    upstream = Upstream(respond)
    await fetch(upstream, cache, *calls)
    return upstream.hits


def replying(status: int = 200, **headers: str) -> Responder:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx.Response(status, headers=lines)


def date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


async def test_f12_a_second_get_within_the_ttl_is_answered_from_memory() -> None:
    clock, upstream = Clock(), Upstream()
    cache = CacheMiddleware(ttl=60, timer=clock)
    first, second = await fetch(upstream, cache, {}, {})
    assert (first.json(), second.json(), upstream.hits) == ({"path": "/x"}, {"path": "/x"}, 1)
    assert "chio_cache" not in first.extensions
    assert second.extensions["chio_cache"] == "hit"
    clock.now = 61.0
    await fetch(upstream, cache, {})
    assert upstream.hits == 2


@pytest.mark.parametrize(
    ("headers", "fresh_at", "stale_at"),
    [
        ({"cache_control": "public, max-age=5"}, 4.9, 5),
        ({"cache_control": 'Max-Age="5"'}, 4.9, 5),
        ({"cache_control": "max-age=50, max-age=5"}, 4.9, 5),
        ({"cache_control": "max-age=50, s-maxage=5"}, 4.9, 5),
        ({"cache_control": "max-age=5, s-maxage=50"}, 4.9, 5),
        ({"cache_control": "max-age=60", "age": "55"}, 4.9, 5),
        ({"cache_control": "max-age=5", "expires": date(9000)}, 4.9, 5),
        ({"cache_control": "max-age=5", "age": "unreadable", "date": "unreadable"}, 4.9, 5),
        ({"cache_control": "max-age=9000", "date": date(-4000)}, 1, 5000),
        ({"cache_control": "max-age=9000", "date": time.asctime(time.gmtime(time.time() - 4000))}, 1, 5000),
        ({"date": date(-4000), "expires": date(5000)}, 1, 5000),
        ({"expires": date(5000)}, 1, 5000),
    ],
)
async def test_f12_a_response_is_fresh_no_longer_than_it_says(
    headers: dict[str, str], fresh_at: float, stale_at: float
) -> None:
    clock, upstream = Clock(), Upstream(replying(**headers))
    cache = Cache(ttl=36_000, timer=clock)
    for clock.now, expected in ((0, 1), (fresh_at, 1), (stale_at, 2)):
        await fetch(upstream, cache, {})
        assert upstream.hits == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"expires": "0"},
        {"expires": date(-1)},
        {"cache_control": "max-age=x"},
        {"cache_control": "max-age=60", "age": "60"},
        {"cache_control": "max-age=60", "date": date(-60)},
    ],
)
async def test_f12_a_response_that_arrives_stale_is_not_stored(headers: dict[str, str]) -> None:
    cache = Cache()
    assert await hits(replying(**headers), cache, {}, {}) == 2
    assert len(cache) == 0


async def test_f12_a_stored_response_states_its_age() -> None:
    clock, upstream = Clock(), Upstream(replying(age="10"))
    cache = Cache(timer=clock)
    await fetch(upstream, cache, {})
    clock.now = 3.5
    assert (await fetch(upstream, cache, {}))[0].headers.get_list("age") == ["13"]


async def test_f13_the_least_recently_used_response_is_dropped_first() -> None:
    upstream, cache = Upstream(), Cache(ttl=60, max_size=2)
    await fetch(upstream, cache, *({"url": f"{A}/{name}"} for name in "abac"))
    assert [request.url.path for request in upstream.seen] == ["/a", "/b", "/c"]
    await fetch(upstream, cache, {"url": f"{A}/a"})
    assert upstream.hits == 3
    await fetch(upstream, cache, {"url": f"{A}/b"})
    assert upstream.hits == 4
    assert len(cache) == 2
    cache.clear()
    assert len(cache) == 0


async def test_f14_only_get_is_cached_unless_other_methods_are_named() -> None:
    post = {"method": "POST", "content": b"1"}
    assert await hits(None, Cache(), post, post) == 2
    assert await hits(None, Cache(cache_methods=["post"]), post, post, post | {"content": b"2"}, post) == 2
    assert await hits(None, Cache(cache_methods=["post"]), {}, {}) == 2


@pytest.mark.parametrize("name", ["Authorization", "X-Chio-Capability", "Cookie", "X-Api-Key", "X-Tenant", "Host"])
async def test_f15_two_identities_never_share_a_response(name: str) -> None:
    alice, bob = {"headers": {name: "a=alice"}}, {"headers": {name: "a=bob"}}
    upstream = Upstream(lambda request: httpx.Response(200, text=request.headers[name]))
    responses = await fetch(upstream, Cache(), alice, bob, alice, bob)
    assert [response.text for response in responses] == ["a=alice", "a=bob"] * 2
    assert upstream.hits == 2


@pytest.mark.parametrize("priority", [0, 20])
async def test_f15_credentials_that_a_member_adds_identify_a_caller_wherever_it_runs(priority: int) -> None:
    upstream = Upstream(lambda request: httpx.Response(200, text=request.headers["authorization"]))
    user = {"token": "alice"}
    auth = BearerAuth(lambda request: user["token"])
    auth.__priority__ = priority
    cache = Cache()
    texts = []
    for user["token"] in ("alice", "bob", "alice"):
        texts.append((await upstream.fetch(auth, cache)).text)
    assert texts == ["Bearer alice", "Bearer bob", "Bearer alice"]


@pytest.mark.parametrize(
    "headers",
    [
        {"cache_control": "no-store"},
        {"cache_control": "max-age=60, Private"},
        {"cache_control": 'private="x"'},
        {"cache_control": "no-cache"},
        {"cache_control": "max-age=0"},
        {"set_cookie": "session=1"},
        {"vary": "*"},
        {"vary": "Accept, *"},
    ],
)
async def test_f15_a_response_that_must_not_be_stored_is_not(headers: dict[str, str]) -> None:
    assert await hits(replying(**headers), Cache(), {}, {}) == 2


@pytest.mark.parametrize("status", [206, 302, 304, 400, 401, 403, 404, 429, 500, 503])
async def test_f15_errors_and_partial_responses_are_not_stored(status: int) -> None:
    assert await hits(replying(status), Cache(), {}, {}) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"cache-control": "no-store"},
        {"cache-control": "no-cache"},
        {"cache-control": "max-age=0"},
        {"cache-control": "max-age=4"},
        {"cache-control": "min-fresh=58"},
        {"pragma": "no-cache"},
        {"range": "bytes=1-"},
        {"if-none-match": '"v1"'},
        {"if-modified-since": date(-60)},
    ],
)
async def test_f15_a_caller_who_wants_a_fresh_response_gets_one(headers: dict[str, str]) -> None:
    clock, upstream = Clock(), Upstream(replying(cache_control="max-age=60"))
    cache = Cache(timer=clock)
    await fetch(upstream, cache, {})
    clock.now = 5.0
    await fetch(upstream, cache, {"headers": {"cache-control": "max-age=10, min-fresh=50", "pragma": "no-cache"}})
    assert upstream.hits == 1
    await fetch(upstream, cache, {"headers": headers})
    assert upstream.hits == 2


@pytest.mark.parametrize("header", [{"if-none-match": '"v1"'}, {"if-match": "*"}, {"if-range": '"v1"'}])
async def test_f15_only_the_upstream_evaluates_a_precondition(header: dict[str, str]) -> None:
    assert await hits(None, Cache(), {"headers": header}, {"headers": header}) == 2


@pytest.mark.parametrize(
    ("name", "one", "two"), [("User-Agent", {"user-agent": "1"}, {"user-agent": "2"}), ("Baggage", {}, {"baggage": ""})]
)
async def test_f15_vary_is_respected(name: str, one: dict[str, str], two: dict[str, str]) -> None:
    upstream = Upstream(lambda request: httpx.Response(200, headers={"vary": name}, text=repr(request.headers)))
    first, again, other = await fetch(upstream, Cache(), {"headers": one}, {"headers": one}, {"headers": two})
    assert first.text == again.text != other.text
    assert upstream.hits == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_f15_a_method_that_changes_something_drops_what_is_stored_for_its_url(method: str) -> None:
    alice, bob = {"headers": {"x-user": "alice"}}, {"headers": {"x-user": "bob"}}
    other = {"url": f"{A}/x?page=2"}
    change = {"method": method, "url": "https://A.example.com:443/x#fragment", **bob}
    assert await hits(None, Cache(), alice, bob, other, change, other, alice, bob) == 6
    for status, expected in ((204, 3), (303, 3), (404, 2), (500, 2)):

        def respond(request: httpx.Request, status: int = status) -> httpx.Response:
            return httpx.Response(200 if request.method == "GET" else status)

        assert await hits(respond, Cache(), {}, {"method": method}, {}) == expected
    assert await hits(None, Cache(), {}, {"method": "OPTIONS"}, {"method": "HEAD"}, {}) == 3


async def test_f15_a_newer_response_replaces_the_stored_one_even_if_it_cannot_be_stored() -> None:
    fresh = {"headers": {"cache-control": "no-cache"}}
    for second, expected in ((replying(cache_control="no-store"), 3), (replying(404), 3), (replying(503), 2)):
        responders = iter([replying(), second, replying()])
        assert await hits(lambda request: next(responders)(request), Cache(), {}, fresh, {}) == expected  # noqa: B023


async def test_f15_headers_of_one_connection_are_not_stored() -> None:
    respond = replying(connection="close, X-Hop", x_hop="1", x_kept="1", keep_alive="timeout=5", upgrade="h2c")
    stored = (await fetch(Upstream(respond), Cache(), {}, {}))[1].headers
    assert sorted(stored) == ["age", "x-kept"]


async def test_the_trace_of_a_request_does_not_spoil_the_cache() -> None:
    upstream, cache = Upstream(), Cache()
    for _ in range(2):
        await upstream.fetch(TraceId(), cache)
    assert upstream.hits == 1


class Streaming(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Sends a compressed response piece by piece, as a network does."""

    def __init__(self, library: Any, text: bytes) -> None:
        self.hits = 0
        self._library = library
        body = gzip.compress(text)
        self._pieces = [body[start : start + 7] for start in range(0, len(body), 7)]

    def handle_request(self, request: Any) -> Any:
        self.hits += 1
        return self._library.Response(200, headers={"content-encoding": "gzip"}, content=iter(self._pieces))

    async def handle_async_request(self, request: Any) -> Any:
        self.hits += 1

        async def pieces() -> Any:
            for piece in self._pieces:
                yield piece

        return self._library.Response(200, headers={"content-encoding": "gzip"}, content=pieces())


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_streamed_and_compressed_responses_are_stored_as_they_are_read(library: Any) -> None:
    text = "a text " * 50
    inner = Streaming(library, text.encode())
    async with library.AsyncClient(transport=ChioTransport(inner, Cache())) as client:
        assert [(await client.get(f"{A}/x")).text for _ in range(3)] == [text] * 3
    with library.Client(transport=SyncChioTransport(inner, Cache())) as client:
        assert [client.get(f"{A}/x").text for _ in range(3)] == [text] * 3
    assert inner.hits == 2


async def test_a_response_that_is_too_long_or_not_read_to_its_end_is_not_stored() -> None:
    inner = Streaming(httpx, bytes(range(256)) * 40)
    async with httpx.AsyncClient(transport=ChioTransport(inner, Cache(max_body=100))) as client:
        for _ in range(2):
            assert len((await client.get(f"{A}/x")).content) == 256 * 40
    async with httpx.AsyncClient(transport=ChioTransport(inner, Cache())) as client:
        for _ in range(2):
            async with client.stream("GET", f"{A}/x") as response:
                await anext(response.aiter_raw())
    assert inner.hits == 4


def test_a_cache_without_room_is_refused() -> None:
    for options in ({"ttl": 0}, {"max_size": 0}, {"cache_methods": "GET"}):
        with pytest.raises(ConfigurationError, match="Cache"):
            Cache(**options)
