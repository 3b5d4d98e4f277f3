"""The route that a table of many routes gives is the one that the router runs, also after the routes have changed."""

from __future__ import annotations

import itertools
import random
import re
from contextlib import suppress
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router
from starlette.websockets import WebSocket

from chio_asgi.routing import RouteResolver, RouteTable
from chio_core.evaluation.governed import NO_MATCH
from chio_core.refusals.response import RequestRefused
from chio_fastapi import RequireCapability
from tests.support import run

SEGMENTS = [
    "a",
    "b",
    "a",
    "A",
    "a.b",
    "{x}",
    "{y:int}",
    "{f:float}",
    "{u:uuid}",
    "{z:path}",
    "pre{q}",
    "{r}.json",
    "",
    "|",
]
VALUES = ["a", "b", "A", "1", "1.5", "a.b", "x.json", "prefix", "", "|", "\n", "a\n", "0" * 5000]
METHODS = [["GET"], ["POST"], ["GET", "POST"], ["PUT", "DELETE"]]


def drawn_template(chance: random.Random) -> str:
    return "/" + "/".join(chance.choices(SEGMENTS, k=chance.randint(1, 4)))


def drawn_tree(chance: random.Random) -> list[Any]:
    """Draw groups of routes: how a group is nested, its prefix, template and methods of each route."""

    def routes() -> list[Any]:
        return [(drawn_template(chance), chance.choice([*METHODS, None])) for _ in range(chance.randint(1, 6))]

    nestings = ["", "", "include", "deep", "mount"]
    return [
        (chance.choice(nestings), drawn_template(chance).rstrip("/"), routes()) for _ in range(chance.randint(3, 8))
    ]


class Application:
    """An application whose endpoints leave their number in `ran`; a route without methods is a websocket's."""

    def __init__(self, kind: type[Any], tree: Any) -> None:
        self.ran: list[int] = []
        self.endpoints: list[Any] = []
        self.app: Any = kind()
        self._names = itertools.count()
        for nesting, prefix, listed in tree:
            with suppress(AssertionError):  # a prefix that FastAPI does not take
                self._add(self.app.router, nesting, prefix, listed)

    def _add(self, router: Any, nesting: str, prefix: str, listed: Any) -> None:
        inner: Any = Starlette().router if nesting == "mount" else APIRouter() if self._includes(nesting) else router
        for path, methods in listed:
            if methods is None:
                inner.add_websocket_route(self._named(path), self._websocket())
            else:
                inner.add_route(self._named(path), self._endpoint(), methods=methods)
        if nesting == "mount":
            router.mount(self._named(prefix), inner)
        elif inner is not router:
            outer = inner
            if nesting == "deep":
                outer = APIRouter()
                outer.include_router(inner, prefix=self._named(prefix))
            router.include_router(outer, prefix=self._named(prefix))

    def _includes(self, nesting: str) -> bool:
        return nesting in ("include", "deep") and isinstance(self.app, FastAPI)

    def _named(self, template: str) -> str:
        # No router accepts the name of a parameter twice.
        return re.sub(r"\{([a-z])(?=[:}])", lambda found: f"{{{found[1]}{next(self._names)}", template)

    def _endpoint(self) -> Any:
        number = len(self.endpoints)

        async def endpoint(request: Request) -> Response:
            self.ran.append(number)
            return Response()

        self.endpoints.append(endpoint)
        return endpoint

    def _websocket(self) -> Any:
        number = len(self.endpoints)

        async def endpoint(socket: WebSocket) -> None:
            self.ran.append(number)
            await socket.close()

        self.endpoints.append(endpoint)
        return endpoint

    async def call(self, scope: dict[str, Any]) -> int | None:
        """Return the number of the endpoint that the router runs."""
        self.ran.clear()

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect" if scope["type"] == "websocket" else "http.request"}

        async def send(message: dict[str, Any]) -> None:
            pass

        await self.app(dict(scope), receive, send)
        return self.ran[0] if self.ran else None


def scope_of(method: str, path: str, root: str = "") -> dict[str, Any]:
    """Return the scope of a request; the method `WEBSOCKET` makes it a handshake."""
    kind = {"type": "websocket", "subprotocols": []} if method == "WEBSOCKET" else {"type": "http", "method": method}
    return {**kind, "path": path, "root_path": root, "query_string": b"", "headers": [(b"host", b"a.test")]}


@pytest.mark.slow  # 2,400 requests, 40,000 at full size
@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_the_route_that_is_found_is_the_one_that_runs(kind: type[Any], full_size: bool) -> None:
    for seed in range(1_000 if full_size else 60):
        chance = random.Random(seed)
        tree, root = drawn_tree(chance), chance.choice(["", "/a"])
        try:
            run(compare(Application(kind, tree), root, chance))
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {tree} at {root!r}")
            raise


async def compare(application: Application, root: str, chance: random.Random) -> None:
    """Ask for many paths: nothing may run but the endpoint of the route that was found."""
    resolve = RouteResolver(application.app)
    for _ in range(40):
        path = root + "/" + "/".join(chance.choices(VALUES, k=chance.randrange(1, 6)))
        scope = scope_of(chance.choice(["GET", "POST", "HEAD", "DELETE", "WEBSOCKET"]), path, root)
        try:
            found = resolve(scope)
        except RequestRefused:
            with pytest.raises(ValueError, match="digits"):
                await application.call(scope)
            continue
        with suppress(ValueError):  # of a path that nothing matches, the router tries the one with another slash
            await application.call(scope)
        for ran in application.ran:
            assert found.route.endpoint is application.endpoints[ran]


def numbered(count: int, **options: Any) -> list[BaseRoute]:
    """Return routes of different paths."""
    return [Route(f"/r{number}/{{x}}", lambda request: Response(), **options) for number in range(count)]


def asked(app: Any, path: str) -> Any:
    """Return a function that finds the route of a path, asked twice so that the table is in use."""
    resolve = RouteResolver(app)
    for _ in range(2):
        resolve(scope_of("GET", path))
    return lambda: resolve(scope_of("GET", path))


def test_of_a_thousand_routes_few_are_asked() -> None:
    app = FastAPI(openapi_url=None)
    for number in range(20):
        router = APIRouter()
        for inner in range(50):
            router.add_api_route(f"/r{inner}/{{x}}", lambda x: x)
        app.include_router(router, prefix=f"/p{number}")
    for routes, path in ((numbered(1_000), "/r999/1"), (app.router.routes, "/p19/r49/1")):
        table = RouteTable(routes)
        list(table.candidates(routes, scope_of("GET", path)))
        assert len(list(table.candidates(routes, scope_of("GET", path)))) == 1


def test_a_route_that_is_added_in_front_wins_at_once() -> None:
    app = Starlette(routes=numbered(50))
    find = asked(app, "/r49/1")
    first = Route("/{any:path}", lambda request: Response())
    app.router.routes.insert(0, first)
    assert find().route is first
    app.router.routes.remove(first)
    assert find().route is app.router.routes[49]
    del app.router.routes[49]
    assert find() == NO_MATCH


def test_an_equal_route_in_the_place_of_another_brings_its_own_requirement() -> None:
    def endpoint(x: str) -> str:
        return x

    def application(*dependencies: Any) -> FastAPI:
        app = FastAPI(openapi_url=None)
        for number in range(50):
            app.add_api_route(f"/r{number}/{{x}}", endpoint, dependencies=list(dependencies))
        return app

    app, other = application(), application(Depends(RequireCapability("s", "t")))
    find = asked(app, "/r49/1")
    assert not find().sources
    app.router.routes[-1] = other.router.routes[-1]
    assert find().route is other.router.routes[-1]
    assert [source.tool for source in find().sources] == ["t"]


def test_a_route_that_an_included_router_gets_later_is_found() -> None:
    app, outer, inner = FastAPI(openapi_url=None), APIRouter(), APIRouter()
    for number in range(20):
        inner.add_api_route(f"/r{number}/{{x}}", lambda x: x)
    outer.include_router(inner, prefix="/inner")
    app.include_router(outer, prefix="/outer")
    find = asked(app, "/outer/inner/late")
    assert find() == NO_MATCH
    inner.add_api_route("/late", lambda: None)
    assert find().template == "/outer/inner/late"


class Lenient(Route):
    """A route that matches in a way of its own."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """Match in any case of letters."""
        return super().matches({**scope, "path": scope["path"].lower()})


class Mixed(Route):
    """A base that changes how a route matches."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """Match everything."""
        return Match.FULL, {}


def test_a_route_with_a_match_of_its_own_is_always_asked() -> None:
    lenient = Lenient("/special/{x}", lambda request: Response())
    assert asked(Starlette(routes=[*numbered(50), lenient]), "/SPECIAL/1")().route is lenient

    class Below(Mixed):
        pass

    below = Below("/special", lambda request: Response())
    assert asked(Starlette(routes=[*numbered(50), below]), "/anything")().route is below

    single: Any = Route("/special", lambda request: Response())
    single.matches = lambda scope: (Match.FULL, {})
    assert asked(Starlette(routes=[*numbered(50), single]), "/anything")().route is single


def test_a_group_of_routes_that_is_not_a_router_of_fastapi_is_scanned() -> None:
    class Group(BaseRoute):
        def effective_route_contexts(self) -> Any:
            return iter(numbered(50))

    assert asked(Starlette(routes=[Group()]), "/r49/1")().template == "/r49/{x}"


def test_a_router_that_makes_its_list_for_each_request_is_scanned() -> None:
    class Fresh(Router):
        @property
        def routes(self) -> Any:
            return numbered(50)

        @routes.setter
        def routes(self, value: Any) -> None:
            pass

    assert asked(Mount("/m", Fresh()).app, "/r49/1")().template == "/r49/{x}"
