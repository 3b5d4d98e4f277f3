"""Approvals in evaluations: what waits, what is allowed once, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.models.demands import MAX_UNITS, ApprovalDemand, BudgetDemand, demands_met
from chio_core.models.receipt import GuardEvidence
from chio_core.receipts import verify_receipt
from chio_sidecar.policy.approvals import MAX_OPEN_EACH
from tests.sidecar.approval_tools import (
    DEMAND,
    ROUTE,
    approved,
    control,
    intent_hash,
    operate,
    pay,
    pending_id,
    reason,
    request_payment,
    signed,
    verdict,
)
from tests.sidecar.sidecar_tools import (
    AUTHORITY,
    HOLDER,
    KERNEL,
    NOW,
    SERVER,
    STRANGER,
    TOOL,
    Clock,
    capability,
    decision,
    evaluate,
    sidecar,
)

Create = Callable[..., Any]
OK = {"guard_name": "CapabilityGuard", "verdict": True, "details": "valid capability token presented"}
REQUIRED = "request requires human approval before it can proceed"
BEGINS = "500 USD against a threshold of 100 USD: "


async def test_a_request_above_the_threshold_waits_for_a_person(app: Any) -> None:
    answer = await request_payment(app)
    assert answer.status == 409
    approval_id, receipt_id = answer.document["approval_id"], answer.document["kernel_receipt_id"]
    assert answer.document == {
        "error": "chio_approval_required",
        "message": REQUIRED,
        "kernel_receipt_id": receipt_id,
        "approval_id": approval_id,
        "resume_path": f"/approvals/{approval_id}/respond",
    }
    stored = await app.state.sidecar.store.get(receipt_id)
    receipt = verify_receipt(json.loads(stored.receipt_json), trusted_keys=[KERNEL.public_hex]).raw
    assert receipt["verdict"] == {"verdict": "incomplete", "reason": REQUIRED}
    details = BEGINS + "a person has to approve it"
    assert receipt["evidence"] == [OK, {"guard_name": "ApprovalGuard", "verdict": False, "details": details}]
    assert (receipt["response_status"], receipt["capability_id"]) == (500, "cap-1")
    assert receipt["metadata"]["chio_approval_id"] == approval_id


async def test_the_same_request_waits_under_the_same_id(app: Any) -> None:
    first = await request_payment(app, 1)
    assert (await request_payment(app, 1)).document == first.document
    second = await request_payment(app, 2, timestamp=NOW)
    assert second.document["approval_id"] == first.document["approval_id"]
    assert second.document["kernel_receipt_id"] != first.document["kernel_receipt_id"]
    ids = await asyncio.gather(*(pending_id(app, f"many-{number}") for number in range(50)))
    assert set(ids) == {first.document["approval_id"]}
    assert (await control(app, "GET", "/approvals/pending")).document["count"] == 1


async def test_what_was_approved_is_allowed_once(app: Any) -> None:
    approval_id = await approved(app)
    answer = await pay(app, 1, approval_id)
    assert answer["verdict"] == {"verdict": "allow"}
    details = f"{BEGINS}approved, used once as {approval_id}"
    assert answer["evidence"] == [OK, {"guard_name": "ApprovalGuard", "verdict": True, "details": details}]
    assert answer["receipt"]["metadata"]["chio_approval_id"] == approval_id
    assert demands_met([GuardEvidence.model_validate(one) for one in answer["evidence"]], DEMAND, None)
    assert await pay(app, 1, approval_id) == answer
    again = await pay(app, 2, approval_id)
    assert again["verdict"] == {
        "verdict": "deny",
        "reason": f"approval {approval_id} was used already",
        "guard": "ApprovalGuard",
        "http_status": 403,
        "details": {"hint": "repeat the request without an approval to request a new one"},
    }
    assert again["evidence"][0] == OK
    assert again["receipt"]["capability_id"] == "cap-1"
    assert (await app.state.sidecar.store.get(again["receipt"]["id"])).request_id == "req-2"
    assert await pending_id(app, 3) != approval_id


async def test_a_thousand_races_for_an_approval_have_one_winner(create: Create) -> None:
    one, two = create(), create()
    approval_id, token = await approved(one), capability()
    payments = [pay(one if number % 2 else two, number, approval_id, token) for number in range(1000)]
    answers = await asyncio.gather(*payments)
    assert [verdict(answer) for answer in answers].count("allow") == 1
    assert [reason(answer) for answer in answers if verdict(answer) == "deny"] == [
        f"approval {approval_id} was used already"
    ] * 999


OTHERS: dict[str, dict[str, Any]] = {
    "method": {"method": "PUT"},
    "path": {"path": "/pay/8"},
    "query": {"query": {"a": "1"}},
    "body": {"body_hash": "ab" * 32},
    "caller": {"caller": {"subject": "bob", "auth_method": {"method": "anonymous"}}},
    "capability": {"token": capability(name="cap-2")},
    "tool": {"tool_server": SERVER, "tool_name": TOOL},
    "arguments": {"arguments": {"to": "bob"}},
    "amount": {"governed_intent": ApprovalDemand(100, "USD", 501).to_wire()},
    "threshold": {"governed_intent": ApprovalDemand(101, "USD", 500).to_wire()},
    "currency": {"governed_intent": ApprovalDemand(100, "EUR", 500).to_wire()},
    "unknown amount": {"governed_intent": ApprovalDemand(100, "USD").to_wire()},
}


@pytest.mark.parametrize("kind", OTHERS)
async def test_an_approval_is_for_exactly_one_request(kind: str, app: Any) -> None:
    approval_id = await approved(app)
    assert reason(await pay(app, 1, approval_id, **OTHERS[kind])) == (f"approval {approval_id} is for another request")
    token = signed(request_id=approval_id, governed_intent_hash="0" * 64)
    assert reason(await pay(app, 2, token, **OTHERS[kind])) == "approval token is bound to another request"
    assert verdict(await pay(app, 3, approval_id)) == "allow"


@pytest.mark.parametrize("member", ["query", "arguments"])
async def test_an_approval_for_the_hash_of_a_long_value_is_not_one_for_the_value(member: str, app: Any) -> None:
    """People see a very long value as its SHA-256, and a caller can send that very text."""
    long = {"to": "mallory", "filler": "x" * 5000}
    approval_id = await approved(app, 1, **{member: {"sha256": sha256_hex(canonical_json(long))}})
    assert reason(await pay(app, 2, approval_id, **{member: long})) == f"approval {approval_id} is for another request"
    right = await approved(app, 3, **{member: long})
    assert verdict(await pay(app, 4, right, **{member: long})) == "allow"


async def test_an_unanswered_approval_still_waits_and_a_denied_one_is_refused(app: Any) -> None:
    approval_id = await pending_id(app)
    assert await pending_id(app, 1, approval_token=approval_id) == approval_id
    assert (await operate(app, approval_id, "denied", reason="no")).status == 200
    expected = f"approval {approval_id} was denied"
    assert reason(await pay(app, 2, approval_id)) == expected
    # A repetition creates no new approval: the denial counts for an hour.
    assert reason((await request_payment(app, 3)).document) == expected
    assert reason(await pay(app, 4, "apr-unknown")) == "approval apr-unknown is not known"


async def test_pending_and_given_approvals_expire(create: Create) -> None:
    clock = Clock()
    app = create(clock=clock)
    token = capability(ttl=4 * 3600)
    first = await pending_id(app, 1, token=token)
    clock.now = NOW + 3599
    assert await pending_id(app, 2, token=token) == first
    clock.now = NOW + 3600
    assert reason(await pay(app, 3, first, token)) == f"approval {first} has expired"
    second = await approved(app, 4, token=token)
    assert second != first
    clock.now = NOW + 7200
    assert reason(await pay(app, 5, second, token)) == f"approval {second} has expired"
    third = await approved(app, 6, token=token)
    clock.now = NOW + 10799
    assert verdict(await pay(app, 7, third, token)) == "allow"


async def test_everything_is_known_after_a_restart(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        approval_id = await pending_id(app, 1)
    async with sidecar(tmp_path) as app:
        assert await pending_id(app, 2) == approval_id
        await operate(app, approval_id)
    async with sidecar(tmp_path) as app:
        assert verdict(await pay(app, 3, approval_id)) == "allow"
    async with sidecar(tmp_path) as app:
        assert reason(await pay(app, 4, approval_id)) == f"approval {approval_id} was used already"


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (ApprovalDemand(500, "USD", 500), "500 USD against a threshold of 500 USD: not above it, no approval needed"),
        (ApprovalDemand(0, "EUR", 0), "0 EUR against a threshold of 0 EUR: not above it, no approval needed"),
    ],
)
async def test_up_to_the_threshold_no_approval_is_needed(demand: ApprovalDemand, expected: str, app: Any) -> None:
    answer = (await request_payment(app, governed_intent=demand.to_wire(), approval_token="not-used")).document
    assert answer["evidence"] == [OK, {"guard_name": "ApprovalGuard", "verdict": True, "details": expected}]
    assert "chio_approval_id" not in answer["receipt"]["metadata"]


# Tokens that an approver signed


async def test_a_token_of_a_trusted_approver_counts_without_an_operator(create: Create) -> None:
    app = create(trusted_approvers={STRANGER.public_hex})
    approval_id = await pending_id(app)
    token = signed(STRANGER, request_id=approval_id, governed_intent_hash=await intent_hash(app, approval_id))
    assert verdict(await pay(app, 1, token)) == "allow"
    resolution = (await control(app, "GET", f"/approvals/{approval_id}")).document["resolution"]
    assert (resolution["approver_hex"], resolution["token_id"]) == (STRANGER.public_hex, "token-1")
    assert reason(await pay(app, 2, token)) == f"approval {approval_id} was used already"
    assert reason(await pay(app, 3, approval_id)) == f"approval {approval_id} was used already"


async def test_the_token_of_an_operators_response_can_be_presented_itself(app: Any) -> None:
    approval_id = await approved(app)
    kept = await app.state.sidecar.store.approval(approval_id)
    assert verdict(await pay(app, 1, json.loads(kept.response.token_json))) == "allow"


BAD_TOKENS: dict[str, tuple[dict[str, Any], str]] = {
    "another request": ({"governed_intent_hash": "0" * 64}, "approval token is bound to another request"),
    "another subject": ({"subject": AUTHORITY.public_hex}, "approval token is for another subject"),
    "too long": ({"expires_at": NOW + 3601}, "approval token is valid for more than 3600 seconds"),
    "to come": ({"issued_at": NOW + 1}, f"approval token is not valid before {NOW + 1}"),
    "expired": ({"issued_at": NOW - 60, "expires_at": NOW}, f"approval token expired at {NOW}"),
    "never valid": ({"expires_at": NOW - 1}, f"approval token expired at {NOW - 1}"),
    "unknown approval": ({"request_id": "apr-x"}, "approval apr-x is not known"),
    "no decision": ({"decision": "maybe"}, "approval token cannot be read: decision"),
    "no id": ({"id": ""}, "approval token cannot be read: id must have 1 to 128 characters"),
    "a time that is no number": ({"issued_at": "now"}, "approval token cannot be read: issued_at"),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_token_that_breaks_a_rule_is_refused(kind: str, app: Any) -> None:
    changes, expected = BAD_TOKENS[kind]
    approval_id = await pending_id(app)
    right = {"request_id": approval_id, "governed_intent_hash": await intent_hash(app, approval_id)}
    assert reason(await pay(app, 1, signed(**(right | changes)))).startswith(expected)
    assert (await control(app, "GET", f"/approvals/{approval_id}")).document.keys() == {"pending"}


async def test_a_token_of_a_foreign_approver_or_with_a_foreign_signature_is_refused(app: Any) -> None:
    approval_id = await pending_id(app)
    right = {"request_id": approval_id, "governed_intent_hash": await intent_hash(app, approval_id)}
    untrusted = "approval token is signed by an approver that is not trusted"
    assert reason(await pay(app, 1, signed(STRANGER, **right))) == untrusted
    forged = signed(STRANGER, **right, approver=KERNEL.public_hex)
    assert reason(await pay(app, 2, forged)) == "approval token signature verification failed"
    changed = signed(**right) | {"expires_at": NOW + 601}
    assert reason(await pay(app, 3, changed)) == "approval token signature verification failed"
    holder = signed(HOLDER, **right)
    assert reason(await pay(app, 4, holder)) == untrusted
    denied = signed(**right, decision="denied")
    assert reason(await pay(app, 5, denied)) == f"approval {approval_id} was denied"


async def test_one_token_does_not_resolve_two_approvals(app: Any) -> None:
    ids = [await pending_id(app, path, path=path) for path in ("/pay/1", "/pay/2")]
    tokens = [
        signed(request_id=approval_id, governed_intent_hash=await intent_hash(app, approval_id)) for approval_id in ids
    ]
    assert verdict(await pay(app, 1, tokens[0], path="/pay/1")) == "allow"
    expected = f"the token of approval {ids[1]} was used for another approval already"
    assert reason(await pay(app, 2, tokens[1], path="/pay/2")) == expected


@pytest.mark.parametrize("value", ["", "x" * 129, 7, True, [], {}, {"id": "a"}])
async def test_an_approval_of_another_shape_is_refused(value: Any, app: Any) -> None:
    assert reason(await pay(app, 1, value)).startswith("approval token cannot be read: ")


# Document, budget, limits


def spec(threshold: int) -> str:
    operation = {"x-chio-approval": {"threshold": threshold, "currency": "USD"}, "responses": {}}
    paths = {"/pay/{account}": {"post": operation, "get": {"x-chio-approval-required": True, "responses": {}}}}
    return json.dumps({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths})


async def test_the_stricter_of_document_and_request_counts(create: Create) -> None:
    app = create(spec_text=spec(50))
    between = ApprovalDemand(100, "USD", 60).to_wire()
    approval_id = await approved(app, 1, governed_intent=between)
    answer = await pay(app, 2, approval_id, governed_intent=between)
    assert answer["evidence"][1]["details"].startswith("60 USD against a threshold of 100 USD: approved")
    below = (await request_payment(app, 3, governed_intent=ApprovalDemand(100, "USD", 50).to_wire())).document
    assert below["evidence"][1]["details"] == (
        "50 USD against a threshold of 100 USD: not above it, no approval needed"
    )
    await pending_id(app, 4, governed_intent=ApprovalDemand(100, "EUR", 1).to_wire())
    await pending_id(app, 5, governed_intent=...)


async def test_a_documents_flag_without_terms_stays_what_the_protocol_says(create: Create) -> None:
    app = create(spec_text=spec(50))
    plain = {"method": "GET", "governed_intent": ...}
    assert (await request_payment(app, 1, **plain)).document["evidence"] == [OK]
    refused = await decision(app, **(ROUTE | plain), request_id="req-2")
    assert refused["verdict"]["reason"] == "side-effect route requires a capability token"


async def test_an_approved_request_over_the_budget_keeps_its_approval(app: Any) -> None:
    approval_id = await approved(app)
    small = BudgetDemand(500, max_total_cost=499).to_wire()
    refused = await pay(app, 1, approval_id, budget=small)
    assert refused["verdict"]["guard"] == "BudgetGuard"
    answer = await pay(app, 2, approval_id, budget=BudgetDemand(500, max_total_cost=500).to_wire())
    names = [(one["guard_name"], one["verdict"]) for one in answer["evidence"]]
    assert names == [("CapabilityGuard", True), ("ApprovalGuard", True), ("BudgetGuard", True)]


async def test_a_request_over_its_budget_creates_no_approval(app: Any) -> None:
    answer = (await request_payment(app, budget=BudgetDemand(9, max_cost_per_invocation=8).to_wire())).document
    assert answer["verdict"]["guard"] == "BudgetGuard"
    assert (await control(app, "GET", "/approvals/pending")).document["count"] == 0


async def test_a_waiting_request_spends_nothing(app: Any) -> None:
    budget = BudgetDemand(1, max_invocations=1).to_wire()
    approval_id = await approved(app, budget=budget)
    assert verdict(await pay(app, 1, approval_id, budget=budget)) == "allow"


async def test_a_request_whose_capability_is_refused_creates_no_approval(app: Any) -> None:
    assert (await decision(app, **ROUTE))["verdict"]["guard"] == "CapabilityGuard"
    await app.state.sidecar.store.revoke("cap-1")
    assert (await request_payment(app)).document["verdict"]["guard"] == "CapabilityRevocation"
    assert (await control(app, "GET", "/approvals/pending")).document["count"] == 0


async def test_a_capability_that_is_revoked_meanwhile_does_not_use_its_approval(app: Any) -> None:
    approval_id = await approved(app)
    await app.state.sidecar.store.revoke("cap-1")
    assert (await pay(app, 1, approval_id))["verdict"]["guard"] == "CapabilityRevocation"
    kept = await app.state.sidecar.store.approval(approval_id)
    assert kept.used_by is None


async def test_one_capability_cannot_fill_the_list(app: Any) -> None:
    token = capability()
    pending = (pending_id(app, number, token=token, path=f"/pay/{number}") for number in range(MAX_OPEN_EACH))
    assert len(set(await asyncio.gather(*pending))) == MAX_OPEN_EACH
    full = (await request_payment(app, "full", token, path="/pay/full")).document
    assert full["verdict"]["http_status"] == full["receipt"]["response_status"] == 503
    assert reason(full) == (
        f"{MAX_OPEN_EACH} approvals of this caller are waiting already;"
        " try again when one is approved, denied or expired"
    )
    await pending_id(app, "other", token=capability(name="cap-2"))


async def test_an_application_in_observe_mode_creates_no_approval(app: Any) -> None:
    answer = await request_payment(app, enforcement={"mode": "observe"})
    assert (answer.status, answer.document["error"]) == (409, "chio_approval_required")
    assert "approval_id" not in answer.document
    assert (await control(app, "GET", "/approvals/pending")).document["count"] == 0


@pytest.mark.parametrize(
    ("intent", "place"),
    [
        ({}, "governed_intent.approval must be an object"),
        ({"approval": {"threshold_units": -1, "currency": "USD"}}, "governed_intent.approval.threshold_units must be"),
        ({"approval": {"threshold_units": 1, "currency": "?"}}, "governed_intent.approval.currency must be"),
        (ROUTE["governed_intent"] | {"amount": {"units": 5, "currency": "EUR"}}, "governed_intent.amount must be"),
        (ROUTE["governed_intent"] | {"amount": {"units": MAX_UNITS + 1, "currency": "USD"}}, "governed_intent.amount."),
        ("yes", "governed_intent"),
    ],
)
async def test_a_malformed_intent_is_a_bad_request(intent: Any, place: str, app: Any) -> None:
    answer = await evaluate(app, capability(), **(ROUTE | {"governed_intent": intent}))
    assert (answer.status, answer.document["error"]) == (400, "chio_bad_request")
    assert answer.document["message"].startswith(f"invalid ChioHttpRequest payload: {place}")
