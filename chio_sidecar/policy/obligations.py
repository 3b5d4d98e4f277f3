"""What an allowed request still has to meet: the approval and the budget that application or document demand.

An approval is looked at first, then the budget. Whether an approval is still unused and what is left of an account
is known to the store only: what it must judge and record goes along as `demands`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.evaluation.exchange import is_further
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import (
    APPROVAL_GUARD,
    BUDGET_GUARD,
    ApprovalDemand,
    BudgetDemand,
    approval_evidence,
    approval_from,
    budget_evidence,
    budget_from,
)
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import ChioHttpRequest
from chio_core.receipts import verify_receipt
from chio_sidecar.policy.approval_tokens import TokenRejected
from chio_sidecar.policy.approvals import Intent, approval_needed, intent_of, presented, strictest_approval
from chio_sidecar.policy.budgets import BudgetRefused, charges, strictest_budget
from chio_sidecar.policy.routes import RouteRule
from chio_sidecar.store import Demand, StoredReceipt

CHARGED = "charged"
NOT_NEEDED = "not above it, no approval needed"
WAITING = "a person has to approve it"
APPROVED = "approved, used once as {id}"

_LONGEST_ID = 128

HINTS = {
    APPROVAL_GUARD: "repeat the request without an approval to have a person asked",
    BUDGET_GUARD: "ask for less, or ask the authority for a capability with a larger budget",
}
"""What a person who was refused can do."""


@dataclass(frozen=True, slots=True)
class Case:
    """An allowed request: everything that its demands are judged by.

    Attributes:
        capability: the valid token, if there is one.
        grant: position of the grant that allows the tool.
        approvers: public keys (hex) that may approve.
        now: whole seconds since 1970.
        further: the document's demands were met by an earlier question; `rule` has none.
    """

    request: ChioHttpRequest
    rule: RouteRule
    capability: CapabilityToken | None
    grant: int | None
    approvers: Collection[str]
    now: int
    further: bool = False


@dataclass(slots=True)
class Findings:
    """What came of the demands.

    Attributes:
        evidence: GuardEvidence objects in the order of the checks.
        demands: what the store must judge and record.
        refusal: (guard, reason) when the request is refused.
        waits: True when a person has to answer first.
        intent: what a person is or was asked.
        asks: the question may be put to a person; False where the application only observes.
    """

    evidence: list[dict[str, Any]] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    refusal: tuple[str, str] | None = None
    waits: bool = False
    intent: Intent | None = None
    asks: bool = True

    def refuse(self, guard: str, reason: str) -> None:
        """Note the refusal; what the store should have recorded falls away."""
        self.evidence.append({"guard_name": guard, "verdict": False, "details": reason})
        self.demands.clear()
        self.refusal = (guard, reason)

    def met(self, guard: str, details: str) -> None:
        """Note that a demand is met."""
        self.evidence.append({"guard_name": guard, "verdict": True, "details": details})


def has_demands(request: ChioHttpRequest, rule: RouteRule) -> bool:
    """Tell whether anything is demanded beyond the capability."""
    return (
        request.governed_intent is not None
        or request.budget is not None
        or rule.approval is not None
        or rule.budget is not None
    )


def judge_demands(case: Case) -> Findings:
    """Judge approval and budget of an allowed request.

    Raises:
        ValueError: a demand is malformed.
        InvalidDocument: the request has no canonical form.
    """
    intent, wire = case.request.governed_intent, case.request.budget
    stated = None if intent is None else approval_from(intent)
    budget = None if wire is None else budget_from(wire)
    findings = Findings()
    try:
        # What one invocation may cost is known at once; nobody has to be asked about what cannot be.
        spent = _spent(case, budget)
        _judge_approval(case, stated, findings)
    except BudgetRefused as exc:
        findings.refuse(BUDGET_GUARD, exc.reason)
    except TokenRejected as exc:
        findings.refuse(APPROVAL_GUARD, exc.reason)
    else:
        if spent is not None and not findings.waits:
            findings.demands.extend(spent[1])
            findings.met(BUDGET_GUARD, budget_evidence(spent[0]) + CHARGED)
    return findings


def _spent(case: Case, stated: BudgetDemand | None) -> tuple[BudgetDemand, list[Demand]] | None:
    """Return the budget that the evidence states, and what is to be spent."""
    budget = strictest_budget(stated, case.rule.budget_for(stated))
    if budget is None:
        return None
    return stated or budget, list(
        charges(budget, case.request, case.rule, case.capability, case.grant, further=case.further)
    )


def _judge_approval(case: Case, stated: ApprovalDemand | None, findings: Findings) -> None:
    demand = strictest_approval(stated, case.rule.approval)
    if demand is None:
        return
    begins = approval_evidence(stated or demand)
    if not approval_needed(stated, case.rule.approval):
        findings.met(APPROVAL_GUARD, begins + NOT_NEEDED)
        return
    findings.intent = intent_of(case.request, case.rule, case.capability, demand)
    if case.request.approval_token is None:
        findings.waits, findings.asks = True, not observes(case.request)
        findings.evidence.append({"guard_name": APPROVAL_GUARD, "verdict": False, "details": begins + WAITING})
        return
    use = presented(case.request.approval_token, findings.intent, case.approvers, case.now)
    findings.demands.append(use)
    findings.met(APPROVAL_GUARD, begins + APPROVED.format(id=use.approval_id[:_LONGEST_ID]))


def observes(request: ChioHttpRequest) -> bool:
    """Tell whether the application only watches; the request then runs whatever is decided."""
    return request.enforcement is not None and request.enforcement.get("mode") == "observe"


FURTHER_GUARD: Final = "FurtherGuard"
"""Guard of refusals that are about the receipt which a further question names."""

WITHIN: Final = 60
"""Seconds after its receipt in which a request may have further questions."""

UNKNOWN: Final = "the question is further to receipt {id}, which this sidecar has not stored"
NO_ALLOW: Final = "the question is further to receipt {id}, which is no allow of a first question by this sidecar"
OTHER: Final = "the question is further to receipt {id}, which is for another request"
TOO_OLD: Final = "the question is further to receipt {id}, which was not signed within the last {within} s"


class NotFurther(Exception):
    """The receipt that a question names does not count.

    Attributes:
        reason: exact text of the verdict.
    """

    def __init__(self, reason: str, receipt_id: str) -> None:
        self.reason = reason.format(id=receipt_id[:_LONGEST_ID], within=WITHIN)
        super().__init__(self.reason)


First = HttpReceipt | NotFurther | None
"""What a question names as the receipt of the first: an allow of this sidecar, one that does not count, or none."""


def read_first(receipt_id: str, stored: StoredReceipt | None, key: str) -> First:
    """Return the receipt that a question names, or why it does not count for any.

    Args:
        receipt_id: as the question has it.
        stored: what the store has under this id.
        key: this sidecar's public key, hex.
    """
    if stored is None:
        return NotFurther(UNKNOWN, receipt_id)
    try:
        receipt = verify_receipt(_parsed(stored.receipt_json), trusted_keys=(key,))
    except (InvalidDocument, ReceiptRejected):
        return NotFurther(NO_ALLOW, receipt_id)
    decides = isinstance(receipt.metadata, dict) and receipt.metadata.get("chio_http_status_scope") == "decision"
    if not decides or not receipt.verdict.is_allow or is_further(receipt):
        return NotFurther(NO_ALLOW, receipt_id)
    return receipt


def check_first(
    first: HttpReceipt,
    request: ChioHttpRequest,
    rule: RouteRule,
    capability: CapabilityToken | None,
    policy_hash: str,
    now: int,
) -> None:
    """Make sure that a receipt is for this request, by this document, and recent.

    Raises:
        NotFurther: it is not.
    """
    wanted: Mapping[str, Any] = {
        "method": request.method,
        "content_hash": request.content_hash(rule.pattern),
        "caller_identity_hash": request.caller.identity_hash(),
        "session_id": request.session_id,
        "route_pattern": rule.pattern,
        "capability_id": None if capability is None else capability.id,
        "policy_hash": policy_hash,
    }
    if any(getattr(first, name) != value for name, value in wanted.items()):
        raise NotFurther(OTHER, first.id)
    if abs(now - first.timestamp) > WITHIN:
        raise NotFurther(TOO_OLD, first.id)


def has_been_met(rule: RouteRule) -> RouteRule:
    """Return a rule without the demands that the first question has met."""
    return replace(rule, approval=None, budget=None)


def _parsed(text: str) -> Mapping[str, Any]:
    document = parse_json(text)
    if not isinstance(document, dict):
        raise InvalidDocument("a JSON object is expected")
    return document
