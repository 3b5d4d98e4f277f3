"""What an allowed request must still meet: the approval and the budget that application or document demand.

Whether an approval is unused, and what is left of an account, only the store knows: what it must check and record are
the `obligations`.

A request may need several evaluations. A later one names the receipt of the first (`further_to`): the document's
demands count as met by that, if it is a recent allow of this sidecar for the same request.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Final

from chio_core.canonical import parse_json
from chio_core.capabilities.restrictions import Enforced
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.evaluation.exchange import is_follow_up
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import (
    APPROVAL_GUARD,
    BUDGET_GUARD,
    approval_evidence,
    approval_from,
    budget_evidence,
    budget_from,
)
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import ChioHttpRequest
from chio_core.receipts import verify_receipt
from chio_sidecar.policy.approvals import Intent, approval_needed, intent_of, presented_approval, strictest_approval
from chio_sidecar.policy.budgets import charges, strictest_budget
from chio_sidecar.policy.routes import RouteRule
from chio_sidecar.policy.rules import LONGEST_ID, Refused, Rule
from chio_sidecar.store import Obligation, StoredReceipt

WITHIN: Final = 60
"""Seconds after its first receipt in which a request may be evaluated again."""


@dataclass(frozen=True, slots=True)
class AllowedRequest:
    """A request that token and route allow.

    Attributes:
        route: its route, with what the document demands.
        capability: the valid token, if there is one.
        grant: position of the grant that allows the tool.
        approvers: public keys (hex) that may approve.
        now: whole seconds since 1970.
        follow_up: an earlier evaluation has met the document's demands; `route` has none.
    """

    request: ChioHttpRequest
    route: RouteRule
    capability: CapabilityToken | None
    grant: int | None
    approvers: Collection[str]
    now: int
    follow_up: bool = False


@dataclass(slots=True)
class Obligations:
    """What approval and budget add to an allow.

    Attributes:
        evidence: GuardEvidence objects in the order of the checks.
        obligations: what the store must check and record.
        waits: the evidence's details if a person has to approve first; nothing else was checked then.
        intent: what the person has to approve; None where the application only observes.
    """

    evidence: list[dict[str, Any]] = field(default_factory=list)
    obligations: list[Obligation] = field(default_factory=list)
    waits: str | None = None
    intent: Intent | None = None


def has_demands(request: ChioHttpRequest, route: RouteRule) -> bool:
    """Return True if request or route demand more than a capability."""
    return (
        request.governed_intent is not None
        or request.budget is not None
        or route.approval is not None
        or route.budget is not None
    )


def enforced_for(request: ChioHttpRequest, route: RouteRule, *, follow_up: bool) -> Enforced:
    """Return which restrictions of a grant are enforced for a request, because application or document demand it.

    Args:
        follow_up: an earlier evaluation has met the document's demands: it charged the document's budget, and not the
            grant that this one uses.

    Raises:
        ValueError: a demand is malformed.
    """
    stated = None if request.governed_intent is None else approval_from(request.governed_intent)
    approval = strictest_approval(stated, route.approval)
    costs = request.budget is not None or (route.budget is not None and not follow_up)
    return Enforced(costs=costs, approval_from=None if approval is None else approval.threshold)


def check_obligations(allowed: AllowedRequest) -> Obligations:
    """Check approval and budget of an allowed request as far as that goes without a store.

    Raises:
        Refused: one of them refuses.
        ValueError: a demand is malformed.
        InvalidDocument: the request has no canonical form.
    """
    request, route, found = allowed.request, allowed.route, Obligations()
    stated = None if request.governed_intent is None else approval_from(request.governed_intent)
    stated_budget = None if request.budget is None else budget_from(request.budget)

    # The cost comes first: no person should have to approve a request that a limit refuses anyway.
    budget = strictest_budget(stated_budget, route.budget_for(stated_budget))
    spent = (
        []
        if budget is None
        else charges(budget, request, route, allowed.capability, allowed.grant, follow_up=allowed.follow_up)
    )

    approval = strictest_approval(stated, route.approval)
    if approval is not None:
        details = approval_evidence(stated or approval)
        if approval_needed(stated, route.approval):
            intent = intent_of(request, route, allowed.capability, approval)
            if request.approval_token is None:
                observes = request.enforcement is not None and request.enforcement.get("mode") == "observe"
                found.waits, found.intent = details + "a person has to approve it", None if observes else intent
                return found
            use = presented_approval(request.approval_token, intent, allowed.approvers, allowed.now)
            found.obligations.append(use)
            details += f"approved, used once as {use.approval_id[:LONGEST_ID]}"
        else:
            details += "not above it, no approval needed"
        found.evidence.append(_evidence(APPROVAL_GUARD, details))
    if budget is not None:
        found.obligations.extend(spent)
        found.evidence.append(_evidence(BUDGET_GUARD, budget_evidence(stated_budget or budget) + "charged"))
    return found


def _evidence(guard: str, details: str) -> dict[str, Any]:
    return {"guard_name": guard, "verdict": True, "details": details}


FirstReceipt = HttpReceipt | Refused | None
"""The receipt of the first evaluation that a request names, why that does not count, or None."""


def read_first(receipt_id: str, stored: StoredReceipt | None, key: str) -> HttpReceipt | Refused:
    """Return the receipt that a request names as that of its first evaluation, or why it does not count.

    Args:
        receipt_id: the request's member `further_to`.
        stored: the receipt that the store has under this id.
        key: this sidecar's public key, hex.
    """
    shown = receipt_id[:LONGEST_ID]
    if stored is None:
        return Refused(Rule.FOLLOW_UP_UNKNOWN, id=shown)
    try:
        document: Any = parse_json(stored.receipt_json)
        receipt = verify_receipt(document, trusted_keys=(key,))
    except (InvalidDocument, ReceiptRejected):
        return Refused(Rule.FOLLOW_UP_NO_ALLOW, id=shown)
    decides = isinstance(receipt.metadata, dict) and receipt.metadata.get("chio_http_status_scope") == "decision"
    if not decides or not receipt.verdict.is_allow or is_follow_up(receipt):
        return Refused(Rule.FOLLOW_UP_NO_ALLOW, id=shown)
    return receipt


def as_follow_up(allowed: AllowedRequest, first: HttpReceipt | Refused, policy_hash: str) -> tuple[AllowedRequest, str]:
    """Return the request without the demands that its first evaluation has met, and the id of that receipt.

    Args:
        allowed: the request.
        first: as `read_first` returned it.
        policy_hash: of the document that decides now.

    Raises:
        Refused: the receipt does not count, is for another request or by another document, or is too old.
    """
    if isinstance(first, Refused):
        raise first
    request, capability = allowed.request, allowed.capability
    expected = {
        "method": request.method,
        "content_hash": request.content_hash(allowed.route.pattern),
        "caller_identity_hash": request.caller.identity_hash(),
        "session_id": request.session_id,
        "route_pattern": allowed.route.pattern,
        "capability_id": None if capability is None else capability.id,
        "policy_hash": policy_hash,
    }
    if any(getattr(first, name) != value for name, value in expected.items()):
        raise Refused(Rule.FOLLOW_UP_OTHER, id=first.id)
    if abs(allowed.now - first.timestamp) > WITHIN:
        raise Refused(Rule.FOLLOW_UP_TOO_OLD, id=first.id, within=WITHIN)
    return replace(allowed, route=replace(allowed.route, approval=None, budget=None), follow_up=True), first.id
