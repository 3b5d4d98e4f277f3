"""`Budget` and `Policy`, and the keywords of `RequireCapability` that the document states."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends, FastAPI

from chio_core.errors import ConfigurationError
from chio_core.testing import behaviours
from chio_fastapi import Budget, Policy, RequireCapability, from_body, from_path
from tests.fastapi.apps import with_and_without, with_token
from tests.fastapi.demanding import Served, problem

LIMITED = Budget(cost=3, currency="EUR", max_invocations=10, max_cost_per_invocation=5, max_total_cost=20)


@with_and_without
def test_the_budget_is_part_of_the_evaluation(middleware: bool) -> None:
    served = Served(LIMITED, middleware=middleware)
    assert served.ask().status == 200
    assert served.asked[0]["budget"] == {
        "cost": 3,
        "currency": "EUR",
        "max_invocations": 10,
        "max_cost_per_invocation": 5,
        "max_total_cost": 20,
    }


@with_and_without
def test_a_budget_requires_no_capability(middleware: bool) -> None:
    served = Served(LIMITED, middleware=middleware)
    assert served.ask(headers=[]).status == 200
    assert served.asked[0]["budget"]["cost"] == 3


@with_and_without
def test_beside_a_capability_nothing_is_spent_without_one(middleware: bool) -> None:
    for demands in ((LIMITED, RequireCapability("pay", "out")), (Policy(side_effects=True), LIMITED)):
        served = Served(*demands, middleware=middleware)
        reply = served.ask(headers=[])
        assert (reply.status, problem(reply)["error"], served.ran) == (401, "chio_capability_required", [])
        assert all("budget" not in asked for asked in served.asked)


@with_and_without
def test_each_request_states_its_own_cost(middleware: bool) -> None:
    served = Served(Budget(cost=from_path("account")), middleware=middleware)
    for cost in (1, 2, 3):
        assert served.ask(f"/pay/{cost}").status == 200
    assert [asked["budget"]["cost"] for asked in served.asked] == [1, 2, 3]


@with_and_without
def test_two_budgets_are_two_evaluations(middleware: bool) -> None:
    served = Served(Budget(cost=1, currency="USD"), Budget(cost=2, currency="TOKENS"), middleware=middleware)
    assert served.ask().status == 200
    assert [asked["budget"]["currency"] for asked in served.asked] == ["USD", "TOKENS"]


def test_equal_budgets_are_equal_and_found_by_dependency_overrides() -> None:
    assert Budget(cost=from_body("a"), max_total_cost=5) == Budget(cost=from_body("a"), max_total_cost=5)
    assert hash(Budget()) == hash(Budget(cost=0, currency="USD"))
    assert Budget(max_invocations=1) != Budget(max_total_cost=1)
    assert Budget(cost=1) != Budget()
    assert repr(Budget(cost=2, max_invocations=1)) == "Budget(cost=2, currency='USD', max_invocations=1)"
    served = Served(Budget(max_invocations=1), overrides=[Budget(max_invocations=1)])
    assert served.ask().status == 200
    assert "budget" not in served.asked[0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"cost": -1},
        {"cost": None},
        {"cost": True},
        {"cost": "1"},
        {"cost": 2**63},
        {"currency": "U S D"},
        {"currency": "x" * 17},
        {"max_invocations": -1},
        {"max_invocations": True},
        {"max_cost_per_invocation": 1.5},
        {"max_total_cost": "5"},
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused_at_the_start(arguments: Any) -> None:
    with pytest.raises(ConfigurationError, match="Budget"):
        Budget(**arguments)


def test_the_document_states_the_budget() -> None:
    assert Budget().chio_extensions() == {"x-chio-budget": {"currency": "USD"}}
    assert LIMITED.chio_extensions() == {
        "x-chio-budget-limit": 20,
        "x-chio-budget": {"currency": "EUR", "max_invocations": 10, "max_cost_per_invocation": 5, "max_total_cost": 20},
    }


# `Policy`, and the keywords of `RequireCapability` that the document states


SAFE = {"path": "/export", "method": "GET"}


@with_and_without
def test_side_effects_require_a_capability_whatever_the_method_is(middleware: bool) -> None:
    served = Served(Policy(side_effects=True), middleware=middleware, **SAFE)
    reply = served.ask("/export", method="GET", headers=[])
    assert (reply.status, problem(reply)["error"], served.ran) == (401, "chio_capability_required", [])
    assert served.ask("/export", method="GET", headers=with_token(("any", "thing"))).status == 200
    assert len(served.ran) == 1
    assert "tool_server" not in served.asked[0]


@with_and_without
@pytest.mark.parametrize("policy", [Policy(sensitivity="restricted"), Policy(side_effects=False)])
def test_a_policy_that_is_only_stated_requires_nothing(middleware: bool, policy: Policy) -> None:
    served = Served(policy, middleware=middleware, fail_open=True, **SAFE)
    assert served.ask("/export", method="GET", headers=[]).status == 200
    served.sidecar.script = behaviours.REFUSE
    assert served.ask("/export", method="GET", headers=[]).status == 200
    assert len(served.ran) == 2


@with_and_without
def test_a_named_capability_beside_side_effects_is_one_evaluation(middleware: bool) -> None:
    served = Served(Policy(side_effects=True), RequireCapability("pay", "out"), middleware=middleware)
    assert served.ask().status == 200
    assert [asked["tool_name"] for asked in served.asked] == ["out"]


def test_the_document_states_the_policy() -> None:
    assert Policy(sensitivity="internal", side_effects=False).chio_extensions() == {
        "x-chio-sensitivity": "internal",
        "x-chio-side-effects": False,
    }
    need = RequireCapability("a", "b", operations=("read",), sensitivity="restricted", side_effects=True)
    assert need.chio_extensions() == {
        "x-chio-capability": [{"server": "a", "tool": "b", "operations": ["read"]}],
        "x-chio-sensitivity": "restricted",
        "x-chio-side-effects": True,
    }
    assert RequireCapability().chio_extensions() == {"x-chio-capability": [{}]}


def test_equal_policies_are_equal_and_found_by_dependency_overrides() -> None:
    assert Policy(side_effects=True) == Policy(side_effects=True)
    assert hash(Policy(sensitivity="public")) == hash(Policy(sensitivity="public"))
    assert Policy(side_effects=True) != Policy(side_effects=False)
    assert repr(Policy(side_effects=True)) == "Policy(sensitivity=None, side_effects=True)"
    assert RequireCapability("a", "b", sensitivity="public") != RequireCapability("a", "b")
    served = Served(Policy(side_effects=True), overrides=[Policy(side_effects=True)], **SAFE)
    assert served.ask("/export", method="GET", headers=[]).status == 200


@pytest.mark.parametrize(
    "arguments", [{}, {"sensitivity": "secret"}, {"sensitivity": ""}, {"side_effects": 1}, {"side_effects": "yes"}]
)
def test_a_policy_that_cannot_be_meant_is_refused_at_the_start(arguments: Any) -> None:
    with pytest.raises(ConfigurationError, match="Policy"):
        Policy(**arguments)
    if arguments:
        with pytest.raises(ConfigurationError, match="RequireCapability"):
            RequireCapability(**arguments)


def test_a_policy_without_its_parentheses_is_refused_when_the_route_is_defined() -> None:
    with pytest.raises(ConfigurationError, match=r"Depends\(Policy\) lacks its parentheses"):
        FastAPI().get("/", dependencies=[Depends(Policy)])(lambda: None)
