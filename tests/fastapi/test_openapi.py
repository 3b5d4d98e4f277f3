"""The application's own OpenAPI document: what Chio adds to it, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import jsonschema
import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader, HTTPBearer
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator

from chio_asgi.config import ChioASGIConfig
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation import outcomes as decision
from chio_core.models.receipt import Verdict
from chio_core.refusals.problems import flat, problem
from chio_core.refusals.response import Denial, bad_request, body_too_large
from chio_core.request import Requirement
from chio_fastapi import RequireCapability, add_chio, require_capability
from chio_fastapi.dependencies import Budget, Policy, RequireApproval
from chio_fastapi.openapi import PROBLEM, SCHEME, extended
from tests.support import call, run, settings

PAY = RequireCapability("payments", "transfer")
STATES = {"x-chio-capability": [{"server": "payments", "tool": "transfer", "operations": ["invoke"]}]}


def nothing() -> dict[str, str]:
    return {}


def with_x(x: str) -> dict[str, str]:
    return {"x": x}


def governed(**options: Any) -> FastAPI:
    app = FastAPI(title="shop", version="3")
    add_chio(app, settings(**options))
    return app


def operation(app: FastAPI, path: str, method: str = "get") -> dict[str, Any]:
    document = app.openapi()
    OpenAPIV31SpecValidator(document).validate()
    found: dict[str, Any] = document["paths"][path][method]
    return found


def stated(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name.startswith("x-chio-")}


DEPENDENCIES: list[tuple[list[Any], dict[str, Any]]] = [
    ([PAY], STATES),
    ([require_capability], {"x-chio-capability": [{}]}),
    ([require_capability, PAY], STATES),
    (
        [RequireApproval(500, "EUR")],
        {"x-chio-approval-required": True, "x-chio-approval": {"threshold": 500, "currency": "EUR"}},
    ),
    (
        [Budget(max_total_cost=9, max_invocations=3)],
        {"x-chio-budget": {"currency": "USD", "max_invocations": 3, "max_total_cost": 9}, "x-chio-budget-limit": 9},
    ),
    (
        [Policy(sensitivity="restricted", side_effects=True)],
        {"x-chio-sensitivity": "restricted", "x-chio-side-effects": True},
    ),
    (
        [PAY, Policy(side_effects=False), RequireCapability("a", "b", sensitivity="internal", side_effects=True)],
        {
            "x-chio-capability": [*STATES["x-chio-capability"], {"server": "a", "tool": "b", "operations": ["invoke"]}],
            "x-chio-sensitivity": "internal",
            "x-chio-side-effects": True,
        },
    ),
    ([], {}),
]


@pytest.mark.parametrize(("dependencies", "members"), DEPENDENCIES)
def test_the_dependencies_of_a_route_are_stated_in_its_operation(
    dependencies: list[Any], members: dict[str, Any]
) -> None:
    app = governed()
    app.add_api_route("/x", nothing, dependencies=[Depends(one) for one in dependencies])
    assert stated(operation(app, "/x")) == members


def test_dependencies_count_wherever_they_are_declared() -> None:
    def inner(receipt: Annotated[Any, Depends(PAY)]) -> None: ...

    app = FastAPI(dependencies=[Depends(Policy(sensitivity="internal"))])
    add_chio(app, settings())
    branch, leaf = APIRouter(dependencies=[Depends(require_capability)]), APIRouter()
    leaf.add_api_route("/leaf/{x}", with_x, dependencies=[Depends(inner)])
    branch.include_router(leaf, prefix="/b")
    app.include_router(branch, prefix="/a", dependencies=[Depends(Policy(side_effects=True))])
    expected = STATES | {"x-chio-sensitivity": "internal", "x-chio-side-effects": True}
    assert stated(operation(app, "/a/b/leaf/{x}")) == expected


def test_a_capability_is_a_lock_in_the_docs_under_the_name_of_the_header_that_is_read() -> None:
    app = governed(capability_header="X-Ticket")
    app.add_api_route("/safe", nothing)
    app.add_api_route("/locked", nothing, dependencies=[Depends(PAY)])
    app.add_api_route("/written", nothing, methods=["POST"])
    document = app.openapi()
    assert document["components"]["securitySchemes"][SCHEME]["name"] == "X-Ticket"
    assert operation(app, "/locked")["security"] == [{SCHEME: []}]
    assert operation(app, "/written", "post")["security"] == [{SCHEME: []}]
    assert "security" not in operation(app, "/safe")


def test_the_capability_is_needed_besides_other_ways_of_authenticating() -> None:
    app = governed()
    bearer, key = HTTPBearer(), APIKeyHeader(name="k")
    app.add_api_route("/both", nothing, dependencies=[Depends(PAY), Security(bearer), Security(key)])
    app.add_api_route("/optional", nothing, dependencies=[Depends(Budget(max_invocations=1))])
    app.add_api_route("/mixed", nothing, dependencies=[Depends(Budget(max_invocations=1)), Security(key)])
    both = operation(app, "/both")["security"]
    assert both == [{"HTTPBearer": [], SCHEME: []}, {"APIKeyHeader": [], SCHEME: []}]
    assert operation(app, "/optional")["security"] == [{SCHEME: []}, {}]
    assert operation(app, "/mixed")["security"] == [{"APIKeyHeader": [], SCHEME: []}, {"APIKeyHeader": []}]


def test_refusals_are_described_and_the_users_own_descriptions_stay() -> None:
    app = governed()
    app.add_api_route("/plain", nothing)
    app.add_api_route("/locked", nothing, dependencies=[Depends(PAY)])
    mine: dict[int | str, dict[str, Any]] = {403: {"description": "mine"}, "5XX": {"description": "also mine"}}
    app.add_api_route("/mine", nothing, dependencies=[Depends(PAY)], responses=mine)
    app.add_api_route("/default", nothing, responses={"default": {"description": "d"}})
    assert set(operation(app, "/plain")["responses"]) == {"200", "403", "502", "503"}
    assert set(operation(app, "/locked")["responses"]) == {"200", "401", "403", "502", "503"}
    found = operation(app, "/mine")["responses"]
    assert set(found) == {"200", "401", "403", "5XX"}
    assert found["403"] == {"description": "mine"}
    assert set(operation(app, "/default")["responses"]) == {"200", "default"}


def test_an_excluded_route_is_left_alone() -> None:
    app = governed(exclude_paths={"/healthz"}, exclude_prefixes={"/public"}, exclude_methods={"OPTIONS"})
    for path, methods in [("/healthz", ["GET"]), ("/public/{x}", ["POST"]), ("/o", ["OPTIONS"])]:
        app.add_api_route(path, with_x if "{x}" in path else nothing, methods=methods)
        found = operation(app, path, methods[0].lower())
        assert set(found["responses"]) <= {"200", "422"}
        assert "security" not in found


def outcomes() -> Iterator[Denial]:
    """Every refusal that there is."""
    yield decision.capability_required(Requirement("s", "t"), "X-Chio-Capability", "r-1")
    yield decision.capability_insufficient(Requirement("s", "t"), "r-1")
    yield replace(decision.capability_insufficient(Requirement("s", "t"), "r-1"), explain_url="https://h/#r-1")
    yield bad_request("b")
    yield body_too_large(1)
    for error in (SidecarUnreachable("u"), SidecarTimeout("t"), EvaluationFailed("e", status=500, detail="d")):
        yield decision.denial_for_error(error)
    details = {"reason_code": "scope.missing", "hint": "h"}
    wire = {"verdict": "deny", "reason": "r", "guard": "G", "http_status": 403, "details": details}
    yield decision.denial_for_verdict(Verdict.model_validate(wire), "r-1", "X-Chio-Capability")


def test_every_refusal_matches_the_schema_of_the_problem() -> None:
    jsonschema.Draft202012Validator.check_schema(PROBLEM)
    known = set(PROBLEM["properties"])
    seen: set[str] = set()
    for document in [form(denial) for denial in outcomes() for form in (flat, problem)]:
        jsonschema.validate(document, PROBLEM)
        assert set(document) <= known
        seen |= set(document)
    assert seen == known, "the schema describes members that no refusal has"


def test_a_refusal_has_a_documented_form() -> None:
    app = governed(sidecar_url="http://127.0.0.1:9")
    app.add_api_route("/x", nothing)
    described = app.openapi()["components"]["responses"]["ChioSidecarUnavailable"]["content"]
    assert list(described) == ["application/json", "application/problem+json"]
    for kind in described:
        reply = run(call(app, "GET", "/x", headers=[("accept", kind)]))
        assert (reply.status, dict(reply.headers)["content-type"]) == (503, kind)
        jsonschema.validate(reply.json(), PROBLEM)


def test_the_document_is_made_once_and_again_when_a_route_is_added() -> None:
    app = governed()
    app.add_api_route("/one", nothing)
    first = app.openapi()
    assert app.openapi() is first
    app.add_api_route("/two", nothing, dependencies=[Depends(PAY)])
    second = app.openapi()
    assert second is not first
    assert stated(second["paths"]["/two"]["get"]) == STATES
    router = APIRouter()
    app.include_router(router, prefix="/later")
    router.add_api_route("/three", nothing, dependencies=[Depends(PAY)])
    assert stated(operation(app, "/later/three")) == STATES


def test_the_document_is_served_at_its_url_with_the_docs() -> None:
    app = governed(exclude_paths={"/openapi.json", "/docs"})
    app.add_api_route("/x", nothing, dependencies=[Depends(PAY)])
    served = run(call(app, "GET", "/openapi.json")).json()
    assert stated(served["paths"]["/x"]["get"]) == STATES
    assert run(call(app, "GET", "/docs")).status == 200


def own_document(app: FastAPI) -> Any:
    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = get_openapi(title="own", version="1", routes=app.routes)
            app.openapi_schema["info"]["x-logo"] = {"url": "logo.png"}
            app.openapi_schema["security"] = [{"Global": []}]
            app.openapi_schema["components"] = {
                "securitySchemes": {"Global": {"type": "http", "scheme": "basic"}},
                "schemas": {"ChioProblem": {"type": "string"}},
            }
        return app.openapi_schema

    return openapi


def test_a_document_of_the_applications_own_is_extended_and_not_changed() -> None:
    app = FastAPI()
    app.add_api_route("/x", nothing, methods=["POST"], openapi_extra={"x-chio-side-effects": True})
    app.openapi = own_document(app)  # type: ignore[method-assign]
    before = copy.deepcopy(app.openapi())
    add_chio(app, settings())
    document = app.openapi()
    assert app.openapi_schema == before
    assert document["info"]["x-logo"] == {"url": "logo.png"}
    assert operation(app, "/x", "post")["security"] == [{"Global": [], SCHEME: []}]
    schemas = document["components"]["schemas"]
    assert schemas["ChioProblem"] == {"type": "string"}
    assert schemas["ChioProblem_"] == PROBLEM


def test_a_document_that_replaces_ours_later_may_be_extended_by_hand() -> None:
    app = governed()
    app.add_api_route("/x", nothing, dependencies=[Depends(PAY)])
    own = own_document(app)
    app.openapi = lambda: extended(app, settings(), own())  # type: ignore[method-assign]
    assert stated(operation(app, "/x")) == STATES


def test_documents_of_version_three_zero_stay_valid() -> None:
    app = governed()
    app.openapi_version = "3.0.3"
    app.add_api_route("/x/{x}", with_x, dependencies=[Depends(PAY)], methods=["POST"])
    OpenAPIV30SpecValidator(app.openapi()).validate()


def test_the_members_that_a_user_wrote_are_kept_and_cannot_weaken_the_dependencies() -> None:
    app = governed()
    extra = {"x-chio-side-effects": False, "x-chio-capability": [{}], "x-chio-publish": True, "x-own": 1}
    app.add_api_route(
        "/x", nothing, methods=["POST"], dependencies=[Depends(PAY), Depends(Policy(side_effects=True))],
        openapi_extra=extra,
    )  # fmt: skip
    found = operation(app, "/x", "post")
    assert stated(found) == STATES | {"x-chio-side-effects": True, "x-chio-publish": True}
    assert found["x-own"] == 1


def test_governing_twice_reports_everything_once() -> None:
    app = governed()
    app.add_api_route("/x", nothing, dependencies=[Depends(PAY)])
    once = copy.deepcopy(app.openapi())
    add_chio(app, settings())
    assert app.openapi() == once


def test_an_application_without_documents_can_be_governed() -> None:
    app = FastAPI(openapi_url=None)
    add_chio(app, ChioASGIConfig(_env_file=None))
    assert app.openapi()["paths"] == {}
