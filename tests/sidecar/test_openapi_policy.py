"""The members of an operation that set policy: their effect, the warnings, and the errors that stop the start."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from chio_asgi.listing import describe
from chio_core.errors import ConfigurationError
from chio_core.models.demands import MAX_UNITS, ApprovalDemand, BudgetDemand
from chio_core.settings import ChioSettings
from chio_fastapi import RequireCapability, add_chio
from chio_sidecar.policy.routes import DENY_BY_DEFAULT, SESSION_ALLOW, RouteTable, operation_rule
from tests.sidecar.sidecar_tools import sidecar
from tests.support import run


def document(paths: dict[str, Any], **more: Any) -> str:
    return json.dumps({"openapi": "3.1.0", "info": {}, "paths": paths, **more})


def warnings_of(text: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING):
        RouteTable.from_openapi(text)
    return [record.getMessage() for record in caplog.records]


def test_an_approval_is_read() -> None:
    rule = operation_rule("POST", "/p", {"x-chio-approval": {"threshold": 500, "currency": "EUR"}})
    assert rule.approval == ApprovalDemand(500, "EUR")
    assert rule.policy == DENY_BY_DEFAULT
    assert operation_rule("POST", "/p", {"x-chio-approval": None}).approval is None


BUDGETS: list[tuple[dict[str, Any], BudgetDemand | None]] = [
    ({}, None),
    ({"x-chio-budget-limit": 7}, BudgetDemand(max_total_cost=7)),
    ({"x-chio-budget-limit": 0}, BudgetDemand(max_total_cost=0)),
    ({"x-chio-budget-limit": 2**64 - 1}, BudgetDemand(max_total_cost=MAX_UNITS)),
    ({"x-chio-budget-limit": "7"}, None),
    ({"x-chio-budget-limit": -1}, None),
    ({"x-chio-budget-limit": 7.0}, None),
    ({"x-chio-budget-limit": True}, None),
    ({"x-chio-budget": {"currency": "EUR"}}, BudgetDemand(currency="EUR")),
    (
        {"x-chio-budget": {"currency": "EUR", "max_invocations": 1, "max_cost_per_invocation": 2, "max_total_cost": 3}},
        BudgetDemand(currency="EUR", max_invocations=1, max_cost_per_invocation=2, max_total_cost=3),
    ),
    (
        {"x-chio-budget": {"currency": "EUR", "max_invocations": 1}, "x-chio-budget-limit": 7},
        BudgetDemand(currency="EUR", max_invocations=1, max_total_cost=7),
    ),
    (
        {"x-chio-budget": {"currency": "EUR", "max_total_cost": 5}, "x-chio-budget-limit": 7},
        BudgetDemand(currency="EUR", max_total_cost=5),
    ),
    (
        {"x-chio-budget": {"currency": "EUR", "max_total_cost": 9}, "x-chio-budget-limit": 7},
        BudgetDemand(currency="EUR", max_total_cost=7),
    ),
]


@pytest.mark.parametrize(("operation", "budget"), BUDGETS)
def test_the_smaller_of_two_limits_is_the_budget(operation: dict[str, Any], budget: BudgetDemand | None) -> None:
    assert operation_rule("GET", "/x", operation).budget == budget


@pytest.mark.parametrize("level", ["public", "internal", "sensitive", "restricted"])
def test_a_sensitivity_is_read(level: str) -> None:
    rule = operation_rule("GET", "/x", {"x-chio-sensitivity": level})
    assert (rule.sensitivity, rule.policy) == (level, SESSION_ALLOW)


def test_observing_is_read_from_true_and_from_nothing_else() -> None:
    assert operation_rule("GET", "/x", {"x-chio-observe": True}).observe
    for value in (False, "true", 1, None, [True]):
        assert not operation_rule("GET", "/x", {"x-chio-observe": value}).observe


CAPABILITIES: list[tuple[str, Any, str]] = [
    ("GET", None, SESSION_ALLOW),
    ("GET", [], SESSION_ALLOW),
    ("GET", [{}], DENY_BY_DEFAULT),
    ("GET", [{"server": "s", "tool": "t"}], DENY_BY_DEFAULT),
    ("GET", [{"server": "s", "tool": "t", "operations": ["invoke", "read"]}], DENY_BY_DEFAULT),
    ("POST", [], DENY_BY_DEFAULT),
]


@pytest.mark.parametrize(("method", "wanted", "policy"), CAPABILITIES)
def test_a_named_capability_is_needed_whatever_the_method(method: str, wanted: Any, policy: str) -> None:
    assert operation_rule(method, "/x", {"x-chio-capability": wanted}).policy == policy
    with_effects = {"x-chio-capability": wanted, "x-chio-side-effects": False}
    expected = DENY_BY_DEFAULT if wanted else SESSION_ALLOW
    assert operation_rule(method, "/x", with_effects).policy == expected


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"x-chio-approval": True}, 'it must be {"threshold": whole number, "currency": text}'),
    ({"x-chio-approval": {"threshold": 1}}, 'it must be {"threshold": whole number, "currency": text}'),
    ({"x-chio-approval": {"threshold": 1, "currency": "USD", "treshold": 2}}, "it must be"),
    ({"x-chio-approval": {"threshold": "1", "currency": "USD"}}, "threshold must be a whole number"),
    ({"x-chio-approval": {"threshold": -1, "currency": "USD"}}, "threshold must be a whole number"),
    ({"x-chio-approval": {"threshold": 1, "currency": ""}}, "currency must be"),
    ({"x-chio-budget": 5}, "it must be an object of currency, max_cost_per_invocation, max_invocations"),
    ({"x-chio-budget": {"currency": "USD", "max_totl_cost": 5}}, "it must be an object of"),
    ({"x-chio-budget": {"currency": "USD", "cost": 5}}, "it must be an object of"),
    ({"x-chio-budget": {"max_total_cost": 5}}, "currency must be"),
    ({"x-chio-budget": {"currency": "USD", "max_total_cost": "5"}}, "max_total_cost must be a whole number"),
    ({"x-chio-budget": {"currency": "USD", "max_invocations": True}}, "max_invocations must be a whole number"),
    ({"x-chio-capability": True}, "it must be a list of"),
    ({"x-chio-capability": {"server": "s", "tool": "t"}}, "it must be a list of"),
    ({"x-chio-capability": ["s/t"]}, "it must be a list of"),
    ({"x-chio-capability": [{"server": "s"}]}, "it must be a list of"),
    ({"x-chio-capability": [{"server": "s", "tool": ""}]}, "it must be a list of"),
    ({"x-chio-capability": [{"server": "s", "tool": "t", "operations": "invoke"}]}, "it must be a list of"),
    ({"x-chio-capability": [{"server": "s", "tool": "t", "operations": ["fly"]}]}, "it must be a list of"),
    ({"x-chio-capability": [{"server": "s", "tool": "t", "scope": 1}]}, "it must be a list of"),
]


@pytest.mark.parametrize(("operation", "message"), MALFORMED)
def test_a_malformed_member_of_our_own_stops_the_start(operation: dict[str, Any], message: str) -> None:
    (name,) = operation
    with pytest.raises(ConfigurationError) as caught:
        RouteTable.from_openapi(document({"/pay": {"post": operation}}))
    assert caught.value.message.startswith(f"failed to parse OpenAPI spec: {name} of POST /pay: {message}")
    assert "\n" not in caught.value.message


def test_it_stops_the_start_also_where_another_member_asks_for_a_capability_already() -> None:
    with pytest.raises(ConfigurationError, match="x-chio-capability of POST /pay: it must be a list of"):
        operation_rule("POST", "/pay", {"x-chio-approval-required": True, "x-chio-capability": "s/t"})


OPEN, CLOSED = {"x-chio-side-effects": False}, {"x-chio-side-effects": True}
DOUBTFUL: list[tuple[dict[str, Any], str]] = [
    ({"/a": {"get": {"x-chio-side-effects": "yes"}}}, "x-chio-side-effects of GET /a is neither true nor false"),
    ({"/a": {"get": {"x-chio-approval-required": 1}}}, "x-chio-approval-required of GET /a is neither true nor false"),
    ({"/a": {"get": {"x-chio-observe": "no"}}}, "x-chio-observe of GET /a is neither true nor false"),
    ({"/a": {"get": {"x-chio-sensitivity": "secret"}}}, "x-chio-sensitivity of GET /a is no level"),
    ({"/a": {"get": {"x-chio-sensitivity": ["public"]}}}, "x-chio-sensitivity of GET /a is no level"),
    ({"/a": {"get": {"x-chio-budget-limit": "5"}}}, "x-chio-budget-limit of GET /a is no amount"),
    ({"/a": {"get": {"x-chio-sideeffects": True}}}, "x-chio-sideeffects of GET /a is unknown"),
    ({"/a": {"get": {"X-Chio-Side-Effects": True}}}, "X-Chio-Side-Effects of GET /a is unknown"),
    ({"/a": {"get": {"x_chio_side_effects": True}}}, "x_chio_side_effects of GET /a is unknown"),
    ({"/a": {"GET": {"x-chio-side-effects": True}}}, "GET of path /a is no operation and is ignored; write get"),
    ({"/a": {"Post": {}}}, "Post of path /a is no operation and is ignored; write post"),
    ({"/a": {"x-chio-side-effects": True, "get": {}}}, "x-chio-side-effects of path /a is ignored; write it into each"),
    ({"a/{x}": {"get": {}}}, "path 'a/{x}' does not begin with a slash and never matches; write '/a/{x}'"),
    ({"x-chio-side-effects": True}, "x-chio-side-effects of paths is ignored"),
    ({"/a": {"trace": CLOSED}}, "trace of path /a is no method that is evaluated, and its policy never applies"),
    ({"/a": {"fetch": {"x-chio-capability": [{}]}}}, "fetch of path /a is no method that is evaluated"),
    ({"/a": {"post": {"requestBody": CLOSED}}}, "x-chio-side-effects of the requestBody of POST /a is ignored"),
    ({"/a": {"post": {"parameters": [CLOSED]}}}, "x-chio-side-effects of a parameter of POST /a is ignored"),
    ({"/a": {"post": {"responses": {"200": CLOSED}}}}, "x-chio-side-effects of response 200 of POST /a is ignored"),
    ({"/f/{name}.json": {"post": OPEN}}, "{name}.json of path /f/{name}.json matches this text alone"),
    ({"/f/v{n}": {"post": OPEN}}, "v{n} of path /f/v{n} matches this text alone"),
    ({"/f/{a}.{b}": {"post": OPEN}}, "{a}.{b} of path /f/{a}.{b} matches any segment"),
    ({"/f/{a:path}": {"post": OPEN}}, "{a:path} of path /f/{a:path} matches one segment"),
    ({"/f/:id": {"post": OPEN}}, ":id of path /f/:id matches this text alone"),
    ({"/f/<int:id>": {"post": OPEN}}, "<int:id> of path /f/<int:id> matches this text alone"),
    ({"/f/*": {"post": OPEN}}, "* of path /f/* matches this text alone"),
    ({"/f?all=1": {"post": OPEN}}, "path /f?all=1 never matches, because paths are matched without query"),
    (
        {"/a/{x}": {"post": OPEN}, "/a/{y}": {"post": {}}},
        "the policy of POST /a/{y} never applies, because /a/{x} matches the same paths before it",
    ),
    ({"/a/{x}": {"post": {}}, "/a/~me": {"post": OPEN}}, "the policy of POST /a/~me never applies, because /a/{x}"),
    ({"/a": {"post": OPEN}, "/a/": {"post": {}}}, "POST /a/ and /a differ in policy, and many servers treat them"),
    ({"/a/{x}": {"post": OPEN}, "/A/{y}": {"post": {}}}, "POST /A/{y} and /a/{x} differ in policy"),
    ({"/a": {"get": CLOSED}}, "HEAD /a is allowed without the capability that GET /a needs"),
    (
        {"/a": {"post": OPEN, "servers": [{"url": "/v1/"}]}},
        "the base path /v1 in servers of path /a is ignored, so /a does not match /v1/a",
    ),
    ({"/a": {"post": {**OPEN, "servers": [{"url": "/v1"}]}}}, "the base path /v1 in servers of POST /a is ignored"),
]


@pytest.mark.parametrize(("paths", "message"), DOUBTFUL)
def test_policy_that_would_be_ignored_is_one_warning_that_names_place_and_remedy(
    paths: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    (warning,) = warnings_of(document(paths), caplog)
    assert warning.startswith(f"OpenAPI spec: {message}")
    assert "; " in warning, "the remedy"
    assert "\n" not in warning


@pytest.mark.parametrize(("paths", "message"), DOUBTFUL)
def test_policy_that_would_be_ignored_stops_a_strict_start(paths: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RouteTable.from_openapi(document(paths), strict=True)
    assert caught.value.message.startswith(f"failed to parse OpenAPI spec: {message}")


def test_policy_in_the_documents_head_is_a_warning_too(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = warnings_of(document({}, **{"x-chio-approval-required": True}), caplog)
    assert warning.startswith("OpenAPI spec: x-chio-approval-required of the document is ignored")


@pytest.mark.parametrize(
    "server",
    [
        {"url": "/v1"},
        {"url": "https://api.example/v1/"},
        {"url": "https://{at}.example/{base}", "variables": {"base": {"default": "v1"}}},
    ],
)
def test_a_base_path_is_doubted_where_there_is_policy_below_it(
    server: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    servers = {"servers": [server, {"url": "https://api.example"}]}
    (warning,) = warnings_of(document({"/a": {"post": OPEN}, "/b": {"post": OPEN}}, **servers), caplog)
    assert warning.startswith("OpenAPI spec: the base path /v1 in servers is ignored, so /a does not match /v1/a; ")
    caplog.clear()
    assert warnings_of(document({"/a": {"post": {}}}, **servers), caplog) == [], "no policy"
    assert warnings_of(document({"/v1/a": {"post": OPEN}}, **servers), caplog) == [], "the paths have it"


@pytest.mark.parametrize(
    "paths",
    [
        {"/a/{x}": {"post": OPEN}, "/a/{y}": {"post": OPEN}, "/a/{x}/": {"post": OPEN}},
        {"/a/{x}": {"post": OPEN}, "/a/me": {"post": {}}, "/f/{name}.json": {"get": {}}},
        {"/a": {"get": CLOSED, "head": {"x-chio-side-effects": True}}},
        {"/a": {"get": CLOSED}, "/{any}": {"head": CLOSED}},
    ],
)
def test_a_path_beside_another_one_is_no_doubt_where_both_apply_or_nothing_is_lost(
    paths: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of(document(paths), caplog) == []


def test_documents_of_the_adapters_are_read_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    add_chio(app, ChioSettings(sidecar_url="http://127.0.0.1:9"))
    needed = [Depends(RequireCapability("files", "read"))]
    for path in ("/a", "/a/", "/A", "/a/{x}"):
        app.get(path, dependencies=needed if path != "/A" else [])(lambda: None)
    own = app.openapi()
    own["servers"] = [{"url": "/v1"}]  # FastAPI adds `root_path` to what it serves
    assert warnings_of(json.dumps(own), caplog) == []
    assert warnings_of(describe(app).text, caplog) == []


def test_a_document_without_doubts_is_read_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    operation = {
        "x-chio-side-effects": True, "x-chio-approval-required": False, "x-chio-sensitivity": "public",
        "x-chio-budget-limit": 5, "x-chio-publish": True, "x-chio-observe": False, "x-own": 1,
        "x-chio-capability": [{}], "x-chio-approval": {"threshold": 1, "currency": "USD"},
        "x-chio-budget": {"currency": "USD"},
    }  # fmt: skip
    paths = {"/a": {"put": operation, "trace": {}, "summary": "s", "x-own": 1, "parameters": []}, "x-paths": 1}
    assert warnings_of(document(paths, **{"x-own": 1}), caplog) == []
    assert len(RouteTable.from_openapi(document(paths), strict=True)) == 1


def test_a_thousand_doubts_are_fifty_and_a_number(caplog: pytest.LogCaptureFixture) -> None:
    paths = {f"/a{n}": {"GET": {}} for n in range(1000)}
    found = warnings_of(document(paths), caplog)
    assert len(found) == 51
    assert found[-1] == "OpenAPI spec: and 950 more of this kind"


def test_the_value_that_is_ignored_counts_as_absent(caplog: pytest.LogCaptureFixture) -> None:
    table = RouteTable.from_openapi(document({"/a": {"post": {"x-chio-side-effects": "false"}}}))
    assert table.match("POST", "/a").policy == DENY_BY_DEFAULT
    assert caplog.messages


def test_the_option_reaches_the_sidecar(tmp_path: Path) -> None:
    async def start(**options: Any) -> None:
        async with sidecar(tmp_path, spec_text=document({"/a": {"GET": {}}}), **options) as app:
            app.state.sidecar.open()

    run(start())
    with pytest.raises(ConfigurationError, match="no operation and is ignored"):
        run(start(strict_spec=True))
