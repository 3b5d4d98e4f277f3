"""Rows F12 to F21: the cache and the cookie jar."""

from __future__ import annotations

import gzip
from typing import Any

import httpx
import httpx2
import pytest

from chio_core.errors import ConfigurationError
from chio_core.outbound import (
    BearerAuth,
    Cache,
    CacheMiddleware,
    CookieJar,
    DummyCookieJar,
    FastHTTP,
    Session,
    SessionMiddleware,
    SyncChioTransport,
    TraceId,
)
from tests.outbound.tools import A, Answer, B, Upstream, redirect_to, run

LOCAL = "http://127.0.0.1:8001"


def setting(*lines: str, status: int = 200) -> Answer:
    """Answer with these `Set-Cookie` lines at `/login`, and with the cookies that came otherwise."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/login"):
            return httpx.Response(status, headers=[("set-cookie", line) for line in lines])
        return httpx.Response(200, text=request.headers.get("cookie", ""))

    return answer


def browse(jar: CookieJar, answer: Answer, *urls: str, **options: Any) -> list[str | None]:
    """Fetch these URLs one after the other; return the `Cookie` header of each."""
    upstream = Upstream(answer)

    async def main() -> None:
        async with upstream.client(Session(jar), **options) as client:
            for url in urls:
                await client.get(url)

    run(main())
    return [request.headers.get("cookie") for request in upstream.seen]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def fetch_all(upstream: Upstream, cache: Any, *calls: dict[str, Any]) -> list[httpx.Response]:
    async with upstream.client(cache) as client:
        return [await client.request(**{"method": "GET", "url": f"{A}/x", **call}) for call in calls]


def hits(answer: Answer | None, cache: Cache, *calls: dict[str, Any]) -> int:
    upstream = Upstream(answer)
    run(fetch_all(upstream, cache, *calls))
    return upstream.hits


def test_f12_a_second_get_within_the_ttl_is_answered_from_memory() -> None:
    clock, upstream = Clock(), Upstream()
    cache = CacheMiddleware(ttl=60, timer=clock)
    first, second = run(fetch_all(upstream, cache, {}, {}))
    assert (first.json(), second.json(), upstream.hits) == ({"path": "/x"}, {"path": "/x"}, 1)
    assert "chio_cache" not in first.extensions
    assert second.extensions["chio_cache"] == "hit"
    clock.now = 61.0
    run(fetch_all(upstream, cache, {}))
    assert upstream.hits == 2


def test_f12_an_answer_is_kept_no_longer_than_it_says() -> None:
    clock = Clock()
    cache = Cache(ttl=3600, timer=clock)
    upstream = Upstream(lambda r: httpx.Response(200, headers={"cache-control": "public, max-age=5"}))
    run(fetch_all(upstream, cache, {}, {}))
    assert upstream.hits == 1
    clock.now = 5.0
    run(fetch_all(upstream, cache, {}))
    assert upstream.hits == 2


def test_f13_the_answer_that_was_not_used_for_longest_goes_first() -> None:
    upstream, cache = Upstream(), Cache(ttl=60, max_size=2)
    run(fetch_all(upstream, cache, *({"url": f"{A}/{name}"} for name in "abac")))
    assert [request.url.path for request in upstream.seen] == ["/a", "/b", "/c"]
    run(fetch_all(upstream, cache, {"url": f"{A}/a"}))
    assert upstream.hits == 3
    run(fetch_all(upstream, cache, {"url": f"{A}/b"}))
    assert upstream.hits == 4
    assert len(cache) == 2
    cache.clear()
    assert len(cache) == 0


def test_f14_only_get_is_cached_unless_other_methods_are_named() -> None:
    post = {"method": "POST", "content": b"1"}
    assert hits(None, Cache(ttl=60), post, post) == 2
    assert hits(None, Cache(ttl=60, cache_methods=["post"]), post, post, post | {"content": b"2"}) == 2
    assert hits(None, Cache(ttl=60, cache_methods=["post"]), {}, {}) == 2


@pytest.mark.parametrize("name", ["Authorization", "X-Chio-Capability", "Cookie", "X-Api-Key", "X-Tenant"])
def test_f15_two_identities_never_share_an_answer(name: str) -> None:
    alice, bob = {"headers": {name: "a=alice"}}, {"headers": {name: "a=bob"}}
    upstream = Upstream(lambda request: httpx.Response(200, text=request.headers[name]))
    answers = run(fetch_all(upstream, Cache(ttl=60), alice, bob, alice, bob))
    assert [answer.text for answer in answers] == ["a=alice", "a=bob"] * 2
    assert upstream.hits == 2


@pytest.mark.parametrize("priority", [0, 20])
def test_f15_credentials_that_a_member_adds_are_told_apart_wherever_it_stands(priority: int) -> None:
    upstream = Upstream(lambda request: httpx.Response(200, text=request.headers["authorization"]))
    user = {"token": "alice"}
    auth = BearerAuth(lambda request: user["token"])
    auth.__priority__ = priority
    cache = Cache(ttl=60)
    texts = []
    for user["token"] in ("alice", "bob", "alice"):
        texts.append(run(upstream.fetch(auth, cache)).text)
    assert texts == ["Bearer alice", "Bearer bob", "Bearer alice"]


@pytest.mark.parametrize(
    "headers",
    [
        {"cache-control": "no-store"},
        {"cache-control": "max-age=60, Private"},
        {"cache-control": 'private="x"'},
        {"cache-control": "no-cache"},
        {"cache-control": "max-age=0"},
        {"set-cookie": "session=1"},
        {"vary": "*"},
        {"vary": "Accept, *"},
    ],
)
def test_f15_what_must_not_be_stored_is_not(headers: dict[str, str]) -> None:
    assert hits(lambda r: httpx.Response(200, headers=headers), Cache(ttl=60), {}, {}) == 2


@pytest.mark.parametrize("status", [206, 302, 400, 401, 403, 404, 429, 500, 503])
def test_f15_errors_and_partial_answers_are_not_stored(status: int) -> None:
    assert hits(lambda r: httpx.Response(status), Cache(ttl=60), {}, {}) == 2


@pytest.mark.parametrize(
    "headers", [{"cache-control": "no-store"}, {"cache-control": "no-cache"}, {"range": "bytes=1-"}]
)
def test_f15_a_caller_who_wants_a_fresh_answer_gets_one(headers: dict[str, str]) -> None:
    assert hits(None, Cache(ttl=60), {}, {"headers": headers}) == 2


def test_f15_vary_is_respected() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"vary": "User-Agent"}, text=request.headers["user-agent"])

    one, two = {"headers": {"user-agent": "one"}}, {"headers": {"user-agent": "two"}}
    upstream = Upstream(answer)
    assert [r.text for r in run(fetch_all(upstream, Cache(ttl=60), one, one, two))] == ["one", "one", "two"]
    assert upstream.hits == 2


def test_the_trace_of_a_request_does_not_spoil_the_cache() -> None:
    upstream = Upstream()

    async def main() -> None:
        async with upstream.client(TraceId(), Cache(ttl=60)) as client:
            await client.get(f"{A}/x")
            await client.get(f"{A}/x")

    run(main())
    assert upstream.hits == 1


class Streaming(httpx.AsyncBaseTransport):
    """Sends a compressed answer piece by piece, as a network does."""

    def __init__(self, library: Any, text: bytes) -> None:
        self.hits = 0
        self._library = library
        self._body = gzip.compress(text)

    async def handle_async_request(self, request: Any) -> Any:
        self.hits += 1

        async def pieces() -> Any:
            for start in range(0, len(self._body), 7):
                yield self._body[start : start + 7]

        return self._library.Response(200, headers={"content-encoding": "gzip"}, content=pieces())


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_streamed_and_compressed_answers_are_kept_as_they_are_read(library: Any) -> None:
    inner, text = Streaming(library, b"a text " * 50), "a text " * 50

    async def main() -> list[str]:
        from chio_core.outbound import ChioTransport

        async with library.AsyncClient(transport=ChioTransport(inner, Cache(ttl=60))) as client:
            return [(await client.get(f"{A}/x")).text for _ in range(3)]

    assert run(main()) == [text] * 3
    assert inner.hits == 1


def test_an_answer_that_is_too_long_or_not_read_to_its_end_is_not_kept() -> None:
    from chio_core.outbound import ChioTransport

    inner = Streaming(httpx, bytes(range(256)) * 40)

    async def main() -> None:
        transport = ChioTransport(inner, Cache(ttl=60, max_body=100))
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(2):
                assert len((await client.get(f"{A}/x")).content) == 256 * 40
        transport = ChioTransport(inner, Cache(ttl=60))
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(2):
                async with client.stream("GET", f"{A}/x") as response:
                    await anext(response.aiter_raw())

    run(main())
    assert inner.hits == 4


def test_a_cache_without_room_is_refused() -> None:
    for options in ({"ttl": 0}, {"max_size": 0}, {"cache_methods": "GET"}):
        with pytest.raises(ConfigurationError, match="Cache"):
            Cache(**options)


def test_f16_cookies_are_captured_and_sent_also_across_runs() -> None:
    upstream = Upstream(setting("session_id=s1; Path=/; HttpOnly", "lang=de; Expires=Wed, 09 Jun 2100 10:18:14 GMT"))
    jar = CookieJar()
    app = FastHTTP(cookie_jar=jar, transport=upstream.transport)

    @app.get(url=f"{A}/login", tags=["auth"])
    async def login(response: Any) -> None: ...

    @app.get(url=f"{A}/profile", tags=["protected"])
    async def profile(response: Any) -> str:
        return str(response.text)

    app.run(tags=["auth"])
    assert app.run(tags=["protected"])["profile"].value == "session_id=s1; lang=de"
    assert app.run(tags=["protected"])["profile"].value == "session_id=s1; lang=de"


def test_f16_a_cookie_never_leaves_its_host_and_path() -> None:
    urls = [f"{A}/login", f"{A}/x", f"{B}/x", "https://sub.a.example.com/x", "https://example.com/x"]
    assert browse(CookieJar(), setting("t=1; Path=/"), *urls) == [None, "t=1", None, None, None]
    urls = [f"{A}/login", f"{A}/login/more", f"{A}/other"]
    assert browse(CookieJar(), setting("t=1; Path=/login"), *urls) == [None, "t=1", None]


def test_f16_a_domain_cookie_reaches_the_hosts_below_and_nobody_else() -> None:
    urls = [f"{A}/login", "https://b.example.com/x", "https://evil-example.com/x", "https://example.org/x"]
    assert browse(CookieJar(), setting("t=1; Domain=example.com"), *urls) == [None, "t=1", None, None]


@pytest.mark.parametrize("domain", ["com", ".com", "co.uk", "other.example", "x.a.example.com"])
def test_f16_a_cookie_for_somebody_else_is_refused(domain: str) -> None:
    jar = CookieJar()
    browse(jar, setting(f"t=1; Domain={domain}"), f"{A}/login", "https://a.co.uk/login")
    assert jar.items() == []


def test_f16_secure_cookies_travel_over_https_only() -> None:
    plain = "http://a.example.com"
    assert browse(CookieJar(), setting("t=1; Secure"), f"{A}/login", f"{plain}/x", f"{A}/x") == [None, None, "t=1"]
    assert browse(CookieJar(), setting("t=1; Secure"), f"{plain}/login", f"{A}/x") == [None, None]


def test_f16_a_cookie_ends_when_it_says() -> None:
    jar = CookieJar()
    browse(jar, setting("t=1; Max-Age=0"), f"{A}/login")
    browse(jar, setting("t=1"), f"{A}/login")
    browse(jar, setting("t=; Expires=Wed, 09 Jun 1999 10:18:14 GMT"), f"{A}/login")
    assert jar.items() == []


def test_f16_a_redirect_to_another_host_carries_no_cookie() -> None:
    jar = CookieJar({"t": "x"})
    sent = browse(jar, redirect_to(f"{B}/end"), f"{A}/start", follow_redirects=True)
    assert sent == ["t=x", None]


def test_f16_a_cookie_of_the_call_itself_wins() -> None:
    upstream = Upstream()
    session = Session(CookieJar({"t": "jar", "u": "jar"}))
    run(upstream.fetch(session, headers={"Cookie": "t=call; v=1"}))
    assert upstream.last.headers["cookie"] == "t=call; v=1; u=jar"


def test_f17_a_cookie_to_begin_with_is_sent_with_the_first_request_and_to_its_host_only() -> None:
    assert browse(CookieJar({"t": "x"}), setting(), f"{A}/x", f"{B}/x", f"{A}/y") == ["t=x", None, "t=x"]
    assert browse(CookieJar({"t": "x"}), setting(), f"{LOCAL}/x") == ["t=x"]
    assert browse(CookieJar({"t": "x"}), setting(), "http://[::1]:9/x", "http://[::1]:9/x") == ["t=x", "t=x"]
    assert browse(CookieJar({"t": "x"}, domain="b.example.org"), setting(), f"{A}/x", f"{B}/x") == [None, "t=x"]
    wide = CookieJar({"t": "x"}, domain=".example.com")
    assert browse(wide, setting(), f"{A}/x", f"{B}/x") == ["t=x", None]


def test_f17_a_cookie_that_would_break_the_header_is_refused() -> None:
    for name, value in (("a\r\nb", "x"), ("a", "x; b=1"), ("", "x"), ("a=b", "x")):
        with pytest.raises(ConfigurationError, match="Cookie header"):
            CookieJar({name: value})


def test_f18_a_jar_can_be_looked_at_and_emptied() -> None:
    jar = CookieJar({"t": "x"})
    browse(jar, setting("session_id=s1"), f"{A}/login")
    assert jar.get("session_id") == "s1"
    assert jar.get("t", domain="a.example.com") == "x"
    assert jar.get("t", domain="b.example.org") is None
    assert jar.get("nothing", "default") == "default"
    assert sorted(jar.items()) == [("session_id", "s1"), ("t", "x")]
    assert sorted(jar) == ["session_id", "t"]
    assert "t" in jar
    assert len(jar) == 2
    assert "s1" not in repr(jar)
    jar.clear()
    assert jar.items() == []
    assert browse(jar, setting(), f"{A}/x") == [None]


@pytest.mark.parametrize("origin", [LOCAL, "http://localhost:8001", "http://intranet:8001", "http://[::1]:8001"])
def test_f19_cookies_of_addresses_and_localhost_need_unsafe(origin: str) -> None:
    urls = [f"{origin}/login", f"{origin}/x", origin.replace("8001", "8002") + "/x"]
    assert browse(CookieJar(), setting("t=1"), *urls) == [None, None, None]
    assert browse(CookieJar(unsafe=True), setting("t=1"), *urls) == [None, "t=1", None]


def test_f20_a_dummy_jar_stores_nothing_and_sends_nothing() -> None:
    jar = DummyCookieJar({"t": "x"})
    jar.set("u", "y", domain="a.example.com")
    assert browse(jar, setting("t=1"), f"{A}/login", f"{A}/x") == [None, None]
    assert jar.items() == []
    app = FastHTTP(cookie_jar=jar, transport=Upstream(setting("t=1")).transport)

    @app.get(url=f"{A}/login", tags=["a"])
    async def login(response: Any) -> None: ...

    @app.get(url=f"{A}/x", tags=["b"])
    async def other(response: Any) -> str:
        return str(response.text)

    app.run(tags=["a"])
    assert app.run(tags=["b"])["other"].value == ""


def test_f21_session_and_cache_work_as_one_chain() -> None:
    upstream = Upstream(setting("t=1"))
    chain = SessionMiddleware() | CacheMiddleware(ttl=60)

    async def main() -> list[str]:
        async with upstream.client(chain) as client:
            return [(await client.get(f"{A}{path}")).text for path in ("/x", "/x", "/login", "/login", "/x", "/x")]

    assert run(main()) == ["", "", "", "", "t=1", "t=1"]
    assert [request.url.path for request in upstream.seen] == ["/x", "/login", "/login", "/x"]


def test_all_of_this_works_for_synchronous_clients_too() -> None:
    upstream = Upstream(setting("t=1"))
    with upstream.sync_client(Session() | Cache(ttl=60)) as client:
        texts = [client.get(f"{A}{path}").text for path in ("/x", "/x", "/login", "/x", "/x")]
    assert texts == ["", "", "", "t=1", "t=1"]
    assert upstream.hits == 3


def test_synchronous_streams_are_kept_as_they_are_read() -> None:
    class Pieces(httpx.BaseTransport):
        hits = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.hits += 1
            return httpx.Response(200, content=iter([b"a", b"b"]))

    inner = Pieces()
    with httpx.Client(transport=SyncChioTransport(inner, Cache(ttl=60))) as client:
        assert [client.get(f"{A}/x").text for _ in range(2)] == ["ab", "ab"]
    assert inner.hits == 1
