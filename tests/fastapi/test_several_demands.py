"""Routes with several demands, end to end, before a sidecar that has the application's document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI

from chio_core.evaluation.exchange import FURTHER_TO
from chio_fastapi import Budget, RequireApproval, RequireCapability, add_chio, from_body
from chio_sidecar.store.driver import sqlite3
from tests.fastapi.apps import AUTHORITY, with_and_without, with_token
from tests.fastapi.demanding import JSON, Served, problem
from tests.fastapi.test_policy_embedded import approval, documented, opened
from tests.support import call

BOTH = with_token(("pay", "out"), ("log", "in"))
CAPABILITIES = [RequireCapability("pay", "out"), RequireCapability("log", "in")]
ABOVE_100 = RequireApproval(100, amount=from_body("amount"))


@with_and_without
async def test_the_second_capability_needs_no_second_approval(tmp_path: Path, middleware: bool) -> None:
    async with documented(tmp_path, [*CAPABILITIES, ABOVE_100], middleware) as shop:
        assert (await shop.pay(100, holder=BOTH)).status == 200
        reply = await shop.pay(101, holder=BOTH)
        assert (reply.status, problem(reply)["error"], shop.ran) == (403, "chio_approval_required", 1)
        approval_id = problem(reply)["details"]["approval_id"]
        await shop.answer(approval_id)
        replies = [await shop.pay(101, approval(approval_id), holder=BOTH) for _ in range(2)]
        assert ([reply.status for reply in replies], shop.ran) == ([200, 403], 2)
        assert "was used already" in problem(replies[1])["message"]


@with_and_without
async def test_two_capabilities_spend_a_budget_once_and_both_are_still_required(
    tmp_path: Path, middleware: bool
) -> None:
    async with documented(tmp_path, [*CAPABILITIES, Budget(max_invocations=2)], middleware) as shop:
        lacks = await shop.pay(1, holder=with_token(("pay", "out"), identifier="cap-2"))
        assert (lacks.status, problem(lacks)["guard"], shop.ran) == (403, "CapabilityGuard", 0)
        replies = [await shop.pay(1, holder=BOTH) for _ in range(3)]
        assert ([reply.status for reply in replies], shop.ran) == ([200, 200, 403], 2)
        assert problem(replies[2])["guard"] == "BudgetGuard"


@with_and_without
@pytest.mark.parametrize("described", [True, False], ids=["a document", "no document"])
async def test_two_budgets_of_one_currency_are_two_accounts(tmp_path: Path, middleware: bool, described: bool) -> None:
    demands = [
        RequireCapability("pay", "out"),
        Budget(max_invocations=4),
        Budget(cost=from_body("amount"), max_total_cost=100),
    ]
    async with (documented if described else opened)(tmp_path, demands, middleware) as shop:
        often = [(await shop.pay(5)).status for _ in range(5)]
        assert (often, shop.ran) == ([200, 200, 200, 200, 403], 4)
        other = with_token(("pay", "out"), identifier="cap-2")
        dear = [(await shop.pay(amount, holder=other)).status for amount in (60, 41, 40)]
        assert dear == [200, 403, 200]


async def test_an_embedded_sidecar_with_the_automatic_document_evaluates_each_demand_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEY", AUTHORITY.public_hex)
    app, store = FastAPI(), tmp_path / "receipts.sqlite3"
    demands = [*CAPABILITIES, ABOVE_100, Budget(max_invocations=2)]
    app.add_api_route("/pay/{account}", lambda: None, methods=["POST"], dependencies=[Depends(one) for one in demands])
    client = add_chio(app, sidecar_url=f"embedded:{store}")

    body = json.dumps({"amount": 5}).encode()
    replies = [await call(app, "POST", "/pay/7", body=body, headers=[*BOTH, JSON]) for _ in range(3)]
    await client.aclose()
    assert [reply.status for reply in replies] == [200, 200, 403]
    database = sqlite3.connect(store)
    rows = database.execute("SELECT receipt_json FROM http_receipts ORDER BY seq").fetchall()
    database.close()
    receipts = [json.loads(row[0]) for row in rows]
    assert [receipt["metadata"].get(FURTHER_TO) for receipt in receipts[:2]] == [None, receipts[0]["id"]]
    assert [evidence["guard_name"] for evidence in receipts[1]["evidence"]] == ["CapabilityGuard"]


@with_and_without
def test_each_further_evaluation_names_the_receipt_of_the_first(middleware: bool) -> None:
    served = Served(*CAPABILITIES, RequireCapability("tax", "book"), middleware=middleware)
    every = with_token(("pay", "out"), ("log", "in"), ("tax", "book"))
    assert served.ask(headers=every).status == 200
    first, *others = served.asked
    assert "further_to" not in first
    assert len({asked["further_to"] for asked in others}) == 1
    assert len(others) == 2
    assert served.ask(headers=every).status == 200
    assert "further_to" not in served.asked[3]
    assert served.asked[4]["further_to"] != others[0]["further_to"]
