"""The document for the sidecar: every route under the template that receipts state, and what to look out for."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from chio_asgi.listing import describe, document_for, list_routes
from chio_asgi.routing import RouteResolver
from chio_core.errors import ConfigurationError
from chio_core.models.demands import ApprovalDemand, BudgetDemand
from chio_core.models.receipt import shape
from chio_core.routes.listing import find_overlaps
from chio_fastapi import Observe, RequireCapability, add_chio, check
from chio_fastapi.dependencies import Budget, Policy, RequireApproval
from chio_sidecar.policy.routes import DENY_BY_DEFAULT, SESSION_ALLOW, RouteRule, RouteTable
from tests.asgi.routes import Govern, add, both_ways, govern, govern_inside, route
from tests.asgi.test_routing_oracle import Builder, _path, case
from tests.support import Judge, call, connect, run, settings

PAY = RequireCapability("payments", "transfer")
STATES = {"x-chio-capability": [{"server": "payments", "tool": "transfer", "operations": ["invoke"]}]}


def paths_of(app: Any) -> dict[str, Any]:
    document = json.loads(document_for(app))
    OpenAPIV31SpecValidator(document).validate()
    found: dict[str, Any] = document["paths"]
    return found


def methods_of(app: Any) -> dict[str, list[str]]:
    return {template: sorted(item) for template, item in paths_of(app).items()}


def found(app: Any, category: str) -> list[str]:
    return [finding.message for finding in describe(app).findings if finding.category == category]


async def plain(request: Any) -> PlainTextResponse:
    return PlainTextResponse("x")


def nothing() -> None: ...


def test_all_routes_are_there_those_that_the_public_document_hides_as_well() -> None:
    app = FastAPI()
    app.add_api_route("/shown", nothing)
    app.add_api_route("/hidden", nothing, include_in_schema=False, dependencies=[Depends(PAY)], methods=["PUT"])
    app.add_route("/bare", plain)
    found = paths_of(app)
    assert set(found) == {
        "/shown", "/hidden", "/bare", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc",
    }  # fmt: skip
    assert found["/hidden"]["put"].items() >= STATES.items()
    assert "/hidden" not in app.openapi()["paths"]


class AnyMethod(HTTPEndpoint):
    async def get(self, request: Any) -> PlainTextResponse:
        return PlainTextResponse("x")


def test_methods_are_those_that_the_route_serves() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/fastapi", nothing, methods=["GET"])
    app.add_api_route("/several", nothing, methods=["GET", "POST", "TRACE"])
    app.router.routes.append(Route("/starlette", plain))
    app.router.routes.append(Route("/class", AnyMethod))
    every = ["delete", "get", "head", "options", "patch", "post", "put"]
    assert methods_of(app) == {
        "/fastapi": ["get"], "/several": ["get", "post"], "/starlette": ["get", "head"], "/class": every,
    }  # fmt: skip
    for path, head in [("/fastapi", 405), ("/starlette", 200)]:
        assert run(call(app, "HEAD", path)).status == head, "HEAD is listed where it is answered"


def nested() -> FastAPI:
    """Nested routers, mounts of every kind, hosts, convertors, a websocket."""
    app, sub, leaf, branch = FastAPI(openapi_url=None), FastAPI(openapi_url=None), APIRouter(), APIRouter()
    add(leaf, "/items/{item:int}", "/api/v1/items/{item}")
    branch.include_router(leaf, prefix="/v1")
    app.include_router(branch, prefix="/api")
    add(sub, "/deep/{d}", "/sub/{tenant}/deep/{d}")
    app.mount("/sub/{tenant}", sub)
    inner = Starlette(routes=[route("/s/{x:uuid}", "/plain/s/{x}")], middleware=[Middleware(GZipMiddleware)])
    app.mount("/plain", inner)
    app.router.routes.append(
        Mount("/wrapped", routes=[route("/w", "/wrapped/w")], middleware=[Middleware(GZipMiddleware)])
    )
    app.router.routes.append(Host("{h}.test", app=Router([route("/hosted/{x}")])))
    return app


REQUESTS = [
    ("/api/v1/items/5", "/api/v1/items/{item}", "x"),
    ("/sub/acme/deep/a", "/sub/{tenant}/deep/{d}", "x"),
    ("/plain/s/6a5f0c52-33c4-4a3c-9a4e-6a7d5d3a8c11", "/plain/s/{x}", "x"),
    ("/wrapped/w", "/wrapped/w", "x"),
    ("/hosted/1", "/hosted/{x}", "a.test"),
]


@both_ways
def test_the_template_of_the_receipt_is_the_one_that_the_middleware_resolves(governed: Govern) -> None:
    table = RouteTable.from_openapi(document_for(nested()))
    judge = Judge(pattern=lambda question: table.match(question["method"], question["path"]).pattern)
    app, _ = governed(nested(), judge)
    for path, template, host in REQUESTS:
        for method in ("GET", "POST"):
            reply = run(call(app, method, path, headers=[("host", host)]))
            assert reply.status == 200, reply.body
            assert reply.json()["template"] == judge.last["route_pattern"] == template
            assert table.match(method, path).pattern == template


def test_parameters_are_described_by_their_convertors() -> None:
    item = paths_of(nested())
    kinds = {
        one["name"]: one["schema"]
        for template in ("/api/v1/items/{item}", "/plain/s/{x}", "/sub/{tenant}/deep/{d}")
        for one in item[template]["get"]["parameters"]
    }
    assert kinds == {
        "item": {"type": "integer"},
        "x": {"type": "string", "format": "uuid"},
        "tenant": {"type": "string"},
        "d": {"type": "string"},
    }


def test_a_websocket_is_a_get_because_its_handshake_is_evaluated_as_one() -> None:
    app = FastAPI(openapi_url=None)

    @app.websocket("/ws/{room}", dependencies=[Depends(PAY)])
    async def ws(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        await websocket.close()

    table = RouteTable.from_openapi(document_for(app))
    judge = Judge(pattern=lambda question: table.match(question["method"], question["path"]).pattern)
    assert paths_of(app)["/ws/{room}"]["get"].items() >= STATES.items()
    assert table.match("GET", "/ws/7").policy == DENY_BY_DEFAULT
    governed, _ = govern(app, judge)
    run(connect(governed, "/ws/7"))
    assert judge.last["route_pattern"] == "/ws/{room}"


def test_a_root_path_is_no_part_of_the_templates() -> None:
    app = FastAPI(openapi_url=None)
    app.root_path = "/behind/proxy"
    add(app, "/items/{x}")
    assert list(paths_of(app)) == ["/items/{x}"]
    governed, judge = govern(app)
    assert run(call(governed, "GET", "/behind/proxy/items/1")).status == 200
    assert (judge.last["route_pattern"], judge.last["path"]) == ("/items/{x}", "/items/1")


def test_starlette_applications_have_a_document_too() -> None:
    app = Starlette(routes=[route("/a/{x}"), Mount("/m", routes=[route("/b", "/m/b")])])
    assert methods_of(app) == {"/a/{x}": ["get", "head", "post"], "/m/b": ["get", "head", "post"]}
    assert document_for(govern(app)[0]) == document_for(app)


def test_an_application_without_routes_is_refused() -> None:
    for app in (object(), plain, Starlette()):
        with pytest.raises(ConfigurationError, match="no routes"):
            document_for(app)


def test_policy_that_people_wrote_by_hand_is_carried_over() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/extra", nothing, openapi_extra={"x-chio-side-effects": True, "x-other": 1})
    app.add_api_route("/hidden", nothing, openapi_extra={"x-chio-side-effects": True}, include_in_schema=False)
    app.add_api_route("/own", nothing, dependencies=[Depends(Policy(side_effects=False))])
    default = app.openapi

    def own() -> dict[str, Any]:
        document = default()
        document["paths"]["/own"]["get"]["x-chio-approval-required"] = True
        return document

    app.openapi = own  # type: ignore[method-assign]
    add_chio(app, settings())
    outer = Starlette(routes=[Mount("/sub", app=app)])
    for prefix, application in (("", app), ("/sub", outer)):
        item = {template: entry["get"] for template, entry in paths_of(application).items()}
        assert item[f"{prefix}/extra"]["x-chio-side-effects"] is True
        assert "x-other" not in item[f"{prefix}/extra"]
        assert item[f"{prefix}/hidden"]["x-chio-side-effects"] is True
        assert item[f"{prefix}/own"]["x-chio-approval-required"] is True
        assert item[f"{prefix}/own"]["x-chio-side-effects"] is False


def test_a_custom_document_that_fails_is_one_sentence() -> None:
    app = FastAPI()

    def broken() -> dict[str, Any]:
        raise ValueError("canary")

    app.add_api_route("/x", nothing)
    app.openapi = broken  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=r"own openapi\(\) failed \(ValueError\)") as caught:
        document_for(app)
    assert "canary" not in caught.value.message


SCRIPT = """
import sys
from fastapi import FastAPI
from chio_fastapi.openapi import document_for
app = FastAPI(openapi_url=None)
for n in range(5):
    app.add_api_route(f"/x{n}", lambda: None, methods=["PUT", "GET", "POST", "DELETE", "PATCH"], name="same")
sys.stdout.write(document_for(app))
"""


def test_the_text_is_the_same_in_every_process() -> None:
    root = str(Path(__file__).parents[2])
    texts = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    (text,) = texts
    assert text.endswith("}\n")
    ids = [one["operationId"] for item in json.loads(text)["paths"].values() for one in item.values()]
    assert len(set(ids)) == len(ids) == 25


def test_a_strict_sidecar_takes_the_document_of_every_dependency() -> None:
    app = FastAPI()
    app.add_api_route(
        "/x",
        nothing,
        methods=["GET", "POST"],
        dependencies=[
            Depends(PAY),
            Depends(RequireApproval(500, "EUR")),
            Depends(Budget(max_total_cost=9, max_invocations=3)),
            Depends(Policy(sensitivity="restricted", side_effects=True)),
            Depends(Observe()),
        ],
    )
    rule = RouteTable.from_openapi(document_for(app), strict=True).match("GET", "/x")
    assert rule == RouteRule(
        "/x",
        DENY_BY_DEFAULT,
        approval=ApprovalDemand(500, "EUR"),
        budget=BudgetDemand(max_invocations=3, max_total_cost=9),
        sensitivity="restricted",
        observe=True,
    )


def test_the_policy_hash_changes_with_the_policy_and_with_nothing_else() -> None:
    def text(*, summary: str = "a", version: str = "1", **policy: Any) -> str:
        app = FastAPI(openapi_url=None, version=version)
        app.add_api_route("/x", nothing, summary=summary, **policy)
        return document_for(app)

    assert text() == text(summary="b") == text(version="2") == text(tags=["t"])
    assert text() != text(dependencies=[Depends(PAY)])


# What the sidecar will judge otherwise than the routes suggest


def test_templates_that_the_sidecar_cannot_match_are_named() -> None:
    app = FastAPI(openapi_url=None)
    for path in ("/ok/{x:int}", "/files/{rest:path}", "/odd/{name}.json", "/pair/{a}-{b}"):
        add(app, path)
    messages = found(app, "unmatchable_template")
    assert [message.partition(":")[0] for message in messages] == [
        "/files/{rest}", "/odd/{name}.json", "/pair/{a}-{b}",
    ]  # fmt: skip
    assert "several segments" in messages[0]
    assert "{name}.json is more than a parameter" in messages[1]
    table = RouteTable.from_openapi(document_for(app))
    assert table.match("GET", "/files/a/b").pattern == "/files/a/b"
    assert table.match("GET", "/odd/x.json").pattern == "/odd/x.json"


def test_what_runs_below_a_mount_without_routes_is_named(tmp_path: Path) -> None:
    app = FastAPI(openapi_url=None)
    add(app, "/x")
    app.mount("/static", StaticFiles(directory=tmp_path))
    (message,) = found(app, "route_pattern")
    assert message.startswith("what runs below /static has no routes")


# Templates in the order of the router; a path, the templates that router and sidecar choose for it, whether its receipt
# is refused, and whether another order makes the two agree.
OVERLAPS: list[tuple[list[str], str, str, str, bool, bool]] = [
    (["/pets/{pet}", "/pets/mine"], "/pets/mine", "/pets/{pet}", "/pets/mine", False, True),
    (["/pets/~me", "/pets/{pet}"], "/pets/~me", "/pets/~me", "/pets/{pet}", True, False),
    (["/{a}/x", "/pets/{b}"], "/pets/x", "/{a}/x", "/pets/{b}", True, True),
    (["/x/{s}/{t}", "/x/{n:int}/a"], "/x/q7w3x/a", "/x/{s}/{t}", "/x/{n}/a", True, False),
    (["/x/{n:int}/a", "/x/{s}/{t}"], "/x/q7w3x/a", "/x/{s}/{t}", "/x/{n}/a", True, False),
    (["/f/{p:path}", "/f/{a}/{b}"], "/f/q7w3x/q7w3x", "/f/{p}", "/f/{a}/{b}", True, True),
    (["/{rest:path}", "/a/b"], "/a/b", "/{rest}", "/a/b", False, True),
    (["/f/{a}/list", "/f/{p:path}"], "", "", "", False, False),
    (["/x/{r}.json", "/x/{any}"], "/x/q7w3x.json", "/x/{r}.json", "/x/{any}", True, False),
    (["/pets/mine", "/pets/{pet}"], "", "", "", False, False),
    (["/x/{n:int}", "/x/{s}"], "", "", "", False, False),
    (["/a/{x}", "/b/{x}", "/c/d"], "", "", "", False, False),
]
DISAGREEING = [one for one in OVERLAPS if one[1]]


@pytest.mark.parametrize(("templates", "path", "router", "sidecar", "refused", "reorder"), OVERLAPS)
def test_routes_that_router_and_sidecar_tell_apart_differently_are_found(
    templates: list[str], path: str, router: str, sidecar: str, refused: bool, reorder: bool
) -> None:
    app = Starlette(routes=[Route(one, plain, methods=["POST"]) for one in templates])
    overlaps = list(find_overlaps(list(list_routes(app))))
    if not path:
        assert overlaps == []
        return
    (one,) = overlaps
    assert (one.method, one.path, one.router, one.sidecar, one.refused) == ("POST", path, router, sidecar, refused)
    message, *further = found(app, "overlapping_routes")
    assert len(further) == (templates[0] == "/x/{n:int}/a")  # then the paths of what is left out have another template
    assert message.startswith(f"POST {path} runs {router} here but is {sidecar} to the sidecar, so the document leaves")
    harmless = "; it has none, so no decision changes"
    assert message.endswith(f"; add {sidecar} before {router}" if reorder else harmless)


@pytest.mark.parametrize(("sources", "severity"), [([], "INFO"), ([Depends(Policy(side_effects=False))], "WARN")])
def test_a_route_that_is_left_out_is_a_warning_only_if_a_policy_is_lost(sources: list[Any], severity: str) -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/x/{r}.json", nothing, methods=["POST"])
    app.add_api_route("/x/{any}", nothing, methods=["POST"], dependencies=sources)
    (finding,) = (one for one in describe(app).findings if one.category == "overlapping_routes")
    assert finding.severity == severity
    assert finding.message.endswith("no decision changes" if severity == "INFO" else "paths that cannot meet")


@pytest.mark.parametrize("templates", [one[0] for one in DISAGREEING if one[5]])
def test_the_order_that_a_finding_advises_is_without_findings(templates: list[str]) -> None:
    app = Starlette(routes=[Route(one, plain, methods=["POST"]) for one in reversed(templates)])
    assert found(app, "overlapping_routes") == []


def test_methods_of_their_own_do_not_overlap() -> None:
    app = Starlette(routes=[Route("/p/{x}", plain, methods=["POST"]), Route("/p/mine", plain, methods=["PUT"])])
    assert found(app, "overlapping_routes") == []


def overlapping(templates: list[str], text: str) -> tuple[Any, Judge]:
    """Return an application with these routes, before a sidecar that has this document."""
    app = FastAPI(openapi_url=None)
    for one in templates:
        add(app, one, Route(one, plain).path_format, "POST")
    table = RouteTable.from_openapi(text or document_for(app))
    judge = Judge(pattern=lambda question: table.match(question["method"], question["path"]).pattern)
    return govern_inside(app, judge)[0], judge


@pytest.mark.parametrize(("templates", "path", "router", "sidecar", "refused", "reorder"), DISAGREEING)
def test_an_overlap_is_what_happens_before_a_sidecar_that_knows_all_routes(
    templates: list[str], path: str, router: str, sidecar: str, refused: bool, reorder: bool
) -> None:
    paths = {Route(one, plain).path_format: {"post": {"responses": {}}} for one in templates}
    text = json.dumps({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths})
    governed, judge = overlapping(templates, text)
    reply = run(call(governed, "POST", path))
    assert reply.status == (502 if refused else 200), reply.body
    (receipt,) = judge.receipts.values()
    assert receipt["route_pattern"] == router
    assert RouteTable.from_openapi(text).match("POST", path).pattern == sidecar


@pytest.mark.parametrize(("templates", "path", "router", "sidecar", "refused", "reorder"), DISAGREEING)
def test_with_the_document_of_the_application_each_request_is_evaluated_as_what_runs(
    templates: list[str], path: str, router: str, sidecar: str, refused: bool, reorder: bool
) -> None:
    governed, judge = overlapping(templates, "")
    reply = run(call(governed, "POST", path))
    assert (reply.status, judge.last["route_pattern"]) == (200, router)


def test_an_operation_whose_policy_only_the_document_has_is_not_left_out() -> None:
    """Without it the requests of its other paths would need less. So those that run another route are refused."""
    app = FastAPI(openapi_url=None)
    app.add_api_route("/{a}/x", nothing)
    app.add_api_route("/pets/{b}", nothing, openapi_extra={"x-chio-side-effects": True})
    (message,) = found(app, "overlapping_routes")
    assert message.startswith(
        "GET /pets/x runs /{a}/x here but is /pets/{b} to the sidecar, so such requests are refus"
    )
    assert RouteTable.from_openapi(document_for(app)).match("GET", "/pets/7").policy == DENY_BY_DEFAULT


@pytest.mark.parametrize("demand", [RequireApproval(1), Budget(max_invocations=1)])
def test_an_operation_with_an_account_or_approvals_is_not_left_out(demand: Any) -> None:
    """Evaluated as plain paths, each path would have an account of its own."""
    app = FastAPI(openapi_url=None)
    app.add_api_route("/{a}/x", nothing)
    app.add_api_route("/pets/{b}", nothing, dependencies=[Depends(demand)])
    assert "/pets/{b}" in paths_of(app)


def test_an_operation_that_never_runs_is_left_out_whatever_its_policy() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/pets/{pet}", nothing)
    app.add_api_route("/pets/mine", nothing, openapi_extra={"x-chio-side-effects": True})
    assert list(paths_of(app)) == ["/pets/{pet}"]
    app.router.routes.insert(0, Host("a.test", app=Router([Route("/pets/mine", plain)])))
    assert "/pets/mine" in paths_of(app)  # it runs there


def test_a_misordered_route_costs_its_own_policy_and_no_other(tmp_path: Path) -> None:
    """G22: the whole document was dropped, so that an unrelated route with a lenient policy needed a capability."""
    app = FastAPI()
    app.add_api_route("/items/{i}", nothing)
    app.add_api_route("/items/me", nothing)
    app.add_api_route("/login", nothing, methods=["POST"], dependencies=[Depends(Policy(side_effects=False))])
    app.add_api_route("/{rest:path}", nothing)
    add_chio(app, sidecar_url=f"embedded:{tmp_path}/store.sqlite3")
    with TestClient(app) as client:
        answers = [client.post("/login"), *(client.get(path) for path in ("/items/7", "/items/me", "/a/b/c"))]
    assert [one.status_code for one in answers] == [200] * 4


def test_check_tells_of_overlapping_routes() -> None:
    app = FastAPI(openapi_url=None)
    add(app, "/{a}/x")
    add(app, "/pets/{b}")
    add_chio(app, settings())
    (found,) = (finding for finding in check(app) if finding.category == "overlapping_routes")
    assert found.severity == "WARN"
    assert found.message.startswith("GET, POST /pets/x runs /{a}/x here but is /pets/{b} to the sidecar")


def test_routes_that_the_sidecar_cannot_tell_apart_get_the_strictest_policy() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/x/{n:int}", nothing)
    app.add_api_route("/x/{s}", nothing, dependencies=[Depends(PAY)])
    app.add_api_route("/same", nothing)
    app.add_api_route("/same", nothing)
    assert paths_of(app)["/x/{n}"]["get"].items() >= STATES.items()
    (message,) = found(app, "same_template")
    assert message.startswith("GET /x/{n}, GET /x/{s}: 2 routes of different policy")
    table = RouteTable.from_openapi(document_for(app))
    assert {table.match("GET", path).policy for path in ("/x/1", "/x/a")} == {DENY_BY_DEFAULT}
    assert table.match("GET", "/same").policy == SESSION_ALLOW


def test_a_thousand_routes_without_overlaps_give_no_findings() -> None:
    routes = [Route(f"/a{n}/{{x}}/b{n % 7}", plain) for n in range(500)] + [
        Route(f"/c/d{n}", plain) for n in range(500)
    ]
    document = describe(Starlette(routes=[*routes, Route("/c/{x}", plain)]))
    assert (document.operations, document.findings) == (2002, ())


@pytest.mark.slow
def test_no_request_runs_another_route_than_the_document_leads_to(full_size: bool) -> None:
    for number in range(3_000 if full_size else 120):
        chance, tree, _, _, framework = case(number)
        try:
            _no_other_runs(chance, tree, framework)
        except BaseException as exc:
            exc.add_note(f"case {number}: {tree}")
            raise


def _no_other_runs(chance: random.Random, tree: list[Any], framework: Any) -> None:
    builder = Builder()
    app = builder.router(tree, "", Starlette() if framework is Starlette else FastAPI(openapi_url=None))
    routes = list(list_routes(app))
    if not routes:
        return
    assert {one.template for one in routes} == set(builder.templates)
    document = describe(app)
    table, resolve = RouteTable.from_openapi(document.text), RouteResolver(app)
    assert not list(find_overlaps(routes, document.left_out))
    for _ in range(12):
        # Starlette's mounts lose count where a path ends in a line break; such requests are refused.
        path, method = _path(chance, builder.templates).replace("\n", ""), chance.choice(["GET", "POST"])
        host = chance.choice(["a.test", "host.test", "c"])
        scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", host.encode())]}
        template, pattern = resolve(scope).template, table.match(method, path).pattern
        if template is None or shape(template) == shape(pattern) or pattern == path:
            continue
        ran = run(call(app, method, path, headers=[("host", host)])).status == 200
        assert not ran, (path, template, pattern, builder.templates)


@pytest.mark.parametrize("value", [{1}, float("nan"), "\ud800"], ids=["set", "nan", "half a pair"])
def test_a_member_that_is_no_json_is_one_sentence(value: Any) -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/a", lambda: None, openapi_extra={"x-chio-note": value})
    with pytest.raises(ConfigurationError, match=r"an x-chio-\* member or a path of a route is no JSON"):
        describe(app)


def test_included_routes_that_cannot_be_put_together_are_one_sentence() -> None:
    app, router = FastAPI(openapi_url=None), APIRouter()
    add_chio(app)
    router.add_api_route("/{pet}", lambda: None)
    try:
        app.include_router(router, prefix="/{pet}")
    except ValueError:
        return  # releases of FastAPI before 0.137 say so here
    for asked in (describe, check):
        with pytest.raises(ConfigurationError, match="routes cannot be read: Duplicated param name"):
            asked(app)
