"""Budgets: limits of application, document and grant, checked and charged together with the receipt."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from chio_core.models.demands import MAX_UNITS, BudgetDemand, demands_met
from chio_core.models.receipt import GuardEvidence
from chio_sidecar.app import SidecarApp
from chio_sidecar.explain import explain, read_refusal
from chio_sidecar.store import Obligation
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.schema import connect, prepare
from chio_sidecar.store.sqlite import SqliteLog
from chio_sidecar.store.writes import Append, apply
from tests import prefork
from tests.sidecar.approval_tools import approved
from tests.sidecar.sidecar_tools import SERVER, TOOL, capability, decision, evaluate, grant, sidecar
from tests.sidecar.store_conformance import charge, entry

ROUTE = {"method": "POST", "path": "/pay/7", "route_pattern": "/pay/{account}"}
OK = {"guard_name": "CapabilityGuard", "verdict": True, "details": "valid capability token presented"}
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "paths": {
        "/pay/{account}": {
            "post": {
                "x-chio-budget": {"currency": "USD", "max_cost_per_invocation": 50, "max_total_cost": 60},
                "responses": {},
            }
        }
    },
}


def demand(cost: int = 1, **limits: Any) -> dict[str, Any]:
    return BudgetDemand(cost=cost, **limits).to_wire()


async def spend(app: SidecarApp, name: int | str, budget: dict[str, Any] | None, token: Any = None, **more: Any) -> Any:
    """Evaluate a payment with this budget, and return the response, which is a decision."""
    members = ROUTE | {"request_id": f"req-{name}"} | ({} if budget is None else {"budget": budget}) | more
    return await decision(app, capability() if token is None else token, **members)


def verdicts(answers: list[Any]) -> list[str]:
    return [answer["verdict"]["verdict"] for answer in answers]


async def test_a_charge_is_stated_as_evidence_after_that_of_the_capability(tmp_path: Path) -> None:
    budget = BudgetDemand(3, max_invocations=5, max_total_cost=10)
    async with sidecar(tmp_path) as app:
        answer = await spend(app, 1, budget.to_wire())
        said = "cost 3 USD within invocations 5, total 10: charged"
        assert answer["verdict"] == {"verdict": "allow"}
        assert answer["evidence"] == [OK, {"guard_name": "BudgetGuard", "verdict": True, "details": said}]
        assert answer["receipt"]["response_status"] == 200
        evidence = [GuardEvidence.model_validate(one) for one in answer["evidence"]]
        assert demands_met(evidence, None, budget)
        assert not demands_met(evidence, None, BudgetDemand(3, max_invocations=6, max_total_cost=10))


@pytest.mark.parametrize(
    ("limits", "costs", "reason"),
    [
        (
            {"max_total_cost": 10},
            [6, 5],
            "budget exceeded: cost 5 USD, and 4 USD are left of 10 USD for POST /pay/{account}",
        ),
        ({"max_invocations": 1}, [0, 0], "budget exceeded: no invocation left of 1 for POST /pay/{account}"),
        (
            {"max_cost_per_invocation": 5},
            [5, 6],
            "budget exceeded: cost 6 USD is above 5 USD for one invocation of POST /pay/{account}",
        ),
        (
            {},
            [1, MAX_UNITS],
            f"budget exceeded: cost {MAX_UNITS} USD, and {MAX_UNITS - 1} USD are left of {MAX_UNITS} USD"
            " for POST /pay/{account}",
        ),
    ],
)
async def test_what_does_not_fit_is_denied_and_the_denial_is_stored(
    limits: dict[str, int], costs: list[int], reason: str, app: SidecarApp
) -> None:
    await spend(app, "fits", demand(costs[0], **limits))
    answer = await spend(app, "does-not", demand(costs[1], **limits))
    verdict = answer["verdict"]
    hint = verdict.pop("details")["hint"]
    assert verdict == {"verdict": "deny", "reason": reason, "guard": "BudgetGuard", "http_status": 403}
    assert hint.startswith("lower the cost")
    assert answer["evidence"] == [OK, {"guard_name": "BudgetGuard", "verdict": False, "details": reason}]
    receipt = answer["receipt"]
    assert (receipt["capability_id"], receipt["response_status"]) == ("cap-1", 403)
    stored = await app.state.sidecar.store.get(receipt["id"])
    assert (stored.request_id, json.loads(stored.receipt_json)) == ("req-does-not", receipt)


async def test_fifty_at_once_on_a_budget_of_ten_are_exactly_ten(app: SidecarApp) -> None:
    for limits in ({"max_invocations": 10}, {"currency": "EUR", "max_total_cost": 39}):
        budget = demand(4 if "currency" in limits else 0, **limits)
        kind = next(iter(limits))
        answers = await asyncio.gather(*(spend(app, f"{kind}-{n}", budget) for n in range(50)))
        assert verdicts(answers).count("allow") == (10 if kind == "max_invocations" else 9)


async def test_a_thousand_races_for_the_last_invocation_have_one_winner(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as one, sidecar(tmp_path) as two:
        budget, token = demand(1, max_invocations=1), capability()
        asked = [spend(one if number % 2 else two, number, budget, token) for number in range(1000)]
        answers = await asyncio.gather(*asked)
        assert verdicts(answers).count("allow") == 1
        reasons = {answer["verdict"].get("reason") for answer in answers}
        assert reasons == {None, "budget exceeded: no invocation left of 1 for POST /pay/{account}"}


async def test_the_same_request_again_is_charged_once(app: SidecarApp) -> None:
    first, again = [await spend(app, 1, demand(6, max_total_cost=10)) for _ in range(2)]
    assert first == again
    assert verdicts([await spend(app, 2, demand(4, max_total_cost=10))]) == ["allow"]
    assert await spend(app, 1, demand(6, max_total_cost=10)) == first
    other = await evaluate(app, capability(), **ROUTE, request_id="req-1", budget=demand(1, max_total_cost=10))
    assert (other.status, other.document["error"]) == (409, "chio_request_id_conflict")


async def test_what_was_spent_is_known_after_a_restart(tmp_path: Path) -> None:
    for number, expected in enumerate(["allow", "allow", "deny"]):
        async with sidecar(tmp_path) as app:
            assert verdicts([await spend(app, number, demand(max_invocations=2))]) == [expected]


async def test_an_account_belongs_to_capability_method_route_and_currency(app: SidecarApp) -> None:
    budget = demand(max_invocations=1)
    assert verdicts([await spend(app, 0, budget)]) == ["allow"]
    same = [await spend(app, "path", budget, path="/pay/8"), await spend(app, 0.5, budget, body_hash="ab")]
    assert verdicts(same) == ["deny", "deny"]
    others = [
        await spend(app, 1, budget, capability(name="cap-2")),
        await spend(app, 2, budget, method="PUT"),
        await spend(app, 3, budget, route_pattern="/pay/{x}"),
        await spend(app, 4, budget | {"currency": "EUR"}),
    ]
    assert verdicts(others) == ["allow"] * 4


async def test_without_a_capability_the_account_is_the_callers(app: SidecarApp) -> None:
    budget, caller = demand(max_invocations=1), {"auth_method": {"method": "anonymous"}}
    names = ["ann", "ann", "bob"]
    answers = [
        await decision(app, request_id=str(n), route_pattern="/x", budget=budget, caller=caller | {"subject": name})
        for n, name in enumerate(names)
    ]
    assert verdicts(answers) == ["allow", "deny", "allow"]
    assert answers[0]["evidence"][0]["guard_name"] == "DefaultPolicyGuard"
    assert "capability_id" not in answers[0]["receipt"]


async def test_nothing_is_charged_for_a_request_that_the_capability_does_not_cover(app: SidecarApp) -> None:
    budget, tool = demand(max_invocations=1), {"tool_server": SERVER, "tool_name": "other"}
    refused = await spend(app, 1, budget, **tool)
    assert refused["verdict"]["guard"] == "CapabilityGuard"
    revoked = capability(name="cap-2")
    await app.state.sidecar.store.revoke("cap-2")
    assert (await spend(app, 2, budget, revoked))["verdict"]["guard"] == "CapabilityRevocation"
    assert verdicts([await spend(app, 3, budget)]) == ["allow"]


async def test_the_stricter_of_document_and_request_counts(tmp_path: Path) -> None:
    async with sidecar(tmp_path, spec_text=json.dumps(SPEC)) as app:
        large = await spend(app, 1, demand(51, max_total_cost=1000))
        assert large["verdict"]["reason"].startswith("budget exceeded: cost 51 USD is above 50 USD")
        fits = await spend(app, 2, demand(50, max_total_cost=1000))
        assert fits["evidence"][1]["details"] == "cost 50 USD within total 1000: charged"
        over = await spend(app, 3, demand(11, max_total_cost=1000))
        assert "and 10 USD are left of 60 USD" in over["verdict"]["reason"]
        tight = await spend(app, 4, demand(8, max_total_cost=55))
        assert "and 5 USD are left of 55 USD" in tight["verdict"]["reason"]


async def test_the_evidence_states_the_documents_budget_if_the_application_has_none(tmp_path: Path) -> None:
    async with sidecar(tmp_path, spec_text=json.dumps(SPEC)) as app:
        answer = await spend(app, 1, None)
        assert answer["evidence"][1]["details"] == "cost 0 USD within each 50, total 60: charged"


async def test_a_cost_in_another_currency_than_the_document_is_refused(tmp_path: Path) -> None:
    async with sidecar(tmp_path, spec_text=json.dumps(SPEC)) as app:
        answer = await spend(app, 1, demand(1, currency="EUR"))
        assert answer["verdict"]["reason"] == "budget is in EUR, and that of the route in USD"


@pytest.mark.parametrize("currency", ["EUR", "USD"])
async def test_a_limit_of_the_document_without_a_currency_takes_that_of_the_request(
    currency: str, tmp_path: Path
) -> None:
    operation = {"x-chio-budget-limit": 10, "responses": {}}
    document = {**SPEC, "paths": {"/pay/{account}": {"post": operation}}}

    async with sidecar(tmp_path, spec_text=json.dumps(document)) as app:
        answers = [await spend(app, cost, demand(cost, currency=currency)) for cost in (6, 5, 4)]
        assert verdicts(answers) == ["allow", "deny", "allow"]
        assert answers[1]["verdict"]["reason"] == (
            f"budget exceeded: cost 5 {currency}, and 4 {currency} are left of 10 {currency} for POST /pay/{{account}}"
        )
        plain = await spend(app, "plain", None)  # who states no budget has one in USD
        assert plain["evidence"][-1]["details"] == "cost 0 USD within total 10: charged"


def limited(**limits: int) -> Any:
    """A token whose grant has limits in USD."""
    return capability(grants=[grant(**{name: {"units": n, "currency": "USD"} for name, n in limits.items()})])


TOOL_FIELDS = {"tool_server": SERVER, "tool_name": TOOL}


async def test_the_grants_limits_count_across_routes(app: SidecarApp) -> None:
    token = limited(max_total_cost=10, max_cost_per_invocation=7)
    large = await spend(app, 0, demand(8), token, **TOOL_FIELDS)
    assert large["verdict"]["reason"] == (
        f"budget exceeded: cost 8 USD is above 7 USD for one invocation of tool {TOOL} on server {SERVER}"
    )
    routes = [{"route_pattern": pattern} for pattern in ("/a", "/b")]
    one, two = [await spend(app, route["route_pattern"], demand(6), token, **TOOL_FIELDS, **route) for route in routes]
    assert verdicts([one, two]) == ["allow", "deny"]
    assert two["verdict"]["reason"] == (
        f"budget exceeded: cost 6 USD, and 4 USD are left of 10 USD for tool {TOOL} on server {SERVER}"
    )


@pytest.mark.parametrize("limit", ["max_total_cost", "max_cost_per_invocation"])
async def test_a_cost_in_another_currency_than_the_limit_of_the_grant_is_refused(limit: str, app: SidecarApp) -> None:
    token = limited(**{limit: 10})
    foreign = await spend(app, 1, demand(1, currency="EUR"), token, **TOOL_FIELDS)
    assert (foreign["verdict"]["guard"], foreign["verdict"]["reason"]) == (
        "BudgetGuard",
        f"budget is in EUR, and the limit of tool {TOOL} on server {SERVER} in USD",
    )
    nothing = await spend(app, 2, demand(0, currency="EUR", max_invocations=1), token, **TOOL_FIELDS)
    assert verdicts([nothing]) == ["allow"]
    assert explain(read_refusal(foreign["receipt"])).rule == "budget.grant-currency"


@pytest.mark.parametrize(
    ("budget", "place"),
    [
        ({}, "budget.currency must be"),
        ({"currency": "USD", "cost": -1}, "budget.cost must be a whole number"),
        ({"currency": "USD", "cost": 2**63}, "budget.cost must be a whole number"),
        ({"currency": "USD", "cost": 1.5}, "budget.cost must be a whole number"),
        ({"currency": "USD", "max_total_cost": True}, "budget.max_total_cost must be a whole number"),
        ({"currency": "US DOLLARS"}, "budget.currency must be"),
        ([], "budget"),
    ],
)
async def test_a_malformed_budget_is_refused_with_400(budget: Any, place: str, app: SidecarApp) -> None:
    answer = await evaluate(app, capability(), **ROUTE, budget=budget)
    assert (answer.status, answer.document["error"]) == (400, "chio_bad_request")
    assert answer.document["message"].startswith(f"invalid ChioHttpRequest payload: {place}")
    assert await app.state.sidecar.store.list() == []


async def test_what_an_observing_application_said_is_kept_in_the_receipt(tmp_path: Path) -> None:
    said = {"mode": "observe", "requires": "pay/" + "x" * 500, "more": "no"}
    async with sidecar(tmp_path) as app:
        kept = (await decision(app, enforcement=said))["receipt"]["metadata"]["chio_enforcement"]
        route = {"route": "/client/idea"}  # the application's own template, where it differs from the path
        assert kept == {"mode": "observe", "requires": said["requires"][:200], **route}
        odd = await decision(app, request_id="req-2", enforcement={"mode": 7})
        assert "chio_enforcement" not in odd["receipt"]["metadata"]
        await app.state.sidecar.store.revoke("cap-1")
        revoked = await spend(app, 3, None, enforcement={"mode": "observe"})
        kept = revoked["receipt"]["metadata"]["chio_enforcement"]
        assert kept == {"mode": "observe", "route": "/pay/{account}"}


DEADLINE = 60


async def test_two_processes_spend_no_more_than_one_budget_and_use_one_approval_once(tmp_path: Path) -> None:
    path = tmp_path / "receipts.sqlite3"
    async with sidecar(tmp_path, store_path=path) as app:
        approval_id = await approved(app)
    processes = [
        prefork.Process(
            "tests.sidecar.spending_sidecar",
            [path, name, 250, 300, approval_id],
            stdout=subprocess.PIPE,
            env=os.environ,
        )
        for name in ("one", "two")
    ]
    counts = [process.communicate(timeout=DEADLINE)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    spent, used = (sum(int(count[place]) for count in counts) for place in (0, 1))
    assert (spent, used) == (300, 1)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    prepare(tmp_path / "r", journal="persist", busy_seconds=1)
    return tmp_path / "r"


def statements(path: Path, *demands: Obligation) -> list[str]:
    """Return the first word of each statement that three receipts with these demands take."""
    seen: list[str] = []
    connection: sqlite3.Connection = connect(path, journal="persist", busy_seconds=1)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.set_trace_callback(seen.append)
        apply(
            connection,
            SqliteLog(connection),
            [Append(entry(n, unless_revoked=("cap-1",), obligations=demands), 0.0) for n in range(3)],
        )
    finally:
        connection.close()
    # SQLite reports a statement once more for each row that a trigger looks at.
    return [statement.split()[0] for statement, _ in groupby(seen)]


def test_receipts_without_demands_take_three_statements_for_all_of_them(prepared: Path) -> None:
    """The revocations, the end of the hash chain, and all rows."""
    assert statements(prepared) == ["SELECT", "SELECT", "INSERT"]


def test_a_charge_takes_three_statements_more(prepared: Path) -> None:
    plain, charged = ["SELECT", "INSERT"], ["SELECT", "SELECT", "INSERT", "SELECT", "INSERT"]
    end_of_the_chain = ["SELECT"]
    assert statements(prepared, charge()) == [*charged[:2], *end_of_the_chain, *charged[2:], *charged, *charged]
    assert len(charged) == len(plain) + 3
