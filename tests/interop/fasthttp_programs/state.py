"""Programs about cookies, the cache and repetition."""

from __future__ import annotations

import asyncio
from typing import Any

from kit import Kit, annotated, behaviour

# Cookies


ONE = "/cookie/a=1;Path=%2F"


def jars(kit: Kit, **options: Any) -> Any:
    return kit.load("middleware:CookieJar")(unsafe=True, **options)


def visit(kit: Kit, jar: Any, *urls: str, **options: Any) -> list[Any]:
    """Call one URL after the other, and return the `Cookie` header of each."""
    app = kit.app(cookie_jar=jar, **options)
    for number, url in enumerate(urls):

        async def handler(resp: Any) -> None: ...

        app.get(url=url, tags=[str(number)])(annotated(handler))
    for number in range(len(urls)):
        app.run(tags=[str(number)])
    return [one["headers"].get("cookie") for one in kit.sent]


@behaviour
def cookies_are_kept_between_runs(kit: Kit) -> Any:
    """`FastHTTP(cookie_jar=CookieJar())`"""
    return visit(kit, jars(kit), kit.url(ONE), kit.url("/x"))


@behaviour
def several_cookies_at_once(kit: Kit) -> Any:
    """Two `Set-Cookie` lines, one with a date"""
    line = "/cookie/a=1;Path=%2F;Expires=Wed,%2009%20Jun%202100%2010:18:14%20GMT+b=2;Path=%2F"
    visit(kit, jars(kit), kit.url(line), kit.url("/x"))
    return sorted((kit.sent[1]["headers"].get("cookie") or "").split("; "))


@behaviour
def initial_cookies_are_sent(kit: Kit) -> Any:
    """`CookieJar({"t": "x"})`"""
    return visit(kit, jars(kit, cookies={"t": "x"}), kit.url("/x"))


@behaviour
def a_jar_can_be_read(kit: Kit) -> Any:
    """`get`, `items`, `set`, `clear`, `len`, a loop, `unsafe`"""
    jar = jars(kit, cookies={"t": "x"})
    jar.set("u", "y")
    found = [jar.get("t"), jar.get("no"), jar.get("no", "d"), jar.items(), len(jar), list(jar), dict(jar), jar.unsafe]
    jar.clear()
    return [found, jar.items(), len(jar)]


@behaviour
def cookies_are_seen_by_hooks(kit: Kit) -> Any:
    """A request hook sees the `Cookie` header of the jar"""
    found = []

    class Looking(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            found.append((kwargs.get("headers") or {}).get("Cookie"))
            return kwargs

    visit(kit, jars(kit, cookies={"t": "x"}), kit.url("/x"), middleware=[Looking()])
    return found


@behaviour
def a_session_by_itself(kit: Kit) -> Any:
    """`SessionMiddleware({"t": "x"})`, `SessionMiddleware(jar=…)`, `cookies`, `get_cookies()`, `clear()`"""
    session_type = kit.load("middleware:SessionMiddleware")
    own, given = session_type({"t": "x"}), session_type(jar=jars(kit, cookies={"u": "y"}))
    found = [dict(own.cookies), own.get_cookies(), dict(given.cookies)]
    own.clear()
    kit.seen(middleware=given)
    return [found, own.cookies, kit.sent[0]["headers"].get("cookie")]


@behaviour
def a_dummy_jar_keeps_nothing(kit: Kit) -> Any:
    """`DummyCookieJar()`"""
    jar = kit.load("middleware:DummyCookieJar")()
    jar.set("a", "1")
    return [visit(kit, jar, kit.url("/cookie/b=2"), kit.url("/x")), jar.items()]


@behaviour
def cookies_beside_a_chain(kit: Kit) -> Any:
    """`cookie_jar=` together with a chain of middleware"""
    chain = kit.hooks("a") | kit.hooks("b")
    return visit(kit, jars(kit, cookies={"t": "x"}), kit.url("/x"), middleware=chain)


@behaviour
def a_hook_removes_the_cookies(kit: Kit) -> Any:
    """A request hook removes the `Cookie` header of the jar"""

    class Removing(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs["headers"] = {name: value for name, value in kwargs["headers"].items() if name != "Cookie"}
            return kwargs

    return visit(kit, jars(kit, cookies={"t": "x"}), kit.url("/x"), middleware=[Removing()])


@behaviour
def a_cookie_of_the_configuration(kit: Kit) -> Any:
    """A `Cookie` header of the configuration beside the jar"""
    config = {"headers": {"Cookie": "own=1"}}
    return visit(kit, jars(kit, cookies={"t": "x"}), kit.url("/x"), get_request=config)


@behaviour
def a_cookie_reaches_another_host(kit: Kit) -> Any:
    """The `Cookie` header of a login, and of a call to another host"""
    return visit(kit, jars(kit), kit.url(ONE), kit.url("/x", "localhost"))


@behaviour
def a_cookie_reaches_another_path(kit: Kit) -> Any:
    """The `Cookie` header of a call that sets one with `Path=/cookie`, and of another path"""
    return visit(kit, jars(kit), kit.url("/cookie/a=1;Path=%2Fcookie"), kit.url("/x"))


@behaviour
def an_expired_cookie_is_sent(kit: Kit) -> Any:
    """The same for a cookie with `Max-Age=0`"""
    return visit(kit, jars(kit), kit.url("/cookie/a=1;Path=%2F;Max-Age=0"), kit.url("/x"))


@behaviour
def an_address_sets_a_cookie(kit: Kit) -> Any:
    """The same for a cookie of 127.0.0.1 without `unsafe=True`"""
    return visit(kit, kit.load("middleware:CookieJar")(), kit.url(ONE), kit.url("/x"))


@behaviour
def an_initial_cookie_reaches_an_address(kit: Kit) -> Any:
    """`CookieJar({"t": "x"})` and a call to 127.0.0.1 without `unsafe=True`"""
    return visit(kit, kit.load("middleware:CookieJar")({"t": "x"}), kit.url("/x"))


@behaviour
def an_initial_cookie_with_two_hosts(kit: Kit) -> Any:
    """`CookieJar({"t": "x"})` and calls to two hosts in one run"""
    app = kit.app(cookie_jar=jars(kit, cookies={"t": "x"}))
    for host in ("127.0.0.1", "localhost"):

        async def handler(resp: Any) -> None: ...

        app.get(url=kit.url("/x", host))(annotated(handler))
    app.run()
    return sorted([one["host"], one["headers"].get("cookie")] for one in kit.sent)


# The cache


def cached(kit: Kit, *calls: tuple[str, str, dict[str, Any]], middleware: Any = (), **options: Any) -> Any:
    """Make the calls one after the other with one cache; return the number of calls that the upstream got."""
    app = kit.app(middleware=[kit.load("middleware:CacheMiddleware")(**options), *middleware])
    for number, (method, path, more) in enumerate(calls):
        kit.call(app, path, method, tags=[str(number)], **more)
    for number in range(len(calls)):
        app.run(tags=[str(number)])
    return len(kit.sent)


@behaviour
def a_repeated_get_is_cached(kit: Kit) -> Any:
    """The same GET twice; the handler runs both times"""
    return [cached(kit, ("get", "/x", {}), ("get", "/x", {})), kit.trace]


@behaviour
def other_params_are_another_entry(kit: Kit) -> Any:
    """GETs with other params, and in another order"""
    one, two = {"params": {"a": "1", "b": "2"}}, {"params": {"a": "2"}}
    return cached(kit, ("get", "/x", one), ("get", "/x", two), ("get", "/x", one))


@behaviour
def a_post_is_not_cached(kit: Kit) -> Any:
    """The same POST twice; with `cache_methods=["POST"]`"""
    plain = cached(kit, ("post", "/x", {}), ("post", "/x", {}))
    kit.sent.clear()
    return [plain, cached(kit, ("post", "/x", {"json": {}}), ("post", "/x", {"json": {}}), cache_methods=["POST"])]


@behaviour
def the_least_recently_used_entry_goes(kit: Kit) -> Any:
    """`max_size=2`: a, b, a, c, a, b"""
    return cached(kit, *(("get", f"/{name}", {}) for name in "abacab"), max_size=2)


@behaviour
def an_entry_expires(kit: Kit) -> Any:
    """`ttl` of a millisecond"""

    class Waiting(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            await asyncio.sleep(0.01)
            return kwargs

    waiting = Waiting()
    waiting.__priority__ = -1
    return cached(kit, ("get", "/x", {}), ("get", "/x", {}), middleware=[waiting], ttl=0.001)


@behaviour
def a_cache_can_be_emptied(kit: Kit) -> Any:
    """`cache.clear()` and `cache.get_stats()`"""
    cache = kit.load("middleware:CacheMiddleware")(ttl=60, max_size=5)
    app = kit.app(middleware=cache)
    kit.call(app)
    app.run()
    first = cache.get_stats()
    cache.clear()
    app.run()
    return [first, cache.get_stats()["size"], len(kit.sent)]


@behaviour
def hooks_of_a_hit(kit: Kit) -> Any:
    """Hooks of another middleware for a call and its repetition from the cache"""
    cached(kit, ("get", "/x", {}), ("get", "/x", {}), middleware=[kit.hooks("a", __priority__=5)])
    return [one for one in kit.trace if isinstance(one, str)]


@behaviour
def another_caller_gets_the_entry(kit: Kit) -> Any:
    """Two callers (`Authorization`) and one cache: whose response each gets"""

    class Auth(kit.base()):  # type: ignore[misc]
        token = "alice"

        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs["headers"] = {**(kwargs.get("headers") or {}), "Authorization": self.token}
            return kwargs

    auth, found = Auth(), []
    app = kit.app(middleware=[auth, kit.load("middleware:CacheMiddleware")()])

    @app.get(url=kit.url("/user"))
    async def handler(resp: Any) -> None:
        found.append(resp.json()["caller"])

    app.run()
    auth.token = "bob"
    app.run()
    return found


def uncached(name: str, doc: str, path: str) -> None:
    def check(kit: Kit) -> Any:
        return cached(kit, ("get", path, {}), ("get", path, {}))

    check.__name__, check.__doc__ = f"cache_of_{name}", doc
    behaviour(check)


uncached("no_store", "Two GETs with a cache and `Cache-Control: no-store`: calls upstream", "/control/no-store")
uncached("private", "Two GETs with a cache and `Cache-Control: private`: calls upstream", "/control/private")
uncached("a_short_life", "Two GETs with a cache and `Cache-Control: max-age=0`: calls upstream", "/control/max-age=0")
uncached("an_error", "Two GETs with a cache and status 500: calls upstream", "/status/500")
uncached("a_cookie", "Two GETs with a cache and `Set-Cookie`: calls upstream", "/cookie/a=1")


@behaviour
def session_and_cache_as_one_chain(kit: Kit) -> Any:
    """`SessionMiddleware(jar=…) | CacheMiddleware(ttl=60)`"""
    load = kit.load
    session = load("middleware:SessionMiddleware")(jar=jars(kit, cookies={"t": "x"}))
    app = kit.app(middleware=session | load("middleware:CacheMiddleware")(ttl=60))
    kit.call(app)
    app.run()
    app.run()
    return [len(kit.sent), kit.sent[0]["headers"].get("cookie")]


# Retrying


def retried(kit: Kit, path: str, method: str = "get", **options: Any) -> Any:
    retry = kit.load("middleware:RetryMiddleware")(backoff_factor=0, **options)
    app = kit.app(middleware=[retry])
    kit.call(app, path, method)
    app.run()
    return [len(kit.sent), kit.trace]


@behaviour
def a_get_is_repeated(kit: Kit) -> Any:
    """`RetryMiddleware()`: a GET whose third attempt succeeds"""
    return retried(kit, "/flaky/3")


@behaviour
def repetitions_end(kit: Kit) -> Any:
    """`RetryMiddleware(max_retries=2)`: a GET that always fails"""
    return retried(kit, "/status/503", max_retries=2)


@behaviour
def other_statuses_are_not_repeated(kit: Kit) -> Any:
    """`RetryMiddleware(retry_on={429})` and a 503"""
    return retried(kit, "/status/503", retry_on={429})


@behaviour
def a_post_is_repeated(kit: Kit) -> Any:
    """`RetryMiddleware()`: a POST that fails; calls upstream"""
    return retried(kit, "/flaky/3", "post")[0]
