"""Programs about what is sent, and about the checks of the original."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import logging
from typing import Any

from kit import Kit, annotated, behaviour

# What is sent


@behaviour
def params_of_a_call(kit: Kit) -> Any:
    """`params={"page": 2}`"""
    return kit.seen(params={"page": 2, "q": "a b"})["query"]


@behaviour
def json_of_a_call(kit: Kit) -> Any:
    """`json={"name": "ä"}`: body and content type"""
    one = kit.seen("post", json={"name": "ä", "n": [1, None]})
    return [json.loads(one["body"]), one["headers"]["content-type"]]


@behaviour
def text_as_data(kit: Kit) -> Any:
    """`data="text"` and `data=b"bytes"`"""
    return [kit.seen("post", data="text")["body"], kit.seen("put", data=b"bytes")["body"]]


@behaviour
def a_mapping_as_data(kit: Kit) -> Any:
    """`data={"a": "1"}`"""
    return kit.seen("post", data={"a": "1"})["body"]


@behaviour
def the_methods_that_there_are(kit: Kit) -> Any:
    """`get`, `post`, `put`, `patch`, `delete`, `head`, `options`"""
    return [kit.seen(name)["method"] for name in ("get", "post", "put", "patch", "delete", "head", "options")]


@behaviour
def the_user_agent(kit: Kit) -> Any:
    """The `User-Agent` of a call"""
    return kit.seen()["headers"]["user-agent"]


@behaviour
def a_redirect_is_a_response(kit: Kit) -> Any:
    """A redirect is not followed; the handler gets the 302"""
    return [kit.answer("/move/json", lambda resp: [resp.status, resp.headers["location"]]), len(kit.sent)]


def authenticated(name: str, *arguments: str) -> None:
    def check(kit: Kit) -> Any:
        auth = kit.load(f":{name}")(*arguments)
        return kit.seen(auth=auth)["headers"].get("authorization")

    check.__name__, check.__doc__ = f"auth_{name}", f"`auth={name}(…)`"
    behaviour(check)


authenticated("BasicAuth", "alice", "secret")
authenticated("BearerAuth", "token")
authenticated("DigestAuth", "alice", "secret")


@behaviour
def a_dependency_changes_the_request(kit: Kit) -> Any:
    """`dependencies=[Depends(f)]` gets route and configuration, synchronous or not"""

    def add(route: Any, config: dict[str, Any]) -> dict[str, Any]:
        kit.trace.append([route.method, route.url == kit.url()])
        config["headers"] = {**config.get("headers", {}), "X-Dep": "1"}
        return config

    async def more(route: Any, config: dict[str, Any]) -> dict[str, Any]:
        config["headers"]["X-More"] = "2"
        return config

    depends = kit.load(":Depends")
    headers = kit.seen(dependencies=[depends(add), depends(more)])["headers"]
    return [headers.get("x-dep"), headers.get("x-more"), kit.trace]


@behaviour
def a_router_is_included(kit: Kit) -> Any:
    """`Router(prefix=…, tags=…)`, nested, and `app.include_router(router, prefix=…)`"""
    router_type = kit.load(":Router")
    inner, outer = router_type(prefix="/inner", tags=["i"]), router_type(base_url=kit.url(""), prefix="/outer")

    async def handler(resp: Any) -> None: ...

    handler = annotated(handler)
    inner.get("/x", tags=["own"])(handler)
    outer.post("/y", json={"a": 1})(handler)
    outer.include_router(inner)
    app = kit.app()
    app.include_router(outer, prefix="/v1", tags=["app"])
    app.run()
    return [sorted([one["method"], one["path"]] for one in kit.sent), sorted(sorted(one.tags) for one in app.routes)]


@behaviour
def events_of_an_application(kit: Kit) -> Any:
    """`@app.on_request`, `@app.on_response`, `@app.on_error`"""
    app = kit.app()

    @app.on_request
    async def first(route: Any, config: dict[str, Any]) -> None:
        config["headers"]["X-Event"] = "1"
        kit.trace.append(["request", route.method])

    @app.on_response
    async def second(response: Any) -> None:
        kit.trace.append(["response", response.status])

    @app.on_error
    async def third(error: Exception, route: Any) -> None:
        kit.trace.append(["error", type(error).__name__, route.method])

    kit.call(app)
    app.run()
    app.routes.clear()

    @app.post(url=kit.url("/status/200"))
    async def failing(resp: Any) -> None:
        raise ValueError("a handler with a fault")

    app.run()
    return [kit.trace, kit.sent[0]["headers"].get("x-event")]


# Checks of the original


@behaviour
def signatures(kit: Kit) -> Any:
    """`X-Signature`, `X-Timestamp` and `X-Nonce` with the checks on"""
    found: list[str] = []

    class Looking(kit.base()):  # type: ignore[misc]
        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            found.extend(config["headers"])

    app = kit.load(":FastHTTP")(middleware=Looking())

    @app.get(url="http://no-such-host.invalid/")
    async def handler(resp: Any) -> None: ...

    app.run()
    return sorted(name for name in found if name.startswith("X-"))


@behaviour
def a_signature_verifies(kit: Kit) -> Any:
    """`FastHTTP(secret_key=…)`: HMAC-SHA256 of method, URL, time and body"""
    found: list[dict[str, str]] = []
    url, key = "http://no-such-host.invalid/x", b"k" * 32

    class Looking(kit.base()):  # type: ignore[misc]
        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            found.append(dict(config["headers"]))

    app = kit.load(":FastHTTP")(middleware=Looking(), secret_key=key)

    @app.post(url=url, json={"b": 1, "a": "ä"})
    async def handler(resp: Any) -> None: ...

    app.run()
    lines = "\n".join(["POST", url, found[0]["X-Timestamp"], '{"a":"ä","b":1}'])
    return [
        found[0]["X-Signature"] == hmac.new(key, lines.encode(), hashlib.sha256).hexdigest(), len(found[0]["X-Nonce"])
    ]  # fmt: skip


@behaviour
def addresses_of_this_machine(kit: Kit) -> Any:
    """A call to 127.0.0.1 with default options: calls upstream"""
    app = kit.load(":FastHTTP")()
    kit.call(app)
    app.run()
    return len(kit.sent)


@behaviour
def addresses_of_this_machine_if_asked(kit: Kit) -> Any:
    """`FastHTTP(security=True)` and calls to 127.0.0.1 and localhost: calls upstream"""
    app = kit.load(":FastHTTP")(security=True)
    kit.call(app)
    kit.call(app, "/x")
    app.routes[1].url = kit.url("/x", "localhost")
    app.run()
    return len(kit.sent)


@behaviour
def the_log(kit: Kit) -> Any:
    """A line for each call, with its status, on the standard output"""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        for name in ("fasthttp", "chio.fasthttp"):
            logging.getLogger(name).handlers.clear()
        app = kit.app()
        kit.call(app)
        app.run()
    for name in ("fasthttp", "chio.fasthttp"):
        logging.getLogger(name).handlers.clear()
    return any("GET" in line and "200" in line for line in written.getvalue().splitlines())
