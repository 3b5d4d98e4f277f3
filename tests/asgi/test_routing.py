"""The template that is sent is the template of the route that runs."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router

from chio_asgi.middleware import ChioASGIMiddleware
from chio_core.names import SCOPE_REQUEST
from tests.asgi.routes import Govern, add, both_ways, govern, govern_inside, route, says
from tests.support import Judge, StubClient, call, deny, run


def check(app: Any, judge: Judge, path: str, template: str, method: str = "GET", **more: Any) -> None:
    """Send a request: the endpoint that runs and the question name the same template."""
    reply = run(call(app, method, path, **more))
    assert reply.status == 200, reply.body
    assert (reply.json()["template"], judge.last["route_pattern"]) == (template, template)


@both_ways
def test_plain_routes_and_parameters(governed: Govern) -> None:
    app, judge = governed(Starlette(routes=[route("/pets"), route("/pets/{pet_id}"), route("/pets/{pet_id}/toys/{n}")]))
    check(app, judge, "/pets", "/pets")
    check(app, judge, "/pets/7", "/pets/{pet_id}")
    check(app, judge, "/pets/7/toys/1", "/pets/{pet_id}/toys/{n}")
    assert judge.last["path"] == "/pets/7/toys/1"


@both_ways
def test_convertors_decide_as_they_do_in_the_router(governed: Govern) -> None:
    routes = [
        Route("/x/{n:int}", says("/x/{n}")),
        Route("/x/{f:float}", says("/x/{f}")),
        Route("/x/{u:uuid}", says("/x/{u}")),
        Route("/x/{s}", says("/x/{s}")),
        Route("/x/{rest:path}", says("/x/{rest}")),
    ]
    app, judge = governed(Starlette(routes=routes))
    check(app, judge, "/x/12", "/x/{n}")
    check(app, judge, "/x/1.5", "/x/{f}")
    check(app, judge, "/x/6a5f0c52-33c4-4a3c-9a4e-6a7d5d3a8c11", "/x/{u}")
    check(app, judge, "/x/abc", "/x/{s}")
    check(app, judge, "/x/a/b/c", "/x/{rest}")
    check(app, judge, "/x/", "/x/{rest}")


@pytest.mark.parametrize("guarded", [False, True])
def test_a_number_of_thousands_of_digits_is_400_without_an_evaluation(guarded: bool) -> None:
    """Python does not convert it, and Starlette's router fails."""

    async def notes(request: Any) -> None:
        assert "route" not in request.scope

    judge = Judge()
    app = Starlette(routes=[Route("/x/{n:int}", says("/x/{n}"))])
    governed = ChioASGIMiddleware(app, client=StubClient(judge), guards=[notes] if guarded else [])
    assert run(call(governed, "GET", "/x/" + "1" * 5000)).status == 400
    assert judge.questions == []


@both_ways
@pytest.mark.parametrize("depth", [1, 2, 3, 12])
def test_included_routers_nested_deep(governed: Govern, depth: int) -> None:
    router, prefix = APIRouter(), "/p" * depth
    add(router, "/items/{item_id}", f"{prefix}/items/{{item_id}}")
    for _ in range(depth):
        outer = APIRouter()
        outer.include_router(router, prefix="/p")
        router = outer
    fastapi = FastAPI()
    fastapi.include_router(router)
    app, judge = governed(fastapi)
    check(app, judge, f"{prefix}/items/3", f"{prefix}/items/{{item_id}}")


@both_ways
def test_a_router_that_is_included_twice_and_in_itself(governed: Govern) -> None:
    leaf = APIRouter()
    leaf.add_api_route("/leaf/{x}", says("leaf"), methods=["GET"])
    branch = APIRouter(prefix="/branch")
    branch.include_router(leaf)
    branch.include_router(leaf, prefix="/again")
    fastapi = FastAPI()
    fastapi.include_router(leaf, prefix="/a/{tenant}")
    fastapi.include_router(branch)
    fastapi.include_router(leaf)
    app, judge = governed(fastapi)
    for path, template in [
        ("/a/t/leaf/1", "/a/{tenant}/leaf/{x}"),
        ("/branch/leaf/1", "/branch/leaf/{x}"),
        ("/branch/again/leaf/1", "/branch/again/leaf/{x}"),
        ("/leaf/1", "/leaf/{x}"),
    ]:
        assert run(call(app, "GET", path)).status == 200
        assert judge.last["route_pattern"] == template


@both_ways
@pytest.mark.parametrize("depth", [1, 2, 12, 60])
def test_mounts_nested_deep(governed: Govern, depth: int) -> None:
    prefix = "/m" * depth
    inner: Any = Router(routes=[route("/items/{x}", f"{prefix}/items/{{x}}")])
    for _ in range(depth):
        inner = Starlette(routes=[Mount("/m", app=inner)])
    app, judge = governed(inner)
    check(app, judge, f"{prefix}/items/1", f"{prefix}/items/{{x}}")


def test_very_deep_mounts_are_evaluated_by_their_path() -> None:
    inner: Any = Router(routes=[route("/x", "x")])
    for _ in range(70):
        inner = Router(routes=[Mount("/m", app=inner)])
    app, judge = govern(inner)
    assert run(call(app, "GET", "/m" * 70 + "/x")).status == 200
    assert judge.last["route_pattern"] == "/m" * 70 + "/x"


@both_ways
def test_mounts_with_parameters(governed: Govern) -> None:
    inner = Starlette(routes=[route("/items/{x}", "/t/{tenant}/items/{x}")])
    app, judge = governed(Starlette(routes=[Mount("/t/{tenant}", app=inner)]))
    check(app, judge, "/t/acme/items/1", "/t/{tenant}/items/{x}")
    assert run(call(app, "GET", "/t/acme/items/1")).json()["params"] == {"tenant": "acme", "x": "1"}


@both_ways
def test_a_mount_at_the_root_takes_everything_that_is_left(governed: Govern) -> None:
    inner = Starlette(routes=[route("/b")])
    app, judge = governed(Starlette(routes=[route("/a"), Mount("", app=inner), route("/never")]))
    check(app, judge, "/a", "/a")
    check(app, judge, "/b", "/b")
    assert run(call(app, "GET", "/never")).status == 404
    assert judge.last["route_pattern"] == "/never"


@both_ways
def test_fastapi_in_fastapi(governed: Govern) -> None:
    sub, subsub, outer, router = FastAPI(), FastAPI(), FastAPI(), APIRouter()
    add(subsub, "/deep/{x}", "/v1/inner/deep/{x}")
    add(router, "/r/{x}", "/v1/routed/r/{x}")
    sub.include_router(router, prefix="/routed")
    add(sub, "/items/{x}", "/v1/items/{x}")
    sub.mount("/inner", subsub)
    outer.mount("/v1", sub)
    add(outer, "/items/{x}")
    app, judge = governed(outer)
    check(app, judge, "/items/1", "/items/{x}")
    check(app, judge, "/v1/items/1", "/v1/items/{x}")
    check(app, judge, "/v1/routed/r/1", "/v1/routed/r/{x}")
    check(app, judge, "/v1/inner/deep/1", "/v1/inner/deep/{x}")


@both_ways
def test_mounts_inside_included_routers(governed: Govern) -> None:
    outer, router = FastAPI(), APIRouter()
    router.mount("/m", Starlette(routes=[route("/items/{x}", "/api/m/items/{x}")]))
    router.routes.append(route("/plain/{x}", "/api/plain/{x}"))
    outer.include_router(router, prefix="/api")
    app, judge = governed(outer)
    check(app, judge, "/api/m/items/1", "/api/m/items/{x}")
    check(app, judge, "/api/plain/1", "/api/plain/{x}")


@both_ways
def test_hosts(governed: Govern) -> None:
    app, judge = governed(
        Starlette(
            routes=[
                Host("api.example.org", app=Router([route("/x/{a}", "/x/{a}")])),
                Host("{tenant}.example.org", app=Router([route("/x/{b}", "/x/{b}")])),
                route("/x/{c}"),
            ]
        )
    )
    check(app, judge, "/x/1", "/x/{a}", headers=[("host", "api.example.org")])
    check(app, judge, "/x/1", "/x/{a}", headers=[("host", "api.example.org:8000")])
    check(app, judge, "/x/1", "/x/{b}", headers=[("host", "other.example.org")])
    check(app, judge, "/x/1", "/x/{c}", headers=[("host", "example.org")])
    check(app, judge, "/x/1", "/x/{c}")


@both_ways
def test_hosts_inside_included_routers(governed: Govern) -> None:
    outer, router = FastAPI(), APIRouter()
    router.host("api.example.org", Router([route("/x/{a}", "/p/x/{a}")]))
    outer.include_router(router, prefix="/p")
    app, judge = governed(outer)
    check(app, judge, "/p/x/1", "/p/x/{a}", headers=[("host", "api.example.org")])


@both_ways
def test_the_root_path_of_the_server_is_no_part_of_the_path(governed: Govern) -> None:
    inner = Starlette(routes=[route("/items/{x}", "/m/items/{x}")])
    app, judge = governed(Starlette(routes=[route("/items/{x}"), Mount("/m", app=inner)]))
    check(app, judge, "/api/v1/items/1", "/items/{x}", root_path="/api/v1")
    assert judge.last["path"] == "/items/1"
    check(app, judge, "/api/v1/m/items/1", "/m/items/{x}", root_path="/api/v1")
    assert judge.last["path"] == "/m/items/1"
    check(app, judge, "/items/1", "/items/{x}", root_path="/api/v1")  # a proxy that strips the prefix
    check(app, judge, "/items/1", "/items/{x}", root_path="/item")  # no boundary there


@both_ways
def test_the_root_path_of_a_fastapi_application_is_no_part_of_the_path(governed: Govern) -> None:
    """FastAPI sets it on the scope itself, later than a middleware around it sees the scope."""
    outer, sub = FastAPI(), FastAPI()
    outer.root_path = "/api"  # what its constructor's argument of that name sets
    add(outer, "/items/{x}")
    add(sub, "/items/{x}", "/sub/items/{x}")
    outer.mount("/sub", sub)
    app, judge = governed(outer)
    for path in ("/items/1", "/api/items/1"):
        check(app, judge, path, "/items/{x}")
        assert judge.last["path"] == "/items/1"
    check(app, judge, "/api/sub/items/1", "/sub/items/{x}")
    assert judge.last["path"] == "/sub/items/1"
    assert run(call(app, "GET", "/sub/items/1")).status == 404  # Starlette's mounts need the root path in the path
    assert judge.last["route_pattern"] == "/sub/items/1"


@both_ways
def test_the_root_path_of_a_mounted_fastapi_application_replaces_the_mounts(governed: Govern) -> None:
    outer, sub = FastAPI(), FastAPI()
    sub.root_path = "/elsewhere"
    add(sub, "/items/{x}", "never by this path")
    add(sub, "/sub/items/{y}", "the one that runs")
    outer.mount("/sub", sub)
    app, judge = governed(outer)
    reply = run(call(app, "GET", "/sub/items/1"))
    assert reply.json()["template"] == "the one that runs"
    assert "{y}" in judge.last["route_pattern"]


@both_ways
def test_excluded_paths_are_compared_without_the_root_path(governed: Govern) -> None:
    outer = FastAPI()
    outer.root_path = "/api"
    add(outer, "/healthz")
    app, judge = governed(outer, exclude_paths=frozenset({"/healthz"}))
    for path in ("/healthz", "/api/healthz"):
        assert run(call(app, "GET", path)).receipt is None
    assert judge.questions == []


@both_ways
def test_observed_paths_are_compared_without_the_root_path(governed: Govern) -> None:
    routes = [route("/pets/{x}"), route("/other")]
    app, _ = governed(Starlette(routes=routes), Judge(lambda question, token: deny()), observe_paths=["/other"])
    for path, root, status in (
        ("/api/other", "/api", 200),
        ("/other/other", "/other", 200),
        ("/other/pets/7", "/other", 403),
    ):
        assert run(call(app, "GET", path, root_path=root)).status == status, path


@both_ways
@pytest.mark.parametrize("path", ["/nothing", "/pets/", "/pets/1/", "", "//pets", "/PETS", "/pets/1/2", "pets", "*"])
def test_a_path_without_a_route_is_evaluated_by_itself(governed: Govern, path: str) -> None:
    app, judge = governed(Starlette(routes=[route("/pets"), route("/pets/{x}")]))
    reply = run(call(app, "GET", path))
    assert reply.status in (404, 307)
    assert reply.receipt is not None
    assert (judge.last["path"], judge.last["route_pattern"]) == (path, path)


@both_ways
def test_another_method_is_evaluated_under_the_template_and_answered_405(governed: Govern) -> None:
    app, judge = governed(Starlette(routes=[route("/pets/{x}", None, "GET"), route("/pets/mine", None, "POST")]))
    check(app, judge, "/pets/mine", "/pets/mine", "POST")
    check(app, judge, "/pets/mine", "/pets/{x}", "GET")
    reply = run(call(app, "DELETE", "/pets/mine"))
    assert (reply.status, judge.last["route_pattern"]) == (405, "/pets/{x}")


@both_ways
def test_head_runs_the_get_route_of_starlette_and_none_of_fastapi(governed: Govern) -> None:
    starlette, judge = governed(Starlette(routes=[route("/pets/{x}", None, "GET")]))
    assert run(call(starlette, "HEAD", "/pets/1")).status == 200
    assert (judge.last["method"], judge.last["route_pattern"]) == ("HEAD", "/pets/{x}")
    fastapi = FastAPI()
    add(fastapi, "/pets/{x}", None, "GET")
    app, judge = governed(fastapi)
    assert run(call(app, "HEAD", "/pets/1")).status == 405


@both_ways
def test_a_redirect_for_a_slash_has_its_own_receipt(governed: Govern) -> None:
    app, judge = governed(Starlette(routes=[route("/pets"), route("/toys/")]))
    for path, target in (("/pets/", "/pets"), ("/toys", "/toys/")):
        reply = run(call(app, "GET", path))
        assert (reply.status, reply.header("location")) == (307, f"http://127.0.0.1{target}")
        assert reply.receipt is not None
        assert judge.last["route_pattern"] == path


@both_ways
def test_routes_that_are_added_after_the_start_are_found(governed: Govern) -> None:
    fastapi, router = FastAPI(), APIRouter()
    fastapi.include_router(router, prefix="/p")
    app, judge = governed(fastapi)
    assert run(call(app, "GET", "/later/1")).status == 404
    add(fastapi, "/later/{x}")
    check(app, judge, "/later/1", "/later/{x}")
    add(router, "/more/{x}", "/p/more/{x}")
    check(app, judge, "/p/more/1", "/p/more/{x}")
    fastapi.mount("/m", Starlette(routes=[route("/x", "/m/x")]))
    check(app, judge, "/m/x", "/m/x")


@both_ways
def test_the_first_of_two_routes_that_fit_is_the_one(governed: Govern) -> None:
    app, judge = governed(Starlette(routes=[route("/{a}/b"), route("/a/{b}"), route("/a/b"), route("/{rest:path}")]))
    check(app, judge, "/a/b", "/{a}/b")
    check(app, judge, "/a/c", "/a/{b}")


def test_the_middleware_inside_a_mounted_application_names_the_whole_path() -> None:
    sub, judge = govern_inside(Starlette(routes=[route("/items/{x}", "/sub/items/{x}")]))
    outer = Starlette(routes=[Mount("/sub", app=sub)])
    check(outer, judge, "/sub/items/1", "/sub/items/{x}")
    assert judge.last["path"] == "/sub/items/1"
    check(outer, judge, "/api/sub/items/1", "/sub/items/{x}", root_path="/api")
    assert judge.last["path"] == "/sub/items/1"


def test_behind_a_mount_with_parameters_the_template_is_unknown() -> None:
    """The sidecar may know it: its template counts if it covers the path."""
    judge = Judge(pattern=lambda question: "/{tenant}/items/{x}")
    sub, _ = govern_inside(Starlette(routes=[route("/items/{x}", "x")]), judge)
    outer = Starlette(routes=[Mount("/{tenant}", app=sub)])
    assert run(call(outer, "GET", "/acme/items/1")).status == 200
    assert judge.last["route_pattern"] == "/acme/items/1"


def test_the_middleware_of_a_mount_never_takes_the_outer_applications_routes_for_its_own() -> None:
    judge = Judge()
    chio = Middleware(ChioASGIMiddleware, client=StubClient(judge))
    outer = Starlette(
        routes=[
            Mount("/plain", app=PlainTextResponse("plain"), middleware=[chio]),
            Mount("/routed", routes=[route("/items/{x}", "/routed/items/{x}")], middleware=[chio]),
            route("/items/{y}"),
            route("/{z}"),
        ]
    )
    assert run(call(outer, "GET", "/plain/items/1")).status == 200
    assert judge.last["route_pattern"] == "/plain/items/1"
    check(outer, judge, "/routed/items/1", "/routed/items/{x}")


def test_the_middleware_of_a_single_route_finds_that_route() -> None:
    judge = Judge()
    chio = Middleware(ChioASGIMiddleware, client=StubClient(judge))
    outer = Starlette(routes=[Route("/items/{x}", says("/items/{x}"), middleware=[chio]), route("/free/{y}")])
    check(outer, judge, "/items/1", "/items/{x}")
    assert run(call(outer, "GET", "/free/1")).receipt is None


def test_other_middleware_between_hides_no_route() -> None:
    class Wrapper:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    inner = Starlette(routes=[route("/items/{x}")], middleware=[Middleware(Wrapper), Middleware(Wrapper)])
    app, judge = govern(Wrapper(Wrapper(inner)))
    check(app, judge, "/items/1", "/items/{x}")


@both_ways
def test_a_middleware_that_hides_the_routes_costs_the_template_and_nothing_else(governed: Govern) -> None:
    def hiding(app: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        return wrapped

    inner = Starlette(routes=[Mount("/m", app=hiding(Router([route("/items/{x}", "x")])))])
    app, judge = governed(inner)
    assert run(call(app, "GET", "/m/items/1")).status == 200
    assert judge.last["route_pattern"] == "/m/items/1"


def test_an_application_without_routes_has_no_templates() -> None:
    app, judge = govern(PlainTextResponse("hello"))
    assert run(call(app, "GET", "/a/b")).body == b"hello"
    assert judge.last["route_pattern"] == "/a/b"


def test_the_scope_that_the_application_gets_is_not_changed_by_the_look_up() -> None:
    seen: list[dict[str, Any]] = []

    class Spy:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append({name: value for name, value in scope.items() if name not in ("state", "app", SCOPE_REQUEST)})
            await self.app(scope, receive, send)

    fastapi, router, judge = FastAPI(), APIRouter(), Judge()
    add(router, "/items/{x}", "/p/items/{x}")
    fastapi.include_router(router, prefix="/p")
    fastapi.add_middleware(Spy)
    fastapi.add_middleware(ChioASGIMiddleware, client=StubClient(judge))
    fastapi.add_middleware(Spy)
    check(fastapi, judge, "/p/items/1", "/p/items/{x}")
    assert seen[0] == seen[1]
