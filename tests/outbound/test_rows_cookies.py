"""Rows F16 to F21: the cookie jar, and the jar and the cache together."""

from __future__ import annotations

import operator

import httpx
import pytest

from chio_core.errors import ConfigurationError
from chio_core.outbound import (
    Cache,
    CacheMiddleware,
    Calls,
    CookieJar,
    DummyCookieJar,
    FastHTTP,
    Session,
    SessionMiddleware,
)
from tests.outbound.tools import A, B, Responder, Upstream, redirect_to

LOCAL = "http://127.0.0.1:8001"


def setting(*lines: str) -> Responder:
    """Respond with these `Set-Cookie` lines at `/login`, elsewhere with the cookies of the request."""

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/login"):
            return httpx.Response(200, headers=[("set-cookie", line) for line in lines])
        return httpx.Response(200, text=request.headers.get("cookie", ""))

    return respond


async def browse(jar: CookieJar, respond: Responder, *urls: str) -> list[str | None]:
    """Fetch these URLs one after the other; return the `Cookie` header of each request."""
    upstream = Upstream(respond)
    for url in urls:
        await upstream.fetch(Session(jar), url=url)
    return [request.headers.get("cookie") for request in upstream.seen]


def test_f16_cookies_are_captured_and_sent_also_across_runs() -> None:
    upstream = Upstream(setting("session_id=s1; Path=/; HttpOnly", "lang=de; Expires=Wed, 09 Jun 2100 10:18:14 GMT"))
    jar = CookieJar()
    app = FastHTTP(cookie_jar=jar, transport=upstream.transport)

    app.get(url=f"{A}/login", tags=["auth"])(operator.attrgetter("status"))
    app.get(url=f"{A}/profile", tags=["protected"])(operator.attrgetter("text"))
    app.run(tags=["auth"])
    for _ in range(2):
        assert app.run(tags=["protected"])[0].value == "session_id=s1; lang=de"


async def test_f16_a_cookie_never_leaves_its_host_and_path() -> None:
    urls = [f"{A}/login", f"{A}/x", f"{B}/x", "https://sub.a.example.com/x", "https://example.com/x"]
    assert await browse(CookieJar(), setting("t=1; Path=/"), *urls) == [None, "t=1", None, None, None]
    urls = [f"{A}/login", f"{A}/login/more", f"{A}/other"]
    assert await browse(CookieJar(), setting("t=1; Path=/login"), *urls) == [None, "t=1", None]


async def test_f16_a_domain_cookie_reaches_the_hosts_below_and_no_other() -> None:
    urls = [f"{A}/login", "https://b.example.com/x", "https://evil-example.com/x", "https://example.org/x"]
    assert await browse(CookieJar(), setting("t=1; Domain=example.com"), *urls) == [None, "t=1", None, None]


@pytest.mark.parametrize("domain", ["com", ".com", "co.uk", "other.example", "x.a.example.com"])
async def test_f16_a_cookie_for_another_host_is_refused(domain: str) -> None:
    jar = CookieJar()
    await browse(jar, setting(f"t=1; Domain={domain}"), f"{A}/login", "https://a.co.uk/login")
    assert jar.items() == []


async def test_f16_secure_cookies_travel_over_https_only() -> None:
    plain = "http://a.example.com"
    secure = setting("t=1; Secure")
    assert await browse(CookieJar(), secure, f"{A}/login", f"{plain}/x", f"{A}/x") == [None, None, "t=1"]
    assert await browse(CookieJar(), secure, f"{plain}/login", f"{A}/x") == [None, None]


async def test_f16_a_cookie_expires_when_it_says() -> None:
    jar = CookieJar()
    await browse(jar, setting("t=1; Max-Age=0"), f"{A}/login")
    await browse(jar, setting("t=1"), f"{A}/login")
    await browse(jar, setting("t=; Expires=Wed, 09 Jun 1999 10:18:14 GMT"), f"{A}/login")
    assert jar.items() == []


async def test_f16_a_redirect_to_another_host_carries_no_cookie() -> None:
    jar = CookieJar({"t": "x"})
    sent = await browse(jar, redirect_to(f"{B}/end"), f"{A}/start")
    assert sent == ["t=x", None]


async def test_f16_a_cookie_of_the_call_itself_wins() -> None:
    upstream = Upstream()
    session = Session(CookieJar({"t": "jar", "u": "jar"}))
    await upstream.fetch(session, headers={"Cookie": "t=call; v=1"})
    assert upstream.last.headers["cookie"] == "t=call; v=1; u=jar"


async def test_f17_an_initial_cookie_is_sent_with_the_first_request_and_to_its_host_only() -> None:
    assert await browse(CookieJar({"t": "x"}), setting(), f"{A}/x", f"{B}/x", f"{A}/y") == ["t=x", None, "t=x"]
    local = CookieJar({"t": "x"}, unsafe=True)
    assert await browse(local, setting(), f"{LOCAL}/x", f"{A}/x", f"{LOCAL}/x") == ["t=x", None, "t=x"]
    local = CookieJar({"t": "x"}, unsafe=True)
    assert await browse(local, setting(), "http://[::1]:9/x", "http://[::1]:9/x") == ["t=x", "t=x"]
    assert await browse(CookieJar({"t": "x"}, domain="b.example.org"), setting(), f"{A}/x", f"{B}/x") == [None, "t=x"]
    wide = CookieJar({"t": "x"}, domain=".example.com")
    assert await browse(wide, setting(), f"{A}/x", f"{B}/x") == ["t=x", None]


def test_f17_a_cookie_that_would_break_the_header_is_refused() -> None:
    for name, value in (("a\r\nb", "x"), ("a", "x; b=1"), ("", "x"), ("a=b", "x")):
        with pytest.raises(ConfigurationError, match="Cookie header"):
            CookieJar({name: value})


async def test_f18_a_jar_can_be_looked_at_and_emptied() -> None:
    jar = CookieJar({"t": "x"})
    await browse(jar, setting("session_id=s1"), f"{A}/login")
    assert jar.get("session_id") == "s1"
    assert jar.get("t", domain="a.example.com") == "x"
    assert jar.get("t", domain="b.example.org") is None
    assert jar.get("nothing", "default") == "default"
    assert sorted(jar.items()) == [("session_id", "s1"), ("t", "x")]
    assert dict(jar) == {"session_id": "s1", "t": "x"}
    assert "t" in jar
    assert ("t", "x") in jar
    assert len(jar) == 2
    assert "s1" not in repr(jar)
    jar.clear()
    assert jar.items() == []
    assert await browse(jar, setting(), f"{A}/x") == [None]


@pytest.mark.parametrize("origin", [LOCAL, "http://localhost:8001", "http://intranet:8001", "http://[::1]:8001"])
async def test_f19_cookies_of_addresses_and_localhost_need_unsafe(origin: str) -> None:
    urls = [f"{origin}/login", f"{origin}/x", origin.replace("8001", "8002") + "/x"]
    assert await browse(CookieJar(), setting("t=1"), *urls) == [None, None, None]
    assert await browse(CookieJar(unsafe=True), setting("t=1"), *urls) == [None, "t=1", None]


async def test_f20_a_dummy_jar_stores_nothing_and_sends_nothing() -> None:
    jar = DummyCookieJar({"t": "x"})
    jar.set("u", "y", domain="a.example.com")
    assert await browse(jar, setting("t=1"), f"{A}/login", f"{A}/x") == [None, None]
    assert jar.items() == []
    calls = Calls(cookie_jar=jar, transport=Upstream(setting("t=1")).transport)
    for path in ("/login", "/x"):
        calls.get(url=A + path, tags=[path])(operator.attrgetter("text"))
        outcomes = await calls.run(tags=[path])
    assert outcomes[0].value == ""


async def test_f21_session_and_cache_work_as_one_chain() -> None:
    upstream = Upstream(setting("t=1"))
    paths = ("/x", "/x", "/login", "/login", "/x", "/x")
    async with upstream.client(SessionMiddleware() | CacheMiddleware(ttl=60)) as client:
        assert [(await client.get(A + path)).text for path in paths] == ["", "", "", "", "t=1", "t=1"]
    assert [request.url.path for request in upstream.seen] == ["/x", "/login", "/login", "/x"]


def test_all_of_this_works_for_synchronous_clients_too() -> None:
    upstream = Upstream(setting("t=1"))
    with upstream.sync_client(Session() | Cache(ttl=60)) as client:
        texts = [client.get(f"{A}{path}").text for path in ("/x", "/x", "/login", "/x", "/x")]
    assert texts == ["", "", "", "t=1", "t=1"]
    assert upstream.hits == 3
