"""Programs about imports, defaults, the application and its declared calls."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

from kit import Kit, annotated, behaviour

# Where names are imported from


def importable(module: str, *names: str) -> None:
    def check(kit: Kit) -> Any:
        loaded = kit.load(module)
        return {name: hasattr(loaded, name) for name in names}

    check.__name__ = f"imports_of_{module or 'package'}"
    check.__doc__ = f"`from fasthttp{'.' + module if module else ''} import {', '.join(names)}`"
    behaviour(check)


importable("", "FastHTTP", "BaseMiddleware", "MiddlewareChain", "CacheMiddleware", "SessionMiddleware", "CookieJar",
           "DummyCookieJar", "MiddlewareManager", "Depends", "EventHooks", "Router", "status",
           "BasicAuth", "BearerAuth", "DigestAuth", "RetryMiddleware")  # fmt: skip
importable("middleware", "BaseMiddleware", "MiddlewareChain", "MiddlewareManager", "CacheMiddleware",
           "SessionMiddleware", "CookieJar", "DummyCookieJar", "RetryMiddleware")  # fmt: skip
importable("response", "Response")
importable("routing", "Route", "Router")
importable("exceptions", "FastHTTPError", "FastHTTPBadStatusError", "FastHTTPConnectionError", "FastHTTPTimeoutError",
           "FastHTTPRequestError")  # fmt: skip
importable("auth", "BasicAuth", "BearerAuth", "DigestAuth")
importable("app", "FastHTTP")
importable("dependencies", "Depends")
importable("events", "EventHooks")


@behaviour
def imports_that_are_not_there(kit: Kit) -> Any:
    """`OAuth2ClientCredentials`, `AsyncSession`, `WebSocket`, `app.graphql`, `app.ws`, `app.web_run`"""
    package, app = kit.load(""), kit.app()
    found = {name: hasattr(package, name) for name in ("OAuth2ClientCredentials", "AsyncSession", "WebSocket")}
    return {**found, **{name: hasattr(app, name) for name in ("graphql", "ws", "web_run")}}


# Defaults


@behaviour
def defaults_of_a_hook_class(kit: Kit) -> Any:
    """The attributes of a middleware that states none"""
    one = type("Plain", (kit.base(),), {})()
    return [one.__priority__, one.__methods__, one.__enabled__, one.__return_type__]


@behaviour
def defaults_of_the_cache(kit: Kit) -> Any:
    """`CacheMiddleware()`: priority, ttl, max_size, methods, statistics"""
    cache = kit.load("middleware:CacheMiddleware")()
    return [cache.__priority__, cache.ttl, cache.max_size, cache.cache_methods, cache.get_stats()]


@behaviour
def defaults_of_the_session(kit: Kit) -> Any:
    """`SessionMiddleware()`: priority, cookies"""
    session = kit.load("middleware:SessionMiddleware")()
    return [session.__priority__, session.cookies, session.get_cookies()]


@behaviour
def defaults_of_the_retry(kit: Kit) -> Any:
    """`RetryMiddleware()`: priority and limits"""
    retry = kit.load("middleware:RetryMiddleware")()
    return [retry.__priority__, retry.max_retries, sorted(retry.retry_on), retry.backoff_factor, retry.max_delay]


@behaviour
def defaults_of_the_application(kit: Kit) -> Any:
    """Attributes of `FastHTTP()`"""
    app = kit.app()
    names = ("base_url", "concurrency", "cookie_jar", "docs_base_url", "http2_enabled", "lifespan", "proxy", "title")
    found = {name: getattr(app, name) for name in names}
    return {
        **found,
        "routes": app.routes,
        "version": app.version,
        "raise": app.raise_for_status,
        "id": app.startup_uuid,
    }


@behaviour
def repr_of_the_parts(kit: Kit) -> Any:
    """`repr()` of a middleware, a chain, a jar, a session and a response"""
    load, plain = kit.load, type("Plain", (kit.base(),), {})
    jar = load("middleware:CookieJar")({"a": "secret"})
    return [
        repr(plain()), repr(plain() | plain()), repr(jar), repr(load("middleware:SessionMiddleware")(jar=jar)),
        repr(kit.response()(404, "no", {})), repr(load("middleware:DummyCookieJar")()),
    ]  # fmt: skip


# The application


def accepted(name: str, value: Any, why: str) -> None:
    def check(kit: Kit) -> Any:
        app = kit.app(**{name: value})
        kit.call(app)
        app.run()
        return [kit.trace, len(kit.sent)]

    check.__name__ = f"option_{name}"
    check.__doc__ = f"`FastHTTP({name}={value!r})`: {why}"
    behaviour(check)


accepted("debug", True, "more is logged")
accepted("security", False, "no checks")
accepted("title", "My API", "of the documentation pages")
accepted("version", "2", "of the documentation pages")
accepted("description", "…", "of the documentation pages")
accepted("docs_base_url", "/api", "of the documentation pages")
accepted("secret_key", b"k" * 32, "for signatures")
accepted("concurrency", 1, "calls at a time")
accepted("generate_startup_uuid", True, "an id for each request")
accepted("http2", False, "HTTP/2")
accepted("raise_for_status", True, "errors are raised")
accepted("middleware", None, "none")
accepted("cookie_jar", None, "none")
accepted("proxy", None, "none")


@behaviour
def an_unknown_option(kit: Kit) -> Any:
    """An option that does not exist is an error at once"""
    kit.app(no_such_option=1)


@behaviour
def concurrency_is_a_limit(kit: Kit) -> Any:
    """`concurrency=1`: handlers do not overlap"""
    app, running, most = kit.app(concurrency=1), [], []

    async def handler(resp: Any) -> None:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(0)
        running.pop()

    for _ in range(4):
        app.get(url=kit.url())(annotated(handler))
    app.run()
    return max(most)


@behaviour
def calls_of_one_run_overlap(kit: Kit) -> Any:
    """Without a limit all calls of one run are made at the same time"""
    app, running, most = kit.app(), [], []
    barrier = asyncio.Event()

    async def handler(resp: Any) -> None:
        running.append(1)
        most.append(len(running))
        if len(running) == 3:
            barrier.set()
        async with asyncio.timeout(20):
            await barrier.wait()

    for _ in range(3):
        app.get(url=kit.url())(annotated(handler))
    app.run()
    return max(most)


@behaviour
def the_startup_id_is_sent(kit: Kit) -> Any:
    """`generate_startup_uuid=True`: `X-Request-ID` is `app.startup_uuid`"""
    app = kit.app(generate_startup_uuid=True)
    kit.call(app)
    app.run()
    return kit.sent[0]["headers"]["x-request-id"] == app.startup_uuid


@behaviour
def request_configs_are_for_a_method(kit: Kit) -> Any:
    """`get_request={"headers": …}` is for GET only"""
    app = kit.app(get_request={"headers": {"X-Get": "1"}}, post_request={"headers": {"X-Post": "1"}, "timeout": 5.0})
    kit.call(app)
    kit.call(app, method="post")
    app.run()
    found = {one["method"]: sorted(name for name in one["headers"] if name[:2] == "x-") for one in kit.sent}
    return [found, sorted(app.request_configs)]


@behaviour
def a_lifespan_surrounds_the_run(kit: Kit) -> Any:
    """`lifespan=` runs before and after the calls, with the application"""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> Any:
        kit.trace.append("start")
        app.token = "t"
        yield
        kit.trace.append(f"end {app.token}")

    app = kit.app(lifespan=lifespan)
    kit.call(app)
    app.run()
    return kit.trace


@behaviour
def run_takes_tags_by_position(kit: Kit) -> Any:
    """`app.run(["a"])`"""
    app = kit.app()
    kit.call(app, "/one", tags=["a"])
    kit.call(app, "/two", tags=["b"])
    app.run(["a"])
    return [one["path"] for one in kit.sent]


@behaviour
def run_with_several_tags(kit: Kit) -> Any:
    """`app.run(tags=["a", "b"])` runs what has either; an empty list runs all"""
    app = kit.app()
    for path, tags in (("/1", ["a"]), ("/2", ["b", "c"]), ("/3", ["c"]), ("/4", None)):
        kit.call(app, path, tags=tags)
    app.run(tags=["a", "b"])
    first = sorted(one["path"] for one in kit.sent)
    app.run(tags=[])
    return [first, len(kit.sent)]


@behaviour
def run_with_an_unknown_tag(kit: Kit) -> Any:
    """`app.run(tags=["unknown"])` makes no call"""
    app = kit.app()
    kit.call(app, tags=["a"])
    app.run(tags=["unknown"])
    return len(kit.sent)


@behaviour
def run_without_calls(kit: Kit) -> Any:
    """`app.run()` of an application without calls"""
    kit.app().run()
    return "done"


@behaviour
def run_returns(kit: Kit) -> Any:
    """What `app.run()` returns"""
    app = kit.app()
    kit.call(app)
    return type(app.run()).__name__


@behaviour
def run_again_and_again(kit: Kit) -> Any:
    """Three runs in a row"""
    app = kit.app()
    kit.call(app)
    for _ in range(3):
        app.run()
    return kit.trace


@behaviour
def run_inside_of_a_loop(kit: Kit) -> Any:
    """`app.run()` in a coroutine"""
    app = kit.app()
    kit.call(app)

    async def main() -> None:
        app.run()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            asyncio.run(main())
        except (RuntimeError, ValueError):
            return "an error"


# Declaring calls


@behaviour
def the_decorator_returns_the_function(kit: Kit) -> Any:
    """`@app.get` leaves the function as it is"""
    app = kit.app()

    async def handler(resp: Any) -> None: ...

    handler = annotated(handler)
    return app.get(url=kit.url())(handler) is handler


@behaviour
def the_url_by_position(kit: Kit) -> Any:
    """`@app.get(url)`"""
    app = kit.app()

    async def handler(resp: Any) -> None: ...

    app.get(kit.url())(annotated(handler))
    app.run()
    return len(kit.sent)


@behaviour
def two_handlers_of_one_name(kit: Kit) -> Any:
    """Two calls whose handlers have the same name"""
    app = kit.app()
    kit.call(app, "/one")
    kit.call(app, "/two")
    app.run()
    return sorted(one["path"] for one in kit.sent)


@behaviour
def one_handler_for_two_calls(kit: Kit) -> Any:
    """Two decorators on one function"""
    app = kit.app()

    async def handler(resp: Any) -> None:
        kit.trace.append(resp.status)

    app.get(kit.url("/one"))(app.post(kit.url("/two"))(annotated(handler)))
    app.run()
    return kit.trace


@behaviour
def routes_are_listed(kit: Kit) -> Any:
    """`app.routes`: method, URL, params, json, data, tags, handler of each"""
    app = kit.app(base_url="https://api.example.com/v1/")
    kit.call(app, params={"a": 1}, tags=["t"])
    kit.call(app, method="post", json={"b": 2})
    found = [[one.method, one.params, one.json, one.data, one.tags, one.handler.__name__] for one in app.routes]
    return [found, app.routes[0].url == kit.url()]


@behaviour
def urls_without_a_scheme(kit: Kit) -> Any:
    """`api.example.com/x`, with spaces, relative with and without `base_url`"""
    found = []
    for base, url in (
        (None, "api.example.com/x"), (None, "  http://api.example.com/x "), ("https://api.example.com", "/users"),
        ("https://api.example.com/v1/", "users"), ("api.example.com", "/users"),
        ("https://api.example.com", "http://other.example.com/x"),
    ):  # fmt: skip
        app = kit.app(base_url=base)

        async def handler(resp: Any) -> None: ...

        app.get(url)(annotated(handler))
        found.append(app.routes[0].url)
    return found


@behaviour
def a_scheme_in_capitals(kit: Kit) -> Any:
    """`@app.get("HTTPS://api.example.com/x")`"""
    app = kit.app()

    async def handler(resp: Any) -> None: ...

    app.get("HTTPS://api.example.com/x")(annotated(handler))
    return app.routes[0].url


@behaviour
def a_handler_without_annotations(kit: Kit) -> Any:
    """A handler whose parameter or result has no annotation"""
    app = kit.app()
    app.get(kit.url())(lambda resp: None)
    return "accepted"


@behaviour
def a_handler_that_is_no_coroutine(kit: Kit) -> Any:
    """`def handler(resp: Response) -> dict`"""
    app = kit.app()

    def handler(resp: Any) -> dict[str, Any]:
        return {}

    app = kit.app(middleware=kit.hooks("a"))
    app.get(kit.url())(annotated(handler))
    app.run()
    return "an error" if "!a" in kit.trace else "its result"


@behaviour
def a_get_with_a_body(kit: Kit) -> Any:
    """`@app.get(url, json=…)`"""
    kit.app().get(kit.url(), json={"a": 1})
    return "accepted"
