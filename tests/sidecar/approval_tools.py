"""Requests that need an approval, and responses to approvals, without a network."""

from __future__ import annotations

import json
from typing import Any

from chio_core.canonical import canonical_json
from chio_core.models.demands import ApprovalDemand
from chio_core.signing import SigningKey
from tests.sidecar.sidecar_tools import HOLDER, KERNEL, NOW, Response, capability, decision, evaluate, send

DEMAND = ApprovalDemand(100, "USD", 500)
ROUTE = {"method": "POST", "path": "/pay/7", "route_pattern": "/pay/{account}", "governed_intent": DEMAND.to_wire()}
PATTERN = "/pay/7"
"""The sidecar's own pattern, without a document."""


async def request_payment(app: Any, name: int | str = "first", token: Any = None, **more: Any) -> Response:
    """Evaluate the request for the payment."""
    members = ROUTE | {"request_id": f"req-{name}"} | more
    return await evaluate(app, capability() if token is None else token, **members)


async def pending_id(app: Any, name: int | str = "first", **more: Any) -> str:
    """Request the payment, which a person has to approve, and return the id of the approval."""
    answer = await request_payment(app, name, **more)
    assert answer.status == 409, answer.body
    return str(answer.document["approval_id"])


async def pay(app: Any, name: int | str, approval: Any, token: Any = None, **more: Any) -> dict[str, Any]:
    """Repeat the payment with an approval and return the decision."""
    members = ROUTE | {"request_id": f"req-{name}", "approval_token": approval} | more
    return await decision(app, capability() if token is None else token, **members)


async def control(app: Any, method: str, path: str, body: Any = None, query: str = "", **options: Any) -> Response:
    """Call the control plane."""
    content = b"" if body is None else json.dumps(body).encode()
    return await send(app, method, path, content, query=query, **options)


async def operate(app: Any, approval_id: str, outcome: str = "approved", **more: Any) -> Response:
    """Respond as the operator."""
    return await control(app, "POST", f"/approvals/{approval_id}/operator-respond", {"outcome": outcome, **more})


async def approved(app: Any, name: int | str = "first", **more: Any) -> str:
    """Request the payment, approve it, and return the id."""
    approval_id = await pending_id(app, name, **more)
    assert (await operate(app, approval_id)).status == 200
    return approval_id


async def intent_hash(app: Any, approval_id: str) -> str:
    """Return the hash that an approver signs."""
    pending = (await control(app, "GET", f"/approvals/{approval_id}")).document["pending"]
    return str(pending["governed_intent_hash"])


def signed(key: SigningKey = KERNEL, **changes: Any) -> dict[str, Any]:
    """A GovernedApprovalToken by this approver; `changes` come before the signature."""
    body = {
        "id": "token-1",
        "approver": key.public_hex,
        "subject": HOLDER.public_hex,
        "governed_intent_hash": "",
        "request_id": "",
        "issued_at": NOW,
        "expires_at": NOW + 600,
        "decision": "approved",
    } | changes
    return body | {"signature": key.sign(canonical_json(body))}


def verdict(answer: dict[str, Any]) -> str:
    return str(answer["verdict"]["verdict"])


def reason(answer: dict[str, Any]) -> str:
    """The reason of a denial by the approval guard."""
    assert answer["verdict"]["guard"] == "ApprovalGuard", answer["verdict"]
    return str(answer["verdict"]["reason"])
