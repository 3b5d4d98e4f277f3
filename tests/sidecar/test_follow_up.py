"""Second evaluations of a request (`further_to`): for which receipts the document's demands count as met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import parse_json
from chio_core.evaluation.exchange import FURTHER_TO
from chio_core.models.demands import ApprovalDemand, BudgetDemand
from chio_sidecar.app import SidecarApp
from chio_sidecar.explain import explain, read_refusal
from chio_sidecar.policy.obligations import WITHIN
from chio_sidecar.store.driver import sqlite3
from tests.sidecar.sidecar_tools import NOW, STRANGER, Clock, capability, decision, evaluate, sidecar

SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "paths": {
        "/pay/{account}": {
            "post": {
                "x-chio-approval": {"threshold": 100, "currency": "USD"},
                "x-chio-budget": {"currency": "USD", "max_invocations": 2},
                "responses": {},
            }
        },
        "/other/{account}": {"post": {"responses": {}}},
    },
}
ROUTE = {"method": "POST", "path": "/pay/7", "route_pattern": "/pay/{account}", "body_hash": "ab" * 32}
STATED = {"governed_intent": ApprovalDemand(100, "USD", 5).to_wire(), "budget": BudgetDemand(1).to_wire()}
SOMEBODY = {"subject": "somebody", "auth_method": {"method": "anonymous"}, "verified": False}


def open_sidecar(folder: Path, **options: Any) -> Any:
    return sidecar(folder, **({"spec_text": json.dumps(SPEC)} | options))


async def first(app: SidecarApp, name: str = "first", **more: Any) -> str:
    """Evaluate a request the first time, and return the id of its receipt, which is an allow."""
    answer = await decision(app, capability(), **{**ROUTE, **STATED, "request_id": name, **more})
    assert answer["verdict"]["verdict"] == "allow", answer["verdict"]
    return str(answer["receipt"]["id"])


async def further(app: SidecarApp, to: str, token: Any = None, **more: Any) -> dict[str, Any]:
    members = {**ROUTE, "request_id": "further", "further_to": to, **more}
    return await decision(app, capability() if token is None else token, **members)


async def test_a_follow_up_has_to_meet_its_own_demands(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        receipt_id = await first(app)
        plain = await further(app, receipt_id)
        assert plain["verdict"] == {"verdict": "allow"}
        assert plain["receipt"]["metadata"][FURTHER_TO] == receipt_id
        assert [one["guard_name"] for one in plain["evidence"]] == ["CapabilityGuard"]
        dear = BudgetDemand(3, max_cost_per_invocation=2).to_wire()
        refused = await further(app, receipt_id, request_id="dear", budget=dear)
        assert refused["verdict"]["guard"] == "BudgetGuard"
        tool = await further(app, receipt_id, request_id="tool", tool_server="s", tool_name="not granted")
        assert tool["verdict"]["guard"] == "CapabilityGuard"
        waits = await evaluate(app, capability(), **{
            **ROUTE, "request_id": "waits", "further_to": receipt_id,
            "governed_intent": ApprovalDemand(1, "USD", 5).to_wire(),
        })  # fmt: skip
        assert waits.status == 409


async def test_without_further_to_the_document_counts_for_each_evaluation(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        await first(app)
        answer = await evaluate(app, capability(), **ROUTE, request_id="second")
        assert (answer.status, answer.document["error"]) == (409, "chio_approval_required")


@pytest.mark.parametrize(
    "other",
    [
        {"path": "/pay/8"},
        {"query": {"a": "1"}},
        {"body_hash": "cd" * 32},
        {"body_hash": ...},
        {"caller": SOMEBODY},
        {"session_id": "s"},
        {"token": capability(name="cap-2")},
    ],
    ids=["path", "query", "body", "no body", "caller", "session", "capability"],
)
async def test_the_receipt_of_another_request_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        receipt_id = await first(app)
        answer = await further(app, receipt_id, **other)
        assert answer["verdict"]["guard"] == "FurtherGuard"
        assert answer["verdict"]["reason"] == (
            f"the request is further to receipt {receipt_id}, which is for another request"
        )
        assert FURTHER_TO not in answer["receipt"]["metadata"]
        assert explain(read_refusal(answer["receipt"])).rule == "follow-up.other"


async def test_a_receipt_of_another_method_or_document_is_refused(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        other = await first(app, method="PUT", request_id="put")
        receipt_id = await first(app)
        assert (await further(app, other))["verdict"]["guard"] == "FurtherGuard"
    changed = {**SPEC, "info": {"title": "t", "version": "2"}}
    async with open_sidecar(tmp_path, spec_text=json.dumps(changed)) as app:
        assert "another request" in (await further(app, receipt_id, request_id="n"))["verdict"]["reason"]


async def test_only_an_allow_of_a_first_evaluation_counts(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        waiting = await evaluate(app, capability(), **ROUTE, request_id="waits")
        denied = await decision(app, None, **ROUTE, request_id="denied")
        receipt_id = await first(app)
        second = await further(app, receipt_id, request_id="second")
        for number, to in enumerate(
            (waiting.document["kernel_receipt_id"], denied["receipt"]["id"], second["receipt"]["id"])
        ):
            reason = (await further(app, to, request_id=f"f{number}"))["verdict"]["reason"]
            assert reason == (
                f"the request is further to receipt {to}, which is no allow of a first evaluation by this sidecar"
            )
        unknown = await further(app, "nowhere " * 50, request_id="unknown")
        assert unknown["verdict"]["reason"].endswith("which this sidecar has not stored")
        assert len(unknown["verdict"]["reason"]) < 250


async def test_a_receipt_by_another_key_is_refused(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path, signing_key=STRANGER) as app:
        receipt_id = await first(app)
    async with open_sidecar(tmp_path) as app:
        assert "no allow" in (await further(app, receipt_id))["verdict"]["reason"]


@pytest.mark.parametrize(("after", "verdict"), [(WITHIN, "allow"), (WITHIN + 1, "deny"), (-WITHIN - 1, "deny")])
async def test_it_counts_for_a_minute(after: int, verdict: str, tmp_path: Path) -> None:
    clock = Clock()
    async with open_sidecar(tmp_path, clock=clock) as app:
        receipt_id = await first(app)
        clock.now = NOW + after
        answer = await further(app, receipt_id, capability(issued=NOW - 600))
        assert answer["verdict"]["verdict"] == verdict
        if verdict == "deny":
            assert answer["verdict"]["reason"].endswith("which was not signed within the last 60 s")


async def test_where_nothing_is_demanded_the_member_makes_no_difference(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        answer = await further(app, "nowhere", path="/other/7", route_pattern="/other/{account}")
        assert answer["verdict"] == {"verdict": "allow"}
        assert FURTHER_TO not in answer["receipt"]["metadata"]


async def test_a_refusal_of_the_capability_comes_first(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        answer = await further(app, "nowhere", capability(STRANGER))
        assert answer["verdict"]["reason"] == "capability issuer is not trusted"


async def test_a_refused_follow_up_spends_nothing(tmp_path: Path) -> None:
    async with open_sidecar(tmp_path) as app:
        receipt_id = await first(app)
        await further(app, receipt_id, path="/pay/8", budget=BudgetDemand(1, max_invocations=9).to_wire())
    store = sqlite3.connect(tmp_path / "receipts.sqlite3")
    rows = store.execute("SELECT receipt_json FROM http_receipts ORDER BY seq").fetchall()
    assert [parse_json(row[0])["verdict"]["verdict"] for row in rows] == ["allow", "deny"]
    assert store.execute("SELECT count(*) FROM budget_charges").fetchone() == (1,)
    store.close()
