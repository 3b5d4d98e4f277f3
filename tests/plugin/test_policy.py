"""The policy of the fixture decides as the sidecar of this distribution does without a document, word for word."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core import ChioClient, ChioSettings, Requirement
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.outcomes import Decision
from chio_core.models.demands import ApprovalDemand, BudgetDemand
from chio_core.outbound import attenuate
from chio_core.testing import KEY, ChioFixture
from chio_sidecar.embedded import open_embedded
from tests.core.views import View, question
from tests.tokens import token

TRANSFER = Requirement("payments", "transfer")

CASES: dict[str, tuple[str, dict[str, Any] | None, Requirement | None, int]] = {
    "safe method": ("GET", None, None, 1),
    "safe method, wrong token": ("GET", {"trusted": False}, None, 1),
    "head": ("HEAD", None, None, 1),
    "no capability": ("POST", None, None, 1),
    "any capability": ("DELETE", {"server": "a", "tool": "b"}, None, 1),
    "the capability": ("POST", {"server": "payments", "tool": "transfer"}, TRANSFER, 1),
    "everything granted": ("POST", {}, TRANSFER, 1),
    "another tool": ("POST", {"server": "payments", "tool": "refund"}, TRANSFER, 1),
    "another operation": ("POST", {"operations": ("read_result",)}, TRANSFER, 1),
    "expired": ("POST", {"ttl": -5}, TRANSFER, 1),
    "unknown authority": ("POST", {"trusted": False}, TRANSFER, 1),
    "a constraint that holds": (
        "POST",
        {"constraints": [{"type": "max_length", "value": 9}]},
        Requirement("a", "b", arguments={"text": "short"}),
        1,
    ),
    "a constraint that does not": (
        "POST",
        {"constraints": [{"type": "max_length", "value": 2}]},
        Requirement("a", "b", arguments={"text": "short"}),
        1,
    ),
    "used up": ("POST", {"max_invocations": 1}, TRANSFER, 2),
    "a budget": ("POST", {}, Requirement(capability=False, budget=BudgetDemand(2, max_total_cost=5)), 3),
    "invocations": ("POST", {}, Requirement(capability=False, budget=BudgetDemand(max_invocations=1)), 2),
    "too expensive": ("POST", {}, Requirement(capability=False, budget=BudgetDemand(9, max_cost_per_invocation=5)), 1),
    "below the threshold": ("POST", {}, Requirement(approval=ApprovalDemand(10, "USD", 9)), 1),
    "an approval": ("POST", {}, Requirement(approval=ApprovalDemand(10, "USD", 11)), 1),
}


def facts(decision: Decision) -> Mapping[str, Any]:
    receipt = decision.receipt
    if receipt is None:
        return {"code": decision.denial.code if decision.denial else None}
    return {
        # Hints are help for people; the fixture gives none.
        "verdict": {name: value for name, value in receipt.verdict.to_wire().items() if name != "details"},
        "capability": receipt.capability_id,
        "status": receipt.response_status,
        "route": receipt.route_pattern,
        "guards": [(one.guard_name, one.verdict) for one in receipt.evidence or ()],
    }


async def decisions(client: ChioClient, asked: list[EvaluateCall]) -> list[Mapping[str, Any]]:
    async with client:
        return [facts(await client.evaluate(one)) for one in asked]


@pytest.mark.parametrize("case", CASES)
def test_both_sidecars_say_the_same(case: str, chio: ChioFixture, tmp_path: Path) -> None:
    method, wanted, requirement, times = CASES[case]
    token = None if wanted is None else chio.capability(**wanted)
    headers = [] if token is None else [("X-Chio-Capability", token)]

    def asked() -> list[EvaluateCall]:
        view = View(method, headers=headers)
        return [
            question(view, template=None, requirement=requirement, request_id=f"req-{number}")
            for number in range(times)
        ]

    sidecar = open_embedded(str(tmp_path / "chio.sqlite3"), environ={"CHIO_TRUSTED_ISSUER_KEY": KEY.public_hex})
    real = ChioClient(
        ChioSettings(sidecar_url="http://localhost", trusted_kernel_keys=[sidecar.public_key]),
        transport=httpx.ASGITransport(app=sidecar.app),
    )

    async def both() -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        try:
            return await decisions(real, asked()), await decisions(chio.new_client(), asked())
        finally:
            await sidecar.close()

    expected, found = asyncio.run(both())
    assert found == expected


AMOUNT = {"units": 5, "currency": "USD"}
GRANT = {"server_id": "payments", "tool_name": "transfer", "operations": ["invoke"]}
COSTS = Requirement("payments", "transfer", budget=BudgetDemand(3))


def issued(name: str = "root", **more: Any) -> str:
    return token(GRANT | more, key=KEY, capability_id=name)


def derived(parent: str, **more: Any) -> str:
    return attenuate(parent, KEY, scope={"grants": [GRANT | more]})


ONCE = issued(max_invocations=1)
PURSE = issued(max_total_cost=AMOUNT)
RESTRICTED: dict[str, tuple[Requirement | None, list[str]]] = {
    "proof of possession": (TRANSFER, [issued(dpop_required=True)]),
    "proof of possession, no tool": (None, [issued(dpop_required=True), issued("free")]),
    "a type that nothing enforces": (TRANSFER, [issued(constraints=[{"type": "max_rows_returned", "value": 0}])]),
    "a cost without a budget": (TRANSFER, [PURSE]),
    "a cost with a budget": (COSTS, [PURSE, PURSE, issued("other", max_cost_per_invocation=AMOUNT)]),
    "a cost in another currency": (COSTS, [issued(max_total_cost={"units": 5, "currency": "EUR"})]),
    "uses of one descent": (TRANSFER, [derived(ONCE, max_invocations=1), derived(ONCE, max_invocations=1), ONCE]),
    "costs of one descent": (COSTS, [derived(PURSE, max_total_cost=AMOUNT), derived(PURSE, max_total_cost=AMOUNT)]),
}


@pytest.mark.parametrize("case", RESTRICTED)
def test_both_sidecars_enforce_the_same_restrictions(case: str, chio: ChioFixture, tmp_path: Path) -> None:
    requirement, tokens = RESTRICTED[case]

    def asked() -> list[EvaluateCall]:
        return [
            question(
                View("POST", headers=[("X-Chio-Capability", one)]),
                template=None,
                requirement=requirement,
                request_id=f"req-{number}",
            )
            for number, one in enumerate(tokens)
        ]

    sidecar = open_embedded(str(tmp_path / "chio.sqlite3"), environ={"CHIO_TRUSTED_ISSUER_KEY": KEY.public_hex})
    real = ChioClient(
        ChioSettings(sidecar_url="http://localhost", trusted_kernel_keys=[sidecar.public_key]),
        transport=httpx.ASGITransport(app=sidecar.app),
    )

    async def both() -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        try:
            return await decisions(real, asked()), await decisions(chio.new_client(), asked())
        finally:
            await sidecar.close()

    def essence(found: Mapping[str, Any]) -> Mapping[str, Any]:
        # Budgets are worded for people; the fixture and the sidecar may use other words.
        verdict = dict(found["verdict"])
        if verdict.get("guard") == "BudgetGuard":
            verdict.pop("reason")
        return {**found, "verdict": verdict}

    expected, found = asyncio.run(both())
    assert [essence(one) for one in found] == [essence(one) for one in expected]
    assert any(one["verdict"]["verdict"] == "deny" for one in expected)
