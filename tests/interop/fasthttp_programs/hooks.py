"""Programs about middleware."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from kit import Kit, behaviour

# Hooks


@behaviour
def order_of_hooks(kit: Kit) -> Any:
    """Request hooks by priority, response hooks the other way round, then the handler"""
    app = kit.app(middleware=[kit.hooks("c", __priority__=5), kit.hooks("a", __priority__=-1), kit.hooks("b")])
    kit.call(app)
    app.run()
    return kit.trace


@behaviour
def forms_of_middleware(kit: Kit) -> Any:
    """One, a list, a chain by `|`, `MiddlewareChain([…])`"""
    chain = kit.load("middleware:MiddlewareChain")
    for form in (
        kit.hooks("a"), [kit.hooks("a")], kit.hooks("a") | kit.hooks("b"), chain([kit.hooks("a"), kit.hooks("b")])
    ):  # fmt: skip
        app = kit.app(middleware=form)
        kit.call(app)
        app.run()
    return kit.trace


@behaviour
def a_chain_is_a_sequence(kit: Kit) -> Any:
    """`len(chain)` and a loop over a chain, which its parts do not see"""
    one, two, three = kit.hooks("a"), kit.hooks("b"), kit.hooks("c")
    pair = one | two
    more = pair | three
    return [len(pair), len(more), list(more) == [one, two, three]]


@behaviour
def what_a_request_hook_is_given(kit: Kit) -> Any:
    """`request(method, url, kwargs)`: method, URL without the params, members of kwargs"""
    found = []

    class Looking(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            found.append(
                [method, url == kit.url(), kwargs["params"], kwargs.get("timeout"), isinstance(kwargs["headers"], dict)]
            )
            found.append(sorted(name for name in kwargs["headers"] if name != "User-Agent"))
            return kwargs

    app = kit.app(middleware=Looking(), get_request={"headers": {"X-A": "1"}, "timeout": 4.0})
    kit.call(app, params={"p": "1"})
    app.run()
    return found


def changing(
    name: str, doc: str, change: Callable[[dict[str, Any]], Any], read: Callable[[dict[str, Any]], Any]
) -> None:
    def check(kit: Kit) -> Any:
        class Change(kit.base()):  # type: ignore[misc]
            async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
                return change(kwargs) or kwargs

        app = kit.app(
            middleware=Change(), get_request={"headers": {"X-A": "1"}}, post_request={"headers": {"X-A": "1"}}
        )
        kit.call(app, params={"p": "1"})
        app.run()
        return read(kit.sent[0])

    check.__name__, check.__doc__ = f"hook_{name}", doc
    behaviour(check)


def named(one: dict[str, Any]) -> list[str]:
    return sorted(f"{name}={value}" for name, value in one["headers"].items() if name[:2] in ("x-", "au"))


changing("adds_a_header", "A hook adds a header as the pages show", _add := lambda kwargs: kwargs.update(
    headers={**(kwargs.get("headers") or {}), "Authorization": "Bearer t"}), named)  # fmt: skip
changing("sets_in_place", 'A hook writes `kwargs["headers"]["X-B"] = "2"`',
         lambda kwargs: kwargs["headers"].__setitem__("X-B", "2"), named)  # fmt: skip
changing("joins_headers", 'A hook writes `kwargs["headers"] = kwargs["headers"] | {…}`',
         lambda kwargs: kwargs.update(headers=kwargs["headers"] | {"X-B": "2"}), named)  # fmt: skip
changing("takes_a_header_out", 'A hook removes a header: `kwargs["headers"].pop("X-A")`',
         lambda kwargs: kwargs["headers"].pop("X-A") and None, named)  # fmt: skip
changing("replaces_headers", "A hook replaces all headers",
         lambda kwargs: kwargs.update(headers={"X-B": "2"}), named)  # fmt: skip
changing("clears_headers", "A hook replaces the headers by None", lambda kwargs: kwargs.update(headers=None), named)
changing("changes_params", 'A hook adds to `kwargs["params"]`',
         lambda kwargs: kwargs.update(params={**kwargs["params"], "q": "2"}), lambda one: one["query"])  # fmt: skip
changing("removes_params", 'A hook replaces `kwargs["params"]`',
         lambda kwargs: kwargs.update(params={"q": "2"}), lambda one: one["query"])  # fmt: skip
changing("keeps_private_arguments", "A hook leaves a member of its own in kwargs",
         lambda kwargs: kwargs.update(_mine=object()), named)  # fmt: skip
changing("sets_the_timeout", 'A hook writes `kwargs["timeout"] = 9.0`',
         lambda kwargs: kwargs.update(timeout=9.0), named)  # fmt: skip
changing("returns_new_kwargs", "A hook returns another dictionary",
         lambda kwargs: {"headers": {"X-C": "3"}}, lambda one: [named(one), one["query"]])  # fmt: skip


@behaviour
def hook_changes_the_body(kit: Kit) -> Any:
    """A hook writes `kwargs["json"] = …`"""

    class Change(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs["json"] = {"changed": True}
            return kwargs

    return kit.seen("post", Change(), json={"changed": False})["body"].replace(" ", "")


@behaviour
def private_arguments_reach_later_hooks(kit: Kit) -> Any:
    """What a hook leaves in kwargs is there for the next one"""

    class Leaving(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kit.trace.append(kwargs.get("_mine"))
            kwargs["_mine"] = "left"
            return kwargs

    kit.seen(middleware=[Leaving(), Leaving()])
    return kit.trace


@behaviour
def a_failing_request_hook(kit: Kit) -> Any:
    """A request hook that raises: `run` raises it, nothing is sent"""

    class Failing(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            raise KeyError("a hook with a fault")

    try:
        kit.seen(middleware=Failing())
    except KeyError:
        return ["raised", len(kit.sent)]
    except IndexError:
        return ["not raised", len(kit.sent)]


def responding(name: str, doc: str, hook: Callable[[Kit, Any], Any], path: str = "/user/7") -> None:
    def check(kit: Kit) -> Any:
        found = []

        class Reading(kit.base()):  # type: ignore[misc]
            async def response(self, response: Any) -> Any:
                changed = hook(kit, response)
                return response if changed is None else changed

        app = kit.app(middleware=Reading())

        @app.get(url=kit.url(path))
        async def handler(resp: Any) -> None:
            found.append([resp.status, resp.text, resp.headers.get("x-own")])

        app.run()
        return [found, kit.trace]

    check.__name__, check.__doc__ = f"response_hook_{name}", doc
    behaviour(check)


responding(
    "reads_json", "A response hook reads `response.json()`", lambda kit, one: kit.trace.append(one.json()["name"])
)
responding("reads_text", "A response hook reads `response.text`", lambda kit, one: kit.trace.append(len(one.text)))
responding("assigns_text", 'A response hook writes `response.text = "…"`', lambda kit, one: setattr(one, "text", "new"))
responding(
    "assigns_status", "A response hook writes `response.status = 202`", lambda kit, one: setattr(one, "status", 202)
)
responding("adds_a_header", 'A response hook writes `response.headers["x-own"] = "1"`',
           lambda kit, one: one.headers.__setitem__("x-own", "1"))  # fmt: skip
responding("returns_another", "A response hook returns `Response(status=…, text=…, headers=…)`",
           lambda kit, one: kit.response()(status=203, text="other", headers={"x-own": "2"}))  # fmt: skip
responding("fails", "A response hook raises", lambda kit, one: {}["missing"])


@behaviour
def response_hook_returns_none(kit: Kit) -> Any:
    """A response hook forgets to return the response"""

    class Forgetting(kit.base()):  # type: ignore[misc]
        async def response(self, response: Any) -> Any:
            return None

    app = kit.app(middleware=[Forgetting(), kit.hooks("outer", __priority__=-1)])
    kit.call(app)
    app.run()
    return kit.trace


@behaviour
def response_hooks_run_for_errors(kit: Kit) -> Any:
    """A 404: response hooks, then `on_error`, no handler"""
    app = kit.app(middleware=[kit.hooks("a"), kit.hooks("b")])
    kit.call(app, "/status/404")
    app.run()
    return kit.trace


def erring(name: str, doc: str, path: str, **options: Any) -> None:
    def check(kit: Kit) -> Any:
        found = []

        class Looking(kit.base()):  # type: ignore[misc]
            async def on_error(self, error: Exception, route: Any, config: Any) -> None:
                found.append(
                    [
                        type(error).__name__,
                        getattr(error, "status_code", None),
                        route.method,
                        route.url == kit.url(path),
                    ]
                )
                found.append(sorted(set(config) - {"timeout"}))

        app = kit.app(middleware=Looking(), **options)
        kit.call(app, path)
        app.run()
        return [found, kit.trace]

    check.__name__, check.__doc__ = f"on_error_of_{name}", doc
    behaviour(check)


erring("401", "`on_error` is called for a 401, and no handler", "/status/401")
erring("404", "`on_error` is called for a 404, and no handler", "/status/404")
erring("500", "`on_error` is called for a 500, and no handler", "/status/500")
erring("302", "`on_error` is not called for a redirect", "/move/json")


@behaviour
def on_error_of_a_handler(kit: Kit) -> Any:
    """`on_error` is called for a handler that raises"""
    app = kit.app(middleware=[kit.hooks("a"), kit.hooks("b", __priority__=-1)])

    @app.get(url=kit.url())
    async def handler(resp: Any) -> None:
        raise ValueError("a handler with a fault")

    app.run()
    return kit.trace


@behaviour
def on_error_of_a_closed_port(kit: Kit) -> Any:
    """`on_error` is called for a refused connection, on every middleware in the order of priorities"""
    found = []

    class Looking(kit.base()):  # type: ignore[misc]
        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            found.append([type(error).__name__, route.method])

    app = kit.app(middleware=[kit.hooks("b", __priority__=2), Looking(), kit.hooks("a", __priority__=-2)])

    @app.get(url="http://127.0.0.1:1/")
    async def handler(resp: Any) -> None:
        kit.trace.append("handler")

    app.run()
    return [found, kit.trace]


@behaviour
def on_error_that_fails(kit: Kit) -> Any:
    """An `on_error` that raises"""

    class Failing(kit.base()):  # type: ignore[misc]
        __priority__ = -1

        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            raise RuntimeError("a hook with a fault")

    app = kit.app(middleware=[Failing(), kit.hooks("later")])
    kit.call(app, "/status/500")
    with contextlib.suppress(RuntimeError):
        app.run()
    return kit.trace


@behaviour
def the_body_of_an_error(kit: Kit) -> Any:
    """Status, URL, method and message of the error of a 404"""
    found = []

    class Looking(kit.base()):  # type: ignore[misc]
        async def on_error(self, error: Any, route: Any, config: Any) -> None:
            found.append(
                [error.status_code, error.url == kit.url("/status/404"), error.method, error.message, error.details]
            )
            found.append(isinstance(error, kit.load("exceptions:FastHTTPError")))

    app = kit.app(middleware=Looking())
    kit.call(app, "/status/404")
    app.run()
    return found


@behaviour
def one_failure_does_not_stop_the_others(kit: Kit) -> Any:
    """A 500 beside two calls that succeed"""
    app = kit.app()
    for path in ("/one", "/status/500", "/two"):
        kit.call(app, path)
    app.run()
    return [len(kit.sent), sorted(kit.trace)]


def raising(name: str, doc: str, where: str) -> None:
    def check(kit: Kit) -> Any:
        error = kit.load("exceptions:FastHTTPBadStatusError")
        app = kit.app(**({"raise_for_status": True} if where == "app" else {}))
        kit.call(app, "/status/404", **({"raise_for_status": True} if where == "call" else {}))
        try:
            app.run()
        except error as exc:
            return exc.status_code
        return "not raised"

    check.__name__, check.__doc__ = f"raise_for_status_of_{name}", doc
    behaviour(check)


raising("an_application", "`FastHTTP(raise_for_status=True)`: `run` raises `FastHTTPBadStatusError`", "app")
raising("a_call", "`@app.get(…, raise_for_status=True)`: the same", "call")


@behaviour
def hooks_set_on_the_class_later(kit: Kit) -> Any:
    """`Middleware.request = …` after the class statement"""

    class Late(kit.base()):  # type: ignore[misc]
        pass

    async def request(self: Any, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs["headers"] = {**(kwargs.get("headers") or {}), "X-Late": "1"}
        return kwargs

    Late.request = request
    return kit.seen(middleware=Late())["headers"].get("x-late")


@behaviour
def hooks_set_on_the_instance_later(kit: Kit) -> Any:
    """`middleware.request = …` and `middleware.response = …` after it was given"""
    one = kit.base()()
    app = kit.app(middleware=one)
    kit.call(app)

    async def request(method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        kit.trace.append("request")
        return kwargs

    async def response(response: Any) -> Any:
        kit.trace.append("response")
        return response

    one.request, one.response = request, response
    app.run()
    return kit.trace


def subclassed(name: str) -> None:
    def check(kit: Kit) -> Any:
        trace = kit.trace

        class Own(kit.load(f"middleware:{name}")):  # type: ignore[misc]
            async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
                kwargs = await super().request(method, url, kwargs)
                kwargs["headers"] = {**(kwargs.get("headers") or {}), "Authorization": "Bearer t"}
                return kwargs

            async def response(self, response: Any) -> Any:
                trace.append(response.status)
                return await super().response(response)

        app = kit.app(middleware=Own())
        kit.call(app)
        app.run()
        app.run()
        return [[one["headers"].get("authorization") for one in kit.sent], trace]

    check.__name__, check.__doc__ = f"subclass_of_{name}", f"Hooks in a subclass of `{name}`"
    behaviour(check)


subclassed("CacheMiddleware")
subclassed("SessionMiddleware")


@behaviour
def a_changed_priority_counts(kit: Kit) -> Any:
    """`middleware.__priority__ = …` between two runs"""
    one, two = kit.hooks("a"), kit.hooks("b")
    app = kit.app(middleware=[one, two])
    kit.call(app)
    app.run()
    one.__priority__ = 5
    app.run()
    return kit.trace


@behaviour
def changed_methods_count(kit: Kit) -> Any:
    """`middleware.__methods__ = …` between two runs, in any case"""
    one = kit.hooks("a")
    app = kit.app(middleware=one)
    kit.call(app)
    one.__methods__ = ["post"]
    app.run()
    one.__methods__ = ("get",)
    app.run()
    return kit.trace


@behaviour
def a_disabled_middleware_is_skipped(kit: Kit) -> Any:
    """`__enabled__ = False` on instance and class, and back"""
    one = kit.hooks("a")
    app = kit.app(middleware=[one])
    kit.call(app)
    for owner, value in ((one, False), (one, True), (type(one), False)):
        owner.__enabled__ = value
        app.run()
        if owner is one and value:
            del one.__enabled__
    return kit.trace


@behaviour
def methods_are_filtered(kit: Kit) -> Any:
    """`__methods__ = ["POST"]` skips a GET, also `on_error`"""
    app = kit.app(middleware=[kit.hooks("a", __methods__=["POST"]), kit.hooks("b")])
    kit.call(app, "/status/500")
    app.run()
    return kit.trace


@behaviour
def middleware_is_added_later(kit: Kit) -> Any:
    """`app.middleware_manager.middlewares.append(…)`"""
    app = kit.app(middleware=[kit.hooks("a")])
    kit.call(app)
    app.middleware_manager.middlewares.append(kit.hooks("b"))
    app.run()
    return kit.trace


@behaviour
def a_manager_by_itself(kit: Kit) -> Any:
    """`MiddlewareManager([…])` and its three methods"""
    manager = kit.load("middleware:MiddlewareManager")([kit.hooks("a"), kit.hooks("b")])
    route = kit.load("routing:Route")(method="GET", url="https://a.example.com", handler=print, params={"p": 1})

    async def main() -> Any:
        kwargs = await manager.process_before_request(route, {"headers": {"X-A": "1"}})
        response = await manager.process_after_response(kit.response()(200, "", {}), route, kwargs)
        await manager.process_on_error(ValueError(), route, kwargs)
        return [kwargs, response.status]

    return [asyncio.run(main()), kit.trace]


@behaviour
def overlapping_calls_keep_their_context(kit: Kit) -> Any:
    """A `ContextVar` set in `request` is that call's in `response`"""
    own: ContextVar[str] = ContextVar("own", default="-")

    class Timing(kit.base()):  # type: ignore[misc]
        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            own.set(url)
            return kwargs

        async def response(self, response: Any) -> Any:
            kit.trace.append(response.url == own.get())
            return response

    app = kit.app(middleware=Timing())
    for number in range(5):
        kit.call(app, f"/{number}")
    app.run()
    return [one for one in kit.trace if isinstance(one, bool)]


@behaviour
def a_class_that_only_looks_like_a_middleware(kit: Kit) -> Any:
    """A class with the four attributes and the hooks, without the base class"""

    class Duck:
        __return_type__, __priority__, __methods__, __enabled__ = None, 0, None, True

        async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs["headers"] = {**(kwargs.get("headers") or {}), "X-Duck": "1"}
            return kwargs

        async def response(self, response: Any) -> Any:
            return response

        async def on_error(self, error: Exception, route: Any, config: Any) -> None:
            return None

    return kit.seen(middleware=[Duck()])["headers"].get("x-duck")
